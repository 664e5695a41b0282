"""What happened to a port, as entries that appear, change or go. Pure.

Others were told of a port when it became ACTIVE. BUILD may mean either side of that: a port gets
there before it is wired for the first time, and again each time its agent looks at it anew (a
restart, an update of the port). So on the way up BUILD counts as "not told yet", on the way down
as "perhaps told": an entry told twice changes nothing, one never taken back stays for ever.
"""

import enum
from dataclasses import dataclass

ACTIVE = "ACTIVE"
BUILD = "BUILD"


Pairs = tuple[tuple[str, str], ...]  #: (MAC, IP)


class Kind(enum.Enum):
    """How many hosts a port is on, and who knows where its MAC is."""

    ORDINARY = enum.auto()
    #: DVR interface: on all hosts of the router, with one MAC. Flooding entries only.
    DISTRIBUTED = enum.auto()
    #: Interface of an HA router: on all hosts of the router, and VRRP says where its MAC is.
    #: Flooding entries only.
    HA = enum.auto()


@dataclass(frozen=True, slots=True)
class View:
    """A port at one host at one time."""

    port_id: str
    network_id: str
    kind: Kind
    host: str
    status: str
    mac: str
    ips: tuple[str, ...] = ()
    #: Single addresses that the port may use besides its own.
    allowed: tuple[str, ...] = ()
    #: The router that it is an interface of.
    router_id: str = ""

    @property
    def pairs(self) -> Pairs:
        """Its unicast entries."""
        if self.kind is not Kind.ORDINARY:
            return ()
        return tuple((self.mac, ip) for ip in self.ips)


@dataclass(frozen=True, slots=True)
class Appear:
    """The port is up at a host."""

    view: View


@dataclass(frozen=True, slots=True)
class Vanish:
    """The port is no longer at a host."""

    view: View


@dataclass(frozen=True, slots=True)
class Readdress:
    """The port stays where it is with other unicast entries."""

    view: View
    before: Pairs
    after: Pairs


@dataclass(frozen=True, slots=True)
class Reallow:
    """Only what the port may use besides its own addresses is different."""

    view: View


Step = Appear | Vanish | Readdress | Reallow


def decide(before: View | None, after: View | None) -> list[Step]:
    """What others must be told, in this order.

    :param before: None for a new port.
    :param after: None for a deleted port.
    """
    told = before if before and before.host and before.status in (ACTIVE, BUILD) else None
    if after is None and before and before.host and before.kind is Kind.HA:
        return [Vanish(before)]
    if after is None or not after.host:
        return [Vanish(told)] if told else []
    if after.kind is Kind.HA:
        return _decide_ha(before, told, after)
    up = after.status == ACTIVE
    if told is None or told.host != after.host:
        steps: list[Step] = [Vanish(told)] if told else []
        return [*steps, Appear(after)] if up else steps
    if not up and after.status != BUILD:
        return [Vanish(told)]
    if up and told.status != ACTIVE:
        # What it lost while it was in BUILD; what it has is said by Appear.
        kept = tuple(pair for pair in told.pairs if pair in after.pairs)
        return [*_readdressed(after, told.pairs, kept), Appear(after)]
    if set(told.pairs) != set(after.pairs):
        return _readdressed(after, told.pairs, after.pairs)
    return [Reallow(after)] if told.allowed != after.allowed else []


def _decide_ha(before: View | None, told: View | None, after: View) -> list[Step]:
    """Down and rebinding are what a failover looks like; it must not need the server."""
    steps: list[Step] = []
    if told:  # it may have been an interface of an ordinary router
        steps += _readdressed(told, told.pairs, ())
    if after.status == ACTIVE and (before is None or before.status != ACTIVE):
        steps.append(Appear(after))
    return steps


def _readdressed(view: View, before: Pairs, after: Pairs) -> list[Step]:
    return [Readdress(view, before, after)] if set(before) != set(after) else []

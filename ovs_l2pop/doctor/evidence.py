"""What was seen at a host. Where something couldn't be looked at, :attr:`Evidence.unseen` says so,
and the field is as if there were nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Announced:
    """What a VTEP announced in a network."""

    segment: tuple[str, int] | None  #: type and id, None: it told none
    floods: bool  #: whether it wants copies of broadcasts
    entries: int


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is attached here."""

    id: str
    segment: tuple[str, int]
    local_vlan: int | None
    bridge: str  #: that its machines are plugged into
    vteps: Mapping[str, Announced] = field(default_factory=dict)  #: of other hosts

    def has(self, port: "Port") -> bool:
        """Whether a port is one of its machines'."""
        return port.bridge == self.bridge and port.tag == self.local_vlan


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry, as the agent lists it."""

    network_id: str
    mac: str
    ip: str
    vtep: str
    state: str


@dataclass(frozen=True, slots=True)
class Port:
    """What is plugged into a bridge."""

    name: str
    bridge: str
    tag: int | None = None
    trunk: bool = False
    kind: str = ""  #: of its interface, as the database or the kernel names it
    mtu: int | None = None
    mac: str | None = None  #: of the machine behind it, where somebody noted that
    wrong: tuple[str, ...] = ()  #: what keeps frames from passing


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow that isn't ours."""

    bridge: str
    cookie: str
    table: str
    priority: int
    match: str
    actions: str
    packets: int


@dataclass(frozen=True, slots=True)
class Way:
    """How packets to a VTEP leave this host, and what came of asking it."""

    vtep: str
    device: str | None  #: None: there is no route
    mtu: int = 0  #: of that route
    why: str = ""  #: what the kernel said where there is no route
    neighbour: str = ""  #: state of whom packets go to next: REACHABLE, FAILED, …
    answers: bool | None = None  #: pings; None: not asked
    fits: bool | None = None  #: whether a ping as large as :attr:`asked` came back
    asked: int = 0  #: bytes of that, its IP header included
    refuses: tuple[int, ...] = ()  #: UDP ports for which it said "port unreachable"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it."""

    backend: str
    local_ip: str | None
    udp_port: int
    #: Devices of this host by address.
    addresses: Mapping[str, str] = field(default_factory=dict)
    #: MAC addresses of others that say :attr:`local_ip` is theirs.
    rivals: tuple[str, ...] = ()
    #: What the agent says isn't well: what, why.
    troubles: tuple[tuple[str, str], ...] = ()
    #: Rows that differ: missing or surplus, kind, place, what, does.
    drift: tuple[tuple[str, ...], ...] = ()
    networks: tuple[Network, ...] = ()
    claims: tuple[Claim, ...] = ()
    ports: tuple[Port, ...] = ()
    flows: tuple[Flow, ...] = ()
    #: A bridge that has no flows and is not to do without.
    drops_all: str | None = None
    ways: tuple[Way, ...] = ()
    #: What couldn't be looked at: what, why.
    unseen: tuple[tuple[str, str], ...] = ()

"""Facts to rows: what Open vSwitch needs for each."""

from base64 import b32encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from hashlib import blake2b
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton
from zlib import crc32

from ovs_l2pop.backends.openvswitch.pipeline import METER_BASE, OF_NETWORK, FlowTemplate, Pipeline
from ovs_l2pop.backends.openvswitch.rows import OvsRow, TunnelPort, meter
from ovs_l2pop.backends.openvswitch.stamps import SHARDS, Filler, Stamps, encode, group_id
from ovs_l2pop.core import table
from ovs_l2pop.core.messages import MAX_LOCAL_VLAN, Attachment

#: VTEPs that one pass through the tables may copy a frame to. All copies are one action list of
#: the datapath, which ends at 780 VXLAN copies in OVS 3.1 (64 KiB) and at 585 in a kernel
#: datapath (32 KiB), silently; see flows/l2pop.yaml.
FLOOD_SHARD_SIZE = 400

#: Tunnel ports get their numbers from here on. Open vSwitch numbers other ports from 1.
FIRST_TUNNEL_OFPORT = 1000

Tunnel = tuple[str, str]  #: (network type, remote VTEP or ANYWHERE)

#: Of a port that flows tell where to send (``remote_ip=flow``).
ANYWHERE = "flow"

_NO_NAMES: Mapping[Tunnel, str] = {}
_NO_SIZES: Mapping[str, int] = {}

#: Packets a second of which their senders are told that they are too large.
_TOO_BIG_RATE = 100


def tunnel_name(network_type: str, remote_ip: str) -> str:
    """The port's name, 15 characters at the most, as Neutron's agent gives it (since 2025.1)."""
    if remote_ip == ANYWHERE:
        return f"{network_type}-{ANYWHERE}"
    address = ip_address(remote_ip)
    if address.version == 4:
        return f"{network_type}-{int(address):08x}"
    digest = b32encode(blake2b(str(address).encode(), digest_size=20).digest()).decode().lower()
    return f"{network_type}-{digest}"[:15]


class PortNumbers:
    """Which OpenFlow port number each tunnel has, or will ask for; and which name."""

    def __init__(self) -> None:
        self._numbers: dict[Tunnel, int] = {}
        self._names: dict[Tunnel, str] = {}
        self._taken: set[int] = set()
        self._next = FIRST_TUNNEL_OFPORT

    def restart(
        self,
        ports: Mapping[str, int],
        known: Mapping[Tunnel, int],
        names: Mapping[Tunnel, str] = _NO_NAMES,
    ) -> None:
        """What the bridge has: all its ports' numbers, and those of our tunnels with their names.

        A port of ours that was damaged is nobody's tunnel and keeps its number by its name.
        """
        self._taken = set(ports.values())
        self._names = dict(names)
        for tunnel, number in known.items():
            self._numbers[tunnel] = number
        for tunnel, number in list(self._numbers.items()):
            ours = tunnel in known or ports.get(tunnel_name(*tunnel)) == number
            if not ours and number in self._taken:
                del self._numbers[tunnel]
        self._taken.update(self._numbers.values())

    def of(self, tunnel: Tunnel) -> int:
        number = self._numbers.get(tunnel)
        if number is None:
            while self._next in self._taken:
                self._next += 1
            number = self._numbers[tunnel] = self._next
            self._taken.add(number)
        return number

    def vteps(self, numbers: Iterable[int]) -> Iterator[str]:
        """The VTEPs that tunnels with these numbers lead to, as far as they are there."""
        known = {number: vtep for (_, vtep), number in self._numbers.items()} if numbers else {}
        return (known[number] for number in numbers if number in known)

    def name(self, tunnel: Tunnel) -> str:
        """What its port is called: no second one can be made to the same VTEP."""
        return self._names.get(tunnel) or tunnel_name(*tunnel)

    def release(self, tunnel: Tunnel) -> None:
        """The tunnel is gone and its number free."""
        self._names.pop(tunnel, None)
        if (number := self._numbers.pop(tunnel, None)) is not None:
            self._taken.discard(number)
            self._next = min(self._next, number)


def _serving(
    pipeline: Pipeline, fact: str, conditions: frozenset[str], network_type: str
) -> list[FlowTemplate]:
    """The templates of a fact whose conditions hold, for a type of tunnel."""
    return [
        template
        for template in pipeline.of(fact)
        if template.holds(conditions) and template.network_type in (None, network_type)
    ]


class _Bound:
    """The flows of one attachment, with its constants filled in.

    :param serving: the templates of a fact, given which conditions of its own hold.
    :param vtep: the parameter that tells a VTEP.
    :param port: the number of the one that leads to all (encoded); None: each has its own.
    """

    __slots__ = (
        "_serving",
        "_stamps",
        "attachment",
        "constants",
        "floods",
        "local",
        "local4",
        "local6",
        "meter",
        "neighbours",
        "network",
        "network_type",
        "strangers",
        "unicast",
        "vlan",
        "vtep",
    )

    def __init__(
        self,
        stamps: Stamps,
        attachment: Attachment,
        size: int,
        serving: Callable[..., list[FlowTemplate]],
        vtep: str,
        port: bytes | None,
    ) -> None:
        self._stamps = stamps
        self._serving = serving
        self.attachment = attachment
        self.network_type = attachment.segment.network_type
        self.vlan = encode("vlan", attachment.local_vlan)
        self.meter = METER_BASE + (attachment.local_vlan or 0)
        self.constants = {
            "vlan": self.vlan,
            "segment": encode("segment", attachment.segment.segment_id),
            "meter": encode("meter", self.meter),
            "size": encode("size", size),
            **({} if port is None else {"port": port}),
        }
        self.network = [fill() for fill in self._fillers("network")]
        self.strangers = [fill() for fill in self._fillers("strangers")]
        self.vtep = self._fillers("vtep", vtep)
        self.local = self._fillers("local", "mac")
        self.unicast = self._fillers("unicast", "mac", vtep)
        self.local4 = self._fillers("local_neighbour", "ip4", but="ip6")
        self.local6 = self._fillers("local_neighbour", "ip6", but="ip4")
        #: Whether wide.
        self.floods = {False: serving("flood"), True: serving("flood", "wide")}
        #: As far as they were asked for: :meth:`answering`.
        self.neighbours: dict[tuple[bool, bool, bool], list[Filler]] = {}

    def answering(self, six: bool, router: bool, override: bool) -> list[Filler]:
        """What answers for an address, IPv4 or IPv6, with these flags."""
        flags = [name for name, held in (("router", router), ("override", override)) if held]
        ip, but = ("ip6", "ip4") if six else ("ip4", "ip6")
        found = self._fillers("neighbour", ip, "mac", but=but, more=flags)
        self.neighbours[six, router, override] = found
        return found

    def _fillers(
        self, fact: str, *order: str, but: str = "", more: Iterable[str] = ()
    ) -> list[Filler]:
        return [
            self._stamps.flows[template.name].bind(**self.constants).filler(*order)
            for template in self._serving(fact, *more)
            if but not in template.params
        ]


class FlowRenderer:
    """Renders facts through compiled templates.

    :param options: Interface options of every tunnel port, by network type.
    :param conditions: those of :data:`.pipeline.SETTINGS` and :data:`.pipeline.OF_NETWORK` that
        hold on this host.
    :param broadcast_rate: frames a second that each network's meter lets pass.
    :param sizes: bytes of the largest frame that the underlay has room for, with the local VLAN's
        tag, by network type.
    """

    def __init__(
        self,
        stamps: Stamps,
        numbers: PortNumbers,
        options: Mapping[str, tuple[tuple[str, str], ...]],
        conditions: Collection[str] = (),
        broadcast_rate: int = 0,
        sizes: Mapping[str, int] = _NO_SIZES,
    ) -> None:
        self._stamps = stamps
        self._numbers = numbers
        self._options = options
        self._shared = "shared" in conditions
        self._conditions = frozenset(conditions)
        self._rate = broadcast_rate
        self._sizes = sizes
        #: The parameter that tells a VTEP.
        self._vtep = "port"
        if "flow_tunnels" in conditions:
            self._vtep = "remote6" if "underlay_ipv6" in conditions else "remote4"
        # Networks mostly have the same.
        self._serving = cache(partial(_serving, stamps.pipeline))
        #: Kinds of facts that have no rows.
        self.unused = frozenset(
            kind
            for kind in (table.UNICAST, table.NEIGHBOUR)
            if not any(
                template.holds(conditions, but=OF_NETWORK | {"override", "router"})
                for template in stamps.pipeline.of(kind)
            )
        )
        #: Which network has a local VLAN (encoded), the last that had it where none has.
        self.holders: dict[bytes, Attachment] = {}
        self._networks: dict[Attachment, _Bound] = {}
        self._last: _Bound | None = None  # facts of one network mostly come together
        #: What flows tell of each VTEP.
        self._vteps: dict[Tunnel, bytes] = {}

    def forget(self) -> None:
        """Port numbers may have changed, networks may have gone."""
        self._vteps.clear()
        self._networks.clear()
        self._last = None

    def static(self, patch: int) -> tuple[OvsRow, ...]:
        """Rows that every bridge has; ``patch`` is the port towards the integration bridge."""
        port = encode("patch", patch)
        stamps = self._stamps
        found: list[OvsRow] = []
        bridge_meter = encode("meter", METER_BASE)
        if "arp_responder" in self._conditions:
            found += stamps.static_groups
        if "packet_too_big" in self._conditions:
            found.append(meter(METER_BASE, _TOO_BIG_RATE))
        for skeleton in (False,) if self._shared else (True, False):
            found += stamps.misses[not skeleton]
            for template in stamps.pipeline.of("bridge"):
                if template.skeleton is skeleton and template.holds(self._conditions):
                    stamp = stamps.flows.get(template.name)
                    found += (
                        (stamp(patch=port, meter=bridge_meter),)
                        if stamp
                        else stamps.static[template.name]
                    )
        return tuple(found)

    def rows(self, fact: table.Fact) -> tuple[OvsRow, ...]:
        """The rows that make a fact true."""
        network = self._last
        if network is None or network.attachment is not fact.attachment:
            network = self._last = self._network(fact.attachment)
        # The most frequent first.
        if isinstance(fact, table.UnicastFact):
            _, mac, vtep = fact
            packed = bytes.fromhex(mac.replace(":", ""))
            told = self._vteps.get((network.network_type, vtep)) or self._told(network, vtep)
            return tuple([fill(packed, told) for fill in network.unicast])
        if isinstance(fact, table.NeighbourFact):
            _, ip, mac, router, override = fact
            packed = bytes.fromhex(mac.replace(":", ""))
            how = ":" in ip, router, override
            address = inet_pton(AF_INET6 if how[0] else AF_INET, ip)
            fillers = network.neighbours.get(how) or network.answering(*how)
            return tuple([fill(address, packed) for fill in fillers])
        if isinstance(fact, table.LocalFact):
            return tuple([fill(encode("mac", fact.mac)) for fill in network.local])
        if isinstance(fact, table.LocalNeighbourFact):
            six = ":" in fact.ip
            packed = inet_pton(AF_INET6 if six else AF_INET, fact.ip)
            return tuple([fill(packed) for fill in (network.local6 if six else network.local4)])
        if isinstance(fact, table.VtepFact):
            return self._tunnel(network, fact.vtep)
        if isinstance(fact, table.FloodFact):
            return self._flood(network, fact)
        self.holders[network.vlan] = fact.attachment
        metered = "limit_broadcast" in self._conditions
        return (
            *((meter(network.meter, self._rate),) if metered else ()),
            *network.network,
            *(network.strangers if fact.closed else ()),
        )

    def _tunnel(self, network: _Bound, vtep: str) -> tuple[OvsRow, ...]:
        kind, told = network.network_type, self._told(network, vtep)
        remote = vtep if self._vtep == "port" else ANYWHERE
        number, name = self._numbers.of((kind, remote)), self._numbers.name((kind, remote))
        return (
            TunnelPort(name, kind, remote, self._options[kind], number),
            *(fill(told) for fill in network.vtep),
        )

    def _flood(self, network: _Bound, fact: table.FloodFact) -> tuple[OvsRow, ...]:
        kind, known = network.network_type, self._vteps
        vteps = [known.get((kind, vtep)) or self._told(network, vtep) for vtep in fact.vteps]
        if len(vteps) <= FLOOD_SHARD_SIZE:
            return tuple(self._flood_flows(network, {0: vteps}, b""))
        shards: dict[int, list[bytes]] = {}
        for vtep, shard in zip(vteps, self._shards(vteps), strict=True):
            shards.setdefault(shard, []).append(vtep)
        # Those between that hold nobody have their place in the group too.
        span = range(min(shards), max(shards) + 1)
        flows = self._flood_flows(network, shards, encode("group", group_id(span)))
        return (*self._stamps.groups(span), *flows)

    def _flood_flows(
        self, network: _Bound, shards: Mapping[int, list[bytes]], group: bytes
    ) -> Iterator[bytes]:
        everyone = [vtep for vteps in shards.values() for vtep in vteps]
        for template in network.floods[bool(group)]:
            flood = self._stamps.floods.get(template.name)
            each = shards if "shard" in template.params else {0: everyone}
            for shard, vteps in sorted(each.items()):
                number = encode("shard", shard % SHARDS)
                values = network.constants | {"group": group, "shard": number}
                yield (
                    flood(vteps, **values) if flood else self._stamps.flows[template.name](**values)
                )

    def _shards(self, vteps: list[bytes]) -> Iterator[int]:
        """Of each, counted from 1."""
        if self._vtep == "port":
            first = FIRST_TUNNEL_OFPORT
            return (1 + (int.from_bytes(v, "big") - first) // FLOOD_SHARD_SIZE for v in vteps)
        # A power of two, so that few numbers of VTEPs are another number of shards; and half full,
        # as addresses fall into them by chance: with 200 expected, 400 don't come.
        count = min(SHARDS, 1 << (2 * len(vteps) // FLOOD_SHARD_SIZE).bit_length())
        return (1 + crc32(v) % count for v in vteps)

    def _network(self, attachment: Attachment) -> _Bound:
        network = self._networks.get(attachment)
        if network is None:
            if len(self._networks) > 2 * MAX_LOCAL_VLAN:  # most are of networks that have gone
                self._networks.clear()
            held, kind = self._of(attachment), attachment.segment.network_type
            one = self._vtep != "port"
            network = self._networks[attachment] = _Bound(
                self._stamps,
                attachment,
                self._sizes.get(kind, 0),
                lambda fact, *more: self._serving(fact, held.union(more), kind),
                self._vtep,
                encode("port", self._numbers.of((kind, ANYWHERE))) if one else None,
            )
        return network

    def _of(self, attachment: Attachment) -> frozenset[str]:
        """The conditions that hold of a network: what is said of it, else of the host."""
        return (self._conditions - OF_NETWORK).union(
            name
            for name in OF_NETWORK
            if attachment.drops(name.removeprefix("drop_"), name in self._conditions)
        )

    def _told(self, network: _Bound, vtep: str) -> bytes:
        """The parameter that tells a VTEP."""
        tunnel = network.network_type, vtep
        told = self._vteps.get(tunnel)
        if told is None:
            value = self._numbers.of(tunnel) if self._vtep == "port" else vtep
            told = self._vteps[tunnel] = encode(self._vtep, value)
        return told

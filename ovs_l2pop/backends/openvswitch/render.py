"""Facts to rows: what Open vSwitch needs for each."""

from base64 import b32encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton

from ovs_l2pop.backends.openvswitch.rows import Group, OvsRow, TunnelPort
from ovs_l2pop.backends.openvswitch.stamps import (
    GROUP_BASE,
    RECIRCULATE_GROUP,
    Stamps,
    encode,
)
from ovs_l2pop.core.errors import PipelineError
from ovs_l2pop.core.messages import MAX_LOCAL_VLAN, Attachment, Segment
from ovs_l2pop.core.table import (
    NEIGHBOUR,
    Fact,
    FloodFact,
    LocalFact,
    NeighbourFact,
    UnicastFact,
    VtepFact,
)

#: VTEPs that one pass through the tables may copy a frame to. All copies are one action list of
#: the datapath, which ends at 780 VXLAN copies in OVS 3.1 (64 KiB) and at 585 in a kernel
#: datapath (32 KiB), silently; see flows/l2pop.yaml.
FLOOD_SHARD_SIZE = 400

#: Tunnel ports get their numbers from here on. Open vSwitch numbers other ports from 1.
FIRST_TUNNEL_OFPORT = 1000

#: Shards that can be told apart: OpenFlow's port numbers fill 164.
_SHARDS = 256

Tunnel = tuple[str, str]  #: (network type, remote VTEP)

_NO_NAMES: Mapping[Tunnel, str] = {}


def tunnel_name(network_type: str, remote_ip: str) -> str:
    """The port's name, 15 characters at the most, as Neutron's agent gives it (since 2025.1)."""
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


class _Network:
    """Templates with the constants of one attachment filled in.

    What is stamped for every entry is kept as the pieces between its parameters.
    """

    __slots__ = (
        "arp",
        "attachment",
        "incoming",
        "local",
        "member",
        "nd",
        "network_type",
        "nobody",
        "segment",
        "strangers",
        "unicast",
        "vlan",
    )

    def __init__(self, stamps: Stamps, attachment: Attachment, distributed: bool) -> None:
        self.attachment = attachment
        self.network_type = attachment.segment.network_type
        self.vlan = encode("vlan", attachment.local_vlan)
        self.segment = encode("segment", attachment.segment.segment_id)
        constants = {"vlan": self.vlan, "segment": self.segment}
        self.incoming = stamps.flows[f"{self.network_type}_in"].bind(**constants)()
        member = f"{self.network_type}_member{'_distributed' if distributed else ''}"
        self.member = stamps.flows[member].bind(**constants)
        self.strangers = (
            stamps.flows["strangers"].bind(**constants)(),
            stamps.flows[f"{self.network_type}_stranger"].bind(**constants)(),
        )
        self.local = stamps.flows["from_local"].bind(**constants)
        self.nobody = stamps.flows["flood_nobody"].bind(**constants)()

        def pieces(name: str, first: str, second: str) -> tuple[bytes, bytes, bytes]:
            try:
                return stamps.flows[name].bind(**constants).between(first, second)
            except PipelineError as error:
                raise PipelineError(f"flows/l2pop.yaml: template {name}: {error}") from error

        self.unicast = pieces("unicast", "mac", "port")
        self.arp = pieces("arp", "ip", "mac")
        self.nd = pieces("nd", "ip", "mac")


#: What is filled in here: template → its parameters and their types; groups likewise.
_PARAMS = {
    "from_integration_bridge": {"patch": "port"},
    "learn": {"patch": "port"},
    "strangers": {"vlan": "vlan"},
    "from_local": {"vlan": "vlan", "mac": "mac"},
    "unicast": {"vlan": "vlan", "mac": "mac", "segment": "segment", "port": "port"},
    "arp": {"vlan": "vlan", "ip": "ip4", "mac": "mac"},
    "nd": {"vlan": "vlan", "ip": "ip6", "mac": "mac"},
    "flood_nobody": {"vlan": "vlan"},
    "flood": {"vlan": "vlan", "segment": "segment", "ports": "ports"},
    "large_flood": {"vlan": "vlan", "group": "group"},
    "flood_shard": {"vlan": "vlan", "shard": "shard", "segment": "segment", "ports": "ports"},
}
_GROUP_PARAMS: Mapping[str, Mapping[str, str]] = {"recirculate": {}, "shards": {"shard": "shard"}}


class Renderer:
    """Renders facts through compiled templates.

    :param options: Interface options of every tunnel port, by network type.
    :param shared: a Neutron agent has laid out the bridge.
    :param distributed: it routes on this host, and what comes in goes through tables of its own
        first: letting in whoever sends into a network is left to it.
    :param known_vteps_only: where VTEPs of a network are known, only they may send into it.
    :raises PipelineError: a template or group that is needed here can't be filled in.
    """

    def __init__(
        self,
        stamps: Stamps,
        numbers: PortNumbers,
        options: Mapping[str, tuple[tuple[str, str], ...]],
        arp_responder: bool,
        shared: bool = False,
        distributed: bool = False,
        known_vteps_only: bool = False,
    ) -> None:
        self._shared = shared
        self._known_vteps_only = known_vteps_only
        self._distributed = distributed
        self._stamps = stamps
        self._numbers = numbers
        self._options = options
        self._arp_responder = arp_responder
        #: Kinds of facts that have no rows.
        self.unused = frozenset(() if arp_responder else (NEIGHBOUR,))
        #: Which network has a local VLAN (encoded), the last that had it where none has.
        self.holders: dict[bytes, Attachment] = {}
        self._networks: dict[Attachment, _Network] = {}
        self._last: _Network | None = None  # facts of one network mostly come together
        self._ports: dict[Tunnel, bytes] = {}
        self._check_templates()
        self._recirculate = Group(RECIRCULATE_GROUP, 1, stamps.group("recirculate"))

    def forget(self) -> None:
        """Port numbers may have changed, networks may have gone."""
        self._ports.clear()
        self._networks.clear()
        self._last = None

    def _check_templates(self) -> None:
        """Better now than with the first network."""
        pipeline = self._stamps.pipeline
        needed = dict(_PARAMS)
        for kind in self._options:
            needed[f"from_{kind}_tunnel"] = {"port": "port"}
            for name in (f"{kind}_in", f"{kind}_stranger"):
                needed[name] = {"segment": "segment", "vlan": "vlan"}
            for name in (f"{kind}_member", f"{kind}_member_distributed"):
                needed[name] = {"port": "port", "segment": "segment", "vlan": "vlan"}
        for name, params in needed.items():
            template = pipeline.templates.get(name)
            if template is None:
                raise PipelineError(f"flows/: template {name} is missing")
            if template.params != params:
                raise PipelineError(
                    f"flows/{template.file}: template {name}: params must be {params}"
                )
        for name, group_params in _GROUP_PARAMS.items():
            group = pipeline.groups.get(name)
            if group is None:
                raise PipelineError(f"flows/: group {name} is missing")
            if group.params != group_params:
                raise PipelineError(
                    f"flows/{group.file}: group {name}: params must be {group_params}"
                )
            self._stamps.group(name)
        for kind in self._options:
            _Network(self._stamps, Attachment("", Segment(kind, 1), 1), self._distributed)

    def static(self, patch: int) -> tuple[OvsRow, ...]:
        """Rows that every bridge has; ``patch`` is the port towards the integration bridge."""
        if self._shared:
            return self._stamps.static[False]
        port = encode("port", patch)
        return (
            *self._stamps.static[True],
            *self._stamps.static[False],
            self._stamps.flows["from_integration_bridge"](patch=port),
            self._stamps.flows["learn"](patch=port),
        )

    def rows(self, fact: Fact) -> tuple[OvsRow, ...]:
        """The rows that make a fact true."""
        network = self._last
        if network is None or network.attachment is not fact.attachment:
            network = self._last = self._network(fact.attachment)
        # The most frequent first.
        if isinstance(fact, UnicastFact):
            _, mac, vtep = fact
            head, middle, tail = network.unicast
            port = self._ports.get((network.network_type, vtep)) or self._port(network, vtep)
            return (head + bytes.fromhex(mac.replace(":", "")) + middle + port + tail,)
        if isinstance(fact, NeighbourFact):
            if not self._arp_responder:
                return ()
            _, ip, mac = fact
            six = ":" in ip
            head, middle, tail = network.nd if six else network.arp
            address = inet_pton(AF_INET6 if six else AF_INET, ip)
            return (head + address + middle + bytes.fromhex(mac.replace(":", "")) + tail,)
        if isinstance(fact, LocalFact):
            return (network.local(mac=encode("mac", fact.mac)),)
        if isinstance(fact, VtepFact):
            return self._tunnel(network, fact.vtep)
        if isinstance(fact, FloodFact):
            return self._flood(network, fact)
        self.holders[network.vlan] = fact.attachment
        nobody = (network.nobody,) if self._shared else ()
        incoming = () if self._distributed else (network.incoming,)
        strangers = network.strangers if fact.closed and self._known_vteps_only else ()
        return (*nobody, *incoming, *strangers)

    def _tunnel(self, network: _Network, vtep: str) -> tuple[OvsRow, ...]:
        kind = network.network_type
        number = self._numbers.of((kind, vtep))
        name = self._numbers.name((kind, vtep))
        tunnel = TunnelPort(name, kind, vtep, self._options[kind], number)
        port = encode("port", number)
        member = (network.member(port=port),) if self._known_vteps_only else ()
        return (tunnel, self._stamps.flows[f"from_{kind}_tunnel"](port=port), *member)

    def _flood(self, network: _Network, fact: FloodFact) -> tuple[OvsRow, ...]:
        ports = [self._port(network, vtep) for vtep in fact.vteps]
        vlan, segment = network.vlan, network.segment
        if len(ports) <= FLOOD_SHARD_SIZE:
            return (self._stamps.floods["flood"](ports, vlan=vlan, segment=segment),)
        shards: dict[int, list[bytes]] = {}
        for port in ports:
            number = int.from_bytes(port, "big") - FIRST_TUNNEL_OFPORT
            shards.setdefault(1 + number // FLOOD_SHARD_SIZE, []).append(port)
        # Those between that hold nobody too: what a group has in it follows from two small numbers,
        # of which its id is made. So none is ever changed, and networks share them. Of other's
        # numbers below ours the first shard may be 0 or less.
        span = range(min(shards), max(shards) + 1)
        group_id = GROUP_BASE + ((span.start - 1) % _SHARDS << 8) + len(span)
        buckets = self._stamps.group("shards", [shard % _SHARDS for shard in span])
        group = Group(group_id, 0, buckets)
        stamp = self._stamps.floods["flood_shard"]
        flows = [
            stamp(shards[s], vlan=vlan, segment=segment, shard=encode("shard", s % _SHARDS))
            for s in sorted(shards)
        ]
        return (
            self._recirculate,
            group,
            *flows,
            # Last: what it leads to is there.
            self._stamps.flows["large_flood"](vlan=vlan, group=encode("group", group.group_id)),
        )

    def _network(self, attachment: Attachment) -> _Network:
        network = self._networks.get(attachment)
        if network is None:
            if len(self._networks) > 2 * MAX_LOCAL_VLAN:  # most are of networks that have gone
                self._networks.clear()
            network = self._networks[attachment] = _Network(
                self._stamps, attachment, self._distributed
            )
        return network

    def _port(self, network: _Network, vtep: str) -> bytes:
        tunnel = network.network_type, vtep
        port = self._ports.get(tunnel)
        if port is None:
            port = self._ports[tunnel] = encode("port", self._numbers.of(tunnel))
        return port

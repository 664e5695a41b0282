"""What a host's br-tun does, read from its flows: the same form for upstream's and for ours.

Both keep Neutron's tables: 20 unicast, 21 ARP responder, 22 flood. Upstream answers ARP in table
21 itself; ours loads the MAC address there and answers in a table of its own, and has table 23 for
IPv6. See ``flows/``.
"""

import json
import re
from dataclasses import dataclass, field

from l2pop_lab.topology import Host

UNICAST, ARP, FLOOD, ND = 20, 21, 22, 23
TUNNEL_TYPES = ("vxlan", "gre", "geneve")

_OUTPUT = re.compile(r"(?:set_field:([\d.]+)->tun_dst,)?output:(\d+)")
_VLAN = re.compile(r"dl_vlan=(\d+)")
_MAC = r"((?:[0-9a-f]{2}:){5}[0-9a-f]{2})"


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as ``ovs-ofctl dump-flows --no-stats`` prints it."""

    cookie: int
    table: int
    priority: int
    match: str
    actions: str

    @classmethod
    def parse(cls, line: str) -> "Flow":
        """Read one line."""
        head, _, actions = line.strip().partition(" actions=")
        table, priority, cookie, match = 0, 32768, 0, []
        for item in re.split(r",\s*| ", head):
            name, _, value = item.partition("=")
            if name == "cookie":
                cookie = int(value, 0)
            elif name == "table":
                table = int(value)
            elif name == "priority":
                priority = int(value)
            elif item:
                match.append(item)
        return cls(cookie, table, priority, ",".join(match), actions)

    @property
    def learned(self) -> bool:
        """Whether the switch has learned it: it comes and goes with traffic."""
        return "vlan_tci=" in self.match


def dump(host: Host, bridge: str = "br-tun") -> list[Flow]:
    """Return all flows of a bridge."""
    output = host.ofctl("--no-stats", "dump-flows", bridge)
    return [Flow.parse(line) for line in output.splitlines() if " actions=" in line]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Where a host sends the packets of one network (one local VLAN)."""

    unicast: dict[str, str] = field(default_factory=dict)
    """MAC → VTEP."""
    arp: dict[str, str] = field(default_factory=dict)
    """IPv4 address → MAC."""
    flood: frozenset[str] = frozenset()
    """VTEPs."""
    nd: dict[str, str] = field(default_factory=dict)
    """IPv6 address → MAC; upstream answers no IPv6."""


def read(host: Host) -> dict[int, Forwarding]:
    """Return what a host's flows say, by local VLAN; learned flows are left out."""
    vteps = _vteps(host)
    unicast: dict[int, dict[str, tuple[int, str]]] = {}
    arp: dict[int, dict[str, tuple[int, str]]] = {}
    nd: dict[int, dict[str, tuple[int, str]]] = {}
    flood: dict[int, tuple[int, frozenset[str]]] = {}
    for flow in dump(host):
        vlan_match = _VLAN.search(flow.match)
        if not vlan_match or flow.learned:
            continue
        vlan = int(vlan_match[1])
        targets = [
            remote or vteps.get(port, f"port {port}")
            for remote, port in _OUTPUT.findall(flow.actions)
        ]
        if flow.table == UNICAST and (mac := re.search(rf"dl_dst={_MAC}", flow.match)):
            target = targets[0] if targets else "drop"
            _highest(unicast.setdefault(vlan, {}), mac[1], flow.priority, target)
        elif flow.table == ARP and (ip := re.search(r"arp_tpa=([\d.]+)", flow.match)):
            _highest(arp.setdefault(vlan, {}), ip[1], flow.priority, _answer(flow.actions))
        elif flow.table == ND and (ip := re.search(r"nd_target=([\da-f:]+)", flow.match)):
            _highest(nd.setdefault(vlan, {}), ip[1], flow.priority, _answer(flow.actions))
        elif flow.table == FLOOD and flow.priority >= flood.get(vlan, (0, None))[0]:
            flood[vlan] = (flow.priority, frozenset(targets))
    return {
        vlan: Forwarding(
            unicast={key: value for key, (_, value) in unicast.get(vlan, {}).items()},
            arp={key: value for key, (_, value) in arp.get(vlan, {}).items()},
            flood=flood.get(vlan, (0, frozenset()))[1],
            nd={key: value for key, (_, value) in nd.get(vlan, {}).items()},
        )
        for vlan in {*unicast, *arp, *flood, *nd}
    }


def local_vlans(host: Host) -> dict[str, int]:
    """Return the local VLAN of every port that the agent has wired: port id → VLAN."""
    interfaces = _table(host, "Interface", "name", "external_ids")
    ids = {str(name): dict(_map(values)).get("iface-id") for name, values in interfaces}
    return {
        identifier: tag
        for name, tag in _table(host, "Port", "name", "tag")
        if isinstance(tag, int) and (identifier := ids.get(str(name)))
    }


def tunnels(host: Host) -> set[tuple[str, str]]:
    """Return the tunnel ports of a host: pairs of type and VTEP."""
    return {
        (str(kind), dict(_map(options))["remote_ip"])
        for kind, options in _table(host, "Interface", "type", "options")
        if kind in TUNNEL_TYPES
    }


def _highest(entries: dict[str, tuple[int, str]], key: str, priority: int, value: str) -> None:
    if priority >= entries.get(key, (0, ""))[0]:
        entries[key] = (priority, value)


def _answer(actions: str) -> str:
    """Return the MAC address that an ARP flow gives as the answer."""
    # Upstream: load:0xfa163e…->NXM_NX_ARP_SHA[], or mod_dl_src; ours: set_field:…->eth_dst.
    if match := re.search(r"load:(0x[0-9a-f]+)->NXM_NX_ARP_SHA", actions):
        return ":".join(re.findall("..", f"{int(match[1], 16):012x}"))
    match = re.search(rf"(?:set_field:|mod_dl_dst:|mod_dl_src:){_MAC}", actions)
    return match[1] if match else f"? {actions}"


def _vteps(host: Host) -> dict[str, str]:
    """Return the VTEP behind each tunnel port's OpenFlow number."""
    return {
        str(ofport): dict(_map(options))["remote_ip"]
        for kind, ofport, options in _table(host, "Interface", "type", "ofport", "options")
        if kind in TUNNEL_TYPES
    }


def _table(host: Host, table: str, *columns: str) -> list[list[object]]:
    output = host.vsctl("--format=json", f"--columns={','.join(columns)}", "list", table)
    content = json.loads(output)
    order = [content["headings"].index(column) for column in columns]
    return [[row[index] for index in order] for row in content["data"]]


def _map(value: object) -> list[tuple[str, str]]:
    """Read OVSDB's JSON form of a map (RFC 7047 5.1): ["map", [[key, value], …]]."""
    if isinstance(value, list) and value and value[0] == "map":
        return [(str(key), str(item)) for key, item in value[1]]
    return []

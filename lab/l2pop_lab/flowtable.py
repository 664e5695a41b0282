"""A flow table in software: where a frame goes, asked of rows instead of a switch. Pure.

It evaluates what the pipeline uses of OpenFlow 1.3 and Open vSwitch's extensions: masked matches,
conjunctive matches, goto, resubmit, groups, push and pop of a VLAN, set-field, moves between fields
and registers, ``learn``. A frame is its fields, under the OpenFlow library's names; so far what
flows need: Ethernet, two VLAN tags and what is behind them, ARP, IPv6, neighbour discovery.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.rows import Group, flow_key

IN_PORT = 0xFFFFFFF8  # OFPP_IN_PORT
PRESENT = 0x1000  # OFPVID_PRESENT
_ALL = 0  # OFPGT_ALL
_MAX_DEPTH = 64  # of resubmits and groups

_INNER = "vlan_inner"  # the tag below the one that is matched
_ZERO = ("vlan_vid", "conj_id")

Fields = dict[str, int]  #: name → value; addresses as numbers


def number(value: Any) -> int:
    """A field's value as the library has it, as a number."""
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return int.from_bytes(value, "big")
    text = str(value)
    if text.count(":") == 5 and len(text) == 17:
        return int(text.replace(":", ""), 16)
    return int(ip_address(text))


def frame(data: bytes, **more: Any) -> Fields:
    """The fields of an Ethernet frame.

    :param more: what comes with it: ``in_port``, ``tunnel_id``.
    """
    fields: Fields = {name: number(value) for name, value in more.items()}
    fields["eth_dst"], fields["eth_src"] = number(data[:6]), number(data[6:12])
    fields["size"] = len(data)
    kind, rest = number(data[12:14]), data[14:]
    for name in ("vlan_vid", _INNER):
        if kind in (0x8100, 0x88A8):
            fields[name] = PRESENT | (number(rest[:2]) & 0xFFF)
            kind, rest = number(rest[2:4]), rest[4:]
    fields["eth_type"] = kind
    if kind == 0x0806 and len(rest) >= 28:
        names = ("arp_op", "arp_sha", "arp_spa", "arp_tha", "arp_tpa")
        values = struct.unpack_from("!6xH6s4s6s4s", rest)
        fields |= {name: number(value) for name, value in zip(names, values, strict=True)}
    elif kind == 0x86DD and len(rest) >= 40:
        fields |= {"ip_proto": rest[6], "nw_ttl": rest[7]}
        fields |= {"ipv6_src": number(rest[8:24]), "ipv6_dst": number(rest[24:40])}
        if rest[6] == 58 and len(rest) >= 42:
            fields |= {"icmpv6_type": rest[40], "icmpv6_code": rest[41]}
            if rest[40] in (135, 136) and len(rest) >= 64:
                fields["ipv6_nd_target"] = number(rest[48:64])
                fields |= dict.fromkeys(("ipv6_nd_sll", "ipv6_nd_tll"), 0)
                at = 64
                while at + 8 <= len(rest) and rest[at + 1]:
                    option = {1: "ipv6_nd_sll", 2: "ipv6_nd_tll"}.get(rest[at])
                    if option and rest[at + 1] == 1:
                        fields[option] = number(rest[at + 2 : at + 8])
                    at += 8 * rest[at + 1]
    return fields


@dataclass(frozen=True, slots=True)
class Flow:
    table: int
    priority: int
    match: Mapping[str, tuple[int, int | None]]  #: (value, mask)
    actions: tuple[Any, ...]  #: the library's
    goto: int | None = None

    def holds(self, fields: Fields) -> bool:
        for name, (value, mask) in self.match.items():
            found = fields.get(name, 0 if name in _ZERO or name[:3] == "reg" else None)
            if found is None or (found != value if mask is None else found & mask != value & mask):
                return False
        return True


@dataclass(slots=True)
class Way:
    """Where a frame went."""

    #: (table, priority) of each flow on its way; priority -1: none matched.
    flows: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[tuple[int, Fields]] = field(default_factory=list)  #: port, and the frame there

    @property
    def ports(self) -> list[int]:
        return [port for port, _ in self.outputs]


class FlowTable:
    """All tables of a bridge.

    :param codec: the OpenFlow library that reads them.
    :param rows: flow rows and groups, as the Open vSwitch backend renders them; others are left
        out.
    """

    def __init__(self, codec: Codec, rows: Iterable[object]) -> None:
        self._parser = codec.parser
        self._tables: dict[int, list[Flow]] = {}
        self._groups: dict[int, tuple[int, list[Any]]] = {}
        for row in rows:
            if isinstance(row, bytes):
                self._add(_flow(self._parser, row))
            elif isinstance(row, Group):
                self._groups[row.group_id] = row.type, list(_buckets(self._parser, row.buckets))

    def send(self, fields: Fields) -> Way:
        """Where a frame goes that comes in by ``in_port``. What is learned of it stays."""
        way = Way()
        self._table(0, dict(fields), way, 0)
        return way

    def _add(self, flow: Flow) -> None:
        flows = self._tables.setdefault(flow.table, [])
        key = flow.priority, dict(flow.match)
        flows[:] = [other for other in flows if (other.priority, dict(other.match)) != key]
        flows.append(flow)
        flows.sort(key=lambda flow: -flow.priority)

    def _find(self, table: int, fields: Fields) -> Flow | None:
        """The flow of the highest priority that matches. A conjunctive one does where each of its
        clauses has a flow that does (``ovs-fields(7)``)."""
        clauses: dict[tuple[int, int], set[int]] = {}
        sizes: dict[int, int] = {}
        candidates = []
        for flow in self._tables.get(table, []):
            if not flow.holds(fields):
                continue
            if not (flow.actions and hasattr(flow.actions[0], "clause")):
                candidates.append(flow)
                continue
            for action in flow.actions:
                clauses.setdefault((flow.priority, action.id), set()).add(action.clause)
                sizes[action.id] = action.n_clauses
        for (_, conjunction), held in clauses.items():
            if len(held) == sizes[conjunction]:
                with_id = fields | {"conj_id": conjunction}
                found = [
                    f for f in self._tables[table] if "conj_id" in f.match and f.holds(with_id)
                ]
                candidates += found
        return max(candidates, key=lambda flow: flow.priority, default=None)

    def _table(self, table: int, fields: Fields, way: Way, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise RecursionError(f"table {table}: resubmitted {depth} times")
        while True:
            flow = self._find(table, fields)
            way.flows.append((table, -1 if flow is None else flow.priority))
            if flow is None:
                return
            for action in flow.actions:
                self._act(action, fields, way, depth)
            if flow.goto is None:
                return
            table = flow.goto

    def _act(self, action: Any, fields: Fields, way: Way, depth: int) -> None:
        match type(action).__name__:
            case "OFPActionOutput":
                if action.port == IN_PORT or action.port != fields["in_port"]:
                    port = fields["in_port"] if action.port == IN_PORT else action.port
                    way.outputs.append((port, dict(fields)))
            case "OFPActionPushVlan":
                fields[_INNER], fields["vlan_vid"] = fields.get("vlan_vid", 0), PRESENT
            case "OFPActionPopVlan":
                fields["vlan_vid"] = fields.pop(_INNER, 0)
            case "OFPActionSetField":
                fields[action.key] = number(action.value)
            case "NXActionRegMove":
                _move(fields, action)
            case "NXActionCheckPacketLarger":
                fields[action.dst_field] = int(fields["size"] > action.size) << action.bit
            case "NXActionResubmitTable":
                self._table(action.table_id, fields, way, depth + 1)
            case "OFPActionGroup":
                kind, buckets = self._groups[action.group_id]
                for bucket in buckets if kind == _ALL else buckets[:1]:
                    clone = dict(fields)
                    for inner in bucket.actions:
                        self._act(inner, clone, way, depth + 1)
            case "NXActionLearn" | "NXActionLearn2":
                self._add(_learned(self._parser, action, fields))
            case name:
                raise NotImplementedError(name)


def _flow(parser: Any, row: bytes) -> Flow:
    at = len(flow_key(row))
    actions: list[Any] = []
    goto = None
    while at < len(row):
        instruction = parser.OFPInstruction.parser(row, at)
        at += instruction.len
        actions += getattr(instruction, "actions", [])
        goto = getattr(instruction, "table_id", goto)
    items = dict(parser.OFPMatch.parser(row, 3).items())
    match = {
        name: (number(value[0]), number(value[1]))
        if isinstance(value, tuple)
        else (number(value), None)
        for name, value in items.items()
    }
    return Flow(row[0], number(row[1:3]), match, tuple(actions), goto)


def _buckets(parser: Any, data: bytes) -> Iterator[Any]:
    at = 0
    while at < len(data):
        bucket = parser.OFPBucket.parser(data, at)
        yield bucket
        at += bucket.len


#: Names of Open vSwitch (NXM) → OpenFlow's of the same field.
_NXM = {"vlan_tci": "vlan_vid", "nd_target": "ipv6_nd_target", "nd_tll": "ipv6_nd_tll"}


def _named(name: str) -> str:
    name = name.removesuffix("_nxm")
    return _NXM.get(name, name)


def _move(fields: Fields, action: Any) -> None:
    """The lowest bits of one field into another. A 64-bit register is kept beside the two that it
    is made of: no flow of ours reads both."""
    mask = (1 << action.n_bits) - 1
    source, target = _named(action.src_field), _named(action.dst_field)
    left = fields.get(target, 0) & ~mask
    fields[target] = left | fields.get(source, 0) >> action.src_ofs & mask


def _learned(parser: Any, action: Any, fields: Fields) -> Flow:
    match: dict[str, tuple[int, int | None]] = {}
    actions: list[Any] = []
    for spec in action.specs:
        value, name = spec.src, _named(spec.dst[0]) if spec.dst else ""
        if not isinstance(value, int):
            value = fields.get(_named(value[0]), 0) >> value[1] & (1 << spec.n_bits) - 1
        match type(spec).__name__:
            case "NXFlowSpecMatch":
                match[name] = value, 0xFFF if name == "vlan_vid" else None
            case "NXFlowSpecLoad" if name == "vlan_vid":
                actions.append(parser.OFPActionPopVlan())
            case "NXFlowSpecLoad":
                actions.append(parser.OFPActionSetField(**{name: value}))
            case "NXFlowSpecOutput":
                actions.append(parser.OFPActionOutput(value, 0))
    return Flow(action.table_id, action.priority, match, tuple(actions))

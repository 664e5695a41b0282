"""Stamping gives what os-ken builds when each flow is built on its own."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_BASE
from ovs_l2pop.backends.openvswitch.rows import add_flows, flow_key
from ovs_l2pop.backends.openvswitch.stamps import Stamp, Stamps, encode

COOKIE = 0x6C32706F70
PIPELINE = pipeline.load(resources.flows())
STAMPS = Stamps(PIPELINE, Codec(PIPELINE))
PRESENT = 0x1000  # OFPVID_PRESENT


class Datapath:
    """What os-ken wants to know of a switch."""

    ofproto = ofproto
    ofproto_parser = parser


def flow_mod(name: str, match: Any, actions: list[Any], goto: int | None = None) -> bytes:
    """Body of a whole flow-mod, as an os-ken application would build it.

    Table and priority are the template's: the golden file shows them.
    """
    template = PIPELINE.templates[name]
    instructions = []
    if actions:
        instructions.append(parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions))
    if goto is not None:
        instructions.append(parser.OFPInstructionGotoTable(goto))
    message = parser.OFPFlowMod(
        Datapath(),
        cookie=COOKIE,
        table_id=template.table.id,
        priority=template.priority,
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
        match=match,
        instructions=instructions,
    )
    message.serialize()
    return bytes(message.buf[8:])


def stamped(name: str, **values: Any) -> bytes:
    """The same from the stamp of a template."""
    row = STAMPS.flows[name](**{slot: encode(slot, v) for slot, v in values.items()})
    ((_, message),) = add_flows([row], COOKIE)
    return message


vlans = st.integers(1, 4094)
segments = st.integers(1, 2**32 - 1)
ports = st.integers(1, 0xFEFF)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
ip4s = st.integers(1, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
ip6s = st.integers(1, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
many = settings(deadline=None, max_examples=100)


@given(vlans, segments, macs, ports)
@many
def test_unicast(vlan: int, segment: int, mac: str, port: int) -> None:
    assert stamped("unicast", vlan=vlan, segment=segment, mac=mac, port=port) == flow_mod(
        "unicast",
        parser.OFPMatch(eth_dst=mac, vlan_vid=PRESENT | vlan),
        [
            parser.OFPActionPopVlan(),
            parser.OFPActionSetField(tunnel_id=segment),
            parser.OFPActionOutput(port, 0),
        ],
    )


@given(vlans, ip4s, macs)
@many
def test_arp(vlan: int, ip: str, mac: str) -> None:
    match = parser.OFPMatch(eth_type=0x0806, vlan_vid=PRESENT | vlan, arp_op=1, arp_tpa=ip)
    expected = flow_mod("arp", match, [parser.OFPActionSetField(eth_dst=mac)], 24)
    assert stamped("arp", vlan=vlan, ip4=ip, mac=mac) == expected


@given(vlans, ip6s, macs)
@many
def test_nd(vlan: int, ip: str, mac: str) -> None:
    match = parser.OFPMatch(
        eth_type=0x86DD,
        vlan_vid=PRESENT | vlan,
        ip_proto=58,
        icmpv6_type=135,
        ipv6_nd_target=ip,
    )
    actions = [
        parser.OFPActionSetField(eth_dst=mac),
        parser.OFPActionSetField(icmpv6_type=136),
    ]
    assert stamped("nd", vlan=vlan, ip6=ip, mac=mac) == flow_mod("nd", match, actions, 25)


@given(vlans, segments, st.sampled_from(["gre", "vxlan", "geneve"]))
@many
def test_from_tunnel_to_local_vlan(vlan: int, segment: int, kind: str) -> None:
    actions = [
        parser.OFPActionPushVlan(0x8100),
        parser.OFPActionSetField(vlan_vid=PRESENT | vlan),
    ]
    expected = flow_mod(f"{kind}_in", parser.OFPMatch(tunnel_id=segment), actions, 10)
    assert stamped(f"{kind}_in", vlan=vlan, segment=segment) == expected


@given(ports, st.sampled_from([("gre", 3), ("vxlan", 4), ("geneve", 6)]))
@many
def test_from_tunnel_port(port: int, kind: tuple[str, int]) -> None:
    name, table = kind
    expected = flow_mod(f"from_{name}_tunnel", parser.OFPMatch(in_port=port), [], table)
    assert stamped(f"from_{name}_tunnel", port=port) == expected


@given(vlans, st.integers(1, 100))
@many
def test_large_flood(vlan: int, shards: int) -> None:
    group = GROUP_BASE + shards
    match = parser.OFPMatch(vlan_vid=PRESENT | vlan)
    expected = flow_mod("large_flood", match, [parser.OFPActionGroup(group)])
    assert stamped("large_flood", vlan=vlan, group=group) == expected


@given(vlans, segments, st.lists(ports, min_size=1, max_size=400), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_floods(vlan: int, segment: int, to: list[int], shard: int) -> None:
    actions = [
        parser.OFPActionPopVlan(),
        parser.OFPActionSetField(tunnel_id=segment),
        *(parser.OFPActionOutput(port, 0) for port in to),
    ]
    constants = {"vlan": encode("vlan", vlan), "segment": encode("segment", segment)}
    encoded = [encode("port", port) for port in to]

    row = STAMPS.floods["flood"](encoded, **constants)
    ((_, message),) = add_flows([row], COOKIE)
    assert message == flow_mod("flood", parser.OFPMatch(vlan_vid=PRESENT | vlan), actions)

    row = STAMPS.floods["flood_shard"](encoded, **constants, shard=encode("shard", shard))
    match = parser.OFPMatch(
        _ordered_fields=[
            ofproto.oxm_normalize_user("vlan_vid", PRESENT | vlan),
            ofproto.oxm_normalize_user("reg6", shard),
        ]
    )
    ((_, message),) = add_flows([row], COOKIE)
    assert message == flow_mod("flood_shard", match, actions)


@pytest.mark.parametrize("count", [1, 2, 400])
def test_flood_of_many_ports_fits_a_message(count: int) -> None:
    row = STAMPS.floods["flood"](
        [encode("port", port) for port in range(1, count + 1)],
        vlan=encode("vlan", 1),
        segment=encode("segment", 1),
    )
    head = len(flow_key(row)) + 8 + 8 + 16  # instruction, pop VLAN, set tunnel id
    assert len(row) == head + 16 * count < 0x10000


# -- filling in and reading back ---------------------------------------------------------------

SAMPLE = Stamp((b"head", b"-", b"+", b"tail"), ("a", "b", "a"), (1, 2, 1))


def test_stamp_fills_in_a_parameter_wherever_it_lies() -> None:
    assert SAMPLE(a=b"1", b=b"22") == b"head1-22+1tail"


def test_bind_leaves_the_rest_to_be_filled_in() -> None:
    bound = SAMPLE.bind(a=b"1")
    assert bound == Stamp((b"head1-", b"+1tail"), ("b",), (2,))
    assert bound(b=b"22") == SAMPLE(a=b"1", b=b"22")
    assert bound.bind(b=b"22")() == SAMPLE(a=b"1", b=b"22")
    assert SAMPLE.bind(other=b"x") == SAMPLE


def test_filler_takes_values_in_any_order() -> None:
    stamp = Stamp((b"head", b"-", b"tail"), ("a", "b"), (1, 2))
    assert stamp.filler("a", "b")(b"1", b"22") == b"head1-22tail"
    assert stamp.filler("b", "c", "a")(b"22", b"unused", b"1") == b"head1-22tail"
    assert SAMPLE.filler("a", "b")(b"1", b"22") == SAMPLE(a=b"1", b=b"22")
    assert Stamp((b"all",), (), ()).filler("a")(b"1") == b"all"


@given(st.data())
@many
def test_read_is_the_inverse(data: st.DataObject) -> None:
    stamp = STAMPS.flows[data.draw(st.sampled_from(sorted(STAMPS.flows)))]
    values = {
        slot: data.draw(st.binary(min_size=size, max_size=size))
        for slot, size in zip(stamp.slots, stamp.sizes, strict=True)
    }
    row = stamp(**values)
    assert stamp.read(row) == values
    assert stamp.read(row + b"\0") is None
    assert stamp.read(row[:-1]) is None
    place = data.draw(st.integers(0, len(row) - 1))
    spoiled = bytearray(row)
    spoiled[place] ^= 0xFF
    read = stamp.read(bytes(spoiled))
    assert read is None or (read != values and stamp(**read) == spoiled)


@given(st.data())
@many
def test_binding_makes_no_difference(data: st.DataObject) -> None:
    stamp = STAMPS.flows[data.draw(st.sampled_from(sorted(STAMPS.flows)))]
    values = {
        slot: data.draw(st.binary(min_size=size, max_size=size))
        for slot, size in zip(stamp.slots, stamp.sizes, strict=True)
    }
    first = {slot: v for slot, v in values.items() if data.draw(st.booleans())}
    rest = {slot: v for slot, v in values.items() if slot not in first}
    assert stamp.bind(**first)(**rest) == stamp(**values)


def test_no_template_takes_rows_of_another() -> None:
    for name, stamp in STAMPS.flows.items():
        row = stamp(**{s: b"\x11" * n for s, n in zip(stamp.slots, stamp.sizes, strict=True)})
        readers = [other for other, reader in STAMPS.flows.items() if reader.read(row)]
        assert readers == [name]


ENCODED: list[tuple[str, Any, str]] = [
    ("vlan", 5, "1005"),
    ("segment", 2**32 - 1, "00000000ffffffff"),
    ("mac", "fa:16:3e:00:00:01", "fa163e000001"),
    ("ip4", "10.0.0.1", "0a000001"),
    ("ip6", "2001:db8::1", "20010db8000000000000000000000001"),
    ("port", 1000, "000003e8"),
]


@pytest.mark.parametrize(("kind", "value", "expected"), ENCODED)
def test_encode(kind: str, value: Any, expected: str) -> None:
    assert encode(kind, value).hex() == expected
    assert len(encode(kind, value)) == pipeline.PARAM_SIZES[kind]


# -- equality of two fields --------------------------------------------------------------------


def holds(fields: dict[str, tuple[int, int]], spa: int, tpa: int) -> bool:
    return all(
        {"arp_spa": spa, "arp_tpa": tpa}[name] & mask == value
        for name, (value, mask) in fields.items()
    )


def clauses() -> dict[int, list[dict[str, tuple[int, int]]]]:
    """Clause → its flows' masked fields, read back from the compiled rows."""
    found: dict[int, list[dict[str, tuple[int, int]]]] = {}
    for row in STAMPS.static["arp_announcement"]:
        if row[:3] != bytes([24, 0, 20]) or b"\x00\x00\x23\x20\x00\x22" not in row:
            continue
        at = row.index(b"\x00\x00\x23\x20\x00\x22") + 6  # NXAST_CONJUNCTION
        clause, count = row[at], row[at + 1]
        assert count == 16
        match = dict(parser.OFPMatch.parser(row, 3).items())
        fields = {
            name: (int(IPv4Address(match[name][0])), int(IPv4Address(match[name][1])))
            for name in ("arp_spa", "arp_tpa")
        }
        found.setdefault(clause, []).append(fields)
    return found


CLAUSES = clauses()
addresses = st.integers(0, 2**32 - 1)


@given(addresses, addresses, st.integers(0, 31))
@many
def test_announcement_is_recognised_by_equal_addresses(spa: int, other: int, bit: int) -> None:
    """A conjunctive match holds where each of its clauses has a flow that holds."""
    assert len(CLAUSES) == 16
    for tpa in (spa, other, spa ^ (1 << bit)):
        found = all(any(holds(flow, spa, tpa) for flow in flows) for flows in CLAUSES.values())
        assert found == (spa == tpa)

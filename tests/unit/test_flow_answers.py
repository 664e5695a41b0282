"""Where a frame goes, asked of the rows that are rendered: the pipeline as a whole."""

from collections.abc import Iterable

import pytest

from l2pop_lab.flowtable import FlowTable, Way, frame
from l2pop_lab.topology import craft
from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.render import FLOOD_SHARD_SIZE, FlowRenderer, PortNumbers
from ovs_l2pop.backends.openvswitch.stamps import Stamps
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.table import (
    Fact,
    FloodFact,
    LocalFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)

PATCH = 1
A, B, C = ("10.200.0.1", "10.200.0.2", "10.200.0.3")
#: Ports of the tunnels, as they are numbered when they are first asked for.
AT_A, AT_B = 1000, 1001
HERE, FAR, THIRD = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "fa:16:3e:00:00:03"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
NET = Attachment("net", Segment("vxlan", 77), 5)
PIPELINE = pipeline.load(resources.flows())
CODEC = Codec(PIPELINE)
STAMPS = Stamps(PIPELINE, CODEC)
CONDITIONS = ("arp_responder", "known_vteps_only")


def bridge(facts: Iterable[Fact], conditions: Iterable[str] = CONDITIONS) -> FlowTable:
    renderer = FlowRenderer(
        STAMPS, PortNumbers(), dict.fromkeys(("vxlan", "gre", "geneve"), ()), set(conditions)
    )
    rows = [*renderer.static(PATCH), *(row for fact in facts for row in renderer.rows(fact))]
    return FlowTable(CODEC, rows)


def facts(*vteps: str) -> list[Fact]:
    """A network of these VTEPs; FAR is behind the first, HERE here."""
    return [
        *(VtepFact(NET, vtep) for vtep in vteps),
        NetworkFact(NET, closed=True),
        FloodFact(NET, tuple(sorted(vteps))),
        UnicastFact(NET, FAR, A),
        LocalFact(NET, HERE),
        NeighbourFact(NET, "10.0.0.2", FAR),
        NeighbourFact(NET, "fd00::2", FAR),
    ]


def out(table: FlowTable, sent: bytes) -> Way:
    """What a machine here sends."""
    return table.send(frame(craft.tagged(sent, 5), in_port=PATCH))


def come(table: FlowTable, port: int, source: str = FAR, vni: int = 77) -> Way:
    """What comes by a tunnel."""
    return table.send(frame(craft.text(HERE, source, "hello"), in_port=port, tunnel_id=vni))


def text(to: str) -> bytes:
    return craft.text(to, HERE, "hello")


def arp(sender: str, target: str) -> bytes:
    return craft.arp_request(HERE, sender, target)


ARP_REPLY = arp("10.0.0.1", "10.0.0.2").replace(b"\6\4\0\1", b"\6\4\0\2")


def test_unicast_goes_to_its_vtep_alone() -> None:
    ((port, seen),) = out(bridge(facts(A, B)), text(FAR)).outputs
    assert (port, seen["tunnel_id"], seen["vlan_vid"]) == (AT_A, 77, 0)


@pytest.mark.parametrize("to", [EVERYBODY, "01:00:5e:00:00:09", THIRD], ids=str)
def test_broadcast_and_the_unknown_go_to_every_vtep(to: str) -> None:
    assert out(bridge(facts(A, B)), text(to)).ports == [AT_A, AT_B]


def test_a_network_of_nobody_floods_to_nobody() -> None:
    assert out(bridge([NetworkFact(NET)]), text(EVERYBODY)).ports == []


def test_arp_is_answered_where_it_was_asked() -> None:
    ((port, answer),) = out(bridge(facts(A)), arp("10.0.0.1", "10.0.0.2")).outputs
    assert port == PATCH
    far, here = (int(mac.replace(":", ""), 16) for mac in (FAR, HERE))
    assert (answer["arp_op"], answer["arp_sha"], answer["arp_tha"]) == (2, far, here)
    assert (answer["eth_src"], answer["eth_dst"], answer["vlan_vid"]) == (far, here, 0x1005)
    assert (answer["arp_spa"], answer["arp_tpa"]) == (0x0A000002, 0x0A000001)


@pytest.mark.parametrize(
    "packet",
    [
        arp("10.0.0.1", "10.0.0.9"),
        arp("0.0.0.0", "10.0.0.2"),
        arp("10.0.0.2", "10.0.0.2"),
        ARP_REPLY,
    ],
    ids=["unknown", "probe", "announcement", "reply"],
)
def test_what_must_not_be_answered_is_flooded(packet: bytes) -> None:
    way = out(bridge(facts(A, B)), packet)
    assert way.ports == [AT_A, AT_B]
    assert all(seen["eth_dst"] == 2**48 - 1 for _, seen in way.outputs)


def test_without_the_responder_arp_is_flooded() -> None:
    table = bridge(facts(A), conditions=["known_vteps_only"])
    assert out(table, arp("10.0.0.1", "10.0.0.2")).ports == [AT_A]


def test_a_solicitation_is_answered() -> None:
    ((port, answer),) = out(
        bridge(facts(A)), craft.solicitation(HERE, "fd00::1", "fd00::2")
    ).outputs
    far = int(FAR.replace(":", ""), 16)
    assert (port, answer["icmpv6_type"], answer["ipv6_nd_tll"]) == (PATCH, 136, far)
    assert (answer["eth_src"], answer["nd_options_type"]) == (far, 2)
    assert answer["ipv6_src"] == answer["ipv6_nd_target"]


@pytest.mark.parametrize(
    "packet",
    [craft.solicitation(HERE, "fd00::1", "fd00::9"), craft.solicitation(HERE, "::", "fd00::2")],
    ids=["unknown", "duplicate address detection"],
)
def test_other_solicitations_are_flooded(packet: bytes) -> None:
    assert out(bridge(facts(A, B)), packet).ports == [AT_A, AT_B]


def test_what_comes_by_a_tunnel_is_delivered_in_its_local_vlan() -> None:
    ((port, seen),) = come(bridge(facts(A, B)), AT_A).outputs
    assert (port, seen["vlan_vid"]) == (PATCH, 0x1005)


def test_strangers_are_led_to_where_they_are_counted() -> None:
    other = Attachment("other", Segment("vxlan", 78), 6)
    table = bridge([*facts(A), VtepFact(other, B), NetworkFact(other, closed=True)])
    assert come(table, AT_B).outputs == []
    assert come(table, AT_B).flows[-1][0] == PIPELINE.tables["STRANGERS"].id
    assert come(table, AT_B, vni=78).ports == [PATCH]


def test_a_local_machine_does_not_come_by_a_tunnel() -> None:
    assert come(bridge(facts(A)), AT_A, source=HERE).outputs == []


def test_another_networks_key_leads_nowhere() -> None:
    assert come(bridge(facts(A)), AT_A, vni=4711).outputs == []


def test_who_was_never_announced_is_learned() -> None:
    table = bridge(facts(A, B))
    assert out(table, text(THIRD)).ports == [AT_A, AT_B]
    come(table, AT_B, source=THIRD)
    ((port, seen),) = out(table, text(THIRD)).outputs
    assert (port, seen["tunnel_id"], seen["vlan_vid"]) == (AT_B, 77, 0)


def test_what_was_announced_is_not_learned_away() -> None:
    table = bridge(facts(A, B))
    come(table, AT_B, source=FAR)
    assert out(table, text(FAR)).ports == [AT_A]


@pytest.mark.parametrize("port", [AT_A, AT_B])
def test_what_comes_by_a_tunnel_leaves_by_none(port: int) -> None:
    table = bridge(facts(A, B))
    for data in (arp("10.0.0.1", "10.0.0.2"), craft.solicitation(THIRD, "fd00::3", "fd00::2")):
        sent = data[:6] + bytes.fromhex(THIRD.replace(":", "")) + data[12:]
        assert table.send(frame(sent, in_port=port, tunnel_id=77)).ports == [PATCH]


@pytest.mark.parametrize(
    "count", [FLOOD_SHARD_SIZE, FLOOD_SHARD_SIZE + 1, 2 * FLOOD_SHARD_SIZE + 1]
)
def test_a_large_flood_reaches_every_vtep_once(count: int) -> None:
    vteps = tuple(f"10.201.{n // 250}.{n % 250 + 1}" for n in range(count))
    table = bridge([NetworkFact(NET), FloodFact(NET, vteps)])
    way = out(table, text(EVERYBODY))
    assert sorted(way.ports) == list(range(AT_A, AT_A + count))
    assert {(seen["tunnel_id"], seen["vlan_vid"]) for _, seen in way.outputs} == {(77, 0)}

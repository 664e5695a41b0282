"""Facts to rows."""

import ipaddress
from collections.abc import Iterator

import pytest

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_BASE, GROUP_TYPES
from ovs_l2pop.backends.openvswitch.render import (
    FIRST_TUNNEL_OFPORT,
    FLOOD_SHARD_SIZE,
    FlowRenderer,
    PortNumbers,
    Tunnel,
    tunnel_name,
)
from ovs_l2pop.backends.openvswitch.rows import Group, TunnelPort, flow_key
from ovs_l2pop.backends.openvswitch.stamps import Stamps
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.table import (
    NEIGHBOUR,
    FloodFact,
    LocalFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)

NETWORK = "11111111-1111-4111-8111-111111111111"
HERE = Attachment(NETWORK, Segment("vxlan", 1001), 5)
MAC = "fa:16:3e:00:00:01"
PIPELINE = pipeline.load(resources.flows())
CODEC = Codec(PIPELINE)
OPTIONS = dict.fromkeys(("vxlan", "gre", "geneve"), (("in_key", "flow"),))


def renderer(*conditions: str, numbers: PortNumbers | None = None) -> FlowRenderer:
    return FlowRenderer(Stamps(PIPELINE, CODEC), numbers or PortNumbers(), OPTIONS, conditions)


def texts(rows: tuple[object, ...]) -> list[str]:
    """Flows as people read them, without their priorities: the golden file shows those."""
    found = [CODEC.flow_text(row) for row in rows if type(row) is bytes]
    return [f"{table} | {match} | {actions}" for table, _, match, actions in found]


def vteps(count: int) -> tuple[str, ...]:
    first = ipaddress.ip_address("10.255.0.1")
    return tuple(str(first + n) for n in range(count))


# -- rows --------------------------------------------------------------------------------------


def test_network() -> None:
    incoming = "VXLAN_TUN_TO_LV | tunnel_id=1001 | PushVlan set:vlan_vid=5 goto:LEARN_FROM_TUN"
    assert incoming in texts(renderer().rows(NetworkFact(HERE)))


@pytest.mark.parametrize("distributed", [False, True])
def test_network_under_a_neutron_agent(distributed: bool) -> None:
    """Let in by us too, since the agent may wait for its server; not past the tables of DVR."""
    shared = renderer("shared", *(["distributed"] if distributed else []))
    nobody = "FLOOD_TO_TUN | vlan_vid=5 | drop"
    incoming = "VXLAN_TUN_TO_LV | tunnel_id=1001 | PushVlan set:vlan_vid=5 goto:LEARN_FROM_TUN"
    wanted = [nobody] if distributed else [nobody, incoming]
    assert texts(shared.rows(NetworkFact(HERE))) == wanted


def test_vtep() -> None:
    port, *flows = renderer().rows(VtepFact(HERE, "192.0.2.2"))
    assert port == TunnelPort("vxlan-c0000202", "vxlan", "192.0.2.2", (("in_key", "flow"),), 1000)
    assert texts(tuple(flows)) == ["LOCAL_SWITCHING | in_port=1000 | goto:VXLAN_TUN_TO_LV"]


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("distributed", [False, True])
def test_closed_network(kind: str, distributed: bool) -> None:
    """A way in for each member, above the way out for strangers, above the way in for all."""
    rendered = renderer("known_vteps_only", *(["shared", "distributed"] if distributed else []))
    here = Attachment(NETWORK, Segment(kind, 1001), 5)
    *_, member = rendered.rows(VtepFact(here, "192.0.2.2"))
    goto = "DVR_NOT_LEARN" if distributed else "LEARN_FROM_TUN"
    into = "PushVlan set:vlan_vid=5 goto"
    table = f"{kind.upper()}_TUN_TO_LV"
    assert texts((member,)) == [f"{table} | in_port=1000 tunnel_id=1001 | {into}:{goto}"]
    strangers, out = rendered.rows(NetworkFact(here, closed=True))[-2:]
    assert texts((strangers, out)) == [
        "STRANGERS | vlan_vid=5 | drop",
        f"{table} | tunnel_id=1001 | {into}:STRANGERS",
    ]
    open_way = rendered.rows(NetworkFact(here, closed=False))
    assert open_way == rendered.rows(NetworkFact(here, closed=True))[:-2]
    priorities = [flow[1:3] for flow in (member, out) if isinstance(flow, bytes)]
    assert priorities == [b"\0\x0c", b"\0\x0b"]


def test_closed_network_without_the_option() -> None:
    assert renderer().rows(NetworkFact(HERE, True)) == renderer().rows(NetworkFact(HERE))
    assert len(renderer().rows(VtepFact(HERE, "192.0.2.2"))) == 2


def test_local_machine() -> None:
    assert texts(renderer().rows(LocalFact(HERE, MAC))) == [
        f"LEARN_FROM_TUN | eth_src={MAC} vlan_vid=5 | drop"
    ]


def test_unicast() -> None:
    assert texts(renderer().rows(UnicastFact(HERE, MAC, "192.0.2.2"))) == [
        f"UCAST_TO_TUN | eth_dst={MAC} vlan_vid=5 | PopVlan set:tunnel_id=1001 output:1000"
    ]


def test_neighbours() -> None:
    rows = renderer("arp_responder").rows(NeighbourFact(HERE, "10.0.0.1", MAC))
    assert texts(rows) == [
        "ARP_RESPONDER | eth_type=0x0806 vlan_vid=5 arp_op=1 arp_tpa=10.0.0.1"
        f" | set:eth_dst={MAC} goto:ARP_REPLY"
    ]
    rows = renderer("arp_responder").rows(NeighbourFact(HERE, "2001:db8::1", MAC))
    assert texts(rows) == [
        "ND_RESPONDER | eth_type=0x86dd vlan_vid=5 ip_proto=58 icmpv6_type=135"
        f" ipv6_nd_target=2001:db8::1 | set:eth_dst={MAC} set:icmpv6_type=136 goto:ND_REPLY"
    ]


def test_no_responder_no_neighbours() -> None:
    without = renderer()
    assert without.rows(NeighbourFact(HERE, "10.0.0.1", MAC)) == ()
    assert without.unused == {NEIGHBOUR}
    assert renderer("arp_responder").unused == set()


def test_networks_of_several_types_share_no_tunnel() -> None:
    rendered = renderer()
    ports = [
        rendered.rows(VtepFact(Attachment(NETWORK, Segment(kind, 7), 5), "192.0.2.2"))[0]
        for kind in OPTIONS
    ]
    assert len({port.ofport for port in ports if isinstance(port, TunnelPort)}) == 3


@pytest.mark.parametrize("count", [1, FLOOD_SHARD_SIZE])
def test_flood_of_one_flow(count: int) -> None:
    (row,) = renderer().rows(FloodFact(HERE, vteps(count)))
    (text,) = texts((row,))
    assert text.startswith("FLOOD_TO_TUN | vlan_vid=5 | PopVlan set:tunnel_id=1001 output:1000")
    assert text.count("output:") == count


@pytest.mark.parametrize(
    ("count", "shards"),
    [(FLOOD_SHARD_SIZE + 1, 2), (2 * FLOOD_SHARD_SIZE, 2), (2 * FLOOD_SHARD_SIZE + 1, 3)],
)
def test_large_flood_is_cut_into_shards(count: int, shards: int) -> None:
    recirculate, group, *flows = renderer().rows(FloodFact(HERE, vteps(count)))
    assert isinstance(recirculate, Group)
    assert isinstance(group, Group)
    assert (recirculate.group_id, recirculate.type) == (GROUP_BASE, GROUP_TYPES["select"])
    assert (group.group_id, group.type) == (GROUP_BASE + shards, GROUP_TYPES["all"])
    assert CODEC.group_text(group.buckets).count("set:reg6=") == shards
    *parts, large = texts(tuple(flows))
    assert large == f"FLOOD_TO_TUN | vlan_vid=5 | group:{group.group_id:#x}"
    assert [part.split(" | ")[1] for part in parts] == [
        f"vlan_vid=5 reg6={n}" for n in range(1, shards + 1)
    ]
    outputs = [word for part in parts for word in part.split() if word.startswith("output:")]
    assert len(set(outputs)) == len(outputs) == count
    assert all(part.count("output:") <= FLOOD_SHARD_SIZE for part in parts)


def test_a_vtep_keeps_its_shard() -> None:
    """Whoever else comes or goes: no copy of a packet on its way is lost or made twice."""
    rendered = renderer()
    everybody = vteps(2 * FLOOD_SHARD_SIZE + 1)
    before = rendered.rows(FloodFact(HERE, everybody))
    fewer = rendered.rows(FloodFact(HERE, everybody[1:]))
    assert set(before) - set(fewer) == {before[2]}
    # A shard that nobody is left in, between others: the group is that of its ends.
    ends = everybody[:FLOOD_SHARD_SIZE] + everybody[-1:]
    _, group, *shards, _ = rendered.rows(FloodFact(HERE, ends))
    assert group == before[1]
    assert shards == [before[2], before[4]]


def test_shards_of_ports_that_others_numbered() -> None:
    """Tunnels of a Neutron agent, taken over: from 1 on."""
    numbers = PortNumbers()
    known = {("vxlan", vtep): number for number, vtep in enumerate(vteps(401), 1)}
    numbers.restart({vtep: number for (_, vtep), number in known.items()}, known)
    rendered = renderer(numbers=numbers)
    _, group, *shards, _ = rendered.rows(FloodFact(HERE, vteps(401)))
    assert isinstance(group, Group)
    assert (group.group_id, len(shards)) == (GROUP_BASE + (253 << 8) + 2, 2)


def test_small_and_large_flood_replace_each_other() -> None:
    small = renderer().rows(FloodFact(HERE, vteps(2)))
    large = renderer().rows(FloodFact(HERE, vteps(FLOOD_SHARD_SIZE + 1)))
    keys = [{flow_key(row) for row in rows if type(row) is bytes} for rows in (small, large)]
    assert len(keys[0] & keys[1]) == 1


def test_equal_facts_give_equal_rows() -> None:
    rendered = renderer()
    fact = UnicastFact(HERE, MAC, "192.0.2.2")
    before = rendered.rows(fact)
    rendered.rows(UnicastFact(HERE, MAC, "192.0.2.3"))
    rendered.forget()
    other = Attachment(NETWORK, Segment("vxlan", 1001), 5)
    assert rendered.rows(UnicastFact(other, MAC, "192.0.2.2")) == before


# -- names -------------------------------------------------------------------------------------


def addresses() -> Iterator[str]:
    yield from ("0.0.0.1", "10.0.0.1", "255.255.255.254", "192.0.2.1")
    yield from ("2001:db8::1", "2001:db8::2", "fe80::1", "::1")
    yield from vteps(1000)


@pytest.mark.parametrize("kind", OPTIONS)
def test_tunnel_names_are_short_and_differ(kind: str) -> None:
    """A30: 15 characters are what a Linux device's name may have."""
    names = [tunnel_name(kind, address) for address in addresses()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 15


def test_tunnel_name_is_neutrons() -> None:
    assert tunnel_name("vxlan", "192.0.2.1") == "vxlan-c0000201"


# -- port numbers ------------------------------------------------------------------------------

A: Tunnel = ("vxlan", "192.0.2.2")
B: Tunnel = ("vxlan", "192.0.2.3")


def test_numbers_are_kept() -> None:
    numbers = PortNumbers()
    assert [numbers.of(A), numbers.of(B), numbers.of(A)] == [1000, 1001, 1000]


def test_numbers_of_the_bridge_are_taken_over() -> None:
    numbers = PortNumbers()
    numbers.restart({"patch": 1, "theirs": 1000, "ours": 4711}, {A: 4711})
    assert numbers.of(A) == 4711
    assert numbers.of(B) == 1001


def test_number_is_free_after_its_tunnel_is_gone() -> None:
    numbers = PortNumbers()
    numbers.of(A)
    numbers.release(A)
    numbers.release(A)
    assert numbers.of(B) == FIRST_TUNNEL_OFPORT


def test_number_that_a_foreign_port_got() -> None:
    numbers = PortNumbers()
    numbers.of(A)
    numbers.restart({"patch": 1, "theirs": 1000}, {})
    assert numbers.of(A) == 1001


def test_number_of_a_port_that_was_damaged_is_kept() -> None:
    """It is no tunnel to A any more, but ours by its name, and will be one again."""
    numbers = PortNumbers()
    numbers.of(A)
    numbers.restart({"patch": 1, tunnel_name(*A): 1000}, {})
    assert (numbers.of(B), numbers.of(A)) == (1001, 1000)


def test_number_that_another_tunnel_of_ours_got() -> None:
    """Open vSwitch gave B the number that we meant for A, which it doesn't have yet."""
    numbers = PortNumbers()
    numbers.of(A)
    numbers.restart({"patch": 1, "ours": 1000}, {B: 1000})
    assert (numbers.of(B), numbers.of(A)) == (1000, 1001)


def test_number_that_was_asked_for_and_not_made_yet_is_kept() -> None:
    numbers = PortNumbers()
    numbers.of(A)
    numbers.restart({"patch": 1}, {})
    assert numbers.of(B) == 1001
    assert numbers.of(A) == 1000

"""What is written, and in which order, asked of the plan."""

import pytest

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline, rows
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_BASE, METER_BASE
from ovs_l2pop.backends.openvswitch.plan import REVALIDATION, Plan, Planner
from ovs_l2pop.backends.openvswitch.render import FLOOD_SHARD_SIZE, FlowRenderer, PortNumbers
from ovs_l2pop.backends.openvswitch.rows import Group, PortFlags, TunnelPort, Wiring
from ovs_l2pop.backends.openvswitch.stamps import Stamps
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.table import Fact, FloodFact, LocalFact, NetworkFact, UnicastFact, VtepFact

A, B = "10.200.0.1", "10.200.0.2"
MAC = "fa:16:3e:00:00:02"
NET = Attachment("one", Segment("vxlan", 77), 5)
OTHER = Attachment("other", Segment("vxlan", 78), 5)  # in the same local VLAN
PIPELINE = pipeline.load(resources.flows())
CODEC = Codec(PIPELINE)
STAMPS = Stamps(PIPELINE, CODEC)
LEARNED = PIPELINE.learned[0].id
#: The end of what deletes all that was learned in the local VLAN of both.
FORGOTTEN = CODEC.learned_match((0x1005).to_bytes(2, "big"))
RENDERER = FlowRenderer(STAMPS, PortNumbers(), {"vxlan": ()}, {"arp_responder"})


def rendered(*facts: Fact) -> list[Row]:
    return [row for fact in facts for row in RENDERER.rows(fact)]


def planner() -> Planner:
    return Planner(STAMPS, CODEC)


def learned_deletes(plan: Plan) -> list[bytes]:
    """Bodies of what deletes learned flows, which are no row's."""
    return [body for row, (_, body) in plan.first if row is None]


def out_port(body: bytes) -> int:
    return int.from_bytes(body[28:32], "big")


def vteps(count: int) -> tuple[str, ...]:
    return tuple(f"10.201.{n // 250}.{n % 250 + 1}" for n in range(count))


def test_with_a_port_goes_what_was_learned_behind_it() -> None:
    port, flow = rendered(VtepFact(NET, A))
    plan = planner().plan([], [port, flow], 0.0)
    assert isinstance(port, TunnelPort)
    assert plan.gone == [port]
    assert [out_port(body) for body in learned_deletes(plan)] == [port.ofport]
    assert learned_deletes(plan)[0][16] == LEARNED


def test_a_port_that_changes_is_not_deleted() -> None:
    port, _ = rendered(VtepFact(NET, A))
    assert isinstance(port, TunnelPort)
    other = port._replace(options=(("tos", "7"),))
    plan = planner().plan([other], [port], 0.0)
    assert (plan.ports, plan.replaced, plan.gone) == ([other], [port], [])
    assert learned_deletes(plan) == []


@pytest.mark.parametrize("comes", [True, False], ids=["comes", "goes"])
def test_with_a_network_goes_what_was_learned_in_its_local_vlan(comes: bool) -> None:
    network = rendered(NetworkFact(NET))
    plan = planner().plan(network, [], 0.0) if comes else planner().plan([], network, 0.0)
    bodies = learned_deletes(plan)
    assert [body[16] for body in bodies] == [table.id for table in PIPELINE.learned]
    for body in bodies:
        assert body.endswith(FORGOTTEN)
        assert out_port(body) == 0xFFFFFFFF


@pytest.mark.parametrize("fact", [UnicastFact(NET, MAC, A), LocalFact(NET, MAC)])
def test_what_was_learned_of_a_machine_goes_with_its_announcement(fact: Fact) -> None:
    flow = rendered(fact)
    local = isinstance(fact, LocalFact)
    plan = planner().plan(flow if local else [], [] if local else flow, 0.0)
    bodies = learned_deletes(plan)
    match = CODEC.learned_match((0x1005).to_bytes(2, "big"), bytes.fromhex("fa163e000002"))
    assert [body.endswith(match) for body in bodies] == [True, True]
    # Strictly, and so of each priority that there is.
    assert {int.from_bytes(body[22:24], "big") for body in bodies} == {1, 3}


FLOW_RENDERERS = {
    family: FlowRenderer(
        STAMPS, PortNumbers(), {"vxlan": ()}, {"flow_tunnels", *(["underlay_ipv6"] if six else [])}
    )
    for family, six in (("IPv4", False), ("IPv6", True))
}


@pytest.mark.parametrize("family", FLOW_RENDERERS)
@pytest.mark.parametrize("size", [3, FLOOD_SHARD_SIZE + 3])
def test_what_was_learned_of_a_vtep_goes_when_it_leaves(family: str, size: int) -> None:
    """Where one port leads to all, nothing else would take it away."""
    address = "10.9.{}.{}" if family == "IPv4" else "fd00::{:x}:{:x}"
    everyone = tuple(address.format(n // 250, n % 250 + 1) for n in range(size))
    renderer = FLOW_RENDERERS[family]

    def flood(*vteps: str) -> set[Row]:
        return set(renderer.rows(FloodFact(NET, vteps)))

    some, more, other = flood(*everyone[:-1]), flood(*everyone), flood(*everyone[:-2], everyone[-1])
    comes = planner().plan([*(more - some)], [*(some - more)], 0.0)
    assert learned_deletes(comes) == []
    for before, after in ((more, some), (some, other), (more, set[Row]())):
        goes = planner().plan([*(after - before)], [*(before - after)], 0.0)
        matches = {body[-len(FORGOTTEN) :] for body in learned_deletes(goes)}
        assert matches == {FORGOTTEN}


def test_the_ways_in_of_a_port_go_behind_it() -> None:
    """Its frames come by another port from then on, and not before."""
    port, *way_in = rendered(VtepFact(NET, A))
    assert isinstance(port, TunnelPort)
    assert len(way_in) == 1
    plan = planner().plan([], [*way_in, port], 0.0)
    assert (plan.entrances, plan.gone) == (way_in, [port])
    assert way_in[0] not in [row for row, _ in plan.first]
    # Of one that stays, now.
    plan = planner().plan([], way_in, 0.0)
    assert (plan.entrances, [row for row, _ in plan.first if row]) == ([], way_in)


def test_a_machine_that_is_announced_no_more_is_released() -> None:
    flow = rendered(UnicastFact(NET, MAC, A))
    released = planner().plan([], flow, 0.0, pins=True).released
    assert [(vlan.hex(), mac.hex()) for vlan, mac in released] == [("1005", "fa163e000002")]
    assert planner().plan([], flow, 0.0).released == []


def test_a_flow_that_is_written_over_is_not_deleted() -> None:
    before, after = (rendered(UnicastFact(NET, MAC, vtep)) for vtep in (A, B))
    plan = planner().plan(after, before, 0.0)
    assert plan.flows == after
    assert [row for row, _ in plan.first if row is not None] == []


def test_deletes_come_first_then_groups() -> None:
    wide = rendered(FloodFact(NET, vteps(FLOOD_SHARD_SIZE + 1)))
    gone = rendered(UnicastFact(NET, MAC, A))
    kinds = [type(row) for row, _ in planner().plan(wide, gone, 0.0).first if row is not None]
    assert kinds == [bytes, Group, Group]


def test_a_group_that_exists_is_changed() -> None:
    planner_ = planner()
    first, second = Group(GROUP_BASE + 2, 0, b"1" * 16), Group(GROUP_BASE + 2, 0, b"2" * 16)
    made = planner_.plan([first], [], 0.0)
    assert [message for _, message in made.first] == [rows.add_group(first, exists=False)]
    changed = planner_.plan([second], [first], 1.0)
    assert [message for _, message in changed.first] == [rows.add_group(second, exists=True)]
    assert changed.last == [], "a group that changes is not deleted: its flows would go with it"
    gone = planner_.plan([], [second], 2.0)
    assert gone.last == [second]
    again = planner_.plan([first], [], 3.0)
    assert [message for _, message in again.first] == [rows.add_group(first, exists=False)]


def test_a_group_that_was_refused_is_made_the_next_time() -> None:
    planner_ = planner()
    group = Group(GROUP_BASE + 2, 0, b"")
    planner_.plan([group], [], 0.0)
    planner_.refused(group)
    ((_, message),) = planner_.plan([group], [], 1.0).first
    assert message == rows.add_group(group, exists=False)


def test_a_meter_is_changed_where_it_exists_and_made_where_not() -> None:
    planner_ = planner()
    slow, fast, other = (
        rows.meter(METER_BASE + 5, 1),
        rows.meter(METER_BASE + 5, 9),
        rows.meter(7, 1),
    )

    def messages(add: list[Row], remove: list[Row]) -> list[tuple[int, bytes]]:
        return [message for _, message in planner_.plan(add, remove, 0.0).first]

    assert planner_.observed_meters([slow, other]) == [slow]
    assert messages([fast], [slow]) == [rows.add_meter(fast, exists=True)]
    assert messages([], [fast]) == [rows.delete_meter(fast)]
    assert messages([slow], []) == [rows.add_meter(slow, exists=False)]
    planner_.refused(slow)
    assert messages([slow], []) == [rows.add_meter(slow, exists=False)]


def test_groups_of_others_are_not_ours() -> None:
    ours = [Group(GROUP_BASE, 1, b""), Group(GROUP_BASE + 0x1234, 0, b"")]
    others = [Group(1, 0, b""), Group(GROUP_BASE - 1, 0, b""), Group(GROUP_BASE + 0x10000, 0, b"")]
    assert planner().observed([*ours, *others]) == ours


def test_what_is_read_back_exists() -> None:
    planner_ = planner()
    group = Group(GROUP_BASE + 2, 0, b"")
    planner_.observed([group])
    ((_, message),) = planner_.plan([group], [], 0.0).first
    assert message == rows.add_group(group, exists=True)


def test_shards_stay_for_packets_on_their_way() -> None:
    planner_ = planner()
    wide = rendered(FloodFact(NET, vteps(FLOOD_SHARD_SIZE + 1)))
    narrow = rendered(FloodFact(NET, vteps(2)))
    planner_.plan(wide, [], 0.0)
    plan = planner_.plan(narrow, wide, 10.0)
    recirculate, shards, *flows, _ = wide
    assert [row for row, _ in plan.first if row is not None] == []
    assert plan.last == [shards]
    assert set(planner_.lingering.rows()) == {recirculate, *flows}
    assert planner_.sweep(10.0) == []
    swept = planner_.sweep(13.0)
    assert [kind for kind, _ in swept] == [rows.FLOW_MOD] * len(flows) + [rows.GROUP_MOD]


def test_shards_that_stay_go_with_their_network() -> None:
    planner_ = planner()
    wide = rendered(NetworkFact(NET), FloodFact(NET, vteps(FLOOD_SHARD_SIZE + 1)))
    narrow = rendered(FloodFact(NET, vteps(2)))
    planner_.plan(wide, [], 0.0)
    planner_.plan(narrow, wide[-5:], 10.0)
    left = {row for row in planner_.lingering.rows() if isinstance(row, bytes)}
    deleted = {row for row, _ in planner_.plan([], narrow, 10.1).first if row is not None}
    assert left
    assert left <= deleted


def test_a_local_vlan_of_another_network_awaits_the_caches() -> None:
    planner_ = planner()
    one, other = rendered(NetworkFact(NET)), rendered(NetworkFact(OTHER))
    planner_.plan(one, [], 0.0)
    assert planner_.plan(other, one, 1.0).reused == {b"\x10\x05"}
    planner_.plan([], other, 2.0)
    assert planner_.plan(other, [], 2.1).reused == set(), "what is cached is its own"
    planner_.plan([], other, 3.0)
    assert planner_.plan(one, [], 3.1).reused == {b"\x10\x05"}
    planner_.plan([], one, 4.0)
    assert planner_.plan(other, [], 4.0 + 3 * REVALIDATION).reused == set()


def test_wiring_comes_alone() -> None:
    port, flow = rendered(VtepFact(NET, A))
    plan = planner().plan([Wiring("br-tun", "bridge"), port, flow], [], 0.0)
    assert plan.wiring
    assert (plan.ports, plan.flows) == ([], [])


def test_flags_are_cleared() -> None:
    flags = PortFlags("br-tun", "vxlan-1", 1000, b"", 1)
    assert planner().plan([], [flags], 0.0).flags == [flags]


def test_what_stayed_of_a_large_flood_goes_when_there_is_one_again() -> None:
    """Its rows are written anew, so none of those that stayed may be deleted behind them."""
    planner_ = planner()
    wide = rendered(FloodFact(NET, vteps(FLOOD_SHARD_SIZE + 1)))
    narrow = rendered(FloodFact(NET, vteps(2)))
    planner_.plan(wide, [], 0.0)
    planner_.plan(narrow, wide, 10.0)
    other = rendered(FloodFact(NET, vteps(FLOOD_SHARD_SIZE + 2)))
    planner_.plan(other, narrow, 10.1)
    assert not [row for row in planner_.lingering.rows() if isinstance(row, bytes)]
    assert not [kind for kind, _ in planner_.sweep(99.0) if kind == rows.FLOW_MOD]

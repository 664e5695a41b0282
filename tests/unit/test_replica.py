"""The protocol and its replica: any order, loss and repetition end where the server is. Pure."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from builders import take_in
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.core.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    AddEntries,
    Change,
    Properties,
    RemoveEntries,
    Segment,
)
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, PortState, ProtocolError, Update
from ovs_l2pop.sync.replica import Replica

NET = "11111111-2222-3333-4444-555555555555"
SEGMENT = Segment("vxlan", 1001)
OWN = "10.0.0.9"


class Sink:
    """What the forwarding table holds; refuses to be told what it knows."""

    def __init__(self) -> None:
        self.entries: set[tuple[str, str, str]] = set()

    def take(self, changes: list[Change]) -> None:
        take_in(self.entries, changes)


def expected(states: list[PortState]) -> set[tuple[str, str, str]]:
    there = [s for s in states if s.vtep is not None]
    contested = {ip for s in there for ip in s.allowed if ip not in {i for _, i in s.entries}}
    entries = set()
    for state in there:
        assert state.vtep is not None
        if state.vtep == OWN:
            entries |= {(m, i, OWN) for m, i in state.entries}
            continue
        entries.add((FLOODING_MAC, FLOODING_IP, state.vtep))
        entries |= {(m, i, state.vtep) for m, i in state.entries if i not in contested}
    return entries


def answer(states: list[PortState], size: int = 100) -> Answer:
    """All of the network, cut into chunks of some ports."""
    ports = sorted(s for s in states if s.vtep is not None)
    chunks, after = [], ""
    for start in range(0, max(len(ports), 1), size):
        part = tuple(ports[start : start + size])
        last = start + size >= len(ports)
        chunks.append(Chunk(NET, SEGMENT, after, None if last else part[-1].key, part))
        after = part[-1].key if part else ""
    return Answer(0.0, (), tuple(chunks), None)


KEYS = [f"port-{i}" for i in range(5)]
CONTENT = st.tuples(
    st.sampled_from(["10.0.0.1", "10.0.0.2", OWN, None]),
    st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), unique=True, max_size=2),
    st.lists(st.sampled_from(["192.0.2.1", "192.0.2.4"]), unique=True, max_size=1),
)


@st.composite
def histories(draw: st.DrawFn) -> list[PortState]:
    """States of some ports with rising revisions."""
    history = []
    for revision in range(1, draw(st.integers(1, 12))):
        key = draw(st.sampled_from(KEYS))
        vtep, ips, allowed = draw(CONTENT)
        mac = f"fa:16:3e:00:00:0{KEYS.index(key)}"
        entries = tuple((mac, ip) for ip in sorted(ips)) if vtep else ()
        history.append(
            PortState(key, revision, vtep, entries, tuple(sorted(allowed)) if vtep else ())
        )
    return history


def latest(history: list[PortState]) -> list[PortState]:
    found: dict[str, PortState] = {}
    for state in history:
        if state.key not in found or found[state.key].order < state.order:
            found[state.key] = state
    return list(found.values())


def a_replica() -> tuple[Replica, "itertools.count[int]"]:
    clock = itertools.count(1000)
    replica = Replica(OWN, lambda: float(next(clock)))
    assert replica.use(NET)
    return replica, clock


@settings(max_examples=300, deadline=None)
@given(histories(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_order_with_loss_and_repetition_then_sync(
    history: list[PortState], rng: Any, size: int
) -> None:
    replica, clock = a_replica()
    sink = Sink()
    arriving = [s for s in history + history if rng.random() < 0.7]
    rng.shuffle(arriving)
    for state in arriving:
        sink.take(replica.updated(Update(NET, SEGMENT, (state,))))
    now = latest(history)
    messages, cursor = replica.synced(answer(now, size), float(next(clock)))
    sink.take(messages)
    assert cursor is None
    assert sink.entries == expected(now)
    contents = sum(s.content() for s in now if s.vtep is not None)
    assert replica.digests() == {NET: protocol.digest(SEGMENT, contents)}


@settings(max_examples=200, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_every_message_in_any_order_needs_no_sync(history: list[PortState], rng: Any) -> None:
    replica, clock = a_replica()
    sink = Sink()
    sink.take(replica.synced(answer([]), float(next(clock)))[0])
    rng.shuffle(history)
    for state in history:
        sink.take(replica.updated(Update(NET, SEGMENT, (state,))))
    assert sink.entries == expected(latest(history))


def test_an_old_answer_does_not_undo_what_was_heard_since() -> None:
    replica, clock = a_replica()
    sink = Sink()
    asked = float(next(clock))
    new = PortState("new", 1, "10.0.0.1", (("fa:16:3e:00:00:01", "192.0.2.1"),))
    old = PortState("old", 3, "10.0.0.2", (("fa:16:3e:00:00:02", "192.0.2.2"),))
    sink.take(replica.updated(Update(NET, SEGMENT, (new,))))
    sink.take(replica.updated(Update(NET, SEGMENT, (PortState("old", 3, None),))))
    sink.take(replica.synced(answer([old]), asked)[0])
    assert sink.entries == expected([new])
    # The next one, asked later, decides.
    sink.take(replica.synced(answer([]), float(next(clock)))[0])
    assert sink.entries == set()


def test_gone_takes_everything_back_and_leaves_the_network() -> None:
    """Whether this host has the network is not the server's to say."""
    replica, clock = a_replica()
    sink = Sink()
    state = PortState("p", 1, "10.0.0.1", (("fa:16:3e:00:00:01", "192.0.2.1"),))
    sink.take(replica.synced(answer([state]), float(next(clock)))[0])
    sink.take(replica.synced(Answer(0.0, (NET,), (), None), float(next(clock)))[0])
    assert sink.entries == set()
    assert replica.digests() == {NET: protocol.UNKNOWN}
    assert replica.unserved(NET)
    # What comes next is told as if it was the first.
    sink.take(replica.updated(Update(NET, SEGMENT, (state,))))
    assert sink.entries == expected([state])
    assert replica.use(NET), "worth another question"
    sink.take(replica.synced(answer([state]), float(next(clock)))[0])
    assert not replica.unserved(NET)
    assert sink.entries == expected([state])


def test_gone_of_before_the_network_was_used_is_not_believed() -> None:
    replica, clock = a_replica()
    sink = Sink()
    state = PortState("p", 1, "10.0.0.1", (("fa:16:3e:00:00:01", "192.0.2.1"),))
    sink.take(replica.synced(answer([state]), float(next(clock)))[0])
    asked = float(next(clock))
    replica.use(NET)
    sink.take(replica.synced(Answer(0.0, (NET,), (), None), asked)[0])
    assert sink.entries == expected([state])


def test_gone_of_a_network_of_a_former_life_ends_it() -> None:
    clock = itertools.count(1000)
    replica, sink = Replica(OWN, lambda: float(next(clock))), Sink()
    sink.entries = {("fa:16:3e:00:00:01", "192.0.2.1", "10.0.0.1")}
    replica.held(NET, SEGMENT, sink.entries)
    sink.take(replica.synced(Answer(0.0, (NET,), (), None), float(next(clock)))[0])
    assert sink.entries == set()
    assert replica.network_ids == set()


def test_another_segment() -> None:
    replica, clock = a_replica()
    state = PortState("p", 1, "10.0.0.1")
    replica.synced(answer([state]), float(next(clock)))
    chunk = Chunk(NET, Segment("vxlan", 2002), "", None, (state,))
    remove, add = replica.synced(Answer(0.0, (), (chunk,), None), float(next(clock)))[0]
    assert isinstance(remove, RemoveEntries)
    assert isinstance(add, AddEntries)
    assert add.segment == Segment("vxlan", 2002)


def test_an_update_of_another_segment_is_not_for_this_host() -> None:
    replica, clock = a_replica()
    replica.synced(answer([PortState("p", 1, "10.0.0.1")]), float(next(clock)))
    other = PortState("q", 1, "10.0.0.2")
    assert replica.updated(Update(NET, Segment("gre", 7), (other,))) == []
    assert replica.updated(Update(NET, SEGMENT, (other,))) != []


PAIRS = (("fa:16:3e:00:00:01", "192.0.2.1"),)


@pytest.mark.parametrize("revision", [6, 2**62, protocol.DELETED])
@pytest.mark.parametrize("vtep", ["10.0.0.2", None])
def test_an_answer_settles_what_has_a_higher_revision(revision: int, vtep: str | None) -> None:
    """The database went back to a backup, or somebody forged an update."""
    replica, clock = a_replica()
    sink = Sink()
    real = PortState("p", 5, "10.0.0.1", PAIRS)
    sink.take(replica.updated(Update(NET, SEGMENT, (real,))))
    forged = PortState("p", revision, vtep, PAIRS if vtep else ())
    sink.take(replica.updated(Update(NET, SEGMENT, (forged,))))
    assert sink.entries == expected([forged])
    # Not by an answer from before it.
    sink.take(replica.synced(replace(answer([real]), age=10.0), float(next(clock)))[0])
    assert sink.entries == expected([forged])
    sink.take(replica.synced(answer([real]), float(next(clock)))[0])
    assert sink.entries == expected([real])
    # And from there on.
    moved = real._replace(revision=6, vtep="10.0.0.3")
    sink.take(replica.updated(Update(NET, SEGMENT, (moved,))))
    assert sink.entries == expected([moved])


def test_what_an_answer_leaves_out_is_gone_and_may_come_back() -> None:
    replica, clock = a_replica()
    sink = Sink()
    forged = PortState("p", 2**62, "10.0.0.2", PAIRS)
    sink.take(replica.updated(Update(NET, SEGMENT, (forged,))))
    sink.take(replica.synced(answer([]), float(next(clock)))[0])
    assert sink.entries == set()
    real = PortState("p", 5, "10.0.0.1", PAIRS)
    sink.take(replica.updated(Update(NET, SEGMENT, (real,))))
    assert sink.entries == expected([real])


def test_another_vtep_without_another_revision_is_told_at_once() -> None:
    """A host's VTEP changes: its ports are as they were."""
    replica, clock = a_replica()
    sink = Sink()
    before, after = (PortState("p", 5, vtep, PAIRS) for vtep in ("10.0.0.1", "10.0.0.2"))
    sink.take(replica.synced(answer([before]), float(next(clock)))[0])
    sink.take(replica.updated(Update(NET, SEGMENT, (after,))))
    assert sink.entries == expected([after])
    assert replica.take_doubt(), "one may have overtaken the other"
    assert not replica.take_doubt()
    sink.take(replica.updated(Update(NET, SEGMENT, (after,))))
    assert not replica.take_doubt(), "said again"
    gone = PortState("p", 5, None)
    sink.take(replica.updated(Update(NET, SEGMENT, (gone,))))
    assert sink.entries == set()
    sink.take(replica.updated(Update(NET, SEGMENT, (before,))))
    assert sink.entries == set()
    assert replica.take_doubt(), "its agent's row may be back"
    # An answer of before it was heard is older, though the revision is the same.
    asked = float(next(clock))
    sink.take(replica.synced(answer([before]), asked)[0])
    sink.take(replica.updated(Update(NET, SEGMENT, (after,))))
    sink.take(replica.synced(answer([before]), asked)[0])
    assert sink.entries == expected([after])


def test_a_lower_revision_is_doubted_where_nothing_can_have_overtaken_it() -> None:
    now = 1000.0
    replica, sink = Replica(OWN, lambda: now), Sink()
    replica.use(NET)
    new, old = PortState("p", 7, "10.0.0.1", PAIRS), PortState("p", 6, "10.0.0.2", PAIRS)
    sink.take(replica.updated(Update(NET, SEGMENT, (new, old))))
    assert not replica.take_doubt()
    now += 60
    sink.take(replica.updated(Update(NET, SEGMENT, (old,))))
    assert sink.entries == expected([new])
    assert replica.take_doubt()


def test_a_server_that_does_not_tell_own_ports_says_nothing_of_them() -> None:
    replica, clock = a_replica()
    sink = Sink()
    own = PortState("own", 1, OWN, (("fa:16:3e:00:00:0a", "192.0.2.9"),), ("192.0.2.1",))
    other = PortState("p", 1, "10.0.0.1", PAIRS)
    sink.take(replica.synced(answer([own, other]), float(next(clock)))[0])
    assert sink.entries == expected([own, other])
    assert (*PAIRS[0], "10.0.0.1") not in sink.entries, "a machine here may have the address"
    replica.with_own = False
    assert replica.digests() == {NET: protocol.digest(SEGMENT, other.content())}
    sink.take(replica.synced(answer([other]), float(next(clock)))[0])
    assert sink.entries == expected([own, other])
    replica.with_own = True
    sink.take(replica.synced(answer([other]), float(next(clock)))[0])
    assert sink.entries == expected([other])


def test_a_network_that_got_another_segment_has_another_digest() -> None:
    segments = [Segment("vxlan", 1001), Segment("vxlan", 1002), Segment("gre", 1001)]
    assert len({protocol.digest(segment, 5) for segment in segments}) == 3


def test_the_order_of_ports_does_not_change_the_digest() -> None:
    ports = [PortState(key, 1, "10.0.0.1") for key in KEYS]
    sums = {sum(p.content() for p in order) for order in itertools.permutations(ports)}
    assert len(sums) == 1
    assert ports[0].content() == ports[0]._replace(revision=9).content()
    assert len({state.content() for state in ports}) == len(ports)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "x", ["k"]),
        ["", 1, None, [], []],
        ["k" * 1000, 1, None, [], []],
        ["k", "1", None, [], []],
        *(["k", number, None, [], []] for number in (True, -1, 2**63, 10**400, 1.5, float("nan"))),
        ["k", 1, 5, [], []],
        ["k", 1, None, [["mac"]], []],
        ["k", 1, None, [], [5]],
        ["k", 1, None, 5, []],
    ],
)
def test_what_is_not_a_port(value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.parse_port(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, 5, {}, {"network_id": 5}, {"network_id": NET}])
def test_what_is_not_a_message(value: object) -> None:
    for parse in (Update.from_wire, Chunk.from_wire, Answer.from_wire):
        with pytest.raises(ProtocolError):
            parse(value)


@pytest.mark.parametrize(
    "segment", [("vxlan", True), ("vxlan", 0), ("vxlan", 2**24), ("vlan", 5), ("gre", -1)]
)
def test_what_is_not_a_segment(segment: tuple[str, int]) -> None:
    with pytest.raises(ProtocolError):
        Update.from_wire(Update(NET, Segment(*segment), ()).to_wire())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"age": age} for age in (True, -1, float("nan"), float("inf"), 10**400, "1")),
        {"gone": [5]},
        {"dead": [None]},
        *({"cursor": cursor} for cursor in (5, ["a"], [1, 2], ["a", "k" * 10**6])),
    ],
)
def test_what_is_not_an_answer(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        Answer.from_wire(answer([]).to_wire() | wrong)
    assert len(str(caught.value)) < 200


def test_a_bad_port_beside_a_good_one() -> None:
    replica, clock = a_replica()
    sink = Sink()
    one, two = PortState("a", 1, "10.0.0.1", PAIRS), PortState("b", 1, "10.0.0.2")
    sink.take(replica.synced(answer([two]), float(next(clock)))[0])
    update = Update(NET, SEGMENT, (one,)).to_wire()
    update["ports"].append(["b", True, None, [], []])
    taken = Update.from_wire(update)
    assert len(taken.refused) == 1
    sink.take(replica.updated(taken))
    assert sink.entries == expected([one, two])
    # Nor does a chunk say of what it doesn't name that it is gone.
    body = answer([one._replace(vtep="10.0.0.3")]).to_wire()
    body["chunks"][0]["ports"].append(["b", -1, "10.0.0.2", [], []])
    sink.take(replica.synced(Answer.from_wire(body), float(next(clock)))[0])
    assert sink.entries == expected([one._replace(vtep="10.0.0.3"), two])


def test_keys_twice_and_keys_out_of_range() -> None:
    replica, clock = a_replica()
    sink = Sink()
    new, old = PortState("b", 2, "10.0.0.1", PAIRS), PortState("b", 1, "10.0.0.2", PAIRS)
    stray = PortState("z", 1, "10.0.0.3")
    chunk = Chunk(NET, SEGMENT, "", "m", (new, old, stray))
    sink.take(replica.synced(Answer(0.0, (), (chunk,), None), float(next(clock)))[0])
    assert sink.entries == expected([new])


def test_what_a_host_may_ask_for() -> None:
    good, refused = protocol.parse_networks({NET: "d", 5: "d", "x" * 10**6: "d", "other": 7})
    assert good == {NET: "d", "other": protocol.UNKNOWN}
    assert len(refused) == 2
    for value in (None, [NET], dict.fromkeys(map(str, range(protocol.MAX_NETWORKS + 1)), "")):
        with pytest.raises(ProtocolError):
            protocol.parse_networks(value)


def test_messages_are_bounded() -> None:
    entries = tuple(("fa:16:3e:00:00:01", f"2001:db8::{i:x}") for i in range(20))
    ports = [PortState(f"{i:036}", 1, "10.0.0.1", entries) for i in range(500)]
    found = protocol.updates(NET, SEGMENT, ports)
    assert [p for update in found for p in update.ports] == ports
    assert max(len(str(update.to_wire())) for update in found) <= protocol.MAX_CHUNK


# -- routers -----------------------------------------------------------------------------------

LINK_LOCAL = ("fa:16:3e:00:00:01", "fe80::f816:3eff:fe00:1")
OF_ROUTER = ("fa:16:3e:00:00:01", "fd00::1")


def router(revision: int = 1, *routers: tuple[str, str]) -> PortState:
    return PortState(
        "01", revision, "10.0.0.1", (OF_ROUTER, ("fa:16:3e:00:00:01", "10.0.0.1")), (), routers
    )


def owners_told(changes: list[Any]) -> dict[tuple[str, str], Properties]:
    return {k: v for c in changes for k, v in (getattr(c, "properties", None) or {}).items()}


def test_addresses_of_a_router_are_told_as_such() -> None:
    replica = Replica(OWN)
    replica.use(NET)
    changes = replica.updated(Update(NET, SEGMENT, (router(1, LINK_LOCAL, OF_ROUTER),)))
    told = {entry[:2] for change in changes for entry in change.entries}  # type: ignore[union-attr]
    assert told == {LINK_LOCAL, OF_ROUTER, ("fa:16:3e:00:00:01", "10.0.0.1")}
    assert owners_told(changes) == dict.fromkeys((LINK_LOCAL, OF_ROUTER), Properties(router=True))
    # No router any more.
    changes = replica.updated(Update(NET, SEGMENT, (router(2),)))
    assert owners_told(changes) == {OF_ROUTER: Properties()}
    (gone,) = (change for change in changes if isinstance(change, RemoveEntries))
    assert [entry[:2] for entry in gone.entries] == [LINK_LOCAL]


def test_routers_pass_the_wire_and_those_who_know_none_take_the_rest() -> None:
    state = router(1, LINK_LOCAL)
    wire = [list(item) if isinstance(item, tuple) else item for item in state]
    assert protocol.parse_port(wire) == state
    assert protocol.parse_port(wire[:5]) == state._replace(routers=())
    assert state.content() == state._replace(routers=()).content()

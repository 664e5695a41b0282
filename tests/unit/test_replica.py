"""The protocol and its replica: any order, loss and repetition end where the server is. Pure."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.messages import FLOODING_IP, FLOODING_MAC, Segment
from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import Answer, Chunk, PortState, ProtocolError, Update
from ovs_l2pop.neutron.replica import Replica

NET = "11111111-2222-3333-4444-555555555555"
SEGMENT = Segment("vxlan", 1001)
OWN = "10.0.0.9"


class Sink:
    """What the forwarding table holds; refuses to be told what it knows."""

    def __init__(self) -> None:
        self.entries: set[tuple[str, str, str]] = set()

    def take(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            for vtep, pairs in message["fdb_entries"][NET]["ports"].items():
                for mac, ip in pairs:
                    if message["method"] == "add_fdb_entries":
                        assert (mac, ip, vtep) not in self.entries
                        self.entries.add((mac, ip, vtep))
                    else:
                        self.entries.remove((mac, ip, vtep))


def expected(states: list[PortState]) -> set[tuple[str, str, str]]:
    there = [s for s in states if s.vtep not in (None, OWN)]
    contested = {ip for s in there for ip in s.allowed if ip not in {i for _, i in s.entries}}
    entries = set()
    for state in there:
        assert state.vtep is not None
        entries.add((FLOODING_MAC, FLOODING_IP, state.vtep))
        entries |= {(m, i, state.vtep) for m, i in state.entries if i not in contested}
    return entries


def answer(states: list[PortState], size: int = 100) -> Answer:
    """All of the network, cut into chunks of some ports."""
    ports = sorted(s for s in states if s.vtep not in (None, OWN))
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
    contents = sum(s.content() for s in now if s.vtep not in (None, OWN))
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


def test_drop_takes_everything_back() -> None:
    replica, clock = a_replica()
    sink = Sink()
    state = PortState("p", 1, "10.0.0.1", (("fa:16:3e:00:00:01", "192.0.2.1"),))
    sink.take(replica.synced(answer([state]), float(next(clock)))[0])
    sink.take(replica.synced(Answer(0.0, (NET,), (), None), float(next(clock)))[0])
    assert sink.entries == set()
    assert replica.digests() == {}
    assert replica.updated(Update(NET, SEGMENT, (state,))) == []


def test_another_segment() -> None:
    replica, clock = a_replica()
    state = PortState("p", 1, "10.0.0.1")
    replica.synced(answer([state]), float(next(clock)))
    chunk = Chunk(NET, Segment("vxlan", 2002), "", None, (state,))
    remove, add = replica.synced(Answer(0.0, (), (chunk,), None), float(next(clock)))[0]
    assert remove["method"] == "remove_fdb_entries"
    assert add["fdb_entries"][NET]["segment_id"] == 2002


def test_an_update_of_another_segment_is_not_for_this_host() -> None:
    replica, clock = a_replica()
    replica.synced(answer([PortState("p", 1, "10.0.0.1")]), float(next(clock)))
    other = PortState("q", 1, "10.0.0.2")
    assert replica.updated(Update(NET, Segment("gre", 7), (other,))) == []
    assert replica.updated(Update(NET, SEGMENT, (other,))) != []


def test_an_answer_settles_what_has_no_revision() -> None:
    """A host's VTEP changes, or its agent's row goes and comes back: its ports are as they were."""
    replica, clock = a_replica()
    sink = Sink()
    pairs = (("fa:16:3e:00:00:01", "192.0.2.1"),)
    before, after = (PortState("p", 5, vtep, pairs) for vtep in ("10.0.0.1", "10.0.0.2"))
    sink.take(replica.updated(Update(NET, SEGMENT, (before,))))
    sink.take(replica.synced(answer([after]), float(next(clock)))[0])
    assert sink.entries == expected([after])
    sink.take(replica.updated(Update(NET, SEGMENT, (PortState("p", 5, None),))))
    assert sink.entries == set()
    sink.take(replica.synced(answer([before]), float(next(clock)))[0])
    assert sink.entries == expected([before])
    # Not what was heard after the answer was made, and nothing of a lower revision.
    asked = float(next(clock))
    sink.take(replica.updated(Update(NET, SEGMENT, (PortState("p", 5, None),))))
    sink.take(replica.synced(answer([before]), asked)[0])
    assert sink.entries == set()
    sink.take(replica.synced(answer([before._replace(revision=4)]), float(next(clock)))[0])
    assert sink.entries == set()


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
        ["k", "1", None, [], []],
        ["k", 1, 5, [], []],
        ["k", 1, None, [["mac"]], []],
        ["k", 1, None, [], [5]],
        ["k", 1, None, 5, []],
    ],
)
def test_what_is_not_a_port(value: object) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_port(value)


@pytest.mark.parametrize("value", [None, 5, {}, {"network_id": 5}, {"network_id": NET}])
def test_what_is_not_a_message(value: object) -> None:
    for parse in (Update.from_wire, Chunk.from_wire, Answer.from_wire):
        with pytest.raises(ProtocolError):
            parse(value)


def test_messages_are_bounded() -> None:
    entries = tuple(("fa:16:3e:00:00:01", f"2001:db8::{i:x}") for i in range(20))
    ports = [PortState(f"{i:036}", 1, "10.0.0.1", entries) for i in range(500)]
    found = protocol.updates(NET, SEGMENT, ports)
    assert [p for update in found for p in update.ports] == ports
    assert max(len(str(update.to_wire())) for update in found) <= protocol.MAX_CHUNK

"""What is kept of before, when the table is lost: by the whole loop, over a dataplane in memory."""

from typing import Any

from builders import (
    FLOODING,
    IP1,
    IP2,
    LOCAL,
    MAC1,
    MAC2,
    MAC3,
    A,
    B,
    C,
    M,
    N,
    add,
    attach,
    detach,
    remove,
    tell,
)
from fake_backend import FakeBackend
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.orphans import SETTLE, Found, Hearing, Orphans, Scope
from ovs_l2pop.core.reconciler import Reconciler
from ovs_l2pop.core.table import FloodFact, ForwardingTable, NetworkFact
from ovs_l2pop.core.wire import Message

BOTH = [attach(N), attach(M, 6, 1002)]
IN_N = [add(N, A, FLOODING, [MAC1, IP1]), add(N, B, FLOODING, [MAC2, IP2])]
IN_M = [add(M, C, FLOODING, [MAC3, IP1], segment_id=1002)]


class Life:
    """An agent's life on a dataplane, with a table that begins empty."""

    def __init__(self, backend: FakeBackend, *messages: Message, adopt: bool = False) -> None:
        self.table = ForwardingTable(LOCAL)
        self.backend = backend
        self.reconciler = Reconciler(self.table, backend)
        if adopt:
            self.reconciler.adopt()
        tell(self.table, *messages)
        self.reconciler.resync()

    def tell(self, *messages: Message) -> None:
        tell(self.table, *messages)
        self.reconciler.follow()

    def speak(self, *network_ids: str) -> None:
        self.reconciler.speak(network_ids)
        self.reconciler.follow()

    def wanted(self) -> set[Row]:
        """By the table alone."""
        found = set(self.backend.base())
        for _, fact in self.table.facts(self.table.keys()):
            if fact is not None:
                found.update(self.backend.render(fact))
        return found


def attachment(network: str) -> Attachment:
    return Attachment(network, Segment("vxlan", 1001), 5)


def after(*messages: Message) -> Life:
    """A life after one that knew these, and lost them."""
    backend = FakeBackend()
    Life(backend, *messages)
    return Life(backend, adopt=True)


def about(life: Life, what: str) -> set[Row]:
    return {row for row in life.backend.rows if what in str(row)}


def test_nothing_goes_before_somebody_has_spoken() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    before = set(life.backend.rows)
    assert life.reconciler.kept == len(before) - len(life.backend.base())
    assert life.reconciler.drift() == ([], [])
    life.tell(*BOTH)
    assert about(life, "UnicastFact") == {row for row in before if "UnicastFact" in str(row)}
    life.tell(IN_N[0])  # a part of what was
    assert any(set(row[2]) == {A, B} for row in life.backend.rows if row[0] == "FloodFact")  # type: ignore[index]
    assert about(life, MAC2)


def test_what_was_left_out_goes_when_somebody_has_spoken() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    life.tell(*BOTH, IN_N[0])
    life.speak(N)
    assert not about(life, MAC2)
    assert about(life, MAC3), "of the other nobody has spoken"
    assert about(life, "'tunnel'"), "which may need the tunnels"
    life.tell(*IN_M)
    life.speak(M)
    assert life.backend.rows == life.wanted()
    assert not life.reconciler.forgetful


def test_who_is_known_is_not_taken_for_all_there_are() -> None:
    """As long as nobody has spoken, what comes from others may not be a stranger's."""
    life = after(*BOTH, *IN_N)
    life.tell(attach(N), IN_N[0])
    assert ("NetworkFact", *NetworkFact(attachment(N), closed=False)) in life.backend.rows
    life.speak(N)
    assert life.wanted() <= life.backend.rows


def test_the_newer_word_takes_the_place_of_what_is_kept() -> None:
    life = after(*BOTH, *IN_N)
    life.tell(attach(N), add(N, C, [MAC1, IP1]))
    assert [row[3] for row in about(life, "UnicastFact") if MAC1 in row] == [C]  # type: ignore[index,operator]
    life.tell(remove(N, C, [MAC1, IP1]))
    assert not about(life, MAC1), "it does not come back"
    assert about(life, MAC2)


def test_a_local_vlan_that_another_network_gets_is_empty() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    life.tell(attach("33333333-3333-4333-8333-333333333333", 5, 1003))
    assert not about(life, MAC1)
    assert about(life, MAC3)


def test_a_network_that_gets_another_local_vlan_leaves_nothing_in_the_old_one() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    life.tell(attach(N, 7))
    assert not about(life, MAC1)
    assert about(life, MAC3)


def test_a_network_that_is_detached_is_spoken_for() -> None:
    life = after(*BOTH, *IN_N)
    life.tell(attach(N))
    life.reconciler.speak([N])
    life.tell(detach(N))
    assert not about(life, MAC1)


def test_the_end() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    life.tell(attach(N), IN_N[0])
    before = set(life.backend.rows)
    gone = set(life.reconciler.end())
    life.reconciler.follow()
    assert life.backend.rows == life.wanted()
    # But for what had another form as long as nobody had spoken.
    known = {(kind, attachment(N)) for kind in ("FloodFact", "NetworkFact")}
    whole = {row for row in before if row[:2] in known}  # type: ignore[index]
    assert gone == before - life.wanted() - whole
    assert life.reconciler.end() == []


def test_what_is_kept_is_written_again_where_it_was_lost() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    before = set(life.backend.rows)
    life.backend.rows.clear()  # the switch was restarted
    life.reconciler.resync()
    assert life.backend.rows == before


def test_with_other_numbers_it_is_not() -> None:
    life = after(*BOTH, *IN_N, *IN_M)
    life.tell(attach(N))
    life.backend.renumberings = 1
    life.backend.rows = {row for row in life.backend.rows if row[0] != "tunnel"}  # type: ignore[index]
    life.reconciler.resync()
    assert not about(life, "'tunnel'")
    assert about(life, MAC1)


def test_nothing_is_kept_where_no_network_was() -> None:
    life = after()
    life.backend.rows.add(("tunnel", A, 1000))
    life = Life(life.backend, adopt=True)
    assert not life.reconciler.forgetful
    assert life.backend.rows == life.wanted()


def test_a_row_that_names_no_place_belongs_to_where_its_network_is() -> None:
    segment = Segment("vxlan", 1001)
    orphans = Orphans(
        [
            Found("admitted", Scope(None, segment), 1),
            Found("way in", Scope(5, segment), 2),
            Found("tunnel", Scope(), 3),
        ]
    )
    assert set(orphans.spoken(Scope(5, segment))) == {"admitted", "way in", "tunnel"}


# -- messages that speak ---------------------------------------------------------------------------


def test_messages_speak_when_no_more_come() -> None:
    hearing = Hearing()
    attached = {N: None}
    hearing.said(N, 10.0, entries=False)
    hearing.said(M, 10.0, entries=True)
    assert hearing.settled(attached, 10.0 + SETTLE - 1) == []
    hearing.said(N, 14.0, entries=True)
    assert hearing.settled(attached, 14.0 + SETTLE - 1) == []
    assert hearing.settled(attached, 14.0 + SETTLE) == [N], "the other is not attached"
    assert hearing.settled(attached, 99.0) == []


def test_messages_don_t_where_somebody_else_is_awaited() -> None:
    hearing = Hearing(lambda network_id, told: not told)
    hearing.said(N, 10.0, entries=False)
    assert hearing.settled({N: None}, 99.0) == []
    hearing.said(N, 10.0, entries=True)
    assert hearing.settled({N: None}, 99.0) == [N]


# -- a model ---------------------------------------------------------------------------------------

NETWORKS = {N: 1001, M: 1002}
networks = st.sampled_from(list(NETWORKS))
vteps = st.sampled_from([A, B])
pairs = st.lists(
    st.sampled_from([[MAC1, IP1], [MAC1, IP2], [MAC2, IP2], FLOODING]), min_size=1, max_size=3
)
vlans = st.sampled_from([5, 6, 7])


class LostTable(RuleBasedStateMachine):
    """Add, never delete, until somebody has spoken; and then what the table says."""

    @initialize(
        told=st.lists(st.tuples(networks, vteps, pairs), max_size=6),
        vlans=st.permutations([5, 6, 7]),
    )
    def lose(self, told: list[Any], vlans: list[int]) -> None:
        backend = FakeBackend()
        messages = [
            attach(net, vlan, NETWORKS[net]) for net, vlan in zip((N, M), vlans, strict=False)
        ]
        messages += [add(net, vtep, *some, segment_id=NETWORKS[net]) for net, vtep, some in told]
        Life(backend, *messages)
        self.before = set(backend.rows)
        self.life = Life(backend, adopt=True)
        self.spoken: set[int] = set()
        self.seen: dict[int, tuple[int, int]] = {}
        self.moved: set[int] = set()  # segments whose rows of before may be gone
        self.taken: set[Any] = set()  # slots that the table's rows have had

    def follow(self) -> None:
        for attached in self.life.table.attachments():
            vlan, segment = attached.local_vlan, attached.segment.segment_id
            for row in self.before:
                if isinstance(row, tuple) and row[0] == "NetworkFact":
                    was = row[1]
                    same = (was.local_vlan == vlan, was.segment.segment_id == segment)
                    if any(same) and not all(same):
                        self.moved.add(was.segment.segment_id)
        self.taken |= {self.life.backend.slot(row) for row in self.life.wanted()}
        self.life.reconciler.follow()

    @rule(net=networks, vtep=vteps, pairs=pairs)
    def add(self, net: str, vtep: str, pairs: list[Any]) -> None:
        tell(self.life.table, add(net, vtep, *pairs, segment_id=NETWORKS[net]))
        self.follow()

    @rule(net=networks, vtep=vteps, pairs=pairs)
    def remove(self, net: str, vtep: str, pairs: list[Any]) -> None:
        tell(self.life.table, remove(net, vtep, *pairs, segment_id=NETWORKS[net]))
        self.follow()

    @rule(net=networks, vlan=vlans)
    def attach(self, net: str, vlan: int) -> None:
        tell(self.life.table, attach(net, vlan, NETWORKS[net]))
        self.follow()

    @rule(net=networks)
    def speak(self, net: str) -> None:
        if self.life.table.attachment(net) is not None:
            self.spoken.add(NETWORKS[net])
            self.life.speak(net)

    @rule()
    def the_switch_restarts(self) -> None:
        self.life.backend.rows.clear()
        self.life.reconciler.resync()

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = self.life.backend.rows
        floods = {row[1]: row[2] for row in rows if row[0] == "FloodFact"}  # type: ignore[index]
        for row in self.before:
            assert isinstance(row, tuple)
            if row[0] == "base" or "tunnel" in row[0]:
                continue
            segment = row[1].segment.segment_id
            if segment in self.spoken or segment in self.moved:
                continue
            if row[0] == "FloodFact":
                assert set(row[2]) <= set(floods[row[1]])
                assert all(("tunnel", vtep, 1000) in rows for vtep in row[2])
            elif row[0] != "NetworkFact" and self.life.backend.slot(row) not in self.taken:
                assert row in rows

    @invariant()
    def what_is_known_is_there(self) -> None:
        rows = self.life.backend.rows
        for row in self.life.wanted():
            assert isinstance(row, tuple)
            if row[0] == "FloodFact":
                (vteps,) = (there[2] for there in rows if there[:2] == row[:2])  # type: ignore[index]
                assert set(FloodFact(*row[1:]).vteps) <= set(vteps)
            elif row[0] == "NetworkFact":
                assert any(there[:2] == row[:2] for there in rows)  # type: ignore[index]
            else:
                assert row in rows

    @invariant()
    def with_the_last_of_them_all_is_as_known(self) -> None:
        if not self.life.reconciler.forgetful:
            assert self.life.backend.rows == self.life.wanted()

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.life.reconciler.end()
            self.life.reconciler.follow()
            assert self.life.backend.rows == self.life.wanted()


TestLostTable = LostTable.TestCase
TestLostTable.settings = settings(deadline=None, max_examples=150, stateful_step_count=20)

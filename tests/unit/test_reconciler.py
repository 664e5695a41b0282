"""The loop that all backends share, over a dataplane in memory."""

from typing import Any

import pytest
from builders import (
    FLOODING,
    IP1,
    IP2,
    LOCAL,
    MAC1,
    MAC2,
    A,
    B,
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
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ovs_l2pop.core import reconciler as module
from ovs_l2pop.core.backend import Batch
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.reconciler import Drift, Reconciler
from ovs_l2pop.core.table import FLOOD, NEIGHBOUR, ForwardingTable
from ovs_l2pop.core.wire import Message

AT_A = add(N, A, FLOODING, [MAC1, IP1])


class Bench:
    """Table, reconciler and dataplane, connected."""

    def __init__(self, *messages: Message, backend: FakeBackend | None = None) -> None:
        self.table = ForwardingTable(LOCAL)
        self.backend = backend or FakeBackend()
        self.reconciler = Reconciler(self.table, self.backend)
        tell(self.table, *messages)
        self.reconciler.resync()

    def tell(self, *messages: Message) -> None:
        tell(self.table, *messages)

    def expected(self) -> set[Row]:
        """What the table says, rendered from scratch."""
        found = set(self.backend.base())
        for _, fact in self.table.facts(self.table.keys()):
            if fact is not None:
                found.update(self.backend.render(fact))
        return found

    def converged(self) -> bool:
        return self.backend.rows == self.expected()

    def last_write(self) -> list[Batch]:
        return self.backend.writes[-1]


def test_first_connection_writes_base_and_table() -> None:
    bench = Bench(attach(N), AT_A)
    assert bench.converged()
    assert ("base", "learn") in bench.backend.rows
    assert bench.reconciler.written == len(bench.backend.rows)


def test_follow_writes_what_changed_and_nothing_else() -> None:
    bench = Bench(attach(N), AT_A)
    bench.tell(add(N, A, [MAC2, IP2]))
    bench.reconciler.follow()
    (batch,) = bench.last_write()
    assert not batch.remove
    assert {row[2] for row in batch.add if isinstance(row, tuple)} == {MAC2, IP2}
    assert bench.converged()


def test_facts_that_the_dataplane_has_no_use_for_cost_nothing() -> None:
    bench = Bench(attach(N), AT_A)
    bench.backend.unused = lambda: frozenset({NEIGHBOUR})  # type: ignore[method-assign]
    bench.tell(add(N, A, [MAC2, IP2]), remove(N, A, [MAC1, IP1]))
    bench.reconciler.follow()
    assert all(MAC1 not in row for row in bench.backend.rows), "what had rows is looked at"  # type: ignore[operator]
    assert [row[0] for row in bench.backend.rows if MAC2 in row] == ["UnicastFact"]  # type: ignore[index,operator]


def test_same_messages_again_write_nothing() -> None:
    bench = Bench(attach(N), AT_A)
    bench.tell(attach(N), AT_A)
    bench.reconciler.follow()
    bench.reconciler.apply()
    assert bench.backend.writes[1:] == [[], []]


def test_restart_with_the_same_table_writes_nothing() -> None:
    first = Bench(attach(N), AT_A)
    second = Bench(*list(first.table.messages()), backend=first.backend)
    assert second.converged()
    assert second.last_write() == []
    assert second.reconciler.written == 0


def test_restart_with_another_table_writes_the_difference() -> None:
    first = Bench(attach(N), AT_A)
    second = Bench(attach(N), AT_A, remove(N, A, FLOODING), backend=first.backend)
    (batch,) = second.last_write()
    assert batch == Batch([], [("FloodFact", *flood_of(first))])
    assert second.converged()


def flood_of(bench: Bench) -> Any:
    ((_, fact),) = bench.table.facts([(FLOOD, N, "")])
    return fact


def test_foreign_rows_go_at_the_first_connection() -> None:
    backend = FakeBackend()
    backend.rows = {("left", "over")}
    assert Bench(attach(N), AT_A, backend=backend).converged()


def test_tunnel_stays_while_one_network_needs_it() -> None:
    bench = Bench(attach(N), attach(M, 6, 1002), AT_A, add(M, A, FLOODING, segment_id=1002))
    bench.tell(detach(N))
    bench.reconciler.follow()
    assert ("tunnel", A, 1000) in bench.backend.rows
    bench.tell(detach(M))
    bench.reconciler.follow()
    assert bench.backend.rows == set(bench.backend.base())


def test_tunnel_that_goes_from_one_network_to_another_is_not_touched() -> None:
    bench = Bench(attach(N), attach(M, 6, 1002), AT_A)
    bench.tell(detach(N), add(M, A, FLOODING, segment_id=1002))
    bench.reconciler.follow()
    touched = [row for batch in bench.last_write() for row in (*batch.add, *batch.remove)]
    assert not [row for row in touched if "tunnel" in str(row[0])]  # type: ignore[index]
    assert bench.converged()


def test_nor_where_the_other_one_has_many_vteps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 3)
    bench = Bench(attach(N), attach(M, 6, 1002), AT_A)
    others = [add(M, f"192.0.2.{n}", FLOODING, segment_id=1002) for n in range(10, 20)]
    bench.tell(detach(N), *others, add(M, A, FLOODING, segment_id=1002))
    bench.reconciler.follow()
    assert ("tunnel", A, 1000) not in [row for batch in bench.last_write() for row in batch.remove]
    assert bench.converged()


# -- refused rows ------------------------------------------------------------------------------


def is_unicast(row: Row) -> bool:
    return isinstance(row, tuple) and row[0] == "UnicastFact"


def test_refused_row_is_told_once_and_not_tried_with_every_batch() -> None:
    bench = Bench(attach(N))
    bench.backend.refuses = is_unicast
    bench.tell(AT_A)
    refused = bench.reconciler.follow()
    assert list(refused.values()) == ["table full"]
    assert bench.expected() - bench.backend.rows == set(refused)  # the rest is there
    bench.tell(add(N, B, FLOODING))
    assert bench.reconciler.follow() == {}
    assert bench.reconciler.drift().missing == list(refused)


def test_refused_row_is_tried_again_when_asked() -> None:
    bench = Bench(attach(N))
    bench.backend.refuses = is_unicast
    bench.tell(AT_A)
    bench.reconciler.follow()
    bench.reconciler.retry_refused()
    assert len(bench.reconciler.apply()) == 1  # still refused
    bench.backend.refuses = lambda row: False
    bench.reconciler.retry_refused()
    assert bench.reconciler.apply() == {}
    assert bench.converged()


def test_refused_row_that_is_no_longer_wanted_is_forgotten() -> None:
    bench = Bench(attach(N))
    bench.backend.refuses = is_unicast
    bench.tell(AT_A)
    bench.reconciler.follow()
    bench.tell(remove(N, A, [MAC1, IP1]))
    assert bench.reconciler.follow() == {}
    assert bench.converged()


def test_refused_remove_is_tried_again() -> None:
    bench = Bench(attach(N), AT_A)
    bench.backend.refuses = is_unicast
    bench.tell(detach(N))
    assert len(bench.reconciler.follow()) == 1
    bench.backend.refuses = lambda row: False
    bench.reconciler.retry_refused()
    bench.reconciler.apply()
    assert bench.converged()


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", range(6))
def test_write_that_breaks_off_is_mended_by_a_resync(rows: int) -> None:
    bench = Bench(attach(N))
    bench.backend.breaks_after = rows
    bench.tell(AT_A, add(N, B, [MAC2, IP2]))
    with pytest.raises(BackendError):
        bench.reconciler.follow()
    bench.tell(remove(N, B, [MAC2, IP2]))  # meanwhile
    bench.reconciler.resync()
    assert bench.converged()


def test_switch_that_is_down_at_the_resync() -> None:
    bench = Bench(attach(N), AT_A)
    bench.backend.rows.clear()
    bench.backend.down = True
    with pytest.raises(BackendError):
        bench.reconciler.resync()
    bench.tell(add(N, B, FLOODING))
    bench.backend.down = False
    bench.reconciler.resync()
    assert bench.converged()


def test_renumbered_tunnels_are_rendered_anew() -> None:
    bench = Bench(attach(N), AT_A)
    bench.backend.renumberings = 1
    bench.tell(add(N, B, FLOODING))
    bench.reconciler.follow()
    assert ("tunnel", A, 1001) in bench.backend.rows
    assert ("tunnel", A, 1000) not in bench.backend.rows
    assert bench.converged()


def test_renumbered_now_and_then() -> None:
    """Only many times in a row is it that the dataplane gives other numbers each time."""
    bench = Bench(attach(N), AT_A)
    for number in range(8):
        bench.backend.renumberings = 1
        bench.tell(add(N, A, [MAC2, f"10.0.9.{number}"]))
        bench.reconciler.follow()
        assert bench.converged()


def test_renumbered_twice() -> None:
    bench = Bench(attach(N))
    bench.backend.renumberings = 2
    bench.tell(AT_A)
    bench.reconciler.follow()
    assert bench.converged()


# -- drift -------------------------------------------------------------------------------------


def test_drift_is_found_and_mended() -> None:
    bench = Bench(attach(N), AT_A)
    assert bench.reconciler.drift() == ([], [])
    lost, foreign = ("tunnel", A, 1000), ("some", "flow")
    bench.backend.rows -= {lost}
    bench.backend.rows.add(foreign)
    drift = bench.reconciler.drift()
    assert drift == Drift([lost], [foreign])
    assert not bench.converged()  # looking changes nothing
    bench.reconciler.observe(drift)
    bench.reconciler.apply()
    assert bench.converged()


# -- random sequences --------------------------------------------------------------------------

networks = st.sampled_from([N, M])
vteps = st.sampled_from([A, B, LOCAL])
pairs = st.lists(
    st.sampled_from([[MAC1, IP1], [MAC1, IP2], [MAC2, IP2], FLOODING]), min_size=1, max_size=3
)
VLANS = {N: 5, M: 6}
VNIS = {N: 1001, M: 1002}


class AnyFaults(RuleBasedStateMachine):
    """Messages in any order, with faults between: the dataplane comes to hold what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.slice = module._SLICE
        module._SLICE = 3  # so that there are many batches

    def teardown(self) -> None:
        module._SLICE = self.slice

    @rule(network=networks, vtep=vteps, pairs=pairs)
    def add(self, network: str, vtep: str, pairs: list[Any]) -> None:
        self.bench.tell(add(network, vtep, *pairs, segment_id=VNIS[network]))

    @rule(network=networks, vtep=vteps, pairs=pairs)
    def remove(self, network: str, vtep: str, pairs: list[Any]) -> None:
        self.bench.tell(remove(network, vtep, *pairs))

    @rule(network=networks, swapped=st.booleans())
    def attach(self, network: str, swapped: bool) -> None:
        vlan = VLANS[M if (network == N) == swapped else N]
        self.bench.tell(attach(network, vlan, VNIS[network]))

    @rule(network=networks)
    def detach(self, network: str) -> None:
        self.bench.tell(detach(network))

    @rule()
    def follow(self) -> None:
        self.bench.reconciler.follow()
        assert self.bench.converged()
        self.bench.reconciler.follow()
        assert self.bench.last_write() == []

    @rule(rows=st.integers(0, 6))
    def write_breaks_off(self, rows: int) -> None:
        self.bench.backend.breaks_after = rows
        try:
            self.bench.reconciler.follow()
        except BackendError:
            self.bench.reconciler.resync()
        self.bench.backend.breaks_after = None
        assert self.bench.converged()

    @rule()
    def tunnels_are_renumbered(self) -> None:
        self.bench.backend.renumberings = 1
        self.bench.reconciler.follow()
        self.bench.backend.renumberings = 0
        assert self.bench.converged()

    @rule(kind=st.sampled_from(["UnicastFact", "tunnel", "FloodFact"]))
    def rows_are_refused_for_a_while(self, kind: str) -> None:
        self.bench.backend.refuses = lambda row: isinstance(row, tuple) and row[0] == kind
        self.bench.reconciler.follow()
        refused = set(self.bench.reconciler.refused)
        assert self.bench.backend.rows ^ self.bench.expected() <= refused
        self.bench.backend.refuses = lambda row: False
        self.bench.reconciler.retry_refused()
        self.bench.reconciler.apply()
        assert self.bench.converged()

    @precondition(lambda self: self.bench.backend.rows)
    @rule(data=st.data())
    def somebody_deletes_rows(self, data: st.DataObject) -> None:
        rows = sorted(self.bench.backend.rows, key=str)
        self.bench.backend.rows -= data.draw(st.sets(st.sampled_from(rows)))
        self.bench.reconciler.observe(self.bench.reconciler.drift())
        self.bench.reconciler.follow()
        assert self.bench.converged()

    @precondition(lambda self: not self.bench.reconciler.looking)
    @rule()
    def a_look_begins(self) -> None:
        self.bench.backend.meets = lambda: 0
        assert self.bench.reconciler.look(lambda: None)

    @precondition(lambda self: self.bench.reconciler.looking)
    @rule(data=st.data())
    def a_look_ends(self, data: st.DataObject) -> None:
        """What was written meanwhile it may have met before or after; what others did, too."""
        backend, reconciler = self.bench.backend, self.bench.reconciler
        reconciler.follow()
        gone = data.draw(st.sets(st.sampled_from(sorted(backend.rows, key=str))))
        new: set[Row] = {("flow", "of nobody", n) for n in range(data.draw(st.integers(0, 2)))}
        backend.rows = backend.rows - gone | new
        backend.passed()
        chance = data.draw(st.randoms(use_true_random=False))
        backend.meets = lambda: chance.randrange(len(backend.moments))
        drift = reconciler.looked()
        assert set(drift.missing) <= gone
        assert set(drift.surplus) <= new
        reconciler.observe(drift)
        reconciler.follow()
        assert not backend.rows & set(drift.surplus)
        assert backend.rows >= set(drift.missing)
        reconciler.observe(reconciler.drift())  # what it had passed
        reconciler.follow()
        assert self.bench.converged()

    @rule()
    def agent_restarts(self) -> None:
        self.bench.reconciler.follow()
        before = set(self.bench.backend.rows)
        self.bench = Bench(*list(self.bench.table.messages()), backend=self.bench.backend)
        assert self.bench.last_write() == []
        assert self.bench.backend.rows == before

    @invariant()
    def all_removes_come_in_the_first_batch(self) -> None:
        for batches in self.bench.backend.writes:
            assert not any(batch.remove for batch in batches[1:])
        for batch in (batch for batches in self.bench.backend.writes for batch in batches):
            assert not set(batch.add) & set(batch.remove)


TestAnyFaults = AnyFaults.TestCase
TestAnyFaults.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)

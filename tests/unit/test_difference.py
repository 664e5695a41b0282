"""The difference engine against sets computed from scratch."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ovs_l2pop.core.difference import Difference, Row
from ovs_l2pop.core.table import UNICAST, Key


def key(number: int) -> Key:
    return (UNICAST, "network", str(number))


def pending(difference: Difference) -> tuple[list[Row], list[Row]]:
    return list(difference.to_add), list(difference.to_remove)


def settled(*rows: str) -> Difference:
    """One key that wants these rows, all installed."""
    difference = Difference()
    difference.want(key(1), rows)
    difference.take()
    assert pending(difference) == ([], [])
    return difference


def test_wanted_rows_are_added_in_their_order() -> None:
    difference = Difference()
    difference.want(key(1), ("b", "a"))
    difference.want(key(2), ("c", "a"))
    assert pending(difference) == (["b", "a", "c"], [])


def test_only_what_changed_is_written() -> None:
    difference = settled("a", "b")
    difference.want(key(1), ("b", "c"))
    assert pending(difference) == (["c"], ["a"])


def test_shared_row_goes_with_its_last_user() -> None:
    difference = settled("tunnel")
    difference.want(key(2), ("tunnel",))
    assert pending(difference) == ([], [])
    difference.want(key(1), ())
    assert pending(difference) == ([], [])
    difference.want(key(2), ())
    assert pending(difference) == ([], ["tunnel"])
    assert not list(difference)


def test_row_that_moves_to_another_key_is_not_touched() -> None:
    difference = settled("tunnel")
    difference.want(key(1), ())
    difference.want(key(2), ("tunnel",))
    assert pending(difference) == ([], [])
    assert difference.rows(key(2)) == ("tunnel",)
    assert key(1) not in difference


def test_what_is_taken_is_no_longer_due() -> None:
    difference = settled("a", "b")
    difference.want(key(1), ("b", "c"))
    assert difference.take() == (["c"], ["a"])
    assert difference.installed == {"b", "c"}
    assert pending(difference) == ([], [])


def test_what_is_kept_back_stays_due() -> None:
    difference = settled("a", "b")
    difference.want(key(1), ("c", "d"))
    assert difference.take({"b", "d"}) == (["c"], ["a"])
    assert difference.installed == {"b", "c"}
    assert pending(difference) == (["d"], ["b"])


def test_read_back_finds_what_is_missing_and_what_is_surplus() -> None:
    difference = settled("a", "b")
    difference.observed({"b", "x"})
    assert pending(difference) == (["a"], ["x"])
    assert difference.installed == {"b", "x"}


KEYS = st.integers(1, 4).map(key)
ROWS = st.lists(st.sampled_from("abcdef"), max_size=4).map(tuple)


class AgainstSets(RuleBasedStateMachine):
    """Any sequence of calls gives what two sets give."""

    def __init__(self) -> None:
        super().__init__()
        self.difference = Difference()
        self.rows: dict[Key, tuple[Row, ...]] = {}
        self.installed: set[Row] = set()

    @property
    def wanted(self) -> set[Row]:
        return {row for rows in self.rows.values() for row in rows}

    @rule(key=KEYS, rows=ROWS)
    def want(self, key: Key, rows: tuple[str, ...]) -> None:
        self.difference.want(key, rows)
        self.rows[key] = rows

    @rule(installed=st.sets(st.sampled_from("abcdefxy")))
    def observe(self, installed: set[Row]) -> None:
        self.difference.observed(set(installed))
        self.installed = set(installed)

    @rule(kept_back=st.sets(st.sampled_from("abcdefxy")))
    def take(self, kept_back: set[Row]) -> None:
        due = self.wanted - self.installed, self.installed - self.wanted
        added, removed = self.difference.take(kept_back)
        assert (set(added), set(removed)) == (due[0] - kept_back, due[1] - kept_back)
        self.installed = (self.installed | set(added)) - set(removed)

    @rule()
    def take_everything(self) -> None:
        self.difference.take()
        self.installed = self.wanted
        assert pending(self.difference) == ([], [])

    @rule(key=KEYS)
    def want_the_same_again(self, key: Key) -> None:
        before = pending(self.difference)
        self.difference.want(key, self.difference.rows(key))
        assert pending(self.difference) == before

    @invariant()
    def agrees(self) -> None:
        assert set(self.difference.to_add) == self.wanted - self.installed
        assert set(self.difference.to_remove) == self.installed - self.wanted
        assert set(self.difference.wanted) == self.wanted
        assert self.difference.installed == self.installed
        assert set(self.difference) == {key for key, rows in self.rows.items() if rows}
        for key, rows in self.rows.items():
            assert self.difference.rows(key) == rows


TestAgainstSets = AgainstSets.TestCase
TestAgainstSets.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

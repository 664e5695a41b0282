"""Who is dead, by what they answered."""

from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.core.liveness import LOST, Liveness

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def test_three_rounds_without_an_answer() -> None:
    liveness = Liveness()
    liveness.round([A, B], {A, B})
    for _ in range(LOST - 1):
        assert liveness.round([A, B], {A}) == set()
    assert liveness.round([A, B], {A}) == {B}
    assert liveness.round([A, B], {A, B}) == set()


def test_who_never_answered_is_not_dead() -> None:
    liveness = Liveness()
    for _ in range(2 * LOST):
        assert liveness.round([A, B], {A}) == set()


def test_when_nobody_answers_nothing_is_known() -> None:
    liveness = Liveness()
    liveness.round([A, B, C], {A, B, C})
    for _ in range(LOST):
        liveness.round([A, B, C], {A, B})
    for _ in range(2 * LOST):
        assert liveness.round([A, B, C], set()) == {C}


def test_who_is_no_longer_asked_is_forgotten() -> None:
    liveness = Liveness()
    liveness.round([A, B], {A, B})
    for _ in range(LOST):
        liveness.round([A, B], {A})
    assert liveness.round([A], {A}) == set()
    assert liveness.round([A, B], {A}) == set()


@given(
    st.lists(
        st.tuples(st.frozensets(st.sampled_from("abc")), st.frozensets(st.sampled_from("abc")))
    )
)
def test_only_who_is_asked_can_be_dead(rounds: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    liveness = Liveness()
    ever: set[str] = set()
    for asked, answered in rounds:
        dead = liveness.round(asked, answered)
        ever |= asked & answered
        assert dead <= asked & ever - answered

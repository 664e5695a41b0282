"""What was measured by ``ovs-l2pop compare``: JSON, and which side is better."""

import json

import pytest
from compare_builders import FEATURES, FIGURES, RESULTS, figure, taken

from l2pop_lab.compare.results import Better, Outcome, as_json, from_json


def test_there_and_back() -> None:
    assert from_json(json.loads(json.dumps(as_json(RESULTS)))) == RESULTS


def test_json_has_medians_spread_and_failures() -> None:
    content = as_json(RESULTS)
    shown = content["figures"][1]
    assert shown["key"] == "program-1000"
    assert shown["outcomes"]["openvswitch"]["median"] == 0.6
    assert shown["outcomes"]["openvswitch"]["spread"] == (0.5, 0.7)
    assert content["failures"] == [
        "openvswitch: it broke (the cpu-all)",
        "linuxbridge: nothing came (Does it fail?)",
    ]
    assert content["sizes"]["entries"] == 1000


def test_spread_of_few_is_their_range_and_of_many_their_middle_half() -> None:
    assert taken(3, 1, 2).spread == (1, 3)
    assert taken(*range(101)).spread == (25, 75)
    assert Outcome().spread is None
    assert Outcome().median is None


def test_rounds() -> None:
    assert taken(1, 2, 30, 5, 6, 7, rounds=2).by_round == [2, 6]
    assert taken(4, 5).by_round == [4, 5]
    assert Outcome().by_round == []


@pytest.mark.parametrize(
    ("one", "other", "better", "winner"),
    [
        ((1, 2, 3), (4, 5, 6), "less", "openvswitch"),
        ((1, 2, 3), (4, 5, 6), "more", "linuxbridge"),
        ((1, 2, 3), (4, 5, 6), "", None),
        ((4, 5, 6), (1, 2, 3), "less", "linuxbridge"),
        ((1, 2, 4), (4, 5, 6), "less", None),
        ((1, 2), (4, 5), "less", None),  # too few
        ((), (4, 5, 6), "less", None),
    ],
)
def test_better_is_who_is_so_in_every_round(
    one: tuple[float, ...], other: tuple[float, ...], better: Better, winner: str | None
) -> None:
    assert figure("x", taken(*one), taken(*other), better=better).winner == winner


def test_what_is_the_same_each_time_needs_no_rounds() -> None:
    assert figure("x", taken(30), taken(90), once=True).winner == "openvswitch"


def test_who_failed_in_the_end_is_not_compared() -> None:
    broken = Outcome((9, 9, 9), 3, error="then it broke")
    assert figure("x", taken(1, 2, 3), broken).winner is None


def test_groups_and_keys() -> None:
    assert [f.size for f in RESULTS.group("program")] == [500, 1000]
    assert RESULTS.figure("change") is FIGURES[2]
    assert RESULTS.figure("nothing") is None
    assert FIGURES[1].ratio == pytest.approx(2.4)
    assert len(FEATURES) == len(as_json(RESULTS)["features"])

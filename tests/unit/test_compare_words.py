"""What ``ovs-l2pop compare`` says of its figures."""

import re
from dataclasses import replace

from compare_builders import FIGURES, RESULTS, busy, feature, figure, taken

from l2pop_lab.compare.results import Figure, Outcome, Results
from l2pop_lab.compare.words import cautions, groups, measured, number, opening, text


def only(*figures: Figure) -> Results:
    return replace(RESULTS, figures=figures, features=())


def items(results: Results) -> dict[str, tuple[str, ...]]:
    return {group.side: group.items for group in groups(results)}


def test_the_first_sentences() -> None:
    assert opening(RESULTS) == [
        "openvswitch programs 1,000 entries in 0.6 s, linuxbridge in 0.25 s.",
        "openvswitch lost no packets in 3 restarts of the agent.",
        "linuxbridge lost 1 packet in 3 restarts of the agent.",
        "openvswitch and linuxbridge copied a broadcast once for each other VTEP of its network"
        " (1 for 1, 9 for 9).",
        "When its switch restarts, openvswitch forwards nothing for 0.4 s and has all written"
        " again after 0.9 s.",
        "Of 6 checks both pass 1, openvswitch alone 1, linuxbridge alone 1.",
    ]


def test_who_failed_is_named_and_the_other_sentence_is_whole() -> None:
    broken = figure("program-9", Outcome(error="gone"), taken(1, 2, 3), group="program", size=9)
    assert opening(only(broken)) == [
        "openvswitch: failed: gone, linuxbridge programs 9 entries in 2 s.",
    ]


def test_a_copy_too_many_is_told() -> None:
    wrong = figure("copies-2", taken(2), taken(3), unit="copies", group="copies", size=2)
    assert opening(only(wrong)) == [
        "openvswitch copied a broadcast once for each other VTEP of its network (2 for 2).",
        "linuxbridge copied a broadcast not once for each other VTEP of its network (3 for 2).",
    ]


def test_what_speaks_for_whom() -> None:
    assert items(RESULTS) == {
        "openvswitch": ("Does it tunnel?",),
        "linuxbridge": (
            "the program-1000: 0.25 s against 0.6 s, 2.4 times as fast",
            "the arp-known †: 26 µs against 310 µs, 11.9 times as fast",
            "the throughput †: 950 Mbit/s against 110 Mbit/s, 8.6 times as much",
            "the memory-all: 30 MiB against 100 MiB, the other 3.3 times as much",
            "Does it warn?",
        ),
        "": ("the change: 3.95 ms and 3.95 ms", "Does it sing?"),
    }


def test_the_other_way_round() -> None:
    """Nothing is said of a side because of its name."""
    turned = only(figure("change", taken(1, 2, 3), taken(7, 8, 9), unit="ms"))
    assert items(turned) == {
        "openvswitch": ("the change: 2 ms against 8 ms, 4.0 times as fast",),
    }


def test_few_rounds_decide_nothing() -> None:
    few = only(figure("change", taken(1), taken(9), unit="ms"))
    (group,) = groups(few)
    assert (group.side, group.title, group.items) == (
        *("", "Not decided in fewer than 3 rounds", ("the change: 1 ms and 9 ms",)),
    )


def test_a_small_difference_is_none() -> None:
    alike = only(figure("change", taken(100, 101, 102), taken(105, 106, 107), unit="ms"))
    assert items(alike) == {"": ("the change: 101 ms and 106 ms",)}


def test_nothing_measured_nothing_said() -> None:
    nothing = only()
    assert opening(nothing) == []
    assert groups(nothing) == []
    assert text(nothing)


def test_the_datapath_is_always_named_and_a_busy_machine_too() -> None:
    (caution,) = cautions(RESULTS)
    assert "userspace (netdev)" in caution
    assert "the arp-known; the throughput" in caution
    assert "the change" not in caution
    assert "busy: load 3.0" in cautions(busy(RESULTS))[1]


def test_values() -> None:
    assert [number(v) for v in (0.123456, 2.0, 12.345, 999.4, 1234.5, 0)] == [
        *("0.123", "2", "12.3", "999", "1,234", "0"),
    ]
    assert [measured(FIGURES[n].outcomes["openvswitch"], "s") for n in (1, 5, 12)] == [
        *("0.6 (0.5–0.7) s", "1 s", "failed: it broke"),
    ]
    assert measured(FIGURES[9].outcomes["linuxbridge"], "s") == "not applicable: the kernel"


def test_text_has_everything() -> None:
    shown = "\n".join(text(RESULTS))
    for figure_ in RESULTS.figures:
        assert figure_.title in shown
    for feature_ in RESULTS.features:
        assert feature_.question in shown
    assert "failed" in shown
    # The answers of both sides, and of who else was asked.
    assert re.search(r"Somebody's\n.*yes +yes +partly\n", shown + "\n")


def test_a_check_that_one_side_cannot_have_is_no_point_for_the_other() -> None:
    results = replace(only(), features=(feature("restart", "yes", "none"),))
    assert groups(results) == []

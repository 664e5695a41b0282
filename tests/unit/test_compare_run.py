"""The order of a comparison, and what becomes of what fails."""

from typing import cast

from l2pop_lab.compare.measurements import steps
from l2pop_lab.compare.results import Figure, Outcome
from l2pop_lab.compare.run import _measure
from l2pop_lab.compare.sides import CompareError, Side
from l2pop_lab.compare.steps import PROGRAMMING, TRAFFIC, Context, Kind, Readings, Step
from l2pop_lab.compare.streams import QUICK, Sizes


class FakeSide:
    """A side of which only the name matters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mended = 0

    def mend(self) -> None:
        self.mended += 1


class Quiet:
    def total(self, count: int) -> None: ...
    def start(self, what: str) -> None: ...
    def detail(self, text: str) -> None: ...


def measure(*wanted: Step) -> tuple[dict[str, Figure], list[FakeSide]]:
    sides = [FakeSide("openvswitch"), FakeSide("linuxbridge")]
    figures = _measure(wanted, Context(QUICK), cast(list[Side], sides), Quiet())
    return {figure.key: figure for figure in figures}, sides


def test_sides_take_turns_and_nobody_is_always_first() -> None:
    order = []

    def take(context: Context, side: Side) -> Readings:
        order.append(side.name[0])
        return {"x": [len(order)]}

    figures, _ = measure(Step(PROGRAMMING, "x", {"x": Kind("x", "s", "")}, take, 3))
    assert "".join(order) == "ollool"
    assert figures["x"].outcomes["openvswitch"] == Outcome((1, 4, 5), 3)


def test_what_fails_on_one_side_is_told_and_the_rest_goes_on() -> None:
    def take(context: Context, side: Side) -> Readings:
        if side.name == "openvswitch":
            raise CompareError("it broke")
        return {"x": [1.0], "y": "not applicable: no such thing"}

    def bug(context: Context, side: Side) -> Readings:
        raise ZeroDivisionError("oh")

    kinds = {"x": Kind("x", "s", ""), "y": Kind("y", "s", "", section=TRAFFIC)}
    figures, sides = measure(
        Step(PROGRAMMING, "x and y", kinds, take, 2),
        Step(PROGRAMMING, "z", {"z": Kind("z", "s", "")}, bug),
    )
    assert list(figures) == ["x", "z", "y"]  # by section
    for key in ("x", "y"):
        assert figures[key].outcomes["openvswitch"] == Outcome(rounds=2, error="it broke")
    assert list(figures["x"].outcomes["linuxbridge"].values) == [1, 1]
    assert figures["y"].outcomes["linuxbridge"].absent == "not applicable: no such thing"
    assert figures["z"].outcomes["linuxbridge"].error == "ZeroDivisionError('oh')"
    assert [side.mended for side in sides] == [2, 1]


def test_every_figure_is_in_one_step_only() -> None:
    keys = [key for step in steps(Sizes()) for key in step.kinds]
    assert len(keys) == len(set(keys)) > 30

"""Results as sentences and as rows of text: what they say is computed. Pure; no I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from l2pop_lab.compare.results import ENOUGH, SIDES, Feature, Figure, Outcome, Results

ALIKE = 1.1
"""A ratio below this is no difference worth a word."""
BESIDE = "What a responder may say: others beside ours"
BUSY = 0.5
"""Load for each core from which on a machine counts as busy."""
HEADLINES = (
    "change",
    "check",
    "network-made",
    "network-gone",
    "arp-known",
    "nd-known",
    "arp-remote",
    "ping",
    "throughput",
    "term-ready",
    "memory-all",
    "cpu-all",
)
"""The figures that a summary names, after the time to program."""


@dataclass(frozen=True, slots=True)
class Group:
    """What speaks for one side, or for none."""

    side: str
    """Empty: for none, or not decided."""
    title: str
    items: tuple[str, ...]


# -- values --------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def measured(outcome: Outcome, unit: str) -> str:
    """Median and spread, or why there are none."""
    if outcome.error:
        return f"failed: {outcome.error}"
    if outcome.absent:
        return outcome.absent
    if outcome.median is None or outcome.spread is None:
        return "not measured"
    low, high = outcome.spread
    spread = f" ({number(low)}–{number(high)})" if low != high else ""
    return f"{number(outcome.median)}{spread} {unit}".rstrip()


def _median(figure: Figure, side: str) -> str:
    return f"{number(figure.outcomes[side].median or 0)} {figure.unit}".rstrip()


def _both(figure: Figure | None) -> Figure | None:
    """The figure if both sides have it."""
    if figure is None or any(
        outcome.error or outcome.median is None for outcome in figure.outcomes.values()
    ):
        return None
    return figure


# -- in short ------------------------------------------------------------------------------------


def opening(results: Results) -> list[str]:
    """The first sentences."""
    found = []
    if group := results.group("program"):
        found.append(_programming(group[-1]))
    found += [*_losses(results), *_copies(results), *_switch(results)]
    if results.features:
        both = sum(set(_answers(feature).values()) == {"yes"} for feature in results.features)
        alone = [sum(_alone(f) == side for f in results.features) for side in SIDES]
        found.append(
            f"Of {len(results.features)} checks both pass {both}, {SIDES[0]} alone {alone[0]},"
            f" {SIDES[1]} alone {alone[1]}."
        )
    return found


def _programming(figure: Figure) -> str:
    """Both in one sentence; the verb is said once."""
    verb = f" programs {number(figure.size or 0)} entries"
    parts = []
    for side in SIDES:
        if _with_values(figure, side):
            parts.append(f"{side}{verb} in {_median(figure, side)}")
            verb = ""
        else:
            parts.append(f"{side}: {measured(figure.outcomes[side], figure.unit)}")
    return f"{', '.join(parts)}."


def _losses(results: Results) -> Iterator[str]:
    """Packets in restarts of the agent."""
    said = {}
    for side in SIDES:
        figures = [_with_values(results.figure(key), side) for key in ("term-lost", "kill-lost")]
        values = [value for outcome in figures if outcome for value in outcome.values]
        if values:
            lost = number(sum(values)) if sum(values) else "no"
            said[side] = (
                f"lost {lost} packet{'' if sum(values) == 1 else 's'} in {len(values)} restarts of"
                " the agent"
            )
    return _told(said)


def _copies(results: Results) -> Iterator[str]:
    said = {}
    for side in SIDES:
        seen = [
            (figure.size or 0, outcome.values)
            for figure in results.group("copies")
            if (outcome := _with_values(figure, side))
        ]
        counts = ", ".join(f"{number(max(values))} for {number(size)}" for size, values in seen)
        each = "" if all(set(values) == {size} for size, values in seen) else "not "
        if seen:
            said[side] = (
                f"copied a broadcast {each}once for each other VTEP of its network ({counts})"
            )
    return _told(said)


def _told(said: Mapping[str, str]) -> Iterator[str]:
    """Sentences; one for all sides of which the same is said."""
    for text in dict.fromkeys(said.values()):
        yield f"{' and '.join(side for side in said if said[side] == text)} {text}."


def _switch(results: Results) -> Iterator[str]:
    out, whole = results.figure("switch-out"), results.figure("switch-whole")
    for side in SIDES:
        if out and whole and _with_values(out, side) and _with_values(whole, side):
            yield (
                f"When its switch restarts, {side} forwards nothing for {_median(out, side)} and"
                f" has all written again after {_median(whole, side)}."
            )


def _with_values(figure: Figure | None, side: str) -> Outcome | None:
    outcome = figure.outcomes[side] if figure else None
    return outcome if outcome and outcome.values and not outcome.error else None


def groups(results: Results) -> list[Group]:
    """What speaks for which side: figures in which it is better, checks that it passes alone."""
    items: dict[str, list[str]] = {name: [] for name in (*SIDES, "", "few")}
    figures = results.group("program")[-1:]
    figures += [figure for key in HEADLINES if (figure := results.figure(key))]
    for figure in filter(_both, figures):
        better = figure.winner if (figure.ratio or 0) >= ALIKE else None
        few = "" if figure.once or _rounds(figure) >= ENOUGH else "few"
        items[better or few].append(_item(figure, better))
    for feature in results.features:
        if side := _alone(feature):
            items[side].append(feature.question)
        elif set(_answers(feature).values()) <= {"no", "partly"}:
            items[""].append(feature.question)
    titles = {side: f"For {side}" for side in SIDES}
    titles |= {"": "For neither", "few": f"Not decided in fewer than {ENOUGH} rounds"}
    return [
        Group(name if name in SIDES else "", titles[name], tuple(items[name]))
        for name in items
        if items[name]
    ]


def _item(figure: Figure, better: str | None) -> str:
    dagger = " †" if figure.datapath else ""
    if better is None:
        values = " and ".join(_median(figure, side) for side in SIDES)
        return f"{figure.title}{dagger}: {values}"
    other = next(side for side in SIDES if side != better)
    against = f"{_median(figure, better)} against {_median(figure, other)}"
    times = f"{figure.ratio or 1:.1f} times"
    return f"{figure.title}{dagger}: {against}, {_comparison(figure, times)}"


def _rounds(figure: Figure) -> int:
    return min(len(outcome.by_round) for outcome in figure.outcomes.values())


def _comparison(figure: Figure, times: str) -> str:
    if figure.better == "more":
        return f"{times} as much"
    return f"{times} as fast" if figure.unit in ("s", "ms", "µs") else f"the other {times} as much"


def _alone(feature: Feature) -> str | None:
    """The side that passes where the other could and doesn't."""
    answers = _answers(feature)
    for side, other in (SIDES, SIDES[::-1]):
        if answers[side] == "yes" and answers[other] in ("no", "partly"):
            return side
    return None


def _answers(feature: Feature) -> dict[str, str]:
    return {side: cell.answer for side, cell in feature.cells.items()}


# -- cautions ------------------------------------------------------------------------------------


def cautions(results: Results) -> list[str]:
    """What a reader must know before any figure."""
    where = results.environment
    affected = [figure.title for figure in results.figures if figure.datapath]
    found = [
        f"Open vSwitch ran with its {where.datapath} datapath: each packet goes from the kernel to"
        " ovs-vswitchd and back. Throughput, round trips and times of answers, marked †, say"
        f" nothing of an Open vSwitch with the kernel's datapath: {'; '.join(affected)}."
    ]
    if max(where.load_before, where.load_after / 2) > BUSY * where.cores:
        found.append(
            f"The machine was busy: load {where.load_before:.1f} before the run and"
            f" {where.load_after:.1f} at its end, on {where.cores} cores. The sides took turns, so"
            " ratios still count; all times are too long."
        )
    return found


# -- text for a terminal -------------------------------------------------------------------------


def text(results: Results) -> list[str]:
    """Everything, for a terminal."""
    lines = list(opening(results))
    for group in groups(results):
        lines += ["", group.title, *(f"  {item}" for item in group.items)]
    lines += ["", "Figures: median (smallest to largest, of 20 and more the middle half)"]
    lines += _table(
        (
            figure.title + (" †" if figure.datapath else ""),
            *(_short(measured(figure.outcomes[side], figure.unit)) for side in SIDES),
        )
        for figure in results.figures
    )
    lines += ["", "Checks"]
    lines += _table((feature.question, *_answers(feature).values()) for feature in results.features)
    if beside := beside_others(results):
        lines += ["", BESIDE]
        lines += _table(
            ((feature.question, *_answers(feature).values()) for feature in beside),
            list(beside[0].cells),
        )
    return [*lines, "", *cautions(results)]


def _short(value: str) -> str:
    """Without the reason, which is in the report and in JSON."""
    return value.partition(":")[0]


def beside_others(results: Results) -> list[Feature]:
    """The rows that others' responders were asked for too, with all cells."""
    ours = {feature.key: feature.cells for feature in results.features}
    return [
        replace(other, cells={**ours.get(other.key, {}), **other.cells}) for other in results.beside
    ]


def _table(rows: Iterable[tuple[str, ...]], sides: Sequence[str] = SIDES) -> list[str]:
    cells = [("", *sides), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]

"""Figures as plots: SVG with its text as text, colours left to the page. No I/O.

matplotlib writes colours that stand for others: the page's style sheet has a light and a dark one
for each. They are exchanged for its variables here.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from l2pop_lab.compare.results import SIDES, Figure, Results
from l2pop_lab.compare.words import number

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

_INK, _GRID = "#0000c1", "#0000c2"
_COLOURS = {"openvswitch": "#0000c3", "linuxbridge": "#0000c4"}
_VARIABLES = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _COLOURS["openvswitch"]: "var(--openvswitch)",
    _COLOURS["linuxbridge"]: "var(--linuxbridge)",
}
_MARKERS = {"openvswitch": "o", "linuxbridge": "s"}
_SIZE = (4.6, 3.3)
"""Inches of 72 points: on a phone a point is about a pixel."""
_STYLE: dict["RcKeyType", Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot to be put into a page as it is."""

    key: str
    section: str
    title: str
    svg: str


def plots(results: Results) -> list[Plot]:
    """Return all plots for which there are values."""
    made = (
        _growth(results),
        _ecdf(
            results,
            "change",
            {"change": "large table", "change-empty": "empty table"},
            "one change",
            "ms",
        ),
        _ecdf(
            results,
            "arp",
            {"arp-known": "known", "arp-remote": "unannounced"},
            "ARP: request to reply",
            "µs",
        ),
        _ecdf(
            results,
            "nd",
            {"nd-known": "known", "nd-remote": "unannounced"},
            "ND: solicitation to advertisement",
            "µs",
        ),
        _ecdf(results, "ping", {"ping": "later", "ping-first": "first"}, "ping round trip", "ms"),
        _bars(results, "throughput", {"throughput": "one stream"}, "TCP throughput", "Mbit/s"),
        _copies(results),
        _bars(
            results,
            "restart",
            {
                "term-ready": "agent ready, SIGTERM",
                "kill-ready": "agent ready, SIGKILL",
                "switch-out": "switch: nothing forwarded",
                "switch-whole": "switch: all written again",
            },
            "restarts",
            "s",
        ),
        _bars(
            results,
            "memory",
            {
                "memory-agent-0": "agent, empty",
                "memory-agent": "agent, all entries",
                "memory-switch-0": "switch, empty",
                "memory-switch": "switch, all entries",
            },
            "resident memory of processes",
            "MiB",
        ),
        _bars(
            results,
            "cpu",
            {"cpu-agent": "agent", "cpu-switch": "switch", "cpu-all": "both"},
            "processor time to program all entries",
            "CPU s",
        ),
    )
    return [plot for plot in made if plot is not None]


# -- kinds of plots ------------------------------------------------------------------------------


def _growth(results: Results) -> Plot | None:
    figures = _with_values(results.group("program"))

    def draw(axes: Axes) -> None:
        for side in SIDES:
            points = [
                (figure.size or 0, outcome.median, *outcome.spread)
                for figure in figures
                if (outcome := figure.outcomes[side]).median is not None and outcome.spread
            ]
            if points:
                sizes, medians, lows, highs = zip(*points, strict=True)
                axes.fill_between(sizes, lows, highs, color=_COLOURS[side], alpha=0.2, linewidth=0)
                axes.plot(sizes, medians, color=_COLOURS[side], marker=_MARKERS[side], label=side)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("entries")
        axes.set_ylabel("s")
        axes.xaxis.set_major_formatter(lambda value, _: number(value))

    sizes = results.sizes
    title = (
        f"time to program by number of entries, {sizes.networks} networks and their tunnels to"
        f" {sizes.vteps} VTEPs included: median, smallest to largest"
    )
    return _plot("growth", title, figures, draw)


def _copies(results: Results) -> Plot | None:
    figures = _with_values(results.group("copies"))

    def draw(axes: Axes) -> None:
        most = max(figure.size or 0 for figure in figures)
        axes.plot(
            [0, most], [0, most], color=_INK, linestyle=":", linewidth=1, label="one for each"
        )
        for side in SIDES:
            points = [
                (figure.size or 0, value)
                for figure in figures
                for value in figure.outcomes[side].values
            ]
            if points:
                sizes, values = zip(*points, strict=True)
                # One above the other: the lower one is larger and hollow.
                hollow = side == SIDES[0]
                axes.plot(
                    sizes,
                    values,
                    color=_COLOURS[side],
                    marker=_MARKERS[side],
                    markersize=11 if hollow else 5,
                    markerfacecolor="none" if hollow else _COLOURS[side],
                    linestyle="none",
                    label=side,
                )
        axes.set_xlabel("other VTEPs that have the network")
        axes.set_ylabel("copies")

    return _plot("copies", "copies of a broadcast on the underlay", figures, draw)


def _ecdf(
    results: Results, key: str, keys: Mapping[str, str], title: str, unit: str
) -> Plot | None:
    """How large a share of the values is below each value; *keys*: figures and their words."""
    figures = _with_values(figure for name in keys if (figure := results.figure(name)))

    def draw(axes: Axes) -> None:
        for figure in figures:
            line = "-" if figure.key == next(iter(keys)) else "--"
            for side in SIDES:
                if values := figure.outcomes[side].values:
                    label = f"{side}, {keys[figure.key]}"
                    axes.ecdf(values, color=_COLOURS[side], linestyle=line, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel(f"{unit}, logarithmic")
        axes.set_ylabel("of all are faster")

    return _plot(key, f"{title}, distribution", figures, draw)


def _bars(
    results: Results, key: str, keys: Mapping[str, str], title: str, unit: str
) -> Plot | None:
    """The medians side by side; *keys*: figures and their words."""
    figures = _with_values(figure for name in keys if (figure := results.figure(name)))

    def draw(axes: Axes) -> None:
        height = 0.38
        named: set[str] = set()
        for row, figure in enumerate(figures):
            for offset, side in zip((-height / 2, height / 2), SIDES, strict=True):
                outcome = figure.outcomes[side]
                place = row + offset
                if outcome.median is None or outcome.spread is None:
                    text = "failed" if outcome.error else "none"
                    axes.text(0, place, f" {text}", va="center", fontsize=9)
                    continue
                low, high = outcome.spread
                axes.barh(
                    place,
                    outcome.median,
                    height,
                    color=_COLOURS[side],
                    label=None if side in named else side,
                )
                named.add(side)
                if high > low:
                    axes.plot([low, high], [place, place], color=_INK, linewidth=1)
                axes.text(high, place, f" {number(outcome.median)}", va="center", fontsize=9)
        axes.set_yticks(range(len(figures)), [_wrapped(keys[figure.key]) for figure in figures])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.set_xlabel(unit)
        axes.set_xlim(0, 1.2 * axes.get_xlim()[1])
        axes.set_ylim(len(figures) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")

    return _plot(key, f"{title}: median, line from smallest to largest", figures, draw)


# -- one plot ------------------------------------------------------------------------------------


def _with_values(figures: Iterable[Figure]) -> list[Figure]:
    return [f for f in figures if any(outcome.values for outcome in f.outcomes.values())]


def _plot(
    key: str, title: str, figures: Sequence[Figure], draw: Callable[[Axes], None]
) -> Plot | None:
    if not figures:
        return None
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        canvas = Canvas(figsize=_SIZE, layout="constrained")
        axes = canvas.add_subplot()
        axes.grid(visible=True)
        draw(axes)
        canvas.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Plot(key, figures[0].section, title, _for_page(file.getvalue(), key, title))


def _for_page(svg: str, key: str, title: str) -> str:
    """Make a part of a page of a document of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # Ids are those of one document, and a page has several of these.
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", svg)
    # The page decides how large it is; the ratio of the sides stays.
    svg = re.sub(r'^<svg ([^>]*?)\bwidth="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'^<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", svg, count=1)
    label = f"{key}-title"
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{label}" ', 1)
    end = svg.index(">") + 1
    return f'{svg[:end]}<title id="{label}">{escape(title)}</title>{svg[end:]}'


def _wrapped(text: str, width: int = 24) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)

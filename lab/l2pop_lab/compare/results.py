"""What was measured, and its form as JSON. Pure; no I/O."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from l2pop_lab.compare.streams import Sizes

SIDES = ("openvswitch", "linuxbridge")
ENOUGH = 3
"""Rounds from which on sides can be told apart."""
MANY = 20
"""Values from which on their middle half says more than the smallest and the largest."""

Better = Literal["less", "more", ""]
Answer = Literal["yes", "no", "partly", "none", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one side showed: values, or why there are none."""

    values: tuple[float, ...] = ()
    """In the order in which they were taken, the same number in each round."""
    rounds: int = 1
    absent: str = ""
    """Why the side has no such figure."""
    error: str = ""
    """What went wrong in the measurement."""

    @property
    def median(self) -> float | None:
        """The middle value."""
        return statistics.median(self.values) if self.values else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Smallest and largest value; of many, the first and the third quartile."""
        if not self.values:
            return None
        if len(self.values) < MANY:
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def by_round(self) -> list[float]:
        """The medians of the rounds."""
        size = max(1, len(self.values) // self.rounds)
        parts = (self.values[at : at + size] for at in range(0, len(self.values), size))
        return [statistics.median(part) for part in parts]


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured on both sides."""

    key: str
    section: str
    title: str
    unit: str
    how: str
    better: Better
    outcomes: Mapping[str, Outcome]
    group: str = ""
    """Figures of one group differ by ``size``."""
    size: float | None = None
    once: bool = False
    """Whether it is the same each time, so that it was taken once."""
    datapath: bool = False
    """Whether the userspace datapath decides it, so that it says little of a kernel's."""

    @property
    def winner(self) -> str | None:
        """The side that is better in every round; None if no side is, or the rounds are few."""
        if not self.better:
            return None
        one, other = (self.outcomes[side] for side in SIDES)
        rounds = [outcome.by_round for outcome in (one, other)]
        if one.error or other.error or min(map(len, rounds)) < (1 if self.once else ENOUGH):
            return None
        for first, second in ((0, 1), (1, 0)):
            if max(rounds[first]) < min(rounds[second]):
                return SIDES[first if self.better == "less" else second]
        return None

    @property
    def ratio(self) -> float | None:
        """How many times the smaller median the larger one is."""
        low, high = sorted(self.outcomes[side].median or 0.0 for side in SIDES)
        return high / low if low > 0 else None


@dataclass(frozen=True, slots=True)
class Cell:
    """What a check saw."""

    answer: Answer
    seen: str


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that was checked on both sides."""

    key: str
    section: str
    question: str
    meaning: str
    """What it is good for."""
    cells: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Environment:
    """What it ran on."""

    date: str
    """Of the start, UTC, ISO 8601."""
    seconds: float
    command: str
    version: str
    python: str
    kernel: str
    system: str
    processor: str
    cores: int
    memory_mib: int
    load_before: float
    """Processes that ran or waited, average of the last minute."""
    load_after: float
    openvswitch: str
    datapath: str
    iproute2: str


@dataclass(frozen=True, slots=True)
class Results:
    """A whole comparison."""

    environment: Environment
    sizes: Sizes
    figures: tuple[Figure, ...]
    features: tuple[Feature, ...]
    warnings: tuple[str, ...] = ()
    """What Open vSwitch complained of in its log."""
    beside: tuple[Feature, ...] = ()
    """Some of the features again, each with cells of others' responders alone."""

    def figure(self, key: str) -> Figure | None:
        """Return a figure, None if it isn't there."""
        return next((figure for figure in self.figures if figure.key == key), None)

    def group(self, name: str) -> list[Figure]:
        """Return the figures of a group, by size."""
        found = [figure for figure in self.figures if figure.group == name]
        return sorted(found, key=lambda figure: figure.size or 0)

    def failures(self) -> Iterator[str]:
        """Yield a line for whatever couldn't be measured or checked."""
        # Figures that are taken together fail together.
        lost: dict[tuple[str, str], list[str]] = {}
        for figure in self.figures:
            for side, outcome in figure.outcomes.items():
                if outcome.error:
                    lost.setdefault((side, outcome.error), []).append(figure.title)
        for (side, error), titles in lost.items():
            yield f"{side}: {error} ({'; '.join(titles)})"
        for feature in (*self.features, *self.beside):
            for side, cell in feature.cells.items():
                if cell.answer == "failed":
                    yield f"{side}: {cell.seen} ({feature.question})"


def as_json(results: Results) -> dict[str, Any]:
    """Return plain values for a JSON document, medians and spread included."""
    content = asdict(results)
    for figure, shown in zip(results.figures, content["figures"], strict=True):
        for side, outcome in figure.outcomes.items():
            summary = {"median": outcome.median, "spread": outcome.spread}
            shown["outcomes"][side] |= summary
    return content | {"failures": list(results.failures())}


def from_json(content: Mapping[str, Any]) -> Results:
    """Return the results that :func:`as_json` was given.

    :raises KeyError, TypeError: if it isn't such a document.
    """
    figures = tuple(
        Figure(**figure | {"outcomes": _outcomes(figure["outcomes"])})
        for figure in content["figures"]
    )
    return Results(
        environment=Environment(**content["environment"]),
        sizes=Sizes(**content["sizes"]),
        figures=figures,
        features=_features(content["features"]),
        warnings=tuple(content["warnings"]),
        beside=_features(content["beside"]),
    )


def _features(content: Iterable[Mapping[str, Any]]) -> tuple[Feature, ...]:
    return tuple(
        Feature(**{**feature, "cells": {side: Cell(**c) for side, c in feature["cells"].items()}})
        for feature in content
    )


def _outcomes(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Outcome]:
    return {
        side: Outcome(tuple(shown["values"]), shown["rounds"], shown["absent"], shown["error"])
        for side, shown in content.items()
    }

"""The report of ``ovs-l2pop compare`` as a file: complete, self-contained, safe."""

import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from compare_builders import RESULTS, busy, figure

from l2pop_lab.compare.plots import plots
from l2pop_lab.compare.report import html
from l2pop_lab.compare.results import Cell, Outcome, Results

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements, ids and text of a page; fails where elements aren't closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def test_everything_is_in_it() -> None:
    page = Page(html(RESULTS))
    for figure_ in RESULTS.figures:
        assert figure_.title in page.text
        assert figure_.how in page.text
    for feature in RESULTS.features:
        assert feature.question in page.text
        assert all(cell.seen in page.text for cell in feature.cells.values())
    for value in (
        "Somebody's",
        "said half of it",
        "ovs-l2pop compare",
        "Linux 6.18",
        "a processor",
        "userspace (netdev)",
        "a warning",
    ):
        assert value in page.text
    assert "Not measured:" in page.text
    assert "openvswitch programs 1,000 entries in 0.6 s" in page.text


def test_it_needs_nothing_else() -> None:
    text = html(RESULTS)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    text = html(RESULTS)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', text)
    assert {"".join(found) for found in wanted} <= set(ids)


def test_plots_have_titles_and_text_and_the_pages_colours() -> None:
    drawn = plots(RESULTS)
    assert [plot.key for plot in drawn] == [
        *("growth", "change", "arp", "throughput", "copies", "restart", "cpu")
    ]
    for plot in drawn:
        page = Page(plot.svg)
        assert page.count("title") == 1
        assert page.count("text") > 3
        assert plot.title in page.text
        assert re.search(r"var\(--(openvswitch|linuxbridge)\)", plot.svg)
        assert "#0000c" not in plot.svg
        assert "<svg " in plot.svg
        assert "viewBox" in plot.svg
        assert re.search(r"<svg [^>]*\bwidth=", plot.svg) is None


def hostile(value: Any) -> Any:
    """The same with hostile text wherever there is text that isn't a key."""
    if isinstance(value, str):
        return HOSTILE
    return value


def test_text_from_a_run_is_only_text() -> None:
    where = RESULTS.environment
    where = replace(where, **{f.name: hostile(getattr(where, f.name)) for f in fields(where)})
    figures = tuple(
        replace(
            one,
            title=HOSTILE,
            unit=HOSTILE,
            how=HOSTILE,
            outcomes={
                side: replace(outcome, absent=hostile(outcome.absent), error="")
                for side, outcome in one.outcomes.items()
            },
        )
        for one in RESULTS.figures
    )
    features = tuple(
        replace(
            one,
            question=HOSTILE,
            meaning=HOSTILE,
            cells={side: Cell("failed", HOSTILE) for side in one.cells},
        )
        for one in RESULTS.features
    )
    page = Page(html(replace(RESULTS, environment=where, figures=figures, features=features)))
    assert page.count("script") == page.count("img") == 0
    assert page.text.count(HOSTILE) > 20
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.parametrize("left", [(), RESULTS.figures[:1], RESULTS.figures[5:6]])
def test_a_report_without_some_figures(left: tuple[Any, ...]) -> None:
    page = Page(html(replace(RESULTS, figures=left)))
    assert page.count("svg") == len(left)


def test_a_report_of_failures_alone() -> None:
    """Every figure failed on both sides: no plot, and each error is told."""
    broken = Outcome(error="it broke")
    figures = tuple(figure(one.key, broken, broken) for one in RESULTS.figures)
    page = Page(html(Results(RESULTS.environment, RESULTS.sizes, figures, ())))
    assert page.count("svg") == 0
    assert page.text.count("failed: it broke") == 2 * len(figures)


def test_a_busy_machine_is_told_of() -> None:
    assert "The machine was busy" in html(busy(RESULTS))

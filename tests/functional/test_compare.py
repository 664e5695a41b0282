"""``ovs-l2pop compare`` from the outside: what it measures, what it leaves, and its report in a
real browser."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compare_browser import Browser
from test_conformance import KNOWN

from l2pop_lab.topology import destroy
from l2pop_lab.topology.namespaces import NAMESPACE_DIRECTORY, processes_in

TIMEOUT = 240
SMALL = ("--quick", "--entries", "400", "--vteps", "12", "--repeat", "1")
"""Of the bulk's 4 networks each has its 100 machines behind all 12 VTEPs."""
SIDES = ("openvswitch", "linuxbridge")


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    process: subprocess.Popen[str]
    content: dict[str, Any]
    progress: str
    report: Path

    def figure(self, key: str) -> dict[str, Any]:
        (found,) = (figure for figure in self.content["figures"] if figure["key"] == key)
        assert isinstance(found, dict)
        return found

    def median(self, key: str, side: str) -> float:
        value = self.figure(key)["outcomes"][side]["median"]
        assert isinstance(value, (int, float)), f"{key}, {side}: {value}"
        return value

    def answers(self, side: str) -> dict[str, str]:
        return {f["key"]: f["cells"][side]["answer"] for f in self.content["features"]}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ovs_l2pop", "compare", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_by(process: subprocess.Popen[str]) -> tuple[list[str], list[Path]]:
    """Namespaces, whose names tell the process, and directories of laboratories."""
    names = sorted(path.name for path in NAMESPACE_DIRECTORY.glob(f"l2p{process.pid}[-x]*"))
    directories = []
    for path in Path("/tmp").glob("l2p-*/lab.json"):
        try:
            owner = json.loads(path.read_text())["owner"]
        except (OSError, ValueError):
            continue
        if owner and owner[0] == process.pid:
            directories.append(path)
    return names, directories


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    report = tmp_path_factory.mktemp("compare") / "report.html"
    process = start(*SMALL, "--report", str(report), "-f", "json")
    output, progress = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, progress
    return Run(process, json.loads(output), progress, report)


# -- what is measured ----------------------------------------------------------------------------


def test_nothing_failed_and_nothing_is_left(run: Run) -> None:
    assert run.content["failures"] == []
    assert left_by(run.process) == ([], [])


def test_progress_counts_to_its_end(run: Run) -> None:
    last = re.search(r" s +(\d+) of (\d+)  .*\n$", run.progress)
    assert last
    assert last[1] == last[2]
    assert len(run.progress.splitlines()) >= int(last[1]) > 40


def test_every_figure_has_values_or_a_reason_on_both_sides(run: Run) -> None:
    for figure in run.content["figures"]:
        for side in SIDES:
            outcome = figure["outcomes"][side]
            assert bool(outcome["values"]) != bool(outcome["absent"]), f"{figure['key']}, {side}"
            assert all(value >= 0 for value in outcome["values"])


@pytest.mark.parametrize("side", SIDES)
def test_figures_are_possible(run: Run, side: str) -> None:
    """What must hold on any machine, however busy."""
    for count in (1, 2, 12):
        assert run.median(f"copies-{count}", side) == count
    assert run.median("term-lost", side) == run.median("kill-lost", side) == 0
    for key in ("program-400", "check", "clear", "network-gone", "term-ready", "kill-ready"):
        assert 0 < run.median(key, side) < 1000
    for key in ("arp-known", "nd-known"):
        remote = key.replace("known", "remote")
        # Of many: to another host and back is farther than to the own one.
        assert 0.5 < run.median(key, side) < run.median(remote, side) < 1e6
    assert 0 < run.median("ping", side) < 1000
    assert 1 < run.median("throughput", side) < 1e6
    assert 10 < run.median("memory-agent-0", side) <= 1.1 * run.median("memory-agent", side) < 500
    assert run.median("memory-all", side) >= run.median("memory-agent", side)
    assert run.median("cpu-all", side) < 30


def test_only_open_vswitch_has_a_switch_to_restart(run: Run) -> None:
    assert 0 < run.median("switch-out", "openvswitch") < 30
    assert 0 < run.median("switch-whole", "openvswitch") < 30
    for key in ("switch-out", "switch-whole", "memory-switch", "cpu-switch"):
        outcome = run.figure(key)["outcomes"]["linuxbridge"]
        assert outcome["values"] == []
        assert outcome["absent"].startswith("not applicable: ")


def test_every_check_has_a_result(run: Run) -> None:
    for feature in run.content["features"]:
        for side in SIDES:
            cell = feature["cells"][side]
            assert cell["answer"] in ("yes", "no", "partly", "none")
            assert cell["seen"]


def test_what_is_promised_is_seen(run: Run) -> None:
    """All that isn't a known limit of a backend."""
    for side, limits in (
        ("openvswitch", {"tagged", "mtu", "multicast", *KNOWN["openvswitch"]}),
        (
            "linuxbridge",
            {"tagged", "early", "gre", "geneve", "switch-restart", *KNOWN["linuxbridge"]},
        ),
    ):
        answers = run.answers(side)
        assert {key for key, answer in answers.items() if answer != "yes"} <= limits, side
    cells = {f["key"]: f["cells"] for f in run.content["features"]}
    assert "the linuxbridge backend has vxlan tunnels only" in cells["gre"]["linuxbridge"]["seen"]


# -- how it ends ---------------------------------------------------------------------------------


@pytest.fixture(name="begun")
def _begun() -> Iterator[subprocess.Popen[str]]:
    """A run; what it leaves is removed after the test."""
    process = start(*SMALL)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()
    for path in left_by(process)[1]:
        destroy(path)


@pytest.mark.parametrize(
    ("number", "code", "moment", "laboratories"),
    [
        (signal.SIGINT, 130, "one change in an almost empty table", 3),
        (signal.SIGTERM, 143, "hosts, agents and machines", 1),
    ],
)
def test_a_signal_leaves_nothing_behind(
    begun: subprocess.Popen[str], number: int, code: int, moment: str, laboratories: int
) -> None:
    wait_for_progress(begun, moment)
    deadline = time.monotonic() + 20
    names, directories = left_by(begun)
    while not names or len(directories) < laboratories:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        names, directories = left_by(begun)
    os.killpg(begun.pid, number)  # a terminal's Ctrl-C reaches its children, too
    output, progress = begun.communicate(timeout=60)
    assert (begun.returncode, output) == (code, "")
    assert progress.endswith("ovs-l2pop: interrupted; everything made was removed\n")
    assert "Traceback" not in progress
    assert left_by(begun) == ([], [])
    assert processes_in(names) == set()


def wait_for_progress(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    pytest.fail("".join(lines))


# -- the report ----------------------------------------------------------------------------------

# The page's own width against what its content needs.
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PLOTS = """
[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect(), drawn = svg.getBBox();
  return [svg.parentElement.id, box.width, box.height, drawn.width, drawn.height,
          svg.querySelectorAll("path").length, svg.querySelector("title").textContent.length];
})
"""
COLOURS = 'getComputedStyle(document.body).{} + ""'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_in_a_browser(run: Run, browser: Browser, scheme: str, width: int) -> None:
    """Nothing is fetched, nothing fails, all plots are drawn, nothing sticks out."""
    browser.resize(width, 900)
    browser.prefer(scheme)
    url = run.report.as_uri()
    browser.open(url)
    plots = browser.evaluate(PLOTS)
    assert [plot[0] for plot in plots] == [
        f"plot-{key}"
        for key in (
            *("growth", "change", "arp", "nd", "ping", "throughput", "copies", "restart"),
            *("memory", "cpu"),
        )
    ]
    for plot in plots:
        key, *sizes, paths, title = plot
        assert min(sizes) > 100, f"{key}: {sizes}"
        assert paths > 10
        assert title > 10
    assert browser.evaluate(TOO_WIDE) <= 0
    dark, light = (
        sum(map(int, browser.evaluate(COLOURS.format(name))[4:-1].split(",")))
        for name in (("backgroundColor", "color")[:: 1 if scheme == "dark" else -1])
    )
    assert dark < 200 < 500 < light
    rows = browser.evaluate('document.querySelectorAll(".checks tbody tr").length')
    assert rows == len(run.content["features"])
    browser.screenshot(run.report.with_name(f"{scheme}-{width}.png"))
    assert browser.requests() == [url]
    assert browser.complaints() == []


def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    """A page that fails and fetches is noticed: the test above can fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><img src='missing.png'><script>console.error('x'); nothing()</script>"
    )
    browser.open(page.as_uri())
    assert len(browser.requests()) == 2
    methods = {event["method"] for event in browser.complaints()}
    assert {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} <= methods

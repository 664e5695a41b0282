"""This version beside another one, in one run: `make bench AGAINST=<commit>`.

Two hosts of a kind, an agent of each version on one of them; they take turns, so that what else the
machine does meets both. A ratio above 1: this version is the slower one.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import Report, announce, attach, detach, one_more, write_lines

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.agent.client import ask

OTHER = os.environ.get("AGAINST_SITE", "")
ENTRIES = 20_000
ROUNDS = 9
CHANGES = 40

pytestmark = pytest.mark.skipif(not OTHER, reason="make bench AGAINST=<commit>")


class Side:
    """One version's agent on a host of its own."""

    def __init__(self, host: Host, other: bool) -> None:
        self.host = host
        self._where = {"source": Path(OTHER)} if other else {}
        self.agent = self.start()
        self._numbers = itertools.count()

    def start(self, config: Path | None = None) -> AgentProcess:
        self.agent = self.host.start_agent(config=config, **self._where)  # type: ignore[arg-type]
        return self.agent

    def send(self, path: Path) -> float:
        """Seconds."""
        start = time.perf_counter()
        result = self.agent.cli("send", str(path), timeout=300)
        took = time.perf_counter() - start
        assert result.returncode == 0, result.stderr
        return took

    def change(self) -> float:
        """Median seconds of one more machine, by the control socket."""
        times = []
        for _ in range(CHANGES):
            message = one_more(next(self._numbers))
            start = time.perf_counter()
            answer = ask(self.agent.control_socket, {"command": "send"}, [message])
            times.append(time.perf_counter() - start)
            assert answer["refused_count"] == 0
        return statistics.median(times)

    def check(self) -> float:
        start = time.perf_counter()
        assert self.agent.cli("check").returncode == 0
        return time.perf_counter() - start

    def restart(self) -> float:
        """Seconds from a start to an agent that answers and has all in place."""
        self.agent.kill()
        start = time.perf_counter()
        self.start()
        return time.perf_counter() - start


@pytest.mark.parametrize("backend", ["openvswitch", "linuxbridge"])
def test_both_versions(backend: str, tmp_path: Path, report: Report) -> None:
    full = write_lines(tmp_path / "full", [attach(1), announce(1, ENTRIES, 100)])
    empty = write_lines(tmp_path / "empty", [detach(1)])
    taken: dict[str, tuple[list[float], list[float]]] = {}
    with Lab(2, linuxbridge=[1, 2] if backend == "linuxbridge" else []) as lab:
        sides = [Side(host, other) for host, other in zip(lab.hosts, (False, True), strict=True)]
        steps: list[dict[str, Callable[[], float]]] = [
            {
                "bulk": partial(side.send, full),
                "one change": side.change,
                "check": side.check,
                "restart": side.restart,
                "detach": partial(side.send, empty),
            }
            for side in sides
        ]
        for turn in range(ROUNDS + 1):
            for name in steps[0]:
                for at in (0, 1) if turn % 2 else (1, 0):
                    took = steps[at][name]()
                    if turn:  # the first round warms up
                        taken.setdefault(name, ([], []))[at].append(took)
    for name, (ours, others) in taken.items():
        ratios = [a / b for a, b in zip(ours, others, strict=True)]
        report(
            f"{backend}, {ENTRIES} entries, {name}: {1000 * statistics.median(ours):.1f} ms,"
            f" other {1000 * statistics.median(others):.1f} ms,"
            f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )

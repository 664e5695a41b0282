"""The worker: input that outruns the dataplane, and changes behind its back."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import FLOODING, IP1, LOCAL, MAC1, A, N, add, attach
from fake_backend import FakeBackend

from ovs_l2pop.agent import service
from ovs_l2pop.agent.service import Agent
from ovs_l2pop.agent.store import Store

AT_A = add(N, A, FLOODING, [MAC1, IP1])


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def agent(backend: FakeBackend, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(LOCAL, backend, Store(tmp_path), drift_interval=0.2)
    agent.start().result()
    agent.submit([json.dumps(message).encode() for message in (attach(N), AT_A)]).result()
    yield agent
    agent.stop()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "did not come true in 10 s"
        time.sleep(0.01)


def test_who_submits_more_than_can_be_written_waits(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(AT_A).encode()
    monkeypatch.setattr(service, "_BACKLOG", 3 * len(line))
    resume = threading.Event()
    hanging = agent.call(resume.wait)  # a dataplane that answers nothing
    submitted: list[int] = []

    def submit() -> None:
        for number in range(10):
            agent.submit([line])
            submitted.append(number)

    thread = threading.Thread(target=submit)
    thread.start()
    eventually(lambda: len(submitted) == 3)
    time.sleep(0.1)
    assert len(submitted) == 3
    resume.set()
    hanging.result(5)
    thread.join(5)
    assert len(submitted) == 10, "nothing is lost"
    # One message that is larger than all room there is gets in by itself.
    assert agent.submit([line] * 10).result(5).refusals == []


def test_what_somebody_changed_is_mended_and_counted(agent: Agent, backend: FakeBackend) -> None:
    before = set(backend.rows)
    backend.rows.remove(next(row for row in before if row[0] == "UnicastFact"))  # type: ignore[index]
    backend.rows.add(("flow", "of", "nobody"))
    eventually(lambda: backend.rows == before)
    assert agent.watch.mended == {("missing", "flow"): 1, ("surplus", "flow"): 1}


def test_what_was_refused_for_the_damage_comes_with_its_mending(
    agent: Agent, backend: FakeBackend
) -> None:
    tunnel = next(row for row in backend.rows if row[0] == "tunnel")  # type: ignore[index]
    backend.rows.remove(tunnel)
    backend.refuses = lambda row: row[0] == "UnicastFact" and tunnel not in backend.rows  # type: ignore[index]
    late = add(N, A, ["fa:16:3e:00:00:99", "10.0.0.99"])
    agent.submit([json.dumps(late).encode()]).result()
    assert agent.reconciler.refused
    eventually(lambda: "fa:16:3e:00:00:99" in str(backend.rows))


def test_what_is_refused_is_no_drift(agent: Agent, backend: FakeBackend) -> None:
    backend.refuses = lambda row: True
    agent.submit([json.dumps(add(N, A, ["fa:16:3e:00:00:99", "10.0.0.99"])).encode()]).result()
    writes = len(backend.writes)
    time.sleep(1.5)
    assert agent.watch.mended == {}
    assert len(backend.writes) <= writes + 1
    assert agent.reconciler.refused

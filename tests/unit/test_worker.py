"""The worker: input that outruns the dataplane, and changes behind its back."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import FLOODING, IP1, LOCAL, MAC1, A, N, add, attach, told
from fake_backend import FakeBackend
from waiting import eventually

from ovs_l2pop.agent import jobs, views, worker
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.errors import BackendError

AT_A = add(N, A, FLOODING, [MAC1, IP1])
LATE = add(N, A, ["fa:16:3e:00:00:99", "10.0.0.99"])


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def agent(backend: FakeBackend, tmp_path: Path) -> Iterator[Worker]:
    agent = Worker(LOCAL, backend, Store(tmp_path), drift_interval=0.2)
    agent.start().result()
    agent.submit(*told(attach(N), AT_A)).result()
    yield agent
    agent.stop()


def go_down(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, takes: float = 0.0
) -> list[float]:
    """Nobody answers any more, which shows after a while; when it was tried."""
    attempts: list[float] = []

    def connect() -> None:
        attempts.append(time.monotonic())
        time.sleep(takes)
        raise BackendError("no hello")

    monkeypatch.setattr(backend, "connect", connect)
    backend.down = True
    return attempts


def test_who_submits_more_than_can_be_written_waits(
    agent: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = told(AT_A)
    monkeypatch.setattr(jobs, "_BACKLOG", 3 * message[0][0].size)
    resume = threading.Event()
    hanging = agent.call(resume.wait)  # a dataplane that answers nothing
    submitted: list[int] = []

    def submit() -> None:
        for number in range(10):
            agent.submit(*message)
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
    assert agent.submit(message[0] * 10).result(5).refusals == []


def test_what_somebody_changed_is_mended_and_counted(agent: Worker, backend: FakeBackend) -> None:
    before = set(backend.rows)
    backend.rows.remove(next(row for row in before if row[0] == "UnicastFact"))  # type: ignore[index]
    backend.rows.add(("flow", "of", "nobody"))
    eventually(lambda: backend.rows == before)
    assert agent.watch.mended == {("missing", "flow"): 1, ("surplus", "flow"): 1}


def test_what_was_refused_for_the_damage_comes_with_its_mending(
    agent: Worker, backend: FakeBackend
) -> None:
    tunnel = next(row for row in backend.rows if row[0] == "tunnel")  # type: ignore[index]
    backend.rows.remove(tunnel)
    backend.refuses = lambda row: row[0] == "UnicastFact" and tunnel not in backend.rows  # type: ignore[index]
    agent.submit(*told(LATE)).result()
    assert agent.reconciler.refused
    eventually(lambda: "fa:16:3e:00:00:99" in str(backend.rows))


def test_what_is_refused_is_no_drift(agent: Worker, backend: FakeBackend) -> None:
    backend.refuses = lambda row: True
    agent.submit(*told(LATE)).result()
    writes = len(backend.writes)
    time.sleep(1.5)
    assert agent.watch.mended == {}
    assert len(backend.writes) <= writes + 1
    assert agent.reconciler.refused


def test_news_are_read_at_once_and_not_thousands_of_times(
    agent: Worker, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable, writable = os.pipe()
    polls: list[float] = []
    agent.call(lambda: monkeypatch.setattr(worker, "_POLL_INTERVAL", 60)).result()
    time.sleep(1.1)  # until then it looks by the clock
    agent.call(lambda: setattr(backend, "descriptor", readable)).result()

    def poll() -> bool:
        polls.append(time.monotonic())
        return False

    monkeypatch.setattr(backend, "poll", poll)
    asked = time.monotonic()
    os.write(writable, b"!")  # nobody reads it: there are always news
    time.sleep(0.5)
    agent.call(lambda: setattr(backend, "descriptor", -1)).result()
    os.close(readable)
    os.close(writable)
    assert polls[0] - asked < 0.2
    assert 3 < len(polls) < 15


def test_health_answers_while_the_worker_hangs(
    agent: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_PATIENCE", 0.2)
    assert views.health(agent)["rows"][0][:2] == ["dataplane", "ok"]
    resume = threading.Event()
    hanging = agent.call(resume.wait)
    assert views.health(agent)["rows"] == [["dataplane", "trouble", "no answer for 0 s"]]
    resume.set()
    hanging.result(5)
    assert views.health(agent)["rows"][0][:2] == ["dataplane", "ok"]


def test_senders_wait_half_of_the_time_for_a_dataplane_that_hangs(
    agent: Worker, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = go_down(backend, monkeypatch, 0.3)
    assert agent.submit(*told(LATE)).result(5).pending == "no hello"
    asked = time.monotonic()
    assert agent.submit(*told(LATE)).result(5).pending == "no hello"
    assert time.monotonic() - asked < 0.25
    while time.monotonic() < asked + 1.5:
        agent.submit(*told(LATE)).result(5)
    assert all(later - earlier > 0.55 for earlier, later in itertools.pairwise(attempts))
    monkeypatch.undo()
    backend.down = False
    eventually(lambda: agent.trouble is None)
    assert "fa:16:3e:00:00:99" in str(backend.rows)


def test_what_waits_for_the_dataplane_does_not_ask_for_it_again_and_again(
    agent: Worker, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried when its back-off says so, and for who has something new."""
    attempts = go_down(backend, monkeypatch)
    assert agent.submit(*told(LATE)).result(5).pending == "no hello"

    def tend() -> int:
        agent._dataplane.next_try = time.monotonic() + 3600
        before = len(attempts)
        agent._tend()
        return len(attempts) - before

    assert agent.call(tend).result(5) == 0
    agent.submit(*told(AT_A)).result(5)
    assert agent.call(tend).result(5) == 0


def test_what_cannot_be_mended_is_told_once(
    agent: Worker,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stays because something else is refused, which is tried again every so often."""
    backend.refuses = lambda row: "fa:16:3e:00:00:99" in row  # type: ignore[operator]
    agent.submit(*told(LATE)).result()
    installed = backend.installed
    monkeypatch.setattr(backend, "installed", lambda: installed() | {("flow", "of", "nobody")})
    agent.watch.disturbed()
    eventually(lambda: "of nobody" in caplog.text)
    time.sleep(1)
    assert caplog.text.count("somebody changed the dataplane") == 1
    assert agent.watch.mended == {("surplus", "flow"): 1}
    backend.rows.remove(next(row for row in backend.rows if row[0] == "UnicastFact"))  # type: ignore[index]
    eventually(lambda: caplog.text.count("missing flow") == 1)

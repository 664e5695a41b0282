"""What Prometheus is told of an agent, asked over HTTP and read by its own parser."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import FLOODING, IP1, LOCAL, MAC1, A, N, add, attach, told
from fake_backend import FakeBackend
from prometheus_client.parser import text_string_to_metric_families
from waiting import eventually

from ovs_l2pop.agent import metrics
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core import wire
from ovs_l2pop.core.errors import BackendError, ConfigError
from ovs_l2pop.core.messages import Parser, Refusal, Segment, Told, read

OTHER = "00000000-0000-4000-8000-000000000009"
Ask = Callable[..., float | None]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def agent(backend: FakeBackend, tmp_path: Path) -> Iterator[Worker]:
    agent = Worker(LOCAL, backend, Store(tmp_path), drift_interval=0.2)
    agent.start().result()
    yield agent
    agent.stop()


@pytest.fixture
def port(agent: Worker) -> Iterator[int]:
    server = metrics.serve(agent, "fake", 0)
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(port: int) -> Ask:
    def value(name: str, **labels: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, found
        return found[0] if found else None

    return value


def test_what_it_holds(agent: Worker, ask: Ask) -> None:
    assert ask("ovs_l2pop_dataplane_up") == 1
    assert ask("ovs_l2pop_build_info", backend="fake") == 1
    assert ask("ovs_l2pop_entries") == 0
    agent.submit(*told(attach(N), add(N, A, FLOODING, [MAC1, IP1]))).result()
    assert ask("ovs_l2pop_entries") == 1
    assert ask("ovs_l2pop_networks", state="attached") == 1
    assert ask("ovs_l2pop_vteps", state="alive") == 1
    assert ask("ovs_l2pop_rows", state="installed") == len(agent.reconciler.difference.installed)
    assert ask("ovs_l2pop_health_ok", what="dataplane") == 1


def test_what_it_has_done(agent: Worker, backend: FakeBackend, ask: Ask) -> None:
    segments = Segment("vxlan", 78), Segment("vxlan", -1)
    lines = [json.dumps(wire.attach(OTHER, segment, 6)).encode() for segment in segments]
    lines.append(b"no message")
    agent.submit(*read(lines, Parser(LOCAL), 1)).result()
    parser = Parser(LOCAL)
    (attachment, _), (changes, _) = map(parser.parse, (attach(N), add(N, A, FLOODING, [MAC1, IP1])))
    agent.submit([Told(attachment), Told(changes)]).result()
    agent.submit([Told(changes)], [Refusal("server", "that", "is nothing")]).result()
    messages = "ovs_l2pop_messages_total"
    assert ask(messages, source="socket", result="refused") == 2
    assert ask(messages, source="socket", result="applied") == 1
    assert ask(messages, source="server", result="applied") == 2
    assert ask(messages, source="server", result="refused") == 1
    assert ask("ovs_l2pop_apply_seconds_count") == 3
    assert ask("ovs_l2pop_apply_seconds_bucket", le="+Inf") == 3
    assert ask("ovs_l2pop_apply_seconds_bucket", le="10.0") == 3
    looks = ask("ovs_l2pop_looks_total") or 0
    backend.rows.remove(next(iter(backend.rows)))
    eventually(lambda: ask("ovs_l2pop_mended_rows_total", state="missing") == 1)
    assert (ask("ovs_l2pop_looks_total") or 0) > looks


def test_what_is_wrong(agent: Worker, backend: FakeBackend, ask: Ask) -> None:
    agent.submit(*told(attach(N))).result()
    backend.refuses = lambda row: row[0] == "UnicastFact"  # type: ignore[index]
    agent.submit(*told(add(N, A, FLOODING, [MAC1, IP1]))).result()
    assert ask("ovs_l2pop_refused_rows") == 1
    assert ask("ovs_l2pop_health_ok", what="refused rows") == 0

    def connect() -> None:
        raise BackendError("no hello")

    backend.connect = connect  # type: ignore[method-assign]
    backend.down = True
    eventually(lambda: ask("ovs_l2pop_dataplane_up") == 0)
    assert ask("ovs_l2pop_health_ok", what="dataplane") == 0


def test_it_answers_while_the_worker_hangs(
    agent: Worker, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.2)
    resume = threading.Event()
    hanging = agent.call(resume.wait)
    assert ask("ovs_l2pop_dataplane_up") == 0
    assert (ask("ovs_l2pop_busy_seconds") or 0) > 0.1
    assert ask("ovs_l2pop_entries") is None
    resume.set()
    hanging.result(5)
    assert ask("ovs_l2pop_dataplane_up") == 1


def test_a_port_that_is_taken(agent: Worker, port: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics_port {port}: Address already in use"):
        metrics.serve(agent, "fake", port)

"""What is noted of what an agent was told: read back whole, bounded, and never in the way."""

import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import FLOODING, IP1, LOCAL, MAC1, MAC2, A, B, N, add, attach, detach, remove, told
from fake_backend import FakeBackend

from ovs_l2pop.agent import history
from ovs_l2pop.agent.history import History
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.messages import Parser, Told


def seen(path: Path) -> list[tuple[str, ...]]:
    """Without the times."""
    return [event[1:] for event in history.read(path)]


@pytest.fixture
def kept(tmp_path: Path) -> History:
    return History(tmp_path)


@pytest.fixture
def agent(kept: History, tmp_path: Path) -> Iterator[Worker]:
    agent = Worker(LOCAL, FakeBackend(), Store(tmp_path), history=kept)
    agent.start().result()
    yield agent
    agent.stop()


def line(message: object) -> bytes:
    return json.dumps(message).encode()


def test_what_was_told_and_by_whom(agent: Worker, kept: History) -> None:
    agent.submit(*told(attach(N), add(N, A, FLOODING, [MAC1, IP1]))).result()
    changes, _ = Parser(LOCAL).parse(remove(N, A, [MAC1, IP1]))
    agent.submit([Told(changes)]).result()
    agent.submit(*told(detach(N))).result()
    assert seen(kept.path) == [
        ("socket", "attach", N, "", "", ""),
        ("socket", "add", N, A, "", ""),
        ("socket", "add", N, A, MAC1, IP1),
        ("server", "remove", N, A, MAC1, IP1),
        ("socket", "detach", N, "", "", ""),
    ]
    times = [event.at for event in history.read(kept.path)]
    assert times == sorted(times)


def test_what_is_refused_was_not_told(agent: Worker, kept: History) -> None:
    agent.submit(*told(add(N, A, ["no MAC", IP1], [MAC2, "10.0.0.2"]))).result()
    assert [event.mac for event in history.read(kept.path)] == [MAC2]


def test_it_goes_on_after_a_restart(kept: History, tmp_path: Path) -> None:
    for vtep in (A, B):
        agent = Worker(LOCAL, FakeBackend(), Store(tmp_path), history=History(tmp_path))
        agent.start().result()
        agent.submit(*told(add(N, vtep, [MAC1, IP1]))).result()
        agent.stop()
    # Nor is what is loaded told anew.
    assert [event.vtep for event in history.read(kept.path)] == [A, B]


def test_it_is_bounded(kept: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_SIZE", 2000)
    monkeypatch.setattr(history, "_LARGEST", 1000)
    for number in range(200):
        kept.note([("socket", [line(add(N, A, [MAC1, f"10.0.0.{number}"]))])])
    found = [event.ip for event in history.read(kept.path)]
    assert 5 < len(found) < 40
    assert found == [f"10.0.0.{number}" for number in range(200 - len(found), 200)]
    assert sum(file.stat().st_size for file in kept.path.parent.glob("history*")) < 5000
    kept.note([("server", [line(add(N, A, *([MAC1, f"10.1.0.{n}"] for n in range(100))))])])
    assert seen(kept.path)[-1] == ("server", "many", "", "", "", "")


@pytest.mark.parametrize(
    "rest", [b"", b"17", b"17.5 socket", b'17.5 socket {"method":', b"\xff x y"]
)
def test_a_line_cut_short_is_left_out(kept: History, rest: bytes) -> None:
    kept.note([("socket", [line(detach(N))])])
    with kept.path.open("ab") as file:
        file.write(rest)
    assert seen(kept.path) == [("socket", "detach", N, "", "", "")]


def test_where_nothing_can_be_written_it_says_so_once(
    agent: Worker, kept: History, caplog: pytest.LogCaptureFixture
) -> None:
    kept.path.mkdir()
    with caplog.at_level(logging.WARNING):
        for ip in (IP1, "10.0.0.2"):
            assert agent.submit(*told(add(N, A, [MAC1, ip]))).result().pending is None
    assert sum("can't be noted" in record.message for record in caplog.records) == 1
    kept.path.rmdir()
    agent.submit(*told(add(N, A, [MAC1, "10.0.0.3"]))).result()
    assert [event.ip for event in history.read(kept.path)] == ["10.0.0.3"]


def test_following_it(kept: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, through the file's end and its successors."""
    monkeypatch.setattr(history, "_SIZE", 500)
    kept.note([("socket", [line(detach(N))])])
    following = history.follow(kept.path)
    assert next(following) is None
    for number in range(20):
        kept.note([("socket", [line(add(N, A, [MAC1, f"10.0.0.{number}"]))])])
        found = [event.ip for event in itertools.takewhile(bool, following) if event]
        # A file that has just been put away is seen to be another one at the next look.
        while not found:
            found = [event.ip for event in itertools.takewhile(bool, following) if event]
        assert found == [f"10.0.0.{number}"]


def test_only_its_owner_reads_it(agent: Worker, kept: History) -> None:
    agent.submit(*told(detach(N))).result()
    assert kept.path.stat().st_mode & 0o777 == 0o600

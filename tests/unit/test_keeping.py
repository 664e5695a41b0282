"""What is taken in is on disk, and so is what this configuration has no use for."""

import json
import time
from pathlib import Path

import pytest
from builders import IP1, IP2, LOCAL, MAC1, MAC2, A, N, add, attach, remove, told
from fake_backend import FakeBackend

from ovs_l2pop.agent import keeping as module
from ovs_l2pop.agent.store import FILE_NAME, Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.wire import Message

FAR = "2001:db8::9"
OF_ANOTHER = add(N, FAR, [MAC2, IP2])


class Life:
    """An agent from its start to its end."""

    def __init__(self, directory: Path, local_ip: str = LOCAL) -> None:
        self.worker = Worker(local_ip, FakeBackend(), Store(directory))

    def __enter__(self) -> "Life":
        self.worker.start().result()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()

    def send(self, *messages: Message) -> None:
        self.worker.submit(told(*messages)[0]).result()

    def vteps(self) -> set[str]:
        table = self.worker.table
        return {
            known.entry.vtep for network in table.network_ids() for known in table.entries(network)
        }


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a file that holds what only a host with an IPv6 VTEP can use."""
    monkeypatch.setattr(module, "_SLACK", 1000)
    (tmp_path / FILE_NAME).write_text(json.dumps(OF_ANOTHER) + "\n")
    return tmp_path


def test_what_another_configuration_takes_outlives_a_file_written_anew(directory: Path) -> None:
    file = directory / FILE_NAME
    with Life(directory) as life:
        life.send(attach(N))
        sizes = [file.stat().st_size]
        while len(sizes) < 200 and sizes == sorted(sizes):  # it grows until it is bloated
            sizes.append(file.stat().st_size)
            life.send(add(N, A, [MAC1, IP1]), remove(N, A, [MAC1, IP1]))
        assert sizes != sorted(sizes), "written anew"
        assert life.vteps() == set()
    with Life(directory, "2001:db8::1") as life:
        assert life.vteps() == {FAR}


def test_a_file_grows_no_further_than_the_table_needs(directory: Path) -> None:
    with Life(directory) as life:
        for _ in range(100):
            life.send(add(N, A, [MAC1, IP1]), remove(N, A, [MAC1, IP1]))
        shrunk(directory, 2000)


def shrunk(directory: Path, size: float) -> None:
    """Wait until the file has no more bytes than that."""
    deadline = time.monotonic() + 10
    while (found := (directory / FILE_NAME).stat().st_size) > size:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


@pytest.mark.parametrize("order", ["as they are", "one VTEP after the other", "with removals"])
def test_a_file_is_not_much_longer_than_a_fresh_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """However the entries came: one by one over VTEPs in turn is the longest."""
    monkeypatch.setattr(module, "_SLACK", 10_000)
    vteps = [f"192.0.2.{number}" for number in range(10, 30)]
    places = [(vteps[n % 20], n) for n in range(1000)]
    if order == "one VTEP after the other":
        places.sort()
    with Life(directory) as life:
        life.send(attach(N))
        for vtep, n in places:
            pair = [f"fa:16:3e:00:{n >> 8:02x}:{n & 255:02x}", f"10.0.{n >> 8}.{n & 255}"]
            life.send(add(N, vtep, pair))
            if order == "with removals" and n % 2:
                life.send(remove(N, vtep, pair))
        messages = list(life.worker.table.messages())
        fresh = sum(len(json.dumps(message, separators=(",", ":"))) + 1 for message in messages)
        assert fresh < 50 * 1000
        shrunk(directory, 1.3 * fresh + 11_000)
        before = set(map(str, life.worker.table.entries(N)))
    with Life(directory) as life:
        assert set(map(str, life.worker.table.entries(N))) == before

"""The table on disk, whatever happened to it."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ovs_l2pop.agent import store as module
from ovs_l2pop.agent.store import FILE_NAME, Store
from ovs_l2pop.core.errors import ConfigError

HEAD = b'{"method":"table_format","format":1}\n'


def content(directory: Path) -> bytes:
    return (directory / FILE_NAME).read_bytes()


def reopened(directory: Path) -> list[Any]:
    store = Store(directory)
    messages = list(store.load())
    store.close()
    return messages


def reopened_by_another(directory: Path) -> list[Any]:
    """What is on disk, without taking the lock."""
    return [json.loads(line) for line in content(directory).splitlines()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ovs-l2pop"


def test_nothing_yet(directory: Path) -> None:
    assert reopened(directory) == []


def test_what_is_appended_survives(directory: Path) -> None:
    store = Store(directory)
    store.append([b'{"a":1}', b'{"b":"\xc3\xa4"}'])
    store.append([])
    store.append([b"[2]"])
    store.close()
    assert reopened(directory) == [{"a": 1}, {"b": "ä"}, [2]]


def test_what_is_kept_is_on_disk_before_anything_is_acknowledged(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []  # what the file had whenever it was forced to the disk
    sync = os.fdatasync

    def fdatasync(fd: int) -> None:
        sync(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").read_bytes())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    store = Store(directory)
    store.append([b"1"])
    assert synced[-1] == b"1\n"
    store.rewrite([{"a": 1}])
    assert synced[-1] == HEAD + b'{"a":1}\n'
    store.append([b"2"])
    assert synced[-1] == content(directory)
    store.close()


def test_what_is_appended_survives_a_kill(directory: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from ovs_l2pop.agent.store import Store;"
        "store = Store(Path(sys.argv[1])); store.append([b'1', b'2']);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(directory)], check=False)
    assert killed.returncode == -9
    assert reopened(directory) == [1, 2]


@pytest.mark.parametrize("torn", [b"{", b'{"a":1}', b"\x00\x00", b'"\xc3'])
def test_last_line_that_was_being_written(directory: Path, torn: bytes) -> None:
    """It is left out and told, and what comes after it is whole again."""
    store = Store(directory)
    store.append([b"1", b"2"])
    store.close()
    with (directory / FILE_NAME).open("ab") as file:
        file.write(torn)
    store = Store(directory)
    assert list(store.load()) == [1, 2]
    store.append([b"3"])
    store.close()
    assert reopened(directory) == [1, 2, 3]


@pytest.mark.parametrize(
    "garbage", [b"no json", b"{", b"\x00\xff\xfe", b"", b'"\xff"', b"[" * 3000, b"1" * 5000]
)
def test_garbage_in_the_middle(directory: Path, garbage: bytes) -> None:
    store = Store(directory)
    store.append([b"1", garbage, b"2"])
    assert list(store.load()) == [1, 2]
    store.close()


def test_rewrite(directory: Path) -> None:
    store = Store(directory)
    store.append([b"1"] * 10)
    store.rewrite({"n": n} for n in range(3))
    store.append([b"7"])
    store.close()
    assert content(directory) == HEAD + b'{"n":0}\n{"n":1}\n{"n":2}\n7\n'


def test_rewrite_that_fails_leaves_the_old_file(directory: Path) -> None:
    def messages() -> Any:
        yield {"n": 1}
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(directory)
    store.append([b"1"])
    with pytest.raises(OSError, match="No space"):
        store.rewrite(messages())
    store.append([b"2"])
    store.close()
    assert reopened(directory) == [1, 2]


def test_left_over_of_an_interrupted_rewrite(directory: Path) -> None:
    store = Store(directory)
    (directory / "table.new").write_bytes(b"half a l")
    store.rewrite([{"n": 1}])
    store.close()
    assert reopened(directory) == [{"n": 1}]
    assert sorted(path.name for path in directory.iterdir()) == ["lock", FILE_NAME]


def test_full_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be written of a line is taken back: it would spoil the next one."""
    store = Store(directory)
    store.append([b"1"])

    def half(fd: int, data: bytes) -> None:
        os.write(fd, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", half)
        with pytest.raises(OSError, match="No space"):
            store.append([b'{"lost": true}'])
    assert reopened_by_another(directory) == [1]
    store.append([b"2"])  # with what could not be kept before
    store.close()
    assert reopened(directory) == [1, {"lost": True}, 2]


class Gate:
    """Messages that come when they are let."""

    def __init__(self, *messages: Any, error: Exception | None = None) -> None:
        self.open = threading.Event()
        self._messages, self._error = messages, error

    def __iter__(self) -> Iterator[Any]:
        yield from self._messages[:1]
        assert self.open.wait(10)
        yield from self._messages[1:]
        if self._error is not None:
            raise self._error


def ended(store: Store) -> bool:
    """Wait for the successor; whether it is in place."""
    deadline = time.monotonic() + 10
    while store.succeeding:
        assert time.monotonic() < deadline
        if store.succeeded():
            return True
        time.sleep(0.001)
    return False


def test_a_successor_has_what_came_meanwhile(directory: Path) -> None:
    store = Store(directory)
    store.append([b'"old"', b'"as well"'])
    gate = Gate({"n": 1}, {"n": 2})
    store.succeed(gate)
    store.succeed([{"n": 7}])  # one is on its way
    store.append([b'"during"'])
    assert not store.succeeded()
    assert reopened_by_another(directory) == ["old", "as well", "during"]
    gate.open.set()
    assert ended(store)
    assert store.intact
    store.append([b'"after"'])
    assert reopened_by_another(directory)[1:] == [{"n": 1}, {"n": 2}, "during", "after"]
    store.close()
    assert reopened(directory) == [{"n": 1}, {"n": 2}, "during", "after"]


@pytest.mark.parametrize("how", ["close", "rewrite"])
def test_a_successor_that_is_not_wanted_any_more(directory: Path, how: str) -> None:
    store = Store(directory)
    store.append([b'"old"'])
    gate = Gate({"n": 1}, {"n": 2})
    store.succeed(gate)
    threading.Timer(0.1, gate.open.set).start()
    if how == "rewrite":
        store.rewrite([{"n": 3}])
        assert not store.succeeded()
        store.append([b'"after"'])
    store.close()
    assert {path.name for path in directory.iterdir()} == {FILE_NAME, "lock"}
    assert reopened(directory) == ([{"n": 3}, "after"] if how == "rewrite" else ["old"])


def test_a_successor_that_fails_leaves_the_file(directory: Path) -> None:
    store = Store(directory)
    store.append([b'"old"'])
    gate = Gate({"n": 1}, error=OSError(28, "No space left on device"))
    store.succeed(gate)
    gate.open.set()
    with pytest.raises(OSError, match="No space"):
        ended(store)
    assert store.intact
    store.append([b'"after"'])
    assert not list(directory.glob("*.next"))
    store.close()
    assert reopened(directory) == ["old", "after"]


def test_no_successor_of_a_file_that_lacks_something(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be kept comes once more: the successor would have it twice."""
    store = Store(directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", mock.Mock(side_effect=OSError(5, "I/O error")))
        with pytest.raises(OSError, match="I/O"):
            store.append([b'"owed"'])
    store.succeed([{"n": 1}])
    assert not store.succeeding
    store.append([])
    gate = Gate({"n": 1})
    store.succeed(gate)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", mock.Mock(side_effect=OSError(5, "I/O error")))
        with pytest.raises(OSError, match="I/O"):
            store.append([b'"owed too"'])
    gate.open.set()
    with pytest.raises(OSError, match="not as it was left"):
        ended(store)
    store.append([])
    store.close()
    assert reopened(directory) == ["owed", "owed too"]


def test_what_was_interrupted_is_cleared_away(directory: Path) -> None:
    directory.mkdir(parents=True)
    left = directory / "table.next"
    left.write_text("{half")
    store = Store(directory)
    store.rewrite([{"n": 1}])
    assert not left.exists()
    store.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read(directory: Path) -> None:
    mask = os.umask(0)
    try:
        store = Store(directory)
        store.rewrite([{"n": 1}])
        store.close()
    finally:
        os.umask(mask)
    assert mode(directory) == 0o700
    assert {path.name: mode(path) for path in directory.iterdir()} == {
        FILE_NAME: 0o600,
        "lock": 0o600,
    }


def test_one_agent_at_a_time(directory: Path) -> None:
    first = Store(directory)
    for _ in range(3):
        with pytest.raises(ConfigError, match=f"state_path {directory} is in use by another agent"):
            Store(directory)
    first.close()
    Store(directory).close()


def test_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state_path .*: .*Not a directory"):
        Store(tmp_path / "file" / "state")


def test_directory_in_the_files_place_is_moved_aside(directory: Path) -> None:
    (directory / FILE_NAME / "inside").mkdir(parents=True)
    store = Store(directory)
    assert list(store.load()) == []
    store.loaded()
    assert store.lost
    assert store.copy
    assert (store.copy / "inside").is_dir()
    store.append([b"1"])
    store.close()
    assert content(directory) == b"1\n"


# -- damage ------------------------------------------------------------------------------------


def damaged(directory: Path, data: bytes) -> Store:
    """A store that was opened, read and told of this content."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE_NAME).write_bytes(data)
    store = Store(directory)
    list(store.load())
    store.loaded()
    return store


@pytest.mark.parametrize(
    "data",
    [
        b"1\n" + bytes(4096),
        HEAD + b'{"a":1}\n{"b":\n',
        b"\xff\xfe\n" * 3,
        HEAD.replace(b"1", b"2") + b"1\n",
        b"1\n{",
    ],
)
def test_a_damaged_file_is_kept_and_told(directory: Path, data: bytes) -> None:
    store = damaged(directory, data)
    assert store.lost
    assert store.copy
    store.rewrite([{"n": 1}])
    store.append([b"2"])
    assert store.copy.read_bytes() == data
    assert mode(store.copy) == 0o600
    store.close()
    assert reopened(directory) == [{"n": 1}, 2]


def test_a_line_without_end(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LINE", 100)
    directory.mkdir(parents=True)
    (directory / FILE_NAME).write_bytes(b"1\n" + b"x" * 1000 + b"\n2\n" + b"y" * 1000)
    store = Store(directory)
    assert list(store.load()) == [1, 2]
    store.close()


def test_copies_are_few(directory: Path) -> None:
    directory.mkdir(parents=True)
    for number in range(9):
        (directory / f"{FILE_NAME}.damaged-2020010{number}T000000Z").write_text("")
    damaged(directory, b"{").close()
    names = sorted(path.name for path in directory.glob(f"{FILE_NAME}.damaged-*"))
    assert len(names) == 5
    assert names[0].endswith("20200105T000000Z")


@pytest.mark.parametrize(
    ("data", "lost"), [(None, True), (b"", True), (HEAD, False), (b"1\n", False)]
)
def test_a_table_that_is_empty_is_not_one_that_is_gone(
    directory: Path, data: bytes | None, lost: bool
) -> None:
    directory.mkdir(parents=True)
    if data is not None:
        (directory / FILE_NAME).write_bytes(data)
    store = Store(directory)
    list(store.load())
    store.loaded()
    assert bool(store.lost) is lost
    store.close()


def test_what_is_not_all_is_known_to_the_next(directory: Path) -> None:
    store = damaged(directory, HEAD)
    store.mark("the disk was full")
    store.close()
    store = damaged(directory, HEAD)
    assert store.lost == "when the agent last ran: the disk was full"
    store.mark(None)
    store.close()
    assert damaged(directory, HEAD).lost is None


def test_an_old_lock_that_was_taken_away_lets_no_second_agent_in(directory: Path) -> None:
    first = Store(directory)
    (directory / "lock").unlink()
    noticed = not first.intact
    first.rewrite([])
    assert (noticed, first.intact) == (True, True)
    with pytest.raises(ConfigError, match="in use by another agent"):
        Store(directory)
    (directory / "lock").unlink()
    second = Store(directory)
    with pytest.raises(OSError, match="another agent uses"):
        first.rewrite([])
    first.close()
    second.close()

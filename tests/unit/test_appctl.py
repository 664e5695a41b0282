"""Commands to ovs-vswitchd over a socket that answers late, in pieces, or not at all."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_l2pop.backends.openvswitch.appctl import Appctl
from ovs_l2pop.core.errors import BackendError


class FakeVswitchd:
    """Answers on a socket what it is told to."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(5)
        self._connections: list[socket.socket] = []

    def answer(self, *pieces: bytes) -> threading.Thread:
        """To the next command, from another thread."""
        thread = threading.Thread(target=self._answer, args=(pieces,))
        thread.start()
        return thread

    def send(self, data: bytes) -> None:
        self._connections[-1].sendall(data)

    def _answer(self, pieces: tuple[bytes, ...]) -> None:
        if not self._connections:
            self._connections.append(self._listener.accept()[0])
        connection = self._connections[-1]
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
        if not pieces:
            self._connections.pop().close()

    def stop(self) -> None:
        for connection in (self._listener, *self._connections):
            connection.close()


@pytest.fixture
def vswitchd(tmp_path: Path) -> Iterator[FakeVswitchd]:
    fake = FakeVswitchd(tmp_path / "ovs-vswitchd.ctl")
    yield fake
    fake.stop()


@pytest.fixture
def appctl(tmp_path: Path) -> Iterator[Appctl]:
    appctl = Appctl(tmp_path)
    yield appctl
    appctl.close()


def reply(number: int, result: object = None, error: object = None) -> bytes:
    return json.dumps({"id": number, "result": result, "error": error}).encode()


def test_answer_in_pieces(vswitchd: FakeVswitchd, appctl: Appctl) -> None:
    whole = reply(1, 'a "}" in it }')
    thread = vswitchd.answer(whole[:20], whole[20:-1], whole[-1:])
    assert appctl.command("x", timeout=10) == 'a "}" in it }'
    thread.join()


def test_refusal(vswitchd: FakeVswitchd, appctl: Appctl) -> None:
    thread = vswitchd.answer(reply(1, error="no such bridge\n"))
    with pytest.raises(BackendError, match=r"ovs-vswitchd, x: no such bridge$"):
        appctl.command("x")
    thread.join()


def test_answer_that_comes_too_late(vswitchd: FakeVswitchd, appctl: Appctl) -> None:
    """It isn't taken for that to the next command, and the switch keeps its reader."""
    thread = vswitchd.answer(b" ")
    with pytest.raises(BackendError, match=r"no answer in 0\.01 s"):
        appctl.command("x", timeout=0.01)
    thread.join()
    vswitchd.send(reply(1, "late"))
    thread = vswitchd.answer(reply(2, "in time"))
    assert appctl.command("y", timeout=10) == "in time"
    thread.join()


def test_connection_that_ends(vswitchd: FakeVswitchd, appctl: Appctl) -> None:
    thread = vswitchd.answer()
    with pytest.raises(BackendError, match="x: "):
        appctl.command("x")
    thread.join()
    thread = vswitchd.answer(reply(2, "again"))
    assert appctl.command("x", timeout=10) == "again"
    thread.join()


def test_nobody_there(appctl: Appctl) -> None:
    with pytest.raises(BackendError, match=r"no ovs-vswitchd\*\.ctl"):
        appctl.command("x")


@pytest.mark.parametrize("data", [b"[1]}", b"17", b"\xff}"])
def test_no_answer_of_ours(vswitchd: FakeVswitchd, appctl: Appctl, data: bytes) -> None:
    thread = vswitchd.answer(data)
    with pytest.raises(BackendError):
        appctl.command("x", timeout=0.1)
    thread.join()

"""The far end of a management socket: enough of a switch to answer, or to misbehave."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, EXPERIMENTER = 0, 1, 2, 3, 4
FLOW_MOD, GROUP_MOD, METER_MOD = 14, 15, 29
MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
OPEN, COMMIT = 0, 4
ONF = 0x4F4E4600
OPENFLOW_13 = struct.pack("!HHI", 1, 8, 1 << 4)  # the element of a hello

Inner = tuple[int, bytes]  # (type, body) of a message in a bundle


def message(kind: int, xid: int, body: bytes = b"", version: int = 4) -> bytes:
    return struct.pack("!BBHI", version, kind, 8 + len(body), xid) + body


class FakeSwitch:
    """Answers one connection in a thread. Attributes say how, before the connection is made.

    As Open vSwitch does, it leaves a message that it can't read out of the bundle, and executes
    none of a bundle that holds one which it can't execute.
    """

    def __init__(self, path: Path) -> None:
        self.hello = message(HELLO, 1, OPENFLOW_13)
        #: Bytes that are sent at a time; None: all at once.
        self.piece: int | None = None
        #: What is sent before each answer.
        self.before_answers = b""
        #: What is wrong with a message, where it can't be read or can't be executed: (type, code).
        self.unreadable: Callable[[Inner], tuple[int, int] | None] = lambda inner: None
        self.refuses: Callable[[Inner], tuple[int, int] | None] = lambda inner: None
        self.refuses_open: tuple[int, int] | None = None
        self.refuses_commit: tuple[int, int] | None = None
        #: Bodies of multipart replies by their type, or an error.
        self.replies: dict[int, list[bytes] | tuple[int, int]] = {}
        #: Messages until the connection is closed; None: it is not.
        self.closes_after: int | None = None
        #: Messages after which nothing is read any more, with the connection left open.
        self.deaf_after: int | None = None
        #: Sent instead of the first answer, and then the connection is closed.
        self.instead: bytes | None = None

        self.received: list[tuple[int, int, bytes]] = []  # (type, xid, body)
        #: Bundles that were executed, but for empty ones.
        self.bundles: list[list[Inner]] = []
        #: Messages that were executed outside of a bundle.
        self.singles: list[Inner] = []
        self._pending: dict[int, list[tuple[int, Inner]]] = {}
        self._done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(5)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def executed(self) -> list[Inner]:
        return [inner for bundle in self.bundles for inner in bundle] + self.singles

    def read_all(self) -> None:
        """Wait until all is read of who has closed the connection."""
        self._thread.join(5)

    def stop(self) -> None:
        self._done.set()
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        # Who connects may go away at any time.
        with contextlib.suppress(OSError), self._listener.accept()[0] as self._connection:
            self._connection.settimeout(0.05)
            self._send(self.hello)
            buffer = b""
            while not self._done.is_set() and not self._closes():
                if self.deaf_after is not None and len(self.received) >= self.deaf_after:
                    self._done.wait(5)
                    return
                while len(buffer) < 8 or len(buffer) < int.from_bytes(buffer[2:4], "big"):
                    try:
                        data = self._connection.recv(65536)
                    except TimeoutError:
                        if self._done.is_set():
                            return
                        continue
                    if not data:
                        return
                    buffer += data
                length = int.from_bytes(buffer[2:4], "big")
                whole, buffer = buffer[:length], buffer[length:]
                self.received.append((whole[1], int.from_bytes(whole[4:8], "big"), whole[8:]))
                if not self._answer(*self.received[-1]):
                    return

    def _closes(self) -> bool:
        return self.closes_after is not None and len(self.received) >= self.closes_after

    def _answer(self, kind: int, xid: int, body: bytes) -> bool:
        if kind == MULTIPART_REQUEST or (kind == EXPERIMENTER and self._control(body) == COMMIT):
            self._send(self.before_answers)
            if self.instead is not None:
                self._send(self.instead)
                return False
        if kind == MULTIPART_REQUEST:
            self._multipart(xid, body)
        elif kind == EXPERIMENTER:
            self._experimenter(xid, body)
        elif kind in (FLOW_MOD, GROUP_MOD, METER_MOD):
            inner = (kind, body)
            if (error := self.unreadable(inner) or self.refuses(inner)) is not None:
                self._error(xid, error)
            else:
                self.singles.append(inner)
        return True

    @staticmethod
    def _control(body: bytes) -> int | None:
        _, kind, _, control, _ = struct.unpack_from("!IIIHH", body)
        return control if kind == 2300 else None

    def _experimenter(self, xid: int, body: bytes) -> None:
        experimenter, kind, bundle, control, flags = struct.unpack_from("!IIIHH", body)
        assert experimenter == ONF
        assert flags == 3  # atomic, ordered
        if kind == 2301:
            version, inner_kind, length, inner_xid = struct.unpack_from("!BBHI", body, 16)
            assert (version, length, inner_xid) == (4, len(body) - 16, xid)
            inner = (inner_kind, body[24:])
            if bundle not in self._pending:
                self._error(xid, (0xFFFF, 4))
            elif (error := self.unreadable(inner)) is not None:
                self._error(xid, error)
            else:
                self._pending[bundle].append((xid, inner))
        elif control == OPEN:
            if self.refuses_open is not None:
                self._error(xid, self.refuses_open)
                return
            self._pending[bundle] = []
            self._send(message(EXPERIMENTER, xid, body[:12] + b"\x00\x01\x00\x03"))
        else:
            assert control == COMMIT
            self._commit(xid, body, self._pending.pop(bundle, None))

    def _commit(self, xid: int, body: bytes, listed: list[tuple[int, Inner]] | None) -> None:
        if self.refuses_commit is not None or listed is None:
            self._error(xid, self.refuses_commit or (0xFFFF, 4))
            return
        for inner_xid, inner in listed:
            if (error := self.refuses(inner)) is not None:
                self._error(inner_xid, error)
                self._error(xid, (0xFFFF, 9))
                return
        if listed:
            self.bundles.append([inner for _, inner in listed])
        self._send(message(EXPERIMENTER, xid, body[:12] + b"\x00\x05\x00\x03"))

    def _multipart(self, xid: int, body: bytes) -> None:
        kind = int.from_bytes(body[:2], "big")
        replies = self.replies.get(kind, [])
        if isinstance(replies, tuple):
            self._error(xid, replies)
            return
        replies = replies or [b""]
        for number, reply in enumerate(replies):
            more = number < len(replies) - 1
            head = struct.pack("!HHxxxx", kind, more)
            self._send(message(MULTIPART_REPLY, xid, head + reply))

    def _error(self, xid: int, error: tuple[int, int]) -> None:
        self._send(message(ERROR, xid, struct.pack("!HH", *error) + bytes(12)))

    def _send(self, data: bytes) -> None:
        size = self.piece or max(len(data), 1)
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            while piece and not self._done.is_set():
                try:
                    piece = piece[self._connection.send(piece) :]
                except TimeoutError:
                    continue
            if self.piece:
                time.sleep(0)  # let the reader see it on its own

"""How OpenFlow bytes get to a bridge and back: the management socket.

Every bridge listens on ``<rundir>/<bridge>.mgmt`` for its owner, with no controller configured and
no TCP port. The OpenFlow libraries' controllers can't drive a unix socket (they assert an IP
address), so hello, echo and framing are here.
"""

import contextlib
import selectors
import socket
import struct
import time
from typing import Protocol

from ovs_l2pop.backends.openvswitch.codec import OFP_VERSION
from ovs_l2pop.core.errors import BackendError

#: version, type, length, xid (openflow-spec-v1.3 7.1)
HEADER = struct.Struct("!BBHI")
_HELLO, _ERROR, _ECHO_REQUEST, _ECHO_REPLY = 0, 1, 2, 3

Received = tuple[int, int, bytes]  #: (type, xid, body)


class Transport(Protocol):
    """A connection to one bridge that has said hello. Used by one thread.

    Every method raises :class:`BackendError` once the connection is lost.
    """

    name: str  #: for people
    first_xid: int  #: the quarter of all xids from here on is for the messages sent here
    pushes: bool  #: what the switch tells unasked arrives as well

    def send(self, data: bytes) -> None:
        """Pass on whole OpenFlow messages."""

    def receive(self, timeout: float) -> Received | None:
        """The next message; None where none came in time (seconds, 0 for not waiting)."""

    def fileno(self) -> int:
        """A descriptor that is readable when something came; -1: none."""

    def close(self) -> None:
        """End the connection."""


class VersionError(BackendError):
    """The switch is there and has no OpenFlow version in common with us."""


def _offers(wanted: int, version: int, hello: bytes) -> bool:
    """Whether a hello offers a version of OpenFlow (openflow-spec-v1.3.5 6.3.1, 7.5.1)."""
    while len(hello) >= 8:
        kind, length, bitmap = struct.unpack_from("!HHI", hello)
        if kind == 1 and length >= 8:
            return bool(bitmap >> wanted & 1)
        hello = hello[max(8, (length + 7) // 8 * 8) :]
    return version >= wanted


class ManagementSocket:
    """The socket on which every bridge listens for its owner.

    :param path: of the socket.
    :param timeout: seconds without any sign of life after which the switch counts as gone.
    :param version: of OpenFlow, as the wire has it.
    :raises BackendError: no connection.
    :raises VersionError: there is one, and it can't be used.
    """

    pushes = True

    def __init__(self, path: str, timeout: float = 10.0, version: int = OFP_VERSION) -> None:
        self.name = path
        self._version = version
        self.first_xid = 0
        self._timeout = timeout
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise BackendError(f"{path}: {error.strerror or error}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        # Hello with a version bitmap (element 1): this one and nothing else.
        hello = struct.pack("!HHI", 1, 8, 1 << version)
        self.send(HEADER.pack(version, _HELLO, 8 + len(hello), 0) + hello)
        answer = self.receive(timeout)
        if answer is None:
            raise self._lost("no hello")
        if answer[0] != _HELLO:
            raise self._no_version()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # What is left unread would look to the switch as if we had died.
            while self._socket.recv(1 << 16):
                pass
        self._selector.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write all. Reads as well while the switch does not take more: it may be blocked on us."""
        view = memoryview(data)
        moved = time.monotonic()
        while view:
            try:
                view = view[self._socket.send(view) :]
                moved = time.monotonic()
            except BlockingIOError:
                if time.monotonic() - moved >= self._timeout:
                    raise self._lost("takes nothing any more") from None
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                if self._ready(both, self._timeout) & selectors.EVENT_READ:
                    self._fill()
            except OSError as error:
                raise self._lost(error.strerror or str(error)) from error

    def receive(self, timeout: float) -> Received | None:
        deadline = time.monotonic() + timeout
        while (message := self._pop()) is None:
            if not self._readable(max(0.0, deadline - time.monotonic())):
                return None
            self._fill()
        return message

    def _readable(self, timeout: float) -> bool:
        if self._socket.fileno() < 0:
            raise BackendError(f"{self.name}: closed")
        return bool(self._ready(selectors.EVENT_READ, timeout))

    def _ready(self, events: int, timeout: float) -> int:
        """Which of ``events`` there are, trouble being all; 0 if none came in time."""
        self._selector.modify(self._socket, events)
        return next((came for _, came in self._selector.select(timeout)), 0)

    def _fill(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        if not data:
            raise self._lost("the switch closed the connection")
        self._buffer += data

    def _pop(self) -> Received | None:
        """The next whole message; echo requests are answered on the way."""
        while len(self._buffer) >= HEADER.size:
            version, kind, length, xid = HEADER.unpack_from(self._buffer)
            if length < HEADER.size:
                raise self._lost(f"sent a message of {length} bytes")
            if version != self._version and kind not in (_HELLO, _ERROR):
                raise self._lost(f"sent a message of OpenFlow version {version:#x}")
            if len(self._buffer) < length:
                break
            body = bytes(self._buffer[HEADER.size : length])
            del self._buffer[:length]
            if kind == _HELLO and not _offers(self._version, version, body):
                raise self._no_version()
            if kind != _ECHO_REQUEST:
                return kind, xid, body
            self.send(HEADER.pack(self._version, _ECHO_REPLY, 8 + len(body), xid) + body)
        return None

    def _lost(self, reason: str) -> BackendError:
        with contextlib.suppress(OSError):
            self.close()
        return BackendError(f"{self.name}: {reason}")

    def _no_version(self) -> VersionError:
        number = f"1.{self._version - 1}"
        text = f"the bridge doesn't speak OpenFlow {number}; add OpenFlow1{self._version - 1} to"
        return VersionError(str(self._lost(f"{text} its protocols")))

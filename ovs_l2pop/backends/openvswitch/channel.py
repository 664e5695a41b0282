"""OpenFlow 1.3 over the bridge's management socket.

Every bridge listens on ``<rundir>/<bridge>.mgmt`` for its owner, with no controller configured and
no TCP port. The OpenFlow libraries' controllers can't drive a unix socket (they assert an IP
address), so hello, echo, barrier, bundle and multipart framing is here.

Not for concurrent use: the reconciler's thread owns the channel.
"""

import contextlib
import itertools
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ovs_l2pop.backends.openvswitch.codec import OFP_VERSION
from ovs_l2pop.errors import BackendError

_HEADER = struct.Struct("!BBHI")
_HELLO, _ERROR, _ECHO_REQUEST, _ECHO_REPLY, _EXPERIMENTER = 0, 1, 2, 3, 4
_MULTIPART_REQUEST, _MULTIPART_REPLY, _BARRIER_REQUEST, _BARRIER_REPLY = 18, 19, 20, 21

# ONF extension 230, bundles for OpenFlow 1.3: experimenter ONF, its types 2300 and 2301.
_ONF = 0x4F4E4600
_BUNDLE_CONTROL, _BUNDLE_ADD = 2300, 2301
_BUNDLE_HEAD = struct.Struct("!IIIHH")  # experimenter, type, bundle id, control type, flags
_BUNDLE_ADD_HEAD = struct.Struct("!BBHIIIIxxH")  # header, experimenter, type, bundle id, flags
_OPEN, _COMMIT, _DISCARD = 0, 4, 6  # ONF_BCT_*; the reply to each is one more
_ATOMIC_ORDERED = 3

#: Messages in one bundle. Open vSwitch before 2.14 needs 3.5 GB for 65,000.
BUNDLE_SIZE = 10_000

#: OFPMT_OFB_* of multipart: individual flow statistics, group descriptions.
_FLOW_STATS, _GROUP_DESC = 1, 7
_MORE = 1  # OFPMPF_REPLY_MORE

Message = tuple[int, bytes]  #: (type, body)


class Refused(NamedTuple):
    """A message that the switch did not take."""

    place: int  #: among the messages that were handed in
    reason: str


class _Bundle:
    """One bundle on its way: its messages have the xids after ``xid``, its commit the next."""

    def __init__(self, xid: int, messages: list[tuple[int, Message]]) -> None:
        self.xid = xid
        self.messages = messages
        self.errors: dict[int, str] = {}
        self.rejected: str | None = None  #: why, where it was the bundle's opening or commit
        #: Executed all the same: a message that the switch can't even read is not in the bundle.
        self.applied = False

    def blame(self, xid: int, reason: str) -> None:
        """An error came for this xid: of a message, or of the bundle's opening or commit."""
        index = xid - self.xid - 1
        if 0 <= index < len(self.messages):
            self.errors[self.messages[index][0]] = reason
        elif index in (-1, len(self.messages)):
            self.rejected = self.rejected or reason


class Channel:
    """A connection to one bridge.

    :param path: the bridge's management socket.
    :param timeout: seconds without any answer after which the switch counts as gone.
    :raises BackendError: no connection, also from every method once it is lost.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._xid = 0
        self._bundle = 0
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._socket.setblocking(False)
            # Hello with a version bitmap (element 1): 1.3 and nothing else.
            self._send(self._frame(_HELLO, struct.pack("!HHI", 1, 8, 1 << OFP_VERSION)))
            kind, _, body = self._receive()
        except OSError as error:
            self._socket.close()
            raise BackendError(f"{path}: {error.strerror or error}") from error
        if kind != _HELLO:
            self._socket.close()
            raise BackendError(f"{path}: {_NO_COMMON_VERSION}: {_error_text(body)}")

    def close(self) -> None:
        self._socket.close()

    def poll(self) -> None:
        """Answer what the switch asked in the meantime; notice that it went away."""
        while self._readable(0):
            self._fill()
            while self._pop() is not None:
                pass

    def write(self, messages: Iterable[Message]) -> list[Refused]:
        """Send flow-mods and group-mods in atomic bundles, in this order.

        Returns when the switch has executed them (each bundle's commit is answered, and OVS
        applies it before it answers). A bundle that holds a refused message is not applied; it is
        tried again without it.

        :returns: what was refused, by place in ``messages``.
        """
        if self._xid > 0x40000000:  # xids are 32 bits; a batch is far less than the rest
            self._xid = 0
        refused: list[Refused] = []
        rejected = self._write_bundles(enumerate(messages))
        while rejected:
            again: list[tuple[int, Message]] = []
            for bundle in rejected:
                if not bundle.errors:  # no culprit named: nothing in it can be told apart
                    reason = f"bundle refused: {bundle.rejected}"
                    bundle.errors = {place: reason for place, _ in bundle.messages}
                refused += [Refused(place, reason) for place, reason in bundle.errors.items()]
                if bundle.applied:
                    continue
                again += [item for item in bundle.messages if item[0] not in bundle.errors]
            rejected = self._write_bundles(iter(again))
        return refused

    def flows(self, cookie: int) -> Iterator[bytes]:
        """Bodies of flow statistics replies: all flows of a cookie in all tables."""
        head = struct.pack("!BxxxIIxxxxQQ", 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, cookie, 2**64 - 1)
        return self._multipart(_FLOW_STATS, head + bytes.fromhex("0001000400000000"))

    def groups(self) -> Iterator[bytes]:
        """Bodies of group description replies: all groups of the bridge."""
        return self._multipart(_GROUP_DESC, b"")

    # -- bundles ---------------------------------------------------------------------------

    def _write_bundles(self, pending: Iterator[tuple[int, Message]]) -> list["_Bundle"]:
        """Send all in bundles, one behind the other; those that were refused.

        Nothing waits for an answer before all is sent: the switch works while we still write,
        and while ``pending`` is still being made.
        """
        bundles: dict[int, _Bundle] = {}  # not answered yet, by xid of the commit
        rejected: list[_Bundle] = []

        def answered() -> None:
            while (message := self._pop()) is not None:
                kind, xid, body = message
                if kind == _ERROR:
                    for bundle in bundles.values():
                        bundle.blame(xid, _error_text(body))
                if xid in bundles and kind in (_ERROR, _EXPERIMENTER):
                    ended = bundles.pop(xid)
                    ended.applied = kind == _EXPERIMENTER
                    if ended.errors or not ended.applied:
                        rejected.append(ended)

        while chunk := list(itertools.islice(pending, BUNDLE_SIZE)):
            self._bundle += 1
            out = [self._bundle_control(self._bundle, _OPEN)]
            bundle = _Bundle(self._xid, chunk)
            out += self._bundle_adds(self._bundle, [message for _, message in chunk])
            out.append(self._bundle_control(self._bundle, _COMMIT))
            bundles[self._xid] = bundle
            self._send(b"".join(out))
            answered()
        while bundles:
            self._wait()
            answered()
        return rejected

    def _bundle_control(self, bundle: int, control: int) -> bytes:
        head = _BUNDLE_HEAD.pack(_ONF, _BUNDLE_CONTROL, bundle, control, _ATOMIC_ORDERED)
        return self._frame(_EXPERIMENTER, head)

    def _bundle_adds(self, bundle: int, messages: list[Message]) -> list[bytes]:
        out, xid = [], self._xid
        pack_outer, pack_inner = _BUNDLE_ADD_HEAD.pack, _HEADER.pack
        for kind, body in messages:
            xid += 1
            size = 8 + len(body)
            if size + 24 > 0xFFFF:
                raise BackendError(f"an OpenFlow message of {size} bytes is over its 64 KiB")
            # The inner message has the outer one's xid.
            out.append(
                pack_outer(
                    OFP_VERSION,
                    _EXPERIMENTER,
                    24 + size,
                    xid,
                    _ONF,
                    _BUNDLE_ADD,
                    bundle,
                    _ATOMIC_ORDERED,
                )
            )
            out.append(pack_inner(OFP_VERSION, kind, size, xid))
            out.append(body)
        self._xid = xid
        return out

    # -- multipart ---------------------------------------------------------------------------

    def _multipart(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._send(self._frame(_MULTIPART_REQUEST, struct.pack("!HHxxxx", kind, 0) + body))
        wanted = self._xid
        more = True
        while more:
            reply, xid, payload = self._receive()
            if xid != wanted:
                continue
            if reply == _ERROR:
                raise BackendError(f"{self._path}: read refused: {_error_text(payload)}")
            if reply == _MULTIPART_REPLY:
                if len(payload) < 8:
                    raise self._lost(f"sent a multipart reply of {len(payload)} bytes")
                more = bool(int.from_bytes(payload[2:4], "big") & _MORE)
                yield payload[8:]

    # -- the byte stream -----------------------------------------------------------------------

    def _frame(self, kind: int, body: bytes) -> bytes:
        self._xid += 1
        return _HEADER.pack(OFP_VERSION, kind, 8 + len(body), self._xid) + body

    def _send(self, data: bytes) -> None:
        """Write all. Reads as well while the switch does not take more: it may be blocked on us."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                readable, writable, _ = select.select(
                    [self._socket], [self._socket], [], self._timeout
                )
                if readable:
                    self._fill()
                if not readable and not writable:
                    raise self._lost("takes nothing any more") from None
            except OSError as error:
                raise self._lost(str(error)) from error

    def _receive(self) -> tuple[int, int, bytes]:
        while (message := self._pop()) is None:
            self._wait()
        return message

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout
        while not self._readable(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise self._lost(f"no answer in {self._timeout:g} s")
        self._fill()

    def _readable(self, timeout: float) -> bool:
        if self._socket.fileno() < 0:
            raise BackendError(f"{self._path}: closed")
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _fill(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost(str(error)) from error
        if not data:
            raise self._lost("the switch closed the connection")
        self._buffer += data

    def _pop(self) -> tuple[int, int, bytes] | None:
        """The next whole message as (type, xid, body); echo requests are answered on the way."""
        while len(self._buffer) >= _HEADER.size:
            version, kind, length, xid = _HEADER.unpack_from(self._buffer)
            if length < _HEADER.size:
                raise self._lost(f"sent a message of {length} bytes")
            if version != OFP_VERSION and kind not in (_HELLO, _ERROR):
                raise self._lost(f"sent a message of OpenFlow version {version:#x}")
            if len(self._buffer) < length:
                break
            body = bytes(self._buffer[_HEADER.size : length])
            del self._buffer[:length]
            if kind == _HELLO and not _offers_ours(version, body):
                raise self._lost(_NO_COMMON_VERSION)
            if kind != _ECHO_REQUEST:
                return kind, xid, body
            self._send(_HEADER.pack(OFP_VERSION, _ECHO_REPLY, 8 + len(body), xid) + body)
        return None

    def _lost(self, reason: str) -> BackendError:
        with contextlib.suppress(OSError):
            self._socket.close()
        return BackendError(f"{self._path}: {reason}")


def _offers_ours(version: int, hello: bytes) -> bool:
    """Whether a hello offers OpenFlow 1.3 (openflow-spec-v1.3.5 6.3.1, 7.5.1)."""
    while len(hello) >= 8:
        kind, length, bitmap = struct.unpack_from("!HHI", hello)
        if kind == 1 and length >= 8:
            return bool(bitmap >> OFP_VERSION & 1)
        hello = hello[max(8, (length + 7) // 8 * 8) :]
    return version >= OFP_VERSION


_NO_COMMON_VERSION = "the bridge doesn't speak OpenFlow 1.3; add OpenFlow13 to its protocols"

#: Error types and codes worth a name (openflow-spec-v1.3 7.4.4, ONF extension 230).
_ERROR_TYPES = {
    0: "hello failed",
    1: "bad request",
    2: "bad action",
    3: "bad instruction",
    4: "bad match",
    5: "flow-mod failed",
    6: "group-mod failed",
    0xFFFF: "bundle failed",
}
_ERROR_CODES = {
    (1, 5): "not permitted",
    (4, 9): "unmet prerequisite",
    (5, 1): "table full",
    (5, 2): "no such table",
    (5, 3): "overlap",
    (6, 0): "group exists",
    (6, 3): "out of groups",
    (6, 8): "no such group",
}


def _error_text(body: bytes) -> str:
    if len(body) < 4:
        return "error"
    kind, code = struct.unpack_from("!HH", body)
    name = _ERROR_TYPES.get(kind, f"error type {kind}")
    return f"{name}: {_ERROR_CODES.get((kind, code), f'code {code}')}"

"""OpenFlow 1.3 with one bridge: bundles that are written, flows and groups that are read.

The OpenFlow libraries build and read single messages; what is sent by the ten thousand is framed
here, and flows are returned as the bytes in which they came.
"""

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ovs_l2pop.backends.openvswitch.codec import OFP_VERSION
from ovs_l2pop.backends.openvswitch.rows import EMPTY_MATCH, METER_MOD
from ovs_l2pop.backends.openvswitch.transport import HEADER, Received, Transport
from ovs_l2pop.core.errors import BackendError

_ERROR, _EXPERIMENTER = 1, 4
_MULTIPART_REQUEST, _MULTIPART_REPLY = 18, 19

# ONF extension 187, flow monitoring for OpenFlow 1.3 (Open vSwitch 2.16 and later; struct
# nx_flow_monitor_request and nx_flow_update_full in its nicira-ext.h).
_FLOW_MONITOR = 1870
_MONITOR_HEAD = struct.Struct("!II")  # experimenter, type
_MONITOR_REQUEST = struct.Struct("!IHHIBxxxHHxxxx")  # id, flags, match length, port, table, match
_ABBREVIATED = 3
_ALL_CHANGES = 0x2 | 0x4 | 0x8  # in full where they are others', in brief where they are ours
_EVENT = struct.Struct("!HH")  # length, event
_COOKIE_AT = 16  # eight bytes

# ONF extension 230, bundles for OpenFlow 1.3: experimenter ONF, its types 2300 and 2301.
_ONF = 0x4F4E4600
_BUNDLE_CONTROL, _BUNDLE_ADD = 2300, 2301
_BUNDLE_HEAD = struct.Struct("!IIIHH")  # experimenter, type, bundle id, control type, flags
_BUNDLE_ADD_HEAD = struct.Struct("!BBHIIIIxxH")  # header, experimenter, type, bundle id, flags
_OPEN, _COMMIT = 0, 4  # ONF_BCT_*; the reply to each is one more
_ATOMIC_ORDERED = 3

#: Messages in one bundle. Open vSwitch before 2.14 needs 3.5 GB for 65,000.
BUNDLE_SIZE = 10_000

#: OFPMP_* of multipart: individual flow statistics, group descriptions, extensions.
_FLOW_STATS, _GROUP_DESC, _EXTENSION = 1, 7, 0xFFFF
_METER_STATS, _METER_CONFIG, _METER_FEATURES = 9, 10, 11
_ALL_METERS = 0xFFFFFFFF
_MORE = 1  # OFPMPF_REPLY_MORE

ALL_TABLES = 0xFF  # OFPTT_ALL

Message = tuple[int, bytes]  #: (type, body)


class RefusedReadError(BackendError):
    """The switch is there, and doesn't answer this."""


class Refused(NamedTuple):
    """A message that the switch did not take."""

    place: int  #: among the messages that were handed in
    reason: str


class _Bundle:
    """One bundle on its way: its messages have the xids after ``xid``, its commit the next.

    Meters that go before it have those up to ``xid``: no bundle takes them.
    """

    def __init__(self, chunk: list[tuple[int, Message]]) -> None:
        self.meters = [item for item in chunk if item[1][0] == METER_MOD]
        self.messages = [item for item in chunk if item[1][0] != METER_MOD]
        self.xid = 0
        self.errors: dict[int, str] = {}
        self.rejected: str | None = None  #: why, where it was the bundle's opening or commit
        #: Executed all the same: a message that the switch can't even read is not in the bundle.
        self.applied = False

    def blame(self, xid: int, reason: str) -> None:
        """An error came for this xid: of a message, or of the bundle's opening or commit."""
        index = xid - self.xid - 1
        if 0 <= index < len(self.messages):
            self.errors[self.messages[index][0]] = reason
        elif -1 - len(self.meters) <= index < -1:
            self.errors[self.meters[index + 1][0]] = reason
        elif index in (-1, len(self.messages)):
            self.rejected = self.rejected or reason


class Channel:
    """OpenFlow with one bridge.

    :param timeout: seconds without an answer after which the switch counts as gone.
    """

    def __init__(self, transport: Transport, timeout: float = 10.0) -> None:
        self._transport = transport
        self._timeout = timeout
        self._xid = transport.first_xid
        self._bundle = 0
        #: What to make of flows that others change, by cookie; None where it is not watched.
        self._matters: Callable[[int], bool] | None = None
        self._disturbed = False

    def close(self) -> None:
        self._transport.close()

    def fileno(self) -> int:
        return self._transport.fileno()

    def watch(self, matters: Callable[[int], bool]) -> bool:
        """Hear of flows that others change from now on, as far as the switch tells of that.

        :param matters: whether a flow that has this cookie, now or before, does.
        :returns: whether it does tell: Open vSwitch since 2.16, on a connection of our own.
        """
        if not self._transport.pushes:
            return False
        request = _MONITOR_REQUEST.pack(0, _ALL_CHANGES, 4, 0xFFFFFFFF, 0xFF, 1, 4)
        body = _MONITOR_HEAD.pack(_ONF, _FLOW_MONITOR) + request
        try:
            list(self._multipart(_EXTENSION, body))
        except RefusedReadError:
            return False
        self._matters = matters
        return True

    def poll(self) -> bool:
        """Notice that the switch went away.

        :returns: whether somebody else has changed flows that matter since the last poll.
        :raises BackendError: the switch is gone, as from every method.
        """
        self.drain()
        disturbed, self._disturbed = self._disturbed, False
        return disturbed

    def drain(self) -> None:
        """Take in what the switch has told unasked.

        :raises BackendError: it went away.
        """
        while self._next(0) is not None:
            pass

    def write(self, messages: Iterable[Message]) -> list[Refused]:
        """Send flow-mods and group-mods in atomic bundles, in this order, and meter-mods before
        the bundle that they would be in.

        Returns when the switch has executed them (each bundle's commit is answered, and OVS
        applies it before it answers). A bundle that holds a refused message is not applied; what
        is not named as refused goes again, each message by itself: the switch names only the
        first culprit of a bundle, and in a full table every one is.

        :returns: what was refused, by place in ``messages``.
        """
        # A quarter of all xids is ours, and a batch is far less than the half of that.
        if self._xid - self._transport.first_xid > 1 << 29:
            self._xid = self._transport.first_xid
        refused: list[Refused] = []
        again: list[tuple[int, Message]] = []
        for bundle in self._write_bundles(enumerate(messages)):
            refused += [Refused(place, reason) for place, reason in bundle.errors.items()]
            if not bundle.applied:
                again += [item for item in bundle.messages if item[0] not in bundle.errors]
        return refused + self._write_singly(again)

    @property
    def pushes(self) -> bool:
        """Whether the connection is all its own: there can be others beside it."""
        return self._transport.pushes

    def flows(
        self, cookie: int, table: int = ALL_TABLES, match: bytes = EMPTY_MATCH
    ) -> Iterator[bytes]:
        """Bodies of flow statistics replies: all flows of a cookie, in all tables or in one, that
        match all this and maybe more."""
        head = struct.pack("!BxxxIIxxxxQQ", table, 0xFFFFFFFF, 0xFFFFFFFF, cookie, 2**64 - 1)
        return self._multipart(_FLOW_STATS, head + match)

    def groups(self) -> Iterator[bytes]:
        """Bodies of group description replies: all groups of the bridge."""
        return self._multipart(_GROUP_DESC, b"")

    def meters(self) -> Iterator[bytes]:
        """Bodies of meter configuration replies: all meters of the bridge.

        :raises RefusedReadError: the switch knows none.
        """
        return self._multipart(_METER_CONFIG, struct.pack("!Ixxxx", _ALL_METERS))

    def meter_statistics(self) -> Iterator[bytes]:
        """Bodies of meter statistics replies: of all meters of the bridge.

        :raises RefusedReadError: the switch knows none.
        """
        return self._multipart(_METER_STATS, struct.pack("!Ixxxx", _ALL_METERS))

    def most_meters(self) -> int:
        """How many meters the bridge can have."""
        try:
            body = b"".join(self._multipart(_METER_FEATURES, b""))
        except RefusedReadError:
            return 0
        return int.from_bytes(body[:4], "big")

    # -- bundles ---------------------------------------------------------------------------

    def _write_bundles(self, pending: Iterator[tuple[int, Message]]) -> list["_Bundle"]:
        """Send all in bundles, one behind the other; those that were refused.

        Nothing waits for an answer before all is sent: the switch works while we still write,
        and while ``pending`` is still being made.
        """
        bundles: dict[int, _Bundle] = {}  # not answered yet, by xid of the commit
        rejected: list[_Bundle] = []

        def answered(message: Received) -> None:
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
            bundle = _Bundle(chunk)
            out = [self._frame(kind, body) for _, (kind, body) in bundle.meters]
            out.append(self._bundle_control(self._bundle, _OPEN))
            bundle.xid = self._xid
            out += self._bundle_adds(self._bundle, [message for _, message in bundle.messages])
            out.append(self._bundle_control(self._bundle, _COMMIT))
            bundles[self._xid] = bundle
            self._transport.send(b"".join(out))
            while (message := self._next(0)) is not None:
                answered(message)
        while bundles:
            answered(self._receive())
        return rejected

    def _write_singly(self, pending: list[tuple[int, Message]]) -> list[Refused]:
        """Send messages outside of bundles; what was refused."""
        refused = []
        for start in range(0, len(pending), BUNDLE_SIZE):
            part = pending[start : start + BUNDLE_SIZE]
            self._bundle += 1
            first = self._xid + 1
            out = [self._frame(kind, body) for _, (kind, body) in part]
            # An empty bundle behind them tells that all were executed. (Of a barrier's reply
            # os-ken would tell us nothing.)
            out.append(self._bundle_control(self._bundle, _OPEN))
            out.append(self._bundle_control(self._bundle, _COMMIT))
            end = self._xid
            self._transport.send(b"".join(out))
            while (message := self._receive())[1] != end:
                kind, xid, body = message
                if kind == _ERROR and first <= xid < first + len(part):
                    refused.append(Refused(part[xid - first][0], _error_text(body)))
        return refused

    def _bundle_control(self, bundle: int, control: int) -> bytes:
        head = _BUNDLE_HEAD.pack(_ONF, _BUNDLE_CONTROL, bundle, control, _ATOMIC_ORDERED)
        return self._frame(_EXPERIMENTER, head)

    def _bundle_adds(self, bundle: int, messages: list[Message]) -> list[bytes]:
        out, xid = [], self._xid
        pack_outer, pack_inner = _BUNDLE_ADD_HEAD.pack, HEADER.pack
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
        self._transport.send(
            self._frame(_MULTIPART_REQUEST, struct.pack("!HHxxxx", kind, 0) + body)
        )
        wanted = self._xid
        more = True
        while more:
            reply, xid, payload = self._receive()
            if xid != wanted:
                continue
            if reply == _ERROR:
                raise RefusedReadError(
                    f"{self._transport.name}: read refused: {_error_text(payload)}"
                )
            if reply == _MULTIPART_REPLY:
                if len(payload) < 8:
                    self.close()
                    raise BackendError(
                        f"{self._transport.name}: sent a multipart reply of {len(payload)} bytes"
                    )
                more = bool(int.from_bytes(payload[2:4], "big") & _MORE)
                yield payload[8:]

    # -- messages ------------------------------------------------------------------------------

    def _frame(self, kind: int, body: bytes) -> bytes:
        self._xid += 1
        return HEADER.pack(OFP_VERSION, kind, HEADER.size + len(body), self._xid) + body

    def _next(self, timeout: float) -> Received | None:
        """The next message that is an answer; what the switch tells unasked is noted."""
        while (message := self._transport.receive(timeout)) is not None:
            if self._matters is None or not self._is_news(message, self._matters):
                return message
        return None

    def _is_news(self, message: Received, matters: Callable[[int], bool]) -> bool:
        """Whether it is about flows that somebody changed; then it has been noted."""
        kind, xid, body = message
        if kind == _EXPERIMENTER:
            # Some news were left out because we didn't read fast enough, and that it goes on.
            head = _MONITOR_HEAD.unpack_from(body) if len(body) >= 8 else (_ONF, 0)
            paused = head[0] != _ONF or head[1] not in (_BUNDLE_CONTROL, _BUNDLE_ADD)
            self._disturbed = self._disturbed or paused
            return paused
        if kind != _MULTIPART_REPLY or xid or body[:2] != b"\xff\xff":
            return False
        at, end = 8 + _MONITOR_HEAD.size, len(body)
        while at + _EVENT.size <= end and not self._disturbed:
            length, event = _EVENT.unpack_from(body, at)
            cookie = int.from_bytes(body[at + _COOKIE_AT : at + _COOKIE_AT + 8], "big")
            self._disturbed = event != _ABBREVIATED and matters(cookie)
            at += max(length, 8)
        return True

    def _receive(self) -> Received:
        message = self._next(self._timeout)
        if message is None:
            self.close()
            raise BackendError(f"{self._transport.name}: no answer in {self._timeout:g} s")
        return message


#: Error types and codes worth a name (openflow-spec-v1.3 7.4.4, ONF extension 230).
_ERROR_TYPES = {
    0: "hello failed",
    1: "bad request",
    2: "bad action",
    3: "bad instruction",
    4: "bad match",
    5: "flow-mod failed",
    6: "group-mod failed",
    12: "meter-mod failed",
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
    (12, 1): "meter exists",
    (12, 2): "invalid meter",
    (12, 3): "no such meter",
    (12, 6): "rate not possible",
    (12, 10): "out of meters",
}


def _error_text(body: bytes) -> str:
    if len(body) < 4:
        return "error"
    kind, code = struct.unpack_from("!HH", body)
    name = _ERROR_TYPES.get(kind, f"error type {kind}")
    return f"{name}: {_ERROR_CODES.get((kind, code), f'code {code}')}"

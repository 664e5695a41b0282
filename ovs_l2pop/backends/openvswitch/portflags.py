"""What somebody has set on ports by OpenFlow (``ovs-ofctl mod-port``).

OVSDB knows nothing of it, and a tunnel port with ``no-receive`` is deaf. It is read in OpenFlow 1.0
where the bridge speaks it: later versions have no word for ``no-flood``, which on the integration
bridge's patch port keeps back what is to be flooded.
"""

import struct
from collections.abc import Collection
from typing import NamedTuple

from ovs_l2pop.backends.openvswitch.rows import PortFlags
from ovs_l2pop.backends.openvswitch.transport import (
    HEADER,
    ManagementSocket,
    Received,
    VersionError,
)
from ovs_l2pop.core.errors import BackendError

#: OFPPC_*, as ovs-ofctl names them.
_NAMES = {
    1 << 0: "down",
    1 << 1: "no-stp",
    1 << 2: "no-receive",
    1 << 3: "no-receive-stp",
    1 << 4: "no-flood",
    1 << 5: "no-forward",
    1 << 6: "no-packet-in",
}
_FLAGS = sum(_NAMES)

_ERROR, _PORT_STATUS = 1, 12
_PORT_DESC = 13  # OFPST_PORT_DESC, OFPMP_PORT_DESC
_MORE = 1
_MODIFIED = 1 << 2  # OFPPR_MODIFY, as a mask
#: Only such news, and to whom is no controller as well.
_ASYNC = struct.pack("!6I", 0, 0, _MODIFIED, _MODIFIED, 0, 0)
_REASON_SIZE = 8  # of a port's status, before the port


class _Version(NamedTuple):
    """How a version of OpenFlow says it (openflow-spec-v1.0.0, -v1.3.5; nicira-ext.h)."""

    wire: int
    request: int  #: OFPT_*
    reply: int
    request_head: struct.Struct  #: statistics: type, flags
    port: struct.Struct  #: number, MAC, name, config, …
    modify: int
    modify_body: struct.Struct  #: number, MAC, config, mask
    barrier: int
    set_async: tuple[int, bytes]


_1_0 = _Version(
    1,
    *(16, 17, struct.Struct("!HH")),
    struct.Struct("!H6s16sI20x"),
    *(15, struct.Struct("!H6sII8x"), 18),
    (4, struct.pack("!II", 0x2320, 19) + _ASYNC),
)
_1_3 = _Version(
    4,
    *(18, 19, struct.Struct("!HH4x")),
    struct.Struct("!I4x6s2x16sI28x"),
    *(16, struct.Struct("!I4x6s2xII8x"), 20),
    (28, _ASYNC),
)


class PortFlagsChannel:
    """A connection to one bridge, for flags alone.

    :param bridge: its name.
    :param path: its management socket.
    :param timeout: seconds without an answer after which the switch counts as gone.
    :raises BackendError: no connection, also from every method once it is lost.
    :raises VersionError: the bridge speaks neither version.
    """

    def __init__(self, bridge: str, path: str, timeout: float = 10.0) -> None:
        self._bridge = bridge
        self._timeout = timeout
        self._disturbed = False
        self._ports: Collection[str] = ()
        self._xid = 0
        try:
            self._version, self._socket = _1_0, ManagementSocket(path, timeout, _1_0.wire)
        except VersionError:
            self._version, self._socket = _1_3, ManagementSocket(path, timeout, _1_3.wire)
        self._send(*self._version.set_async)

    def close(self) -> None:
        self._socket.close()

    def poll(self) -> bool:
        """Whether a port that was read has changed since the last call, and has flags."""
        while (message := self._socket.receive(0)) is not None:
            self._note(message)
        disturbed, self._disturbed = self._disturbed, False
        return disturbed

    def read(self, ports: Collection[str]) -> set[PortFlags]:
        """The flags that are set on these ports."""
        self._ports = ports
        version = self._version
        xid = self._send(version.request, version.request_head.pack(_PORT_DESC, 0))
        found: set[PortFlags] = set()
        more = True
        while more:
            kind, _, body = self._answer(xid, version.reply)
            more = kind == version.reply and bool(body[3] & _MORE)
            at = version.request_head.size
            while at + version.port.size <= len(body):
                if (flagged := self._flagged(body, at)) is not None:
                    found.add(flagged)
                at += version.port.size
        return found

    def clear(self, row: PortFlags) -> str | None:
        """Take the flags of a port away; why the switch didn't, or None."""
        version = self._version
        xid = self._send(
            version.modify, version.modify_body.pack(row.number, row.mac, 0, row.flags)
        )
        barrier = self._send(version.barrier, b"")
        refused = None
        while (message := self._answer(xid, version.barrier + 1))[1] != barrier:
            refused = f"port-mod failed: {message[2][:4].hex()}"
        return refused

    def _send(self, kind: int, body: bytes) -> int:
        self._xid += 1
        size = HEADER.size + len(body)
        self._socket.send(HEADER.pack(self._version.wire, kind, size, self._xid) + body)
        return self._xid

    def _answer(self, xid: int, kind: int) -> Received:
        """The next message of a kind, or an error that is about a message since ``xid``."""
        while (message := self._socket.receive(self._timeout)) is not None:
            if message[0] == kind or (message[0] == _ERROR and message[1] >= xid):
                return message
            self._note(message)
        self.close()
        raise BackendError(f"{self._socket.name}: no answer in {self._timeout:g} s")

    def _note(self, message: Received) -> None:
        kind, _, body = message
        if kind == _PORT_STATUS and len(body) >= _REASON_SIZE + self._version.port.size:
            self._disturbed = self._disturbed or self._flagged(body, _REASON_SIZE) is not None

    def _flagged(self, body: bytes, at: int) -> PortFlags | None:
        """The port that is described there, if it is one that matters and has flags."""
        number, mac, name, flags = self._version.port.unpack_from(body, at)
        port = name.rstrip(b"\0").decode(errors="replace")
        if not flags & _FLAGS or port not in self._ports:
            return None
        return PortFlags(self._bridge, port, number, mac, flags & _FLAGS)


def flags_text(flags: int) -> str:
    """As ovs-ofctl names them."""
    return " ".join(name for flag, name in _NAMES.items() if flags & flag)

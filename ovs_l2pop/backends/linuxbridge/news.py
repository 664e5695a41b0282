"""What the kernel tells of devices, entries, neighbours and filters that somebody changes.

It tells of our own changes as well, and not whose they are: so we don't listen while we write, and
what others do in that moment is found by the next look.

Numbers are those of ``linux/rtnetlink.h`` and ``linux/neighbour.h``.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ovs_l2pop.backends.linuxbridge import rows
from ovs_l2pop.backends.linuxbridge.netlink import attributes, messages_in, string
from ovs_l2pop.errors import BackendError

#: RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC
_GROUPS = (1, 3, 4)
_SOL_NETLINK, _JOIN, _LEAVE = 270, 1, 2

_NEWLINK, _DELLINK = 16, 17
_NEWNEIGH, _DELNEIGH = 28, 29
_DELQDISC, _NEWFILTER, _DELFILTER = 37, 44, 45
_LINK, _NEIGHBOUR = struct.Struct("=BxHiII"), struct.Struct("=BxxxiHBB")
_NAME, _ALIAS = 3, 20  # IFLA_IFNAME, IFLA_IFALIAS
_MAC, _PROTOCOL = 2, 12  # NDA_LLADDR, NDA_PROTOCOL
_EXTERN_LEARN = 0x10
_AF_BRIDGE = 7
_BUFFER = 1 << 16


class News:
    """A socket to which the kernel tells; in the network namespace of the thread that makes it.

    :raises BackendError: there is none to be had.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self._socket.bind((0, 0))
            self._socket.setblocking(False)
            self._listen(_JOIN)
        except OSError as error:
            raise BackendError(f"no netlink socket: {error}") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Readable when there are news."""
        return self._socket.fileno()

    def any(self) -> bool:
        """Whether something of ours may have been changed since the last call."""
        found = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise BackendError(f"the kernel's news got lost: {error}") from error
                found = True  # there were more than we have read
            else:
                found = found or any(concerns(kind, body) for kind, _, _, body in messages_in(data))

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """While we write."""
        self._listen(_LEAVE)
        try:
            yield
        finally:
            self._listen(_JOIN)

    def _listen(self, how: int) -> None:
        for group in _GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, how, group)


def concerns(kind: int, body: bytes) -> bool:
    """Whether a message may be about something of ours; entries that were learned are not."""
    if kind in (_NEWLINK, _DELLINK):
        found = attributes(body, _LINK.size)
        # A bridge's news of its port don't name the alias.
        name = string(found.get(_NAME, b""))
        return name.startswith("vxlan-") or rows.owner(string(found.get(_ALIAS, b""))) is not None
    if kind in (_NEWNEIGH, _DELNEIGH):
        family, _, _, flags, _ = _NEIGHBOUR.unpack_from(body)
        found = attributes(body, _NEIGHBOUR.size)
        if family != _AF_BRIDGE:
            return found.get(_PROTOCOL) == bytes([rows.PROTOCOL])
        return bool(flags & _EXTERN_LEARN) or not any(found.get(_MAC, b"\1"))
    return kind in (_DELQDISC, _NEWFILTER, _DELFILTER)

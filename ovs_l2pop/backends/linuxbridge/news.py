"""What the kernel tells of devices, entries, neighbours and filters that somebody changes.

By two sockets, for the packet filter is another family of netlink.

It tells of our own changes as well, and not whose they are: so we don't listen while we write, and
what others do in that moment is found by the next look.

Numbers are those of ``linux/rtnetlink.h`` and ``linux/neighbour.h``.
"""

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ovs_l2pop.backends.linuxbridge import guard, links, rows
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.messages import NETFILTER, ROUTE, attributes, messages_in, string

#: RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC; NFNLGRP_NFTABLES
_GROUPS = {ROUTE: (1, 3, 4), NETFILTER: (7,)}
_SOL_NETLINK, _JOIN, _LEAVE = 270, 1, 2

_NEWLINK, _DELLINK = 16, 17
_NEWNEIGH, _DELNEIGH = 28, 29
_DELQDISC, _NEWFILTER, _DELFILTER = 37, 44, 45
_LINK, _NEIGHBOUR = struct.Struct("=BxHiII"), struct.Struct("=BxxxiHBB")
_NAME, _ALIAS, _GROUP = 3, 20, 27  # IFLA_…
_MAC, _PROTOCOL = 2, 12  # NDA_LLADDR, NDA_PROTOCOL
_OURS = {bytes([protocol]) for protocol in (rows.PROTOCOL, rows.PROTOCOL_NO_OVERRIDE)}
_SELF, _EXTERN_LEARN, _PERMANENT = 0x02, 0x10, 0x80
_AF_BRIDGE = 7
_BUFFER = 1 << 16


class News:
    """Sockets to which the kernel tells; in the network namespace of the thread that makes them.

    :param filtered: whether there is a packet filter of ours to hear of.
    :raises BackendError: there are none to be had.
    """

    def __init__(self, *, filtered: bool = False) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._readable = select.epoll()
        try:
            for family in (ROUTE, NETFILTER) if filtered else (ROUTE,):
                one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
                self._sockets[family] = one
                one.bind((0, 0))
                one.setblocking(False)
                self._readable.register(one, select.EPOLLIN)
            self._listen(_JOIN)
        except OSError as error:
            self.close()
            raise BackendError(f"no netlink socket: {error}") from error

    def close(self) -> None:
        """Close the sockets."""
        self._readable.close()
        for one in self._sockets.values():
            one.close()

    def fileno(self) -> int:
        """Readable when there are news."""
        return self._readable.fileno()

    def any(self) -> bool:
        """Whether something of ours may have been changed since the last call."""
        changed = [_changed(one) for one in self._sockets.values()]
        return any(changed)

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """While we write."""
        self._listen(_LEAVE)
        try:
            yield
        finally:
            self._listen(_JOIN)

    def _listen(self, how: int) -> None:
        for family, one in self._sockets.items():
            for group in _GROUPS[family]:
                one.setsockopt(_SOL_NETLINK, how, group)


def _changed(one: socket.socket) -> bool:
    """Read all that a socket has: whether some of it is about something of ours."""
    found = False
    while True:
        try:
            data = one.recv(_BUFFER)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise BackendError(f"the kernel's news got lost: {error}") from error
            found = True  # there were more than we have read
        else:
            found = found or any(concerns(kind, body) for kind, _, _, body in messages_in(data))


def concerns(kind: int, body: bytes) -> bool:
    """Whether a message may be about something of ours; entries that were learned are not."""
    if kind in (_NEWLINK, _DELLINK):
        found = attributes(body, _LINK.size)
        # A bridge's news of its port don't name the alias.
        name = string(found.get(_NAME, b""))
        made = found.get(_GROUP) == struct.pack("=I", links.MADE)
        owner = rows.owner(string(found.get(_ALIAS, b"")))
        return made or name.startswith("vxlan-") or owner is not None
    if kind in (_NEWNEIGH, _DELNEIGH):
        family, _, state, flags, _ = _NEIGHBOUR.unpack_from(body)
        found = attributes(body, _NEIGHBOUR.size)
        if family != _AF_BRIDGE:
            return found.get(_PROTOCOL) in _OURS
        # What is permanent in a tunnel's table was learned by nobody.
        written = bool(flags & _EXTERN_LEARN or (flags & _SELF and state & _PERMANENT))
        return written or not any(found.get(_MAC, b"\1"))
    return kind in (_DELQDISC, _NEWFILTER, _DELFILTER) or guard.concerns(kind, body)

"""The addresses of this host: what is announced behind any of them is here.

Numbers are those of ``linux/rtnetlink.h``, ``linux/netlink.h`` and ``linux/if_addr.h``.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.messages import ROUTE, Message, attributes
from ovs_l2pop.netlink.socket import Netlink

_GETADDR = 22
_ADDRESS, _LOCAL = 1, 2
_HOST_SCOPE = 254  # loopback's own; an address that others reach may be on that device too
#: RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR
_GROUPS = (5, 9)
_SOL_NETLINK, _JOIN = 270, 1
_BUFFER = 1 << 16
_SIOCGIFMTU = 0x8921  # netdevice(7)
_IFREQ = struct.Struct("=16si20x")
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


class Address(NamedTuple):
    text: str  #: in canonical notation
    device: int  #: its index
    reachable: bool  #: not of this host alone


class HostAddresses:
    """Reads them, in the network namespace of the thread that does so first.

    The kernel tells of changes before who makes one goes on, so as long as it has told of none, all
    is as it was: to ask again takes 1 µs, to read ten of them 0.2 ms.
    """

    def __init__(self) -> None:
        self._netlink: Netlink | None = None
        self._news: socket.socket | None = None
        self._known: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        """All addresses of both families that others may reach, in canonical notation.

        :raises BackendError: the kernel doesn't say.
        """
        if self._netlink is None or self._news is None:
            self._news, self._netlink = _news(), Netlink()
        elif not _told(self._news):
            return self._known
        try:
            found = list(addresses(self._netlink))
        except BackendError:
            self._netlink.close()
            self._news.close()
            self._netlink = self._news = None
            raise
        self._known = frozenset(address.text for address in found if address.reachable)
        return self._known


def device(address: str) -> tuple[str, int] | None:
    """The name and the MTU of the device which has this address, or None."""
    netlink = Netlink()
    try:
        for found in addresses(netlink):
            if found.text == address:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                    name = socket.if_indextoname(found.device)
                    answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, _IFREQ.pack(name.encode(), 0))
                    return name, _IFREQ.unpack(answer)[1]
    except OSError:  # it has just gone
        return None
    finally:
        netlink.close()
    return None


def _news() -> socket.socket:
    """A socket to which the kernel tells of addresses that come and go."""
    try:
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, ROUTE)
        news.setblocking(False)
        news.bind((0, 0))
        for group in _GROUPS:
            news.setsockopt(_SOL_NETLINK, _JOIN, group)
    except OSError as error:
        raise BackendError(f"no netlink socket: {error}") from error
    return news


def _told(news: socket.socket) -> bool:
    """Whether anything was told since the last call; all of it is taken."""
    told = False
    while True:
        try:
            told = bool(news.recv(_BUFFER)) or told
        except BlockingIOError:
            return told
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more than there is room for
                raise BackendError(f"netlink: {error}") from error
            told = True


def addresses(netlink: Netlink, family: int = 0) -> Iterator[Address]:
    """All addresses.

    :param family: ``socket.AF_INET`` or ``AF_INET6``; 0: both.
    """
    for body in netlink.dump(Message(_GETADDR, 0, _IFADDR.pack(family, 0, 0, 0, 0))):
        _, _, _, scope, index = _IFADDR.unpack_from(body)
        found = attributes(body, _IFADDR.size)
        # For IPv4 point-to-point links the latter is the peer's.
        packed = found.get(_LOCAL) or found.get(_ADDRESS) or b""
        if len(packed) in (4, 16):
            yield Address(str(ip_address(packed)), index, scope != _HOST_SCOPE)

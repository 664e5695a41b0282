"""The addresses of this host: what is announced behind any of them is here.

Numbers are those of ``linux/rtnetlink.h`` and ``linux/if_addr.h``.
"""

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.messages import Message, attributes
from ovs_l2pop.netlink.socket import Netlink

_GETADDR = 22
_ADDRESS, _LOCAL = 1, 2
_HOST_SCOPE = 254  # loopback's own; an address that others reach may be on that device too
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


class Address(NamedTuple):
    text: str  #: in canonical notation
    device: int  #: its index
    reachable: bool  #: not of this host alone


class HostAddresses:
    """Reads them, in the network namespace of the thread that does; 0.02 ms with ten of them."""

    def __init__(self) -> None:
        self._netlink: Netlink | None = None

    def __call__(self) -> frozenset[str]:
        """All addresses of both families that others may reach, in canonical notation.

        :raises BackendError: the kernel doesn't say.
        """
        if self._netlink is None:
            self._netlink = Netlink()
        try:
            found = list(addresses(self._netlink))
        except BackendError:
            self._netlink.close()
            self._netlink = None
            raise
        return frozenset(address.text for address in found if address.reachable)


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

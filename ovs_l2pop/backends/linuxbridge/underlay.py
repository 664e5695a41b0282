"""The device behind the VTEP's address, and how large a packet fits through it.

Numbers are those of ``linux/rtnetlink.h``.
"""

import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge import links
from ovs_l2pop.backends.linuxbridge.links import Link
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.addresses import addresses
from ovs_l2pop.netlink.messages import Message, attribute, attributes
from ovs_l2pop.netlink.socket import Netlink

_GETROUTE = 26
_AF_INET, _AF_INET6 = 2, 10
_ROUTE_DST, _ROUTE_SRC, _ROUTE_OUT, _ROUTE_GATEWAY = 1, 2, 4, 5
_UNICAST = 1

_ROUTE = struct.Struct("=8BI")  # family, prefix lengths, TOS, table, protocol, scope, type, flags

#: What Ethernet carries, where no route tells which device it will be.
_ETHERNET_MTU = 1500


class Underlay(NamedTuple):
    """Where tunnels begin."""

    #: Device that has the VTEP's address, for tunnels to be bound to; 0: they are not bound,
    #: because the address is on a loopback and packets leave by whatever device routes say.
    number: int
    name: str  #: of that device; empty: none
    mtu: int  #: of the device that packets leave by
    leaves_by: str  #: its name, for people

    def __str__(self) -> str:
        return f"{self.name or 'a loopback'}, packets leave by {self.leaves_by}, MTU {self.mtu}"


def find(netlink: Netlink, local: str) -> Underlay:
    """The underlay of the VTEP with the address *local*.

    :raises BackendError: no device has the address.
    """
    address = ip_address(local)
    of_family = addresses(netlink, _AF_INET if address.version == 4 else _AF_INET6)
    devices = (found.device for found in of_family if found.text == str(address))
    index = next(devices, None)
    link = None if index is None else links.by_index(netlink, index)
    if link is None:
        raise BackendError(f"local_ip {local} is on no device of this host")
    if not link.loopback and link.kind != "dummy":
        return Underlay(link.number, link.name, link.mtu, link.name)
    way = _way_out(netlink, local)
    return Underlay(0, "", *((way.mtu, way.name) if way else (_ETHERNET_MTU, "Ethernet")))


def towards(netlink: Netlink, local: str, address: str) -> Link | None:
    """The device by which packets from *local* to *address* leave this host."""
    out = _route(netlink, local, address)
    link = None if out is None else links.by_index(netlink, out)
    return None if link is None or link.loopback else link


def _way_out(netlink: Netlink, local: str) -> Link | None:
    """Other VTEPs are near this one: the way to its neighbour address. Where routes lead to single
    VTEPs only, the narrowest device that some gateway is behind."""
    number = int(ip_address(local)) ^ 1
    beside = ip_address(number.to_bytes(len(ip_address(local).packed), "big"))
    if link := towards(netlink, local, str(beside)):
        return link
    known: Mapping[int, Link] = links.listed(netlink)
    ways = [known[index] for index in _gateways(netlink, beside.version) if index in known]
    return min(ways, key=lambda way: way.mtu, default=None)


def _gateways(netlink: Netlink, version: int) -> Iterator[int]:
    family = _AF_INET if version == 4 else _AF_INET6
    for body in netlink.dump(Message(_GETROUTE, 0, _ROUTE.pack(family, *(0,) * 8))):
        found = attributes(body, _ROUTE.size)
        if _ROUTE_GATEWAY in found and _ROUTE_OUT in found:
            yield struct.unpack("=I", found[_ROUTE_OUT])[0]


def _route(netlink: Netlink, local: str, address: str) -> int | None:
    source, destination = ip_address(local).packed, ip_address(address).packed
    bits = 8 * len(destination)
    family = _AF_INET if bits == 32 else _AF_INET6
    head = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0)
    wanted = attribute(_ROUTE_DST, destination) + attribute(_ROUTE_SRC, source)
    found = netlink.get(Message(_GETROUTE, 0, head + wanted))
    if found is None or _ROUTE.unpack_from(found)[7] != _UNICAST:
        return None
    out = attributes(found, _ROUTE.size).get(_ROUTE_OUT)
    return None if out is None else int(struct.unpack("=I", out)[0])

"""Network devices as values, and the rtnetlink messages that make, change and list them.

Numbers are those of ``linux/if_link.h`` and ``linux/rtnetlink.h``.
"""

import os
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge import rows
from ovs_l2pop.backends.linuxbridge.netlink import (
    CREATE,
    EXCLUSIVE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    string,
    text,
    u8,
    u32,
)

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_ADDRESS, _NAME, _MTU, _MASTER, _LINKINFO, _ALIAS, _GROUP, _EXT_MASK = 1, 3, 4, 10, 18, 20, 27, 29
_SKIP_STATISTICS = 1 << 3
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_BRIDGE_FORWARD_DELAY, _BRIDGE_STP, _BRIDGE_SNOOPING = 1, 5, 23
# IFLA_BRPORT_…: LEARNING, UNICAST_FLOOD, MCAST_FLOOD, BCAST_FLOOD;
# MODE (hairpin), PROXYARP, PROXYARP_WIFI, ISOLATED; NEIGH_SUPPRESS
_PORT_ON, _PORT_OFF, _PORT_SUPPRESS = (8, 9, 27, 30), (4, 10, 12, 33), 32
_VNI, _REMOTE, _DEVICE, _LOCAL, _TTL, _TOS, _LEARNING = 1, 2, 3, 4, 5, 6, 7  # IFLA_VXLAN_…
_PROXY, _PORT, _REMOTE6, _LOCAL6, _ZERO_CHECKSUM6_RX = 11, 15, 16, 17, 20

#: The group of devices (``ip link … group``) that are being made or deleted. A device can't be made
#: with an alias, but with a group: what is left by an agent that was killed between is known by it.
_IN_BETWEEN = 0x6C32706F

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change


class Vxlan(NamedTuple):
    """What is special about a vxlan device; fields as in :class:`rows.Tunnel`."""

    vni: int
    local: str
    group: str
    device: int  #: index of the underlay device; 0: none
    port: int
    ttl: int
    tos: int
    learning: bool
    proxy: bool


class Link(NamedTuple):
    """A network device."""

    number: int  #: the kernel's, "ifindex"
    name: str
    kind: str  #: "vxlan", "bridge", "veth", …; empty for hardware and loopback
    address: bytes
    up: bool
    loopback: bool
    mtu: int
    master: int  #: index of the bridge it is in; 0: in none
    alias: str
    group: int
    suppress: bool  #: as a bridge's port: ARP and ND are answered for what is behind it
    #: As a bridge's port: as open as a new one is. It is flooded to, learned from, not isolated;
    #: and nothing goes back by it, neither what came in nor an answer of the bridge's to it.
    open: bool
    vxlan: Vxlan | None

    @property
    def owner(self) -> str | None:
        """The network that it serves if it is ours."""
        owner = rows.owner(self.alias)
        return "" if owner is None and self.group == _IN_BETWEEN else owner


def listed(netlink: Netlink) -> dict[int, Link]:
    """All devices, by index."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
    links = map(_link, netlink.dump(Message(_GETLINK, 0, body)))
    return {link.number: link for link in links}


def by_name(netlink: Netlink, name: str) -> Link | None:
    """The device of this name."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_NAME, name) + u32(_EXT_MASK, _SKIP_STATISTICS)
    found = netlink.get(Message(_GETLINK, 0, body))
    return None if found is None else _link(found)


def by_index(netlink: Netlink, index: int) -> Link | None:
    """The device of this index."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
    found = netlink.get(Message(_GETLINK, 0, body))
    return None if found is None else _link(found)


def ports(netlink: Netlink, bridge: int) -> Iterator[Link]:
    """The devices in a bridge."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_MASTER, bridge) + u32(_EXT_MASK, _SKIP_STATISTICS)
    for link in map(_link, netlink.dump(Message(_GETLINK, 0, body))):
        if link.master == bridge:  # an old kernel lists all
            yield link


def new_bridge(name: str) -> Message:
    """Make a bridge without spanning tree, so that a port forwards from its first moment, and
    without multicast snooping, for which a bridge itself would send reports into the network. For
    its address see :func:`keep_address`."""
    address = attribute(_ADDRESS, b"\x02" + os.urandom(5))
    data = (u32(_BRIDGE_FORWARD_DELAY, 0), u32(_BRIDGE_STP, 0), u8(_BRIDGE_SNOOPING, 0))
    info = nested(_LINKINFO, text(_KIND, "bridge"), nested(_DATA, *data))
    group = u32(_GROUP, _IN_BETWEEN)
    return _new(0, text(_NAME, name), address, group, info, flags=CREATE | EXCLUSIVE)


def keep_address(bridge: Link) -> Message:
    """Have a bridge keep its address.

    Unless one was given to it, a bridge has the lowest of its ports' addresses; and when that
    changes, the kernel drops all its neighbours, permanent ones too.
    """
    return _new(bridge.number, attribute(_ADDRESS, bridge.address))


def new_tunnel(tunnel: rows.Tunnel, name: str, device: int) -> Message:
    """Make a tunnel's device under this name, down and in no bridge yet."""
    data = [
        u32(_VNI, tunnel.vni),
        attribute(_PORT, struct.pack("!H", tunnel.port)),
        u8(_LEARNING, tunnel.learning),
        *_changeable(tunnel, device, with_group=bool(tunnel.group)),
    ]
    if tunnel.six:
        # Open vSwitch may leave the outer checksum out over IPv6 as well (RFC 6935).
        data.append(u8(_ZERO_CHECKSUM6_RX, 1))
    return _new(
        0,
        text(_NAME, name),
        u32(_GROUP, _IN_BETWEEN),
        u32(_MTU, tunnel.mtu),
        nested(_LINKINFO, text(_KIND, "vxlan"), nested(_DATA, *data)),
        flags=CREATE | EXCLUSIVE,
    )


def change_tunnel(index: int, tunnel: rows.Tunnel, device: int, with_group: bool) -> Message:
    """Change what can be changed of a tunnel's device while it works."""
    data = [u8(_LEARNING, tunnel.learning), *_changeable(tunnel, device, with_group)]
    return _new(index, nested(_LINKINFO, text(_KIND, "vxlan"), nested(_DATA, *data)))


def set_mtu(index: int, mtu: int) -> Message:
    """Change a device's MTU."""
    return _new(index, u32(_MTU, mtu))


def finish(index: int, alias: str) -> Message:
    """Give a device its alias: it is made."""
    return _new(index, text(_ALIAS, alias), u32(_GROUP, 0))


def enter(index: int, bridge: int) -> Message:
    """Put a device into a bridge; 0: take it out."""
    return _new(index, u32(_MASTER, bridge))


def rename(index: int, name: str) -> Message:
    """Give a device that is down another name."""
    return _new(index, text(_NAME, name))


def set_up(index: int) -> Message:
    """Set a device up."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP))


def set_down(index: int) -> Message:
    """Set a device down."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, _IFF_UP))


def suppress(index: int, on: bool) -> Message:
    """Have the bridge answer ARP and ND for what is behind this port, or not."""
    return _change_port(index, u8(_PORT_SUPPRESS, on))


def open_up(index: int) -> Message:
    """Have a bridge's port as a new one is."""
    flags = {**dict.fromkeys(_PORT_ON, 1), **dict.fromkeys(_PORT_OFF, 0)}
    return _change_port(index, *(u8(kind, value) for kind, value in flags.items()))


def delete(index: int) -> Message:
    """Delete a device."""
    return Message(_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))


def delete_all(indexes: Iterable[int]) -> Iterator[Message]:
    """Delete many devices together: one by one each waits for the kernel's readers anew."""
    for index in indexes:
        yield _new(index, u32(_GROUP, _IN_BETWEEN))
    yield Message(_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + u32(_GROUP, _IN_BETWEEN))


def _new(index: int, *parts: bytes, flags: int = 0) -> Message:
    return Message(_NEWLINK, flags, _IFINFO.pack(0, 0, index, 0, 0) + b"".join(parts))


def _change_port(index: int, *data: bytes) -> Message:
    """Change what a device is as a bridge's port."""
    slave = (text(_SLAVE_KIND, "bridge"), nested(_SLAVE_DATA, *data))
    return _new(index, nested(_LINKINFO, *slave))


def _changeable(tunnel: rows.Tunnel, device: int, with_group: bool) -> list[bytes]:
    local = ip_address(tunnel.local).packed
    data = [
        attribute(_LOCAL6 if tunnel.six else _LOCAL, local),
        u8(_TTL, tunnel.ttl),
        u8(_TOS, tunnel.tos),
        u32(_DEVICE, device),
    ]
    if with_group:
        group = ip_address(tunnel.group).packed if tunnel.group else bytes(len(local))
        data.append(attribute(_REMOTE6 if tunnel.six else _REMOTE, group))
    return data


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    info = attributes(found.get(_LINKINFO, b""))
    kind = string(info.get(_KIND, b""))
    data = info.get(_DATA, b"") if kind == "vxlan" else b""
    bridged = string(info.get(_SLAVE_KIND, b"")) == "bridge"
    port = attributes(info.get(_SLAVE_DATA, b"")) if bridged else {}
    return Link(
        number=index,
        name=string(found[_NAME]),
        kind=kind,
        address=found.get(_ADDRESS, b""),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        mtu=_number(found, _MTU),
        master=_number(found, _MASTER),
        alias=string(found.get(_ALIAS, b"")),
        group=_number(found, _GROUP),
        suppress=bool(_number(port, _PORT_SUPPRESS)),
        open=not any(_number(port, kind) for kind in _PORT_OFF)
        and all(any(port.get(kind, b"\1")) for kind in _PORT_ON),
        vxlan=_vxlan(attributes(data)) if data else None,
    )


def _vxlan(found: dict[int, bytes]) -> Vxlan:
    return Vxlan(
        vni=_number(found, _VNI),
        local=_address(found.get(_LOCAL) or found.get(_LOCAL6)),
        group=_address(found.get(_REMOTE) or found.get(_REMOTE6)),
        device=_number(found, _DEVICE),
        port=int.from_bytes(found.get(_PORT, b""), "big"),
        ttl=_number(found, _TTL),
        tos=_number(found, _TOS),
        learning=bool(_number(found, _LEARNING)),
        proxy=bool(_number(found, _PROXY)),
    )


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)


def _address(value: bytes | None) -> str:
    return str(ip_address(value)) if value else ""

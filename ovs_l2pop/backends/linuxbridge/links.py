"""Network devices as values, and the rtnetlink messages that make, change and list them.

Numbers are those of ``linux/if_link.h`` and ``linux/rtnetlink.h``.
"""

import os
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from ovs_l2pop.backends.linuxbridge import rows, settings
from ovs_l2pop.netlink.messages import (
    CREATE,
    EXCLUSIVE,
    Message,
    attribute,
    attributes,
    each,
    nested,
    string,
    text,
    u8,
    u32,
)

if TYPE_CHECKING:
    from ovs_l2pop.netlink.socket import Netlink

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_ADDRESS, _NAME, _MTU, _MASTER, _LINKINFO, _ALIAS, _GROUP, _EXT_MASK = 1, 3, 4, 10, 18, 20, 27, 29
_FAMILIES = 26  # IFLA_AF_SPEC
_SKIP_STATISTICS = 1 << 3
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_BRIDGE_FORWARD_DELAY, _BRIDGE_STP, _BRIDGE_SNOOPING = 1, 5, 23
_PORT_FLOOD, _PORT_SUPPRESS = 9, 32  # IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_NEIGH_SUPPRESS
_VNI, _REMOTE, _DEVICE, _LOCAL, _TTL, _TOS, _LEARNING = 1, 2, 3, 4, 5, 6, 7  # IFLA_VXLAN_…
_PROXY, _PORT, _REMOTE6, _LOCAL6 = 11, 15, 16, 17

#: The group of devices (``ip link … group``) that are being made or deleted. A device can't be made
#: with an alias, but with a group: what is left by an agent that was killed between is known by it.
_IN_BETWEEN = 0x6C32706F
#: The group of devices that are made: by it they are known as ours also without their alias.
MADE = 0x6C327070

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
    flood: bool  #: as a bridge's port: gets frames to MACs that aren't known
    #: Names of settings that are otherwise than ours should have them, as :mod:`.settings` has
    #: them: its own, those of it as a port, files below /proc/sys/net.
    odd: tuple[str, ...]
    odd_port: tuple[str, ...]
    odd_sysctls: tuple[str, ...]
    port_forwards: bool  #: as a bridge's port: nobody has stopped it
    spanning: bool  #: as a bridge: some spanning tree decides which ports forward
    bits: bytes  #: as a bridge: IFLA_BR_MULTI_BOOLOPT
    vxlan: Vxlan | None

    @property
    def owner(self) -> str | None:
        """The network that it serves if it is ours; empty if it doesn't tell which."""
        owner = rows.owner(self.alias)
        return "" if owner is None and self.group in (_IN_BETWEEN, MADE) else owner

    @property
    def marked(self) -> bool:
        """Whether it has all that makes it known as ours."""
        return bool(rows.owner(self.alias)) and self.group == MADE


def listed(netlink: "Netlink") -> dict[int, Link]:
    """All devices, by index."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
    links = map(_link, netlink.dump(Message(_GETLINK, 0, body)))
    return {link.number: link for link in links}


def by_name(netlink: "Netlink", name: str) -> Link | None:
    """The device of this name."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_NAME, name) + u32(_EXT_MASK, _SKIP_STATISTICS)
    found = netlink.get(Message(_GETLINK, 0, body))
    return None if found is None else _known(found)


def by_index(netlink: "Netlink", index: int) -> Link | None:
    """The device of this index."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
    found = netlink.get(Message(_GETLINK, 0, body))
    return None if found is None else _known(found)


def ports(netlink: "Netlink", bridge: int) -> Iterator[Link]:
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
        data.append(u8(settings.ZERO_CHECKSUM_RX, 1))
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
    return _new(index, text(_ALIAS, alias), u32(_GROUP, MADE))


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


def flood(index: int, on: bool) -> Message:
    """Have a bridge's port get frames to MACs that aren't known, or not."""
    return _change_port(index, u8(_PORT_FLOOD, on))


def open_up(index: int, odd: Collection[str]) -> Message:
    """Have a bridge's port as a new one is, in what is *odd*."""
    wanted = (*settings.PORT, settings.PORT_STATE)
    return _change_port(index, *_attributes(one for one in wanted if one.name in odd))


def mend(link: Link, kind: str) -> Iterator[Message]:
    """Have a vxlan device or a bridge as a new one is, in what is odd and can be changed."""
    wanted = settings.TUNNEL if kind == "vxlan" else settings.BRIDGE
    data = _attributes(one for one in wanted if one.name in link.odd)
    if "boolopt" in link.odd:
        data.append(attribute(settings.BRIDGE_BITS, bytes(4) + link.bits[4:]))
    for part in data:  # of several the kernel has an order of its own
        yield _new(link.number, nested(_LINKINFO, text(_KIND, kind), nested(_DATA, part)))
    for one in settings.mended_device():
        if one.name in link.odd:
            yield _new(link.number, *_attributes([one]))
    if "arp off" in link.odd:
        yield Message(_NEWLINK, 0, _IFINFO.pack(0, 0, link.number, 0, _IFF_NOARP))


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


def _attributes(wanted: Iterable[settings.Setting]) -> list[bytes]:
    return [attribute(one.kind, one.value) for one in wanted]


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
    bridge = attributes(info.get(_DATA, b"")) if kind == "bridge" else {}
    odd: list[str] = []
    sysctls: list[str] = []
    if kind in ("bridge", "vxlan"):
        families = {family: attributes(v) for family, v in each(found.get(_FAMILIES, b""))}
        odd = settings.odd_device(found)
        if kind == "bridge":
            odd += settings.odd_bridge(bridge) + (["arp off"] if flags & _IFF_NOARP else [])
            sysctls = settings.odd_sysctls(families, settings.BRIDGE_SYSCTLS)
        else:
            own = attributes(data)
            odd += settings.odd_tunnel(own, six=_LOCAL6 in own)
            sysctls = settings.odd_sysctls(families, settings.TUNNEL_SYSCTLS)
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
        flood=port.get(_PORT_FLOOD) != b"\0",
        odd=tuple(odd),
        odd_port=tuple(settings.odd(port, settings.PORT)),
        odd_sysctls=tuple(sysctls),
        port_forwards=not (settings.works(found) and settings.odd(port, [settings.PORT_STATE])),
        spanning=bool(_number(bridge, _BRIDGE_STP)),
        bits=bridge.get(settings.BRIDGE_BITS, b""),
        vxlan=_vxlan(attributes(data)) if data else None,
    )


#: Of single devices, which are asked for with every change and nearly always tell the same bytes:
#: to read them takes 0.2 ms.
_known = lru_cache(256)(_link)


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

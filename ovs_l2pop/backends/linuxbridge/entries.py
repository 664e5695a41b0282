"""Forwarding entries and neighbours: rows to messages, and what the kernel lists to rows.

A tunnel has a table of its own (flag ``self``: MAC → VTEP), and is a port in the bridge's table
(``master``: MAC → port). What of it is ours is marked: forwarding entries as learned by a control
plane (``extern_learn``), neighbours by their protocol number. The list of VTEPs for BUM traffic has
one entry for them all in the kernel, and no mark for each: on a tunnel of ours, all of it is ours.

What is in a tunnel's table permanently doesn't move, and the kernel drops frames of its MAC that
come from another VTEP. What a control plane puts into a bridge's table does move, when a frame
comes by another port; it is held if it is ``sticky``, which the kernel takes in a message of its
own, for ``static`` entries that aren't marked, and leaves the mark on one that is.

Numbers are those of ``linux/neighbour.h``.
"""

import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from ovs_l2pop.backends.linuxbridge.rows import (
    LOOSE,
    MAC_SIZE,
    PROTOCOL,
    PROTOCOL_NO_OVERRIDE,
    Flood,
    Neighbour,
    Unicast,
    address_text,
    mac_attribute,
    vtep_attribute,
)
from ovs_l2pop.netlink.messages import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    attribute,
    attributes,
    u32,
)

if TYPE_CHECKING:
    from ovs_l2pop.netlink.socket import Netlink

_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_AF_BRIDGE = 7
_DST, _LLADDR, _CACHEINFO, _IFINDEX, _PROTOCOL, _EXTENDED = 1, 2, 3, 8, 12, 15
_SELF, _MASTER, _EXTERN_LEARN, _STICKY, _ROUTER = 0x02, 0x04, 0x10, 0x40, 0x80
_REACHABLE, _STATIC, _PERMANENT = 0x02, 0x40, 0x80

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index of the device, state, flags, type

#: The MAC of the entry with the VTEPs for BUM traffic.
_EVERYBODY = mac_attribute("00:00:00:00:00:00")
_OVERRIDES, _DOESNT = (
    attribute(_PROTOCOL, bytes([protocol])) for protocol in (PROTOCOL, PROTOCOL_NO_OVERRIDE)
)
_OURS = _OVERRIDES, _DOESNT
_MARK_SIZE = len(_OVERRIDES)

# Where the kernel puts things in what it lists. Where it doesn't, they are looked for.
_HEAD, _FLAGS_AT = _NDMSG.size, 10
_VTEP_AT = _HEAD + MAC_SIZE
_IPV4 = struct.pack("=HH", 8, _DST)
_BESIDES = 8 + 20  # the attributes NDA_PROBES and NDA_CACHEINFO
_TIMES = struct.pack("=HH", 20, _CACHEINFO)

#: NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_NH_ID, NDA_SRC_VNI: what else tells where copies go.
_BY = {6: "port", 7: "vni", 8: "device", 13: "nexthop", 11: "source-vni"}
_BY_NAME = {name: kind for kind, name in _BY.items()}

#: Devices up to which each is listed by itself.
_FEW = 8


# -- messages --------------------------------------------------------------------------------


def add_unicast(row: Unicast, tunnel: int, *, replace: bool) -> Message:
    """Write an entry; *replace* what there is for the MAC, without a gap, or fail where there is
    something."""
    return Message(
        _NEWNEIGH,
        CREATE | REPLACE if replace else CREATE | EXCLUSIVE,
        _unicast_head(tunnel, row.bridged) + row.addresses,
    )


@lru_cache(1000)
def _unicast_head(tunnel: int, bridged: bool) -> bytes:
    flags = _SELF | _EXTERN_LEARN | (_MASTER if bridged else 0)
    return _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, flags, 0)


def hold(row: Unicast, tunnel: int) -> Message:
    """Have the bridge hold an entry's half in its table, which was just written."""
    return Message(_NEWNEIGH, CREATE | REPLACE, _hold_head(tunnel) + row.key)


@lru_cache(1000)
def _hold_head(tunnel: int) -> bytes:
    return _NDMSG.pack(_AF_BRIDGE, tunnel, _STATIC, _MASTER | _STICKY, 0)


def add_bridged(row: Unicast, tunnel: int) -> list[Message]:
    """Write an entry's half in the bridge's table, and have it held."""
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _MASTER | _EXTERN_LEARN, 0)
    return [Message(_NEWNEIGH, CREATE | REPLACE, head + row.key), hold(row, tunnel)]


def delete_unicast(row: Unicast, tunnel: int) -> Message:
    """Delete an entry of the tunnel's table if it is to this VTEP."""
    if row.odd not in ("", LOOSE):
        return forget(row, tunnel)  # wherever it leads
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _SELF, 0)
    return Message(_DELNEIGH, 0, head + row.addresses)


def keep_learned(row: Unicast, tunnel: int) -> Message:
    """Have an entry as if it had been learned, until it ages or is learned otherwise."""
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _REACHABLE, _SELF, 0)
    return Message(_NEWNEIGH, CREATE | EXCLUSIVE, head + row.addresses)


def forget(row: Unicast, tunnel: int) -> Message:
    """Delete what a tunnel's table has for the entry's MAC."""
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _SELF, 0)
    return Message(_DELNEIGH, 0, head + row.key)


def delete_bridged(row: Unicast, tunnel: int) -> Message:
    """Delete an entry of the bridge's table if it is behind the tunnel."""
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _MASTER, 0)
    return Message(_DELNEIGH, 0, head + row.key)


def add_flood(address: str, tunnel: int, device: int = 0) -> Message:
    """Send BUM traffic to one more VTEP, or to a multicast group, which is reached by *device*.

    :param address: as in :class:`Flood`.
    """
    return _flood(_NEWNEIGH, CREATE | APPEND, address, tunnel, device)


def delete_flood(address: str, tunnel: int, device: int = 0) -> Message:
    """Send BUM traffic to one VTEP or multicast group less."""
    return _flood(_DELNEIGH, 0, address, tunnel, device)


def _flood(kind: int, how: int, to: str, tunnel: int, device: int) -> Message:
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _SELF, 0)
    address, *odd = to.split()
    by = u32(_IFINDEX, device) if is_group(address) else b""
    for name, number in zip(odd[::2], odd[1::2], strict=True):
        value = int(number).to_bytes(2, "big") if name == "port" else struct.pack("=I", int(number))
        by += attribute(_BY_NAME[name], value)
    return Message(kind, how, head + _EVERYBODY + vtep_attribute(address) + by)


@lru_cache(10_000)
def is_group(address: str) -> bool:
    """Whether an address is a multicast group's."""
    return ip_address(address).is_multicast


def add_neighbour(row: Neighbour, bridge: int, *, replace: bool) -> Message:
    """Write a neighbour; *replace* what there is for the IP, or fail where there is something."""
    head = _neighbour_head(row.addresses[:4], bridge, row.router)
    return Message(
        _NEWNEIGH,
        CREATE | REPLACE if replace else CREATE | EXCLUSIVE,
        head + row.addresses + (_OVERRIDES if row.override else _DOESNT),
    )


def delete_neighbour(row: Neighbour, bridge: int) -> Message:
    """Delete a neighbour."""
    return Message(_DELNEIGH, 0, _neighbour_head(row.addresses[:4], bridge) + row.key)


@lru_cache(1000)
def _neighbour_head(ip: bytes, bridge: int, router: bool = False) -> bytes:
    """For an IP whose attribute begins like this."""
    family = AF_INET if ip == _IPV4 else AF_INET6
    return _NDMSG.pack(family, bridge, _PERMANENT, _ROUTER if router else 0, 0)


# -- what is there ---------------------------------------------------------------------------


def forwarding(netlink: "Netlink", tunnels: Mapping[int, str]) -> set[Flood | Unicast]:
    """What of ours is in the tables of *tunnels* (index → name) and of their bridges."""
    floods: dict[int, list[str]] = {}
    entries: list[tuple[int, bytes, str]] = []
    bridged: set[tuple[int, bytes]] = set()
    loose: set[tuple[int, bytes]] = set()
    unpack = _NDMSG.unpack_from
    only = next(iter(tunnels)) if len(tunnels) == 1 else 0
    request = _NDMSG.pack(_AF_BRIDGE, only, 0, 0, 0)
    for body in netlink.dump(Message(_GETNEIGH, 0, request)):
        _, index, state, flags, _ = unpack(body)
        if index not in tunnels:
            continue
        if not flags & _SELF:
            if flags & _EXTERN_LEARN:
                key = index, _mac_and_vtep(body)[:MAC_SIZE]
                bridged.add(key)
                if not flags & _STICKY or not state & _STATIC:
                    loose.add(key)
            continue
        addresses = _mac_and_vtep(body)
        if addresses[:MAC_SIZE] == _EVERYBODY:
            if state & _PERMANENT and not flags & _EXTERN_LEARN and addresses[MAC_SIZE:]:
                to = _vtep_text(addresses[MAC_SIZE:])
                floods.setdefault(index, []).append(f"{to} {_ways(body, to)}".rstrip())
        elif flags & _EXTERN_LEARN:
            odd = "" if state & _PERMANENT else "not permanent"
            if flags != _SELF | _EXTERN_LEARN:
                odd = f"{odd} flags {flags:#x}".lstrip()
            end = _HEAD + len(addresses)
            if body[end : end + 4] != _TIMES:
                odd = f"{odd} {_ways(body)}".strip()
            entries.append((index, addresses, odd))
    found: set[Flood | Unicast] = set()
    halves = set(bridged)
    for index, addresses, odd in entries:
        key = index, addresses[:MAC_SIZE]
        how = odd or (LOOSE if key in loose else "")
        found.add(Unicast(tunnels[index], addresses, key in bridged, how))
        halves.discard(key)
    found.update(
        Unicast(tunnels[index], mac, True, LOOSE if (index, mac) in loose else "")
        for index, mac in halves
    )
    found.update(Flood(tunnels[index], tuple(sorted(copies))) for index, copies in floods.items())
    return found


def _ways(body: bytes, to: str = "") -> str:
    """What else than the VTEP's address an entry tells of where frames go; as in :class:`Flood`."""
    found = attributes(body, _HEAD)
    words = []
    for kind, name in _BY.items():
        # A group is always reached by a device.
        if kind in found and not (kind == _IFINDEX and to and is_group(to)):
            number = int.from_bytes(found[kind], "big" if name == "port" else sys.byteorder)
            words.append(f"{name} {number}")
    return " ".join(words)


def lost_unicasts(netlink: "Netlink", rows: Mapping[int, list[Unicast]]) -> list[Unicast]:
    """Those of *rows*, by tunnel, that the tunnel's table doesn't hold, or the bridge's where it
    should.

    For rows that were just written: nothing is decoded, so 20,000 take 0.1 s.
    """
    lost: list[Unicast] = []
    for tunnel, bodies in _listed(netlink, _AF_BRIDGE, rows):
        own = {
            body[_HEAD : _HEAD + size]
            for size in {len(row.addresses) for row in rows[tunnel]}
            for body in bodies
            if body[_FLAGS_AT] & _SELF
        }
        held = _SELF | _STICKY
        bridged = {body[_HEAD:_VTEP_AT] for body in bodies if body[_FLAGS_AT] & held == _STICKY}
        lost += [
            row
            for row in rows[tunnel]
            if row.addresses not in own or (row.bridged and row.key not in bridged)
        ]
    return lost


def lost_neighbours(netlink: "Netlink", rows: Mapping[int, list[Neighbour]]) -> list[Neighbour]:
    """Those of *rows*, by bridge, that the bridge's neighbours lack."""
    lost: list[Neighbour] = []
    for family, size in ((AF_INET, MAC_SIZE + 8), (AF_INET6, MAC_SIZE + 20)):
        of_family = {
            bridge: few
            for bridge, all_rows in rows.items()
            if (few := [row for row in all_rows if len(row.addresses) == size])
        }
        for bridge, bodies in _listed(netlink, family, of_family):
            there = {body[_HEAD : _HEAD + size] for body in bodies}
            lost += [row for row in of_family[bridge] if row.addresses not in there]
    return lost


def _listed(
    netlink: "Netlink", family: int, devices: Collection[int]
) -> Iterator[tuple[int, list[bytes]]]:
    """What a table holds of each device. All is listed at once for more than a few devices: to list
    one device's, the kernel goes through everybody's."""
    if len(devices) <= _FEW:
        for index in devices:
            # The tables of bridges are asked for by the device itself, neighbours by an attribute.
            bridge = family == _AF_BRIDGE
            head = _NDMSG.pack(family, index if bridge else 0, 0, 0, 0)
            request = head if bridge else head + u32(_IFINDEX, index)
            yield index, netlink.dump(Message(_GETNEIGH, 0, request))
        return
    found: dict[int, list[bytes]] = {index: [] for index in devices}
    for body in netlink.dump(Message(_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0))):
        if (index := _NDMSG.unpack_from(body)[1]) in found:
            found[index].append(body)
    yield from found.items()


def _mac_and_vtep(body: bytes) -> bytes:
    """The attributes of MAC and VTEP, as rows have them."""
    if body[_VTEP_AT : _VTEP_AT + 4] == _IPV4:
        return body[_HEAD : _VTEP_AT + 8]
    found = attributes(body, _HEAD)
    mac = attribute(_LLADDR, found.get(_LLADDR, bytes(6)))
    return mac + attribute(_DST, found[_DST]) if _DST in found else mac


_vtep_text = lru_cache(10_000)(address_text)


def neighbours(netlink: "Netlink", places: Mapping[int, tuple[str, str]]) -> set[Neighbour]:
    """Our neighbours on all devices; *places*: index → (tunnel in it, name)."""
    found = set()
    unpack = _NDMSG.unpack_from
    for family in (AF_INET, AF_INET6):
        for body in netlink.dump(Message(_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0))):
            _, index, state, flags, _ = unpack(body)
            if index not in places:
                continue
            addresses, mark = _ip_and_mac(body)
            if addresses:
                odd = "" if state == _PERMANENT else "not permanent"
                plain = len(body) <= _HEAD + len(addresses) + _BESIDES + _MARK_SIZE
                router = flags == _ROUTER and family == AF_INET6
                if (flags and not router) or not (
                    plain or _EXTENDED not in attributes(body, _HEAD)
                ):
                    odd = f"{odd} with flags".lstrip()
                override = mark == _OVERRIDES
                found.add(Neighbour(*places[index], addresses, odd, router, override))
    return found


class Marked:
    """Whose entries are now, so that none of somebody else's is deleted.

    :param many: there will be many questions: all is listed once, at the first of them.
    """

    def __init__(self, netlink: "Netlink", *, many: bool) -> None:
        self._netlink = netlink
        self._many = many
        self._listed: set[tuple[int, int, bytes]] | None = None

    def unicast(self, row: Unicast, tunnel: int) -> bool:
        """Whether the tunnel's table has the row's entry, with our mark."""
        return self._ask(_AF_BRIDGE, tunnel, _SELF, row.key)

    def bridged(self, row: Unicast, tunnel: int) -> bool:
        """Whether the bridge's table has its other half, behind the tunnel and with our mark."""
        return self._ask(_AF_BRIDGE, tunnel, _MASTER, row.key)

    def neighbour(self, row: Neighbour, bridge: int) -> bool:
        """Whether the bridge has the row's neighbour, with our mark."""
        family = AF_INET if row.addresses[:4] == _IPV4 else AF_INET6
        return self._ask(family, bridge, 0, row.key)

    def _ask(self, family: int, device: int, flags: int, key: bytes) -> bool:
        if self._many:
            if self._listed is None:
                self._listed = set(self._all())
            return (device, flags, key) in self._listed
        head = _NDMSG.pack(family, device, 0, flags, 0)
        body = self._netlink.get(Message(_GETNEIGH, 0, head + key))
        return body is not None and _mark(body) == (device, flags, key)

    def _all(self) -> Iterator[tuple[int, int, bytes]]:
        for family in (_AF_BRIDGE, AF_INET, AF_INET6):
            for body in self._netlink.dump(Message(_GETNEIGH, 0, _NDMSG.pack(family, *(0,) * 4))):
                if (mark := _mark(body)) is not None:
                    yield mark


def _mark(body: bytes) -> tuple[int, int, bytes] | None:
    """(device, which table, key) of an entry or neighbour of ours; None for somebody else's."""
    family, device, _, flags, _ = _NDMSG.unpack_from(body)
    if family != _AF_BRIDGE:
        addresses, _ = _ip_and_mac(body)
        return (device, 0, addresses[:-MAC_SIZE]) if addresses else None
    if not flags & _EXTERN_LEARN:
        return None
    return device, _SELF if flags & _SELF else _MASTER, _mac_and_vtep(body)[:MAC_SIZE]


def _ip_and_mac(body: bytes) -> tuple[bytes, bytes]:
    """The attributes of IP and MAC, as rows have them, and our mark; empty for somebody else's."""
    end = _HEAD + MAC_SIZE + (8 if body[_HEAD : _HEAD + 4] == _IPV4 else 20)
    mark = body[end + _BESIDES : end + _BESIDES + _MARK_SIZE]
    if mark in _OURS:
        return body[_HEAD:end], mark
    found = attributes(body, _HEAD)
    mark = attribute(_PROTOCOL, found.get(_PROTOCOL, b""))
    if mark not in _OURS:
        return b"", b""
    mac = attribute(_LLADDR, found.get(_LLADDR, bytes(6)))
    return attribute(_DST, found[_DST]) + mac, mark

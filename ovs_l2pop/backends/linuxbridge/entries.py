"""Forwarding entries and neighbours: rows to messages, and what the kernel lists to rows.

A tunnel has a table of its own (flag ``self``: MAC → VTEP), and is a port in the bridge's table
(``master``: MAC → port). What of it is ours is marked: forwarding entries as learned by a control
plane (``extern_learn``), neighbours by their protocol number. The list of VTEPs for BUM traffic has
one entry for them all in the kernel, and no mark for each: on a tunnel of ours, all of it is ours.

Numbers are those of ``linux/neighbour.h``.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from ovs_l2pop.backends.linuxbridge.netlink import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    u32,
)
from ovs_l2pop.backends.linuxbridge.rows import (
    MAC_SIZE,
    PROTOCOL,
    Flood,
    Neighbour,
    Unicast,
    address_text,
    mac_attribute,
    vtep_attribute,
)

_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_AF_BRIDGE = 7
_DST, _LLADDR, _IFINDEX, _PROTOCOL = 1, 2, 8, 12
_SELF, _MASTER, _EXTERN_LEARN = 0x02, 0x04, 0x10
_REACHABLE, _PERMANENT = 0x02, 0x80

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index of the device, state, flags, type

#: The MAC of the entry with the VTEPs for BUM traffic.
_EVERYBODY = mac_attribute("00:00:00:00:00:00")
_OURS = attribute(_PROTOCOL, bytes([PROTOCOL]))

# Where the kernel puts things in what it lists. Where it doesn't, they are looked for.
_HEAD, _FLAGS_AT = _NDMSG.size, 10
_VTEP_AT = _HEAD + MAC_SIZE
_IPV4 = struct.pack("=HH", 8, _DST)
_BESIDES = 8 + 20  # the attributes NDA_PROBES and NDA_CACHEINFO


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


def add_bridged(row: Unicast, tunnel: int) -> Message:
    """Write an entry's half in the bridge's table."""
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _MASTER | _EXTERN_LEARN, 0)
    return Message(_NEWNEIGH, CREATE | REPLACE, head + row.key)


def delete_unicast(row: Unicast, tunnel: int) -> Message:
    """Delete an entry of the tunnel's table if it is to this VTEP."""
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
    """Send BUM traffic to one more VTEP, or to a multicast group, which is reached by *device*."""
    return _flood(_NEWNEIGH, CREATE | APPEND, address, tunnel, device)


def delete_flood(address: str, tunnel: int, device: int = 0) -> Message:
    """Send BUM traffic to one VTEP or multicast group less."""
    return _flood(_DELNEIGH, 0, address, tunnel, device)


def _flood(kind: int, how: int, address: str, tunnel: int, device: int) -> Message:
    head = _NDMSG.pack(_AF_BRIDGE, tunnel, _PERMANENT, _SELF, 0)
    by = u32(_IFINDEX, device) if is_group(address) else b""
    return Message(kind, how, head + _EVERYBODY + vtep_attribute(address) + by)


@lru_cache(10_000)
def is_group(address: str) -> bool:
    """Whether an address is a multicast group's."""
    return ip_address(address).is_multicast


def add_neighbour(row: Neighbour, bridge: int, *, replace: bool) -> Message:
    """Write a neighbour; *replace* what there is for the IP, or fail where there is something."""
    return Message(
        _NEWNEIGH,
        CREATE | REPLACE if replace else CREATE | EXCLUSIVE,
        _neighbour_head(row.addresses[:4], bridge) + row.addresses + _OURS,
    )


def delete_neighbour(row: Neighbour, bridge: int) -> Message:
    """Delete a neighbour."""
    return Message(_DELNEIGH, 0, _neighbour_head(row.addresses[:4], bridge) + row.key)


@lru_cache(1000)
def _neighbour_head(ip: bytes, bridge: int) -> bytes:
    """For an IP whose attribute begins like this."""
    return _NDMSG.pack(AF_INET if ip == _IPV4 else AF_INET6, bridge, _PERMANENT, 0, 0)


# -- what is there ---------------------------------------------------------------------------


def forwarding(netlink: Netlink, tunnels: Mapping[int, str]) -> set[Flood | Unicast]:
    """What of ours is in the tables of *tunnels* (index → name) and of their bridges."""
    floods: dict[int, list[str]] = {}
    entries: list[tuple[int, bytes]] = []
    bridged: set[tuple[int, bytes]] = set()
    unpack = _NDMSG.unpack_from
    only = next(iter(tunnels)) if len(tunnels) == 1 else 0
    request = _NDMSG.pack(_AF_BRIDGE, only, 0, 0, 0)
    for body in netlink.dump(Message(_GETNEIGH, 0, request)):
        _, index, state, flags, _ = unpack(body)
        if index not in tunnels:
            continue
        if flags & _EXTERN_LEARN:
            if flags & _SELF:
                entries.append((index, _mac_and_vtep(body)))
            else:
                bridged.add((index, _mac_and_vtep(body)[:MAC_SIZE]))
        elif flags & _SELF and state & _PERMANENT:
            addresses = _mac_and_vtep(body)
            if addresses[:MAC_SIZE] == _EVERYBODY and addresses[MAC_SIZE:]:
                floods.setdefault(index, []).append(_vtep_text(addresses[MAC_SIZE:]))
    found: set[Flood | Unicast] = set()
    halves = set(bridged)
    for index, addresses in entries:
        key = index, addresses[:MAC_SIZE]
        found.add(Unicast(tunnels[index], addresses, key in bridged))
        halves.discard(key)
    found.update(Unicast(tunnels[index], mac, True) for index, mac in halves)
    found.update(Flood(tunnels[index], tuple(sorted(copies))) for index, copies in floods.items())
    return found


def lost_unicasts(netlink: Netlink, rows: Mapping[int, list[Unicast]]) -> list[Unicast]:
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
        bridged = {body[_HEAD:_VTEP_AT] for body in bodies if not body[_FLAGS_AT] & _SELF}
        lost += [
            row
            for row in rows[tunnel]
            if row.addresses not in own or (row.bridged and row.key not in bridged)
        ]
    return lost


def lost_neighbours(netlink: Netlink, rows: Mapping[int, list[Neighbour]]) -> list[Neighbour]:
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
    netlink: Netlink, family: int, devices: Collection[int]
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


def neighbours(netlink: Netlink, places: Mapping[int, tuple[str, str]]) -> set[Neighbour]:
    """Our neighbours on all devices; *places*: index → (tunnel in it, name)."""
    found = set()
    unpack = _NDMSG.unpack_from
    for family in (AF_INET, AF_INET6):
        for body in netlink.dump(Message(_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0))):
            _, index, state, _, _ = unpack(body)
            if state & _PERMANENT and index in places and (addresses := _ip_and_mac(body)):
                found.add(Neighbour(*places[index], addresses))
    return found


def _ip_and_mac(body: bytes) -> bytes:
    """The attributes of IP and MAC, as rows have them; empty for somebody else's."""
    end = _HEAD + MAC_SIZE + (8 if body[_HEAD : _HEAD + 4] == _IPV4 else 20)
    if body[end + _BESIDES : end + _BESIDES + 5] == _OURS[:5]:
        return body[_HEAD:end]
    found = attributes(body, _HEAD)
    if found.get(_PROTOCOL) != bytes([PROTOCOL]):
        return b""
    return attribute(_DST, found[_DST]) + attribute(_LLADDR, found.get(_LLADDR, bytes(6)))

"""What is written, and in which order: rows to add and to remove, and what is there → a plan. Pure.

Devices that go, go first; new ones come before what goes into them. An entry that takes another
one's place replaces it, and what is new is written before what is old is deleted.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ovs_l2pop.backends.linuxbridge import entries, settings
from ovs_l2pop.backends.linuxbridge.rows import (
    LOOSE,
    Bridge,
    Closed,
    Flood,
    Guard,
    GuardRow,
    Member,
    Neighbour,
    Oversized,
    Tunnel,
    Unicast,
    new_tunnel_name,
)
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.netlink.messages import Message

if TYPE_CHECKING:
    from ovs_l2pop.backends.linuxbridge.links import Link

Entry = Flood | Unicast | Neighbour
Key = tuple[str, bytes]


class RefusedError(L2popError):
    """The row can't be made; the text says why."""


class Place(NamedTuple):
    """Where a tunnel's entries go."""

    tunnel: int  #: index of the device
    bridge: int  #: of the bridge it is in
    bridge_name: str
    device: int  #: index of the underlay's


# -- a batch ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What becomes of one batch, in the order of the fields."""

    #: Before there is a tunnel for strangers to send into: to add, and to remove.
    guards: tuple[list[GuardRow], list[GuardRow]]
    gone: list[Tunnel | Bridge]  #: devices to be deleted, with bridges of ours that are empty then
    kept: set[str]  #: but for these bridges
    leaving: list[Tunnel]  #: tunnels that may leave a bridge which another then finds free
    tunnels: list[Tunnel]  #: to be made or changed
    entries: list[Entry]  #: to be written
    replaced: dict[Key, Entry]  #: what is there in place of some
    #: Tunnels to be changed once more: they keep their multicast group until they have VTEPs.
    late: list[Tunnel]
    #: Entries to be deleted, each with what was written with the same key.
    deleted: list[tuple[Entry, Entry | None]]
    oversized: list[Oversized]  #: to be told


def plan(add: Iterable[Row], remove: Iterable[Row]) -> Plan:
    """Plan one batch."""
    adding, removing = _ByKind(), _ByKind()
    adding.sort(add)
    removing.sort(remove)
    stay = {row.name for row in adding.tunnels}
    groups = {row.name: row.group for row in removing.tunnels}
    tunnels, late = [], []
    for row in adding.tunnels:
        if not row.group and (group := groups.get(row.name)):
            late.append(row)
            row = row._replace(group=group)
        tunnels.append(row)
    new = {key(row): row for row in adding.entries} if removing.entries else {}
    return Plan(
        guards=(adding.guards, removing.guards),
        gone=[*(row for row in removing.tunnels if row.name not in stay), *removing.bridges],
        kept={row.bridge for row in adding.tunnels},
        leaving=removing.tunnels,
        tunnels=tunnels,
        entries=adding.entries,
        replaced={key(row): row for row in removing.entries} if adding.entries else {},
        late=late,
        deleted=[(row, new.get(key(row)) if new else None) for row in removing.entries],
        oversized=removing.oversized,
    )


@dataclass(slots=True)
class _ByKind:
    tunnels: list[Tunnel] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    oversized: list[Oversized] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    guards: list[GuardRow] = field(default_factory=list)

    def sort(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if isinstance(row, (Unicast, Neighbour, Flood)):
                self.entries.append(row)
            elif isinstance(row, Tunnel):
                self.tunnels.append(row)
            elif isinstance(row, Bridge):
                self.bridges.append(row)
            elif isinstance(row, Oversized):
                self.oversized.append(row)
            elif isinstance(row, (Member, Closed, Guard)):
                self.guards.append(row)
            else:
                raise TypeError(f"no row of this backend: {row!r}")


def key(row: Entry) -> Key:
    """What there can be one of."""
    if isinstance(row, Unicast):
        return row.tunnel, row.key
    if isinstance(row, Neighbour):
        return row.bridge, row.key
    return row.tunnel, b""


# -- entries ---------------------------------------------------------------------------------


def addition(row: Entry, place: Place, before: Entry | None) -> Iterator[Message]:
    """What writes an entry.

    :param before: what of ours is there with its key.
    """
    if isinstance(row, Unicast):
        # Of half an entry the tunnel's table holds nothing, or nothing of ours; and the kernel
        # changes where one of ours leads, but not what else is odd about it.
        whole = (
            isinstance(before, Unicast)
            and before.addresses != before.key
            and before.odd in ("", LOOSE)
        )
        yield entries.add_unicast(row, place.tunnel, replace=whole)
        if row.bridged:
            yield entries.hold(row, place.tunnel)
    elif isinstance(row, Neighbour):
        if not row.here:
            there = isinstance(before, Neighbour) and not before.here
            yield entries.add_neighbour(row, place.bridge, replace=there)
    else:
        done = set(before.to) if isinstance(before, Flood) and before != row else set()
        for address in row.to:
            if address not in done:
                yield entries.add_flood(address, place.tunnel, place.device)


def deletion(
    row: Flood | Unicast,
    instead: Entry | None,
    place: Place,
    marked: entries.Marked,
    populate: bool,
) -> Iterator[Message]:
    """What is to be deleted of an entry of a tunnel.

    :param instead: what was written with its key.
    :param marked: whose what is there is.
    :param populate: whether entries are written at all; if not, those that were serve until others
        are learned.
    """
    if isinstance(row, Flood):
        kept = set(instead.to) if isinstance(instead, Flood) else set()
        for address in row.to:
            if address not in kept:
                yield entries.delete_flood(address, place.tunnel, place.device)
        return
    if instead is None and row.addresses != row.key and marked.unicast(row, place.tunnel):
        yield entries.delete_unicast(row, place.tunnel)
        if not populate and not row.here:
            yield entries.keep_learned(row, place.tunnel)
    held = isinstance(instead, Unicast) and instead.bridged
    if row.bridged and place.bridge and not held and marked.bridged(row, place.tunnel):
        yield entries.delete_bridged(row, place.tunnel)


# -- devices ---------------------------------------------------------------------------------


def is_strangers(link: "Link", bridge: "Link | None", row: Tunnel) -> bool:
    """Whether the device of a tunnel's name is somebody else's.

    :param bridge: what it is in.
    """
    # In the bridge that we made for the network it is ours, and its marks were taken away.
    left = bridge is not None and bridge.owner in (row.network_id, "")
    return link.vxlan is None or (link.owner is None and not left)


def intruders(
    row: Tunnel, bridge: "Link", ports: Iterable["Link"], bound: Mapping[str, str]
) -> "list[Link]":
    """Other tunnels of ours in a tunnel's bridge, which are to be taken out of it.

    :param bound: bridges of tunnels that are about to be put; empty: another than now.
    :raises RefusedError: one belongs there: two networks would see each other's frames.
    """
    found = []
    for port in ports:
        if port.owner is None or port.name in (row.name, new_tunnel_name(row.vni)):
            continue
        if bound.get(port.name, bridge.name) == bridge.name:
            raise RefusedError(f"bridge {row.bridge} has {port.name} of network {port.owner} in it")
        found.append(port)
    return found


def is_deserted(bridge: "Link", ports: Iterable["Link"], without: Collection[int]) -> bool:
    """Whether a bridge is ours and empty but for these devices."""
    return bridge.owner is not None and all(port.number in without for port in ports)


#: Settings of a vxlan device that can't be changed.
_FIXED = frozenset(
    {
        *(one.name for one in settings.TUNNEL_FIXED),
        *settings.TUNNEL_FLAGS.values(),
        "udp6zerocsumrx",
    }
)
_AT_CREATION = ("vni", "port", "proxy", "six")
_CHANGEABLE = ("group", "local", "device", "ttl", "tos", "learning")


def replaces(current: Tunnel, row: Tunnel) -> bool:
    """Whether only another device can be what *row* says."""
    if any(getattr(current, name) != getattr(row, name) for name in _AT_CREATION):
        return True
    # What was learned in one network is not for another.
    return not _FIXED.isdisjoint(current.odd) or serves_another(current, row)


def changes(current: Tunnel, row: Tunnel) -> bool:
    """Whether something is to be changed that a vxlan device is told while it works."""
    return any(getattr(current, name) != getattr(row, name) for name in _CHANGEABLE)


def both_at_once(current: Tunnel, row: Tunnel) -> bool:
    """Whether the kernel takes the one beside the other."""
    return (current.vni, current.port, current.six) != (row.vni, row.port, row.six)


def serves_another(current: Tunnel, row: Tunnel) -> bool:
    """Whether it is another network's. Without a network it was just handed over."""
    return bool(current.network_id) and current.network_id != row.network_id


def by_bridge(known: Iterable["Link"]) -> "dict[int, list[Link]]":
    """Bridges by number, with their ports."""
    inside: dict[int, list[Link]] = {}
    for link in known:
        if link.kind == "bridge":
            inside.setdefault(link.number, [])
        if link.master:
            inside.setdefault(link.master, []).append(link)
    return inside


def oversized(tunnel: "Link", beside: Iterable["Link"]) -> Iterator[Oversized]:
    """Ports beside a tunnel that take larger packets than it does."""
    for link in beside:
        if link.mtu > tunnel.mtu and link.number != tunnel.number:
            yield Oversized(link.name, tunnel.name, link.mtu, tunnel.mtu)

"""One write: batches of rows, each carried out as planned before the next is made."""

import errno
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from ovs_l2pop.backends.linuxbridge import entries, links
from ovs_l2pop.backends.linuxbridge.devices import Devices
from ovs_l2pop.backends.linuxbridge.guard import Filter
from ovs_l2pop.backends.linuxbridge.plan import (
    Entry,
    Key,
    Place,
    Plan,
    RefusedError,
    addition,
    deletion,
    key,
    plan,
)
from ovs_l2pop.backends.linuxbridge.render import Ways
from ovs_l2pop.backends.linuxbridge.responder import Responder
from ovs_l2pop.backends.linuxbridge.rows import Flood, Neighbour, Oversized, Tunnel, Unicast
from ovs_l2pop.core.backend import Batch
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.messages import Message
from ovs_l2pop.netlink.socket import Failure, Netlink

#: Tunnels in a batch from which on it pays to look at all devices first.
_MANY = 8

#: Entries to delete from which on it pays to list all first, to see whose they are: to ask for one
#: takes some 10 µs, to list 20,000 takes 0.1 s.
_MANY_ENTRIES = 500

#: What a delete answers where there is nothing to delete.
_GONE = (errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL)


class Write:
    """Takes batches in, each written before the next is made.

    :param ways: what tunnels have in common; None for who only takes away.
    :param limit: what makes tunnels as narrow as they are, for people.
    :param failed: tunnels that were refused, so that their entries are; kept up to date.
    :param strangers: what keeps them out; None: nothing does.
    :param answers: what answers for neighbours; None: the bridges themselves, if anything does.
    """

    def __init__(
        self,
        netlink: Netlink,
        ways: Ways | None,
        limit: str,
        failed: set[str],
        strangers: Filter | None = None,
        answers: Responder | None = None,
    ) -> None:
        self.refused: dict[Row, str] = {}
        #: A tunnel is there now whose entries were refused: they can be written again.
        self.found = False
        #: Entries that were added.
        self.added: list[Entry] = []
        self._netlink = netlink
        self._devices = Devices(netlink, answers)
        self._multicast = ways is not None and ways.multicast
        # Where entries are no longer written, those that were serve until others are learned.
        self._populate = ways is None or ways.populate
        self._limit = limit
        self._failed = failed
        self._filter = strangers
        self._answers = answers
        self._places: dict[str, Place | None] = {}
        self._bridges: dict[str, int] = {}

    def take(self, batch: Batch) -> None:
        """Write a batch."""
        self._bridges.clear()
        planned = plan(*batch)
        if self._filter is not None and any(planned.guards):
            self.refused.update(self._filter.write(*planned.guards))
        if len(planned.tunnels) + len(planned.leaving) > _MANY:
            self._devices.survey()
        if planned.gone or planned.leaving:
            self._remove_devices(planned)
        self._devices.expect(planned.leaving, planned.tunnels)
        for row in planned.tunnels:
            self._put(row)
        self._add(planned)
        for row in planned.late:
            self._put(row)
        self._delete(planned)
        self._answer(planned)
        for oversized in planned.oversized:
            self._complain(oversized)

    def read_back(self) -> None:
        """See whether all that was added is there; what is not is written once more."""
        if not (lost := self._lost()):
            return
        self._write(lost, {key(row): row for row in lost})
        for row in self._lost():
            self.refused[row] = "written, but the kernel doesn't have it"

    def _lost(self) -> list[Entry]:
        """Added rows that aren't there."""
        by_tunnel: dict[str, tuple[list[Unicast], list[Neighbour]]] = {}
        for row in self.added:
            unicasts, neighbours = by_tunnel.setdefault(row.tunnel, ([], []))
            if isinstance(row, Unicast):
                unicasts.append(row)
            elif isinstance(row, Neighbour) and not row.here:
                neighbours.append(row)
        forwarding: dict[int, list[Unicast]] = {}
        known: dict[int, list[Neighbour]] = defaultdict(list)
        for tunnel, (unicasts, neighbours) in by_tunnel.items():
            if (place := self._place(tunnel)) is not None:
                forwarding[place.tunnel] = unicasts
                known[place.bridge] += neighbours
            elif not self.refused.keys() >= {*unicasts, *neighbours}:
                raise BackendError(f"the tunnel {tunnel} was taken away")
        lost: list[Entry] = [
            *entries.lost_unicasts(self._netlink, forwarding),
            *entries.lost_neighbours(self._netlink, known),
        ]
        return [row for row in lost if row not in self.refused]

    # -- devices -----------------------------------------------------------------------------

    def _remove_devices(self, planned: Plan) -> None:
        try:
            self._devices.remove(planned.gone, planned.kept)
        except RefusedError as error:
            self.refused.update((row, str(error)) for row in planned.gone)
        self._places.clear()

    def _put(self, row: Tunnel) -> None:
        self._places.pop(row.name, None)
        try:
            if self._multicast and not row.group:
                raise RefusedError(f"no multicast group for VNI {row.vni}")
            self._devices.put(row)
        except RefusedError as error:
            self.refused[row] = str(error)
            self._failed.add(row.name)
            # What is there of it serves the network: it must not be taken for something left over.
            if (found := self._devices.of_network(row)) is not None:
                self.refused[found] = "kept, though it is not as it should be"
            return
        self.found = self.found or row.name in self._failed
        self._failed.discard(row.name)
        for oversized in self._devices.oversized(row):
            self._complain(oversized)

    def _complain(self, row: Oversized) -> None:
        """The port isn't ours: all that can be done is to say so."""
        port = links.by_name(self._netlink, row.port)
        tunnel = links.by_name(self._netlink, row.tunnel)
        if (
            port
            and tunnel
            and port.mtu > tunnel.mtu
            and tunnel.master in (port.master, port.number)
        ):
            self.refused[row] = (
                f"packets of more than {tunnel.mtu} bytes don't fit through {row.tunnel}"
                f" ({self._limit})"
            )

    def _place(self, tunnel: str) -> Place | None:
        """Where entries of a tunnel go; None if it isn't there, or not ours."""
        if tunnel not in self._places:
            link = links.by_name(self._netlink, tunnel)
            place = None
            if link is not None and link.owner is not None and link.vxlan is not None:
                bridge = links.by_index(self._netlink, link.master) if link.master else None
                name = bridge.name if bridge else ""
                place = Place(link.number, link.master, name, link.vxlan.device)
            self._places[tunnel] = place
        return self._places[tunnel]

    def _bridge(self, name: str) -> int:
        """A bridge by name, also one that the tunnel has left; 0: there is none."""
        if name not in self._bridges:
            link = links.by_name(self._netlink, name)
            self._bridges[name] = 0 if link is None else link.number
        return self._bridges[name]

    # -- entries -----------------------------------------------------------------------------

    def _add(self, planned: Plan) -> None:
        self.added += planned.entries
        for row in self._write(planned.entries, planned.replaced):
            # What is there of it is wanted, so it must not be taken for something left over.
            if isinstance(row, Flood) and (place := self._place(row.tunnel)):
                for found in entries.forwarding(self._netlink, {place.tunnel: row.tunnel}):
                    if isinstance(found, Flood):
                        self.refused[found] = "kept, though not all of it could be written"

    def _write(self, rows: Iterable[Entry], replaced: Mapping[Key, Entry]) -> list[Entry]:
        """Write entries, some of them in place of *replaced* ones; those that were refused."""
        planned: list[Entry] = []
        refused: list[Entry] = []
        taken: list[Entry] = []
        revived: dict[str, bool] = {}
        messages = self._additions(rows, replaced, planned)
        for place, code, text in self._netlink.write(messages):
            row = planned[place]
            if code == errno.ENODEV:
                raise BackendError(f"the tunnel {row.tunnel} was taken away")
            if code == errno.EINVAL and isinstance(row, Neighbour):
                # Somebody may have switched the bridge's IPv6 off.
                if row.bridge not in revived:
                    revived[row.bridge] = self._devices.give_ipv6(row.bridge)
                if revived[row.bridge]:
                    taken.append(row)
                    continue
            if code == errno.EEXIST:
                taken.append(row)
            else:
                refused.append(row)
                self.refused[row] = str(Failure(place, code, text))
        if taken:
            # Learned, or written by somebody else. The kernel would change where it leads, but
            # not make it ours. As long as there is none, frames go to every VTEP.
            self._netlink.write(
                entries.forget(row, where.tunnel)
                for row in taken
                if isinstance(row, Unicast) and (where := self._place(row.tunnel))
            )
            refused += self._write(taken, {key(row): row for row in taken})
        return refused

    def _additions(
        self, rows: Iterable[Entry], replaced: Mapping[Key, Entry], planned: list[Entry]
    ) -> Iterator[Message]:
        """The messages that write *rows*; for each, *planned* gets the row."""
        places, before = self._places, None
        for row in rows:
            place = places.get(row.tunnel) or self._place(row.tunnel)
            if place is None:
                if row.tunnel not in self._failed:
                    raise BackendError(f"the tunnel {row.tunnel} was taken away")
                self.refused[row] = "its tunnel is missing"
                continue
            if isinstance(row, Neighbour) and place.bridge_name != row.bridge:
                self.refused[row] = "its tunnel is in another bridge"
                continue
            if replaced:
                before = replaced.get(key(row))
            for message in addition(row, place, before):
                planned.append(row)
                yield message

    def _delete(self, plan: Plan) -> None:
        if not plan.deleted:
            return
        marked = entries.Marked(self._netlink, many=len(plan.deleted) > _MANY_ENTRIES)
        planned: list[Entry] = []

        def messages() -> Iterator[Message]:
            for row, instead in plan.deleted:
                for message in self._deletion(row, instead, marked):
                    planned.append(row)
                    yield message

        for failure in self._netlink.write(messages()):
            if failure.code not in _GONE:
                self.refused[planned[failure.place]] = str(failure)

    def _answer(self, planned: Plan) -> None:
        if self._answers is not None:
            added = (row for row in planned.entries if isinstance(row, Neighbour))
            gone = (row for row, _ in planned.deleted if isinstance(row, Neighbour))
            self._answers.know((row for row in added if row not in self.refused), gone)

    def _deletion(
        self, row: Entry, instead: Entry | None, marked: entries.Marked
    ) -> Iterator[Message]:
        if isinstance(row, Neighbour):
            # Its bridge may have no tunnel any more.
            replaced = row.here or (isinstance(instead, Neighbour) and not instead.here)
            bridge = 0 if replaced else self._bridge(row.bridge)
            if bridge and marked.neighbour(row, bridge):
                yield entries.delete_neighbour(row, bridge)
        elif (place := self._place(row.tunnel)) is not None:  # else it went with its device
            yield from deletion(row, instead, place, marked, self._populate)

"""Pictures of networks, kept for as long as nothing in them has changed.

Whether something has is asked of the database by one number for each network (``queries.Mark``), at
most once in some seconds, for all who ask; the ports of a network are read when it differs. That a
host has a port in a network is kept likewise.
"""

import bisect
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Segment
from ovs_l2pop.neutron.server import queries, states
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import PortState

LOG = logging.getLogger(__name__)

#: Seconds for which one look at marks serves everyone who asks. After a restart of the server or
#: the broker all agents ask at once.
_FRESH = 5.0

#: Seconds after which a picture is made anew, whatever its mark says: should somebody have changed
#: the database without raising a revision.
_LONGEST = 600.0

#: Ports in all pictures that are kept; some 700 bytes each.
_PORTS = 500_000

#: Pairs of a host and a network that are kept, some 150 bytes each.
_PAIRS = 200_000

#: Locks under which pictures are made.
_LOCKS = 256


class _Seen(NamedTuple):
    """A network's mark, and the generation of the roster, at a time."""

    mark: queries.Mark
    generation: int
    at: float


class Place(NamedTuple):
    """Where a host is in a network, and how that looked."""

    where: NetworkSegment
    seen: _Seen


@dataclass(slots=True)
class Picture:
    """All ports of a network, as :attr:`seen` says, which may be told anew."""

    seen: _Seen
    made_at: float
    ports: tuple[PortState, ...]
    keys: tuple[str, ...]
    #: Of each port: its content, and its size in a message.
    measures: tuple[tuple[int, int], ...]
    #: Sum of the contents of all, and of those behind each VTEP.
    contents: int
    behind: Mapping[str, int]

    @classmethod
    def of(
        cls, ports: list[PortState], seen: _Seen, now: float, before: "Picture | None"
    ) -> "Picture":
        """:param before: another one of the network: ports that are the same are measured once."""
        known = {} if before is None else dict(zip(before.ports, before.measures, strict=True))
        measures = tuple(
            known.get(port) or (port.content(), protocol.wire_size(port)) for port in ports
        )
        behind: dict[str, int] = {}
        for port, (content, _) in zip(ports, measures, strict=True):
            assert port.vtep is not None
            behind[port.vtep] = behind.get(port.vtep, 0) + content
        keys = tuple(port.key for port in ports)
        return cls(seen, now, tuple(ports), keys, measures, sum(behind.values()), behind)

    @property
    def as_of(self) -> float:
        """When it was last known to be right."""
        return self.seen.at

    def digest(self, segment: Segment, without: str) -> str:
        """:param without: the VTEP of ports that are left out; empty: none."""
        return protocol.digest(segment, self.contents - self.behind.get(without, 0))

    def after(self, key: str, without: str) -> tuple[tuple[PortState, ...], tuple[int, ...]]:
        """Ports behind that key, and their sizes."""
        start = bisect.bisect_right(self.keys, key)
        ports, measures = self.ports[start:], self.measures[start:]
        if without:
            pairs = zip(ports, measures, strict=True)
            left = [(port, measure) for port, measure in pairs if port.vtep != without]
            ports, measures = (
                (tuple(part) for part in zip(*left, strict=True)) if left else ((), ())
            )
        return ports, tuple(size for _, size in measures)


class Gallery:
    """Safe to use from several threads."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, roster: Roster | None = None
    ) -> None:
        self.clock = clock
        self.roster = roster or Roster(lambda: 0.0)
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._pictures: OrderedDict[NetworkSegment, Picture] = OrderedDict()
        self._ports = 0
        #: Host → network → where it is in it, as of a mark.
        self._hosts: OrderedDict[str, dict[str, Place]] = OrderedDict()
        self._pairs = 0
        # Who asks while a picture is being made waits for that one.
        self._making = [threading.Lock() for _ in range(_LOCKS)]

    def places(self, host: str, networks: Collection[str]) -> dict[str, Place]:
        """Of these networks those in which a host has a port, with its segment there.

        A host takes part in one segment of a network: of several that it has ports in, the first.
        """
        seen = self._look(networks)
        since = self.clock() - _LONGEST
        with self._lock:
            kept = self._hosts.get(host, {})
            found = {
                network_id: kept[network_id]._replace(seen=now)
                for network_id, now in seen.items()
                if network_id in kept
                and _same(kept[network_id].seen, now)
                and kept[network_id].seen.at > since
            }
        # That it isn't in a network is never kept: its port may have come just now.
        if asked := [network_id for network_id in networks if network_id not in found]:
            segments = queries.segments_of(host, asked)
            there = {
                where.network_id: Place(where, seen[where.network_id])
                for where in sorted(segments, reverse=True)
                if where.segment.network_type in MAX_SEGMENT_ID
            }
            self._keep(host, there)
            found.update(there)
        return found

    def picture(self, place: Place) -> Picture:
        """As of when the place was looked at, or later."""
        where, seen = place
        with self._making[hash(where) % _LOCKS]:
            with self._lock:
                picture = self._pictures.get(where)
                if picture is not None:
                    self._pictures.move_to_end(where)
            fresh = picture is not None and picture.made_at > self.clock() - _LONGEST
            if picture is None or not fresh or not _same(picture.seen, seen):
                return self._make(where, seen, picture)
            picture.seen = max(picture.seen, seen, key=lambda one: one.at)
            return picture

    def _look(self, networks: Collection[str]) -> dict[str, _Seen]:
        """Marks of these networks that are fresh."""
        now, generation = self.clock(), self.roster.generation
        with self._lock:
            found = {
                network_id: seen
                for network_id in networks
                if (seen := self._seen.get(network_id)) is not None
                and seen.at > now - _FRESH
                and seen.generation == generation
            }
        if stale := [network_id for network_id in networks if network_id not in found]:
            marks = queries.marks(stale)
            read = {network_id: _Seen(mark, generation, now) for network_id, mark in marks.items()}
            found |= read
            with self._lock:
                for network_id, seen in read.items():
                    if seen.mark.ports:
                        self._seen[network_id] = seen
                    else:  # there may not even be such a network
                        self._seen.pop(network_id, None)
        return found

    def _make(self, where: NetworkSegment, seen: _Seen, before: Picture | None) -> Picture:
        now = self.clock()
        places = queries.ports_in(where, allowed=True)
        vteps = self.roster.on({place.host for place in places})
        picture = Picture.of(states.states(places, vteps), seen, now, before)
        with self._lock:
            if (old := self._pictures.pop(where, None)) is not None:
                self._ports -= len(old.ports)
            self._pictures[where] = picture
            self._ports += len(picture.ports)
            while self._ports > _PORTS and len(self._pictures) > 1:
                gone, old = self._pictures.popitem(last=False)
                self._ports -= len(old.ports)
                LOG.debug("the picture of network %s is forgotten, for want of room", gone[0])
        return picture

    def _keep(self, host: str, places: dict[str, Place]) -> None:
        with self._lock:
            kept = self._hosts.setdefault(host, {})
            self._hosts.move_to_end(host)
            self._pairs -= len(kept)
            kept |= places
            self._pairs += len(kept)
            while self._pairs > _PAIRS and len(self._hosts) > 1:
                _, forgotten = self._hosts.popitem(last=False)
                self._pairs -= len(forgotten)


def _same(one: _Seen, other: _Seen) -> bool:
    return one[:2] == other[:2]

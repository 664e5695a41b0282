"""Agents of ours ask: is this all? (``sync`` of :mod:`ovs_l2pop.neutron.protocol`)"""

import bisect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import oslo_messaging
from oslo_log import log as logging

from ovs_l2pop.messages import MAX_SEGMENT_ID, Segment
from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import Answer, Chunk, Cursor, PortState
from ovs_l2pop.neutron.server import agents, queries, states
from ovs_l2pop.neutron.server.liveness import Liveness
from ovs_l2pop.neutron.server.segments import NetworkSegment

LOG = logging.getLogger(__name__)

#: Seconds for which a picture of a network serves everyone who asks. After a restart of the server
#: or the broker all agents ask at once; each process then reads a network once.
_FRESH = 5.0

#: Networks whose picture is kept.
_KEPT = 256

#: Bytes of an answer besides its ports: the envelope, and what each chunk names.
_ENVELOPE = 2048
_CHUNK_OVERHEAD = 320


@dataclass(frozen=True, slots=True)
class Picture:
    """All ports of a network at a time."""

    taken_at: float
    ports: tuple[PortState, ...]
    keys: tuple[str, ...]
    #: Sum of the contents of all, and of those behind each VTEP.
    contents: int
    behind: Mapping[str, int]

    @classmethod
    def of(cls, ports: list[PortState], taken_at: float) -> "Picture":
        behind: dict[str, int] = {}
        for port in ports:
            assert port.vtep is not None
            behind[port.vtep] = behind.get(port.vtep, 0) + port.content()
        keys = tuple(port.key for port in ports)
        return cls(taken_at, tuple(ports), keys, sum(behind.values()), behind)

    def digest(self, segment: Segment, own_vtep: str) -> str:
        return protocol.digest(segment, self.contents - self.behind.get(own_vtep, 0))

    def after(self, key: str) -> tuple[PortState, ...]:
        return self.ports[bisect.bisect_right(self.keys, key) :]


class Gallery:
    """Pictures of networks, none older than some seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._pictures: OrderedDict[NetworkSegment, Picture] = OrderedDict()
        # Who asks while a picture is being made waits for that one.
        self._making = [threading.Lock() for _ in range(_KEPT)]

    def picture(self, where: NetworkSegment) -> Picture:
        """A fresh one."""
        with self._making[hash(where) % _KEPT]:
            return self._fresh(where) or self._make(where)

    def _fresh(self, where: NetworkSegment) -> Picture | None:
        with self._lock:
            picture = self._pictures.get(where)
        stale = picture is None or picture.taken_at <= self.clock() - _FRESH
        return None if stale else picture

    def _make(self, where: NetworkSegment) -> Picture:
        taken_at = self.clock()
        places = queries.ports_in(where, allowed=True)
        vteps = agents.by_host(queries.agents_on({place.host for place in places}))
        picture = Picture.of(states.states(places, vteps), taken_at)
        with self._lock:
            self._pictures[where] = picture
            self._pictures.move_to_end(where)
            if len(self._pictures) > _KEPT:
                self._pictures.popitem(last=False)
        return picture


class SyncEndpoint:
    """What agents of ours call."""

    target = oslo_messaging.Target(version=protocol.VERSION)

    def __init__(self, gallery: Gallery | None = None, liveness: Liveness | None = None) -> None:
        self._gallery = gallery or Gallery()
        self._liveness = liveness or Liveness(0)

    def sync(
        self, context: Any, host: str, networks: Mapping[str, str], cursor: Any = None
    ) -> dict[str, Any]:
        """What differs from these digests.

        :raises ProtocolError: ``cursor`` is not one.
        """
        # A host takes part in one segment of a network: of several that it has ports in, the first.
        found = sorted(queries.segments_of(host), reverse=True)
        known = {
            where.network_id: where
            for where in found
            if where.segment.network_type in MAX_SEGMENT_ID
        }
        agent = agents.by_host(queries.host(host).agents).get(host)
        own_vtep = "" if agent is None else agent.vtep
        started = self._gallery.clock()
        answer = _Composer(protocol.parse_cursor(cursor), started)
        for network_id in sorted(networks):
            where = known.get(network_id)
            if where is not None and answer.wants(network_id):
                picture = self._gallery.picture(where)
                if not answer.add(where, picture, own_vtep, networks[network_id]):
                    break
        gone = tuple(sorted(set(networks) - set(known))) if cursor is None else ()
        LOG.debug("sync of host %s: %s", host, answer)
        dead = self._liveness.dead() - {own_vtep}
        return answer.answer(gone, tuple(sorted(dead))).to_wire()


class _Composer:
    """Fills an answer up to its size."""

    def __init__(self, start: Cursor | None, now: float) -> None:
        self._start = start
        self._now = now
        self._oldest = now
        self._room = protocol.MAX_CHUNK - _ENVELOPE
        self._chunks: list[Chunk] = []
        self._cursor: Cursor | None = None

    def __str__(self) -> str:
        ports = sum(len(chunk.ports) for chunk in self._chunks)
        return f"{ports} ports in {len(self._chunks)} chunks, more from {self._cursor}"

    def wants(self, network_id: str) -> bool:
        return self._start is None or network_id >= self._start[0]

    def add(self, where: NetworkSegment, picture: Picture, own_vtep: str, digest: str) -> bool:
        """Take in a network; False when there is no room for more."""
        network_id, segment, _ = where
        self._oldest = min(self._oldest, picture.taken_at)
        after = ""
        if self._start is not None and self._start[0] == network_id:
            after = self._start[1]
        elif digest == picture.digest(segment, own_vtep):
            return True
        ports = tuple(port for port in picture.after(after) if port.vtep != own_vtep)
        self._room -= _CHUNK_OVERHEAD
        if self._chunks and ports and self._room < protocol.wire_size(ports[0]):
            self._cursor = network_id, after
            return False
        taken = ports[: protocol.cut(ports, self._room)]
        whole = len(taken) == len(ports)
        until = None if whole else taken[-1].key
        self._chunks.append(Chunk(network_id, segment, after, until, taken))
        self._room -= sum(map(protocol.wire_size, taken))
        if until is not None:
            self._cursor = network_id, until
        return whole

    def answer(self, gone: tuple[str, ...], dead: tuple[str, ...]) -> Answer:
        age = self._now - self._oldest
        return Answer(age, gone, tuple(self._chunks), self._cursor, dead)

"""Agents of ours ask: is this all? (``sync`` of :mod:`ovs_l2pop.sync.protocol`)"""

import bisect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import oslo_messaging
from oslo_log import log as logging

from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Segment, quote
from ovs_l2pop.neutron.server import queries, states
from ovs_l2pop.neutron.server.liveness import Liveness
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, PortState

LOG = logging.getLogger(__name__)

#: Seconds for which a picture of a network serves everyone who asks. After a restart of the server
#: or the broker all agents ask at once; each process then reads a network once.
_FRESH = 5.0

#: Networks whose picture is kept.
_KEPT = 256

#: Bytes of an answer besides its ports: the envelope, and what each chunk names.
_ENVELOPE = 2048
_CHUNK_OVERHEAD = 320
#: Of a text in a list, besides its characters.
_QUOTES = 4


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

    def digest(self, segment: Segment, without: str) -> str:
        """:param without: the VTEP of ports that are left out; empty: none."""
        return protocol.digest(segment, self.contents - self.behind.get(without, 0))

    def after(self, key: str) -> tuple[PortState, ...]:
        return self.ports[bisect.bisect_right(self.keys, key) :]


class Gallery:
    """Pictures of networks, none older than some seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, roster: Roster | None = None
    ) -> None:
        self.clock = clock
        self.roster = roster or Roster(lambda: 0.0)
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
        vteps = self.roster.on({place.host for place in places})
        picture = Picture.of(states.states(places, vteps), taken_at)
        with self._lock:
            self._pictures[where] = picture
            self._pictures.move_to_end(where)
            if len(self._pictures) > _KEPT:
                self._pictures.popitem(last=False)
        return picture


class SyncEndpoint:
    """What agents of ours call."""

    target = oslo_messaging.Target(version=protocol.OWN_VERSION)

    def __init__(self, gallery: Gallery | None = None, liveness: Liveness | None = None) -> None:
        self._gallery = gallery or Gallery()
        self._liveness = liveness or Liveness(0)

    def sync(
        self,
        context: Any,
        host: str,
        networks: Mapping[str, str],
        cursor: Any = None,
        own: Any = False,
    ) -> dict[str, Any]:
        """What differs from these digests.

        What can't be a network is logged and not answered.

        :param own: whether to tell the host's own ports too.
        :raises ProtocolError: ``host``, ``networks`` or ``cursor`` is not one.
        """
        if not isinstance(host, str):
            raise protocol.ProtocolError(f"not a host's name: {quote(host)}")
        asked, refused = protocol.parse_networks(networks)
        start = protocol.parse_cursor(cursor)
        if refused:
            text = "host %s asks for %d things that are no networks, one of them %s"
            LOG.warning(text, quote(host), len(refused), quote(refused[0]))
        # A host takes part in one segment of a network: of several that it has ports in, the first.
        found = sorted(queries.segments_of(host), reverse=True)
        known = {
            where.network_id: where
            for where in found
            if where.segment.network_type in MAX_SEGMENT_ID
        }
        roster = self._gallery.roster
        roster.look()
        agent = roster.on([host]).get(host)
        own_vtep = "" if agent is None else agent.vtep
        dead = tuple(sorted(self._liveness.dead() - {own_vtep}))
        answer = _Composer(start, self._gallery.clock(), "" if own else own_vtep, dead)
        for network_id in sorted(asked):
            if not answer.wants(network_id):
                continue
            where = known.get(network_id)
            if where is None:
                fits = answer.add_gone(network_id)
            else:
                fits = answer.add(where, self._gallery.picture(where), asked[network_id])
            if not fits:
                break
        LOG.debug("sync of host %s: %s", host, answer)
        return answer.answer().to_wire()


class _Composer:
    """Fills an answer up to its size.

    :param without: the VTEP of ports that are left out; empty: none.
    """

    def __init__(self, start: Cursor | None, now: float, without: str, dead: tuple[str, ...]):
        self._start = start
        self._now = now
        self._without = without
        self._dead = dead
        self._oldest = now
        self._room = protocol.MAX_CHUNK - _ENVELOPE - sum(len(vtep) + _QUOTES for vtep in dead)
        self._gone: list[str] = []
        self._chunks: list[Chunk] = []
        self._cursor: Cursor | None = None

    def __str__(self) -> str:
        ports = sum(len(chunk.ports) for chunk in self._chunks)
        return f"{ports} ports in {len(self._chunks)} chunks, more from {self._cursor}"

    def wants(self, network_id: str) -> bool:
        return self._start is None or network_id >= self._start[0]

    def add_gone(self, network_id: str) -> bool:
        """Take in a network in which the host has no port; False when there is no room for it."""
        if (self._gone or self._chunks) and self._room < len(network_id) + _QUOTES:
            self._cursor = network_id, ""
            return False
        self._gone.append(network_id)
        self._room -= len(network_id) + _QUOTES
        return True

    def add(self, where: NetworkSegment, picture: Picture, digest: str) -> bool:
        """Take in a network; False when there is no room for more."""
        network_id, segment, _ = where
        self._oldest = min(self._oldest, picture.taken_at)
        after = ""
        if self._start is not None and self._start[0] == network_id:
            after = self._start[1]
        if not after and digest == picture.digest(segment, self._without):
            return True
        ports = picture.after(after)
        if self._without:
            ports = tuple(port for port in ports if port.vtep != self._without)
        self._room -= _CHUNK_OVERHEAD
        needed = protocol.wire_size(ports[0]) if ports else 0
        if (self._gone or self._chunks) and self._room < needed:
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

    def answer(self) -> Answer:
        age = self._now - self._oldest
        gone, chunks = tuple(self._gone), tuple(self._chunks)
        return Answer(age, gone, chunks, self._cursor, self._dead, own=True)

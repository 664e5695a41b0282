"""Agents of ours ask: is this all? (``sync`` of :mod:`ovs_l2pop.sync.protocol`)"""

from collections.abc import Mapping
from typing import Any

import oslo_messaging
from oslo_log import log as logging

from ovs_l2pop.core.messages import quote
from ovs_l2pop.neutron.server.liveness import Liveness
from ovs_l2pop.neutron.server.pictures import Gallery, Picture
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor

LOG = logging.getLogger(__name__)

#: Bytes of an answer besides its ports: the envelope, and what each chunk names.
_ENVELOPE = 2048
_CHUNK_OVERHEAD = 320
#: Of a text in a list, besides its characters.
_QUOTES = 4


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
        agent = self._gallery.roster.agent(host)
        own_vtep = "" if agent is None else agent.vtep
        dead = tuple(sorted(self._liveness.dead() - {own_vtep}))
        answer = _Composer(start, self._gallery.clock(), "" if own else own_vtep, dead)
        wanted = [network_id for network_id in sorted(asked) if answer.wants(network_id)]
        places = self._gallery.places(host, wanted)
        for network_id in wanted:
            if (place := places.get(network_id)) is None:
                fits = answer.add_gone(network_id)
            else:
                picture = self._gallery.picture(place)
                fits = answer.add(place.where, picture, asked[network_id])
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
        self._oldest = min(self._oldest, picture.as_of)
        after = ""
        if self._start is not None and self._start[0] == network_id:
            after = self._start[1]
        if not after and digest == picture.digest(segment, self._without):
            return True
        ports, sizes = picture.after(after, self._without)
        self._room -= _CHUNK_OVERHEAD
        if (self._gone or self._chunks) and self._room < (sizes[0] if sizes else 0):
            self._cursor = network_id, after
            return False
        count = protocol.cut(sizes, self._room)
        whole = count == len(ports)
        until = None if whole else ports[count - 1].key
        self._chunks.append(Chunk(network_id, segment, after, until, ports[:count]))
        self._room -= sum(sizes[:count])
        if until is not None:
            self._cursor = network_id, until
        return whole

    def answer(self) -> Answer:
        age = self._now - self._oldest
        gone, chunks = tuple(self._gone), tuple(self._chunks)
        return Answer(age, gone, chunks, self._cursor, self._dead, own=True)

"""Rows from before that the table doesn't know of: whose they are, and how long they are kept.

An agent that has lost its table knows nothing of the networks that its dataplane serves, and that
is not to know that they are gone. So what it finds installed is kept as if it were wanted, until
somebody who knows has spoken for the network in this life. What comes in the meantime is added;
where it needs the place of something kept, it takes it.

Pure.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

#: Seconds after which a network counts as spoken for, when it has been attached and nothing more
#: was said about it: who tells a network tells it in several messages.
SETTLE = 5.0


class Scope(NamedTuple):
    """Whose a row is, as far as the row tells. All None: it serves all networks alike."""

    #: What one network has at a time on this host: a local VLAN, a tunnel device.
    place: Hashable = None
    #: What names the network whatever its place: its segment, its id.
    network: Hashable = None
    #: What all rows of one network have alike, but others' may have too: a tunnel key.
    key: Hashable = None


class Found(NamedTuple):
    """A row as it was found installed."""

    row: Hashable
    scope: Scope
    slot: Hashable  #: what there can be one of: another row with this slot takes its place
    copies: tuple[str, ...] = ()  #: remote VTEPs that it copies BUM traffic to


class _KeptPlace:
    """What was found of one network."""

    __slots__ = ("copies", "keys", "networks", "rows")

    def __init__(self) -> None:
        self.rows: set[Hashable] = set()
        self.networks: set[Hashable] = set()
        self.keys: set[Hashable] = set()
        self.copies: set[str] = set()


class Orphans:
    """The rows that are kept. What a method returns is kept no longer."""

    def __init__(self, found: Iterable[Found] = ()) -> None:
        self._places: dict[Hashable, _KeptPlace] = {}
        #: Row → its place; None: it serves all.
        self._rows: dict[Hashable, Hashable] = {}
        self._slots: dict[Hashable, Hashable] = {}
        found = list(found)
        where = {one.scope.network: one.scope.place for one in found if None not in one.scope[:2]}
        for row, (place, network, key), slot, copies in found:
            if place is None and network is not None:
                place = where.get(network, network)
            self._rows[row] = place
            self._slots[slot] = row
            if place is None:
                continue
            known = self._places.setdefault(place, _KeptPlace())
            known.rows.add(row)
            known.copies.update(copies)
            if network is not None:
                known.networks.add(network)
            if key is not None:
                known.keys.add(key)
        if not self._places:  # nothing for which what serves all would be needed
            self.end()

    def __bool__(self) -> bool:
        """Whether there are networks to be spoken for."""
        return bool(self._places)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def copies(self, scope: Scope) -> Collection[str]:
        """The VTEPs to which BUM traffic of the network in this place was copied."""
        known = self._places.get(scope.place)
        return () if known is None else known.copies

    def attached(self, scope: Scope) -> list[Hashable]:
        """A network was given this place. What another one had there would let it see that one's
        frames, and what it had elsewhere serves nobody."""
        gone: list[Hashable] = []
        for place, known in list(self._places.items()):
            if place in (scope.place, scope.network):
                mine = known.networks <= {scope.network} and known.keys <= {scope.key}
            else:
                mine = scope.network not in known.networks
            if not mine:
                gone += self._release(place)
        return gone

    def spoken(self, scope: Scope) -> list[Hashable]:
        """Somebody who knows has spoken for the network in this place."""
        return [*self._release(scope.place), *self._release(scope.network)]

    def known(self, slot: Hashable, row: Hashable) -> Hashable | None:
        """A row is wanted by what is known now: the kept one that it is, or whose place it takes.

        What serves all stays, for it may be wanted by what is not known.
        """
        kept = self._slots.get(slot)
        if kept not in self._rows or (kept == row and self._rows[kept] is None):
            return None
        self._forget(kept)
        return kept

    def missing(self, installed: Collection[Hashable]) -> list[Hashable]:
        """Those that are no longer there."""
        gone = [row for row in self._rows if row not in installed]
        for row in gone:
            self._forget(row)
        return gone

    def end(self) -> list[Hashable]:
        """Nobody is going to speak for what is left."""
        gone = list(self._rows)
        for held in (self._places, self._rows, self._slots):
            held.clear()
        return gone

    def _forget(self, row: Hashable) -> None:
        if (place := self._rows.pop(row)) is not None:
            self._places[place].rows.discard(row)

    def _release(self, place: Hashable) -> list[Hashable]:
        known = self._places.pop(place, None)
        if place is None or known is None:
            return []
        for row in known.rows:
            del self._rows[row]
        return [*known.rows, *(() if self._places else self.end())]


class Hearing:
    """Who has been spoken of by messages, and since when nothing more was said.

    :param awaited: whether somebody else is going to speak for a network, of which entries have
        been told or not: then messages alone don't.
    """

    def __init__(self, awaited: Callable[[str, bool], bool] = lambda network_id, told: False):
        self.awaited = awaited
        self._said: dict[str, tuple[float, bool]] = {}

    def said(self, network_id: str, now: float, *, entries: bool) -> None:
        """A message was about this network."""
        _, told = self._said.get(network_id, (0.0, False))
        self._said[network_id] = now, told or entries

    def settled(self, attached: Mapping[str, object], now: float) -> list[str]:
        """Networks of *attached* that are spoken for by now, each told once."""
        done = [
            network_id
            for network_id, (at, told) in self._said.items()
            if network_id in attached and now >= at + SETTLE and not self.awaited(network_id, told)
        ]
        for network_id in done:
            del self._said[network_id]
        return done

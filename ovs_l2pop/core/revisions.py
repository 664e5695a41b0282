"""Which word about an entry is the later one, where senders number theirs.

A claim is a MAC and an IP at a VTEP; a sender that moves them raises its number. Of the claims of
one MAC and IP no later one is older than the newest that was seen, wherever it was; what is taken
away at one VTEP stays so against what is older, there. Both are remembered when the entry is gone,
of a bounded number. Pure.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from ovs_l2pop.core.messages import FLOODING_MAC, AddEntries, Entry, RemoveEntries

#: Entries that are gone and whose numbers are remembered.
_MAX_GONE = 10_000

_Claim = tuple[str, Entry]  #: network, entry
_Key = tuple[str, str, str]  #: network, MAC, IP; of a flooding entry its VTEP


class Revisions:
    """The numbers that were seen."""

    def __init__(self) -> None:
        self._newest: dict[_Key, int] = {}
        self._claims: dict[_Claim, int] = {}
        #: Claims that are gone, and the newest number with which they were taken away.
        self._gone: OrderedDict[_Claim, int] = OrderedDict()

    def copy(self) -> "Revisions":
        copy = Revisions()
        copy._newest = self._newest.copy()
        copy._claims = self._claims.copy()
        copy._gone = self._gone.copy()
        return copy

    def __bool__(self) -> bool:
        return bool(self._newest or self._gone)

    def of(self, network_id: str, entry: Entry) -> int | None:
        """The number of a claim that holds."""
        return self._claims.get((network_id, entry))

    def newer(self, network_id: str, entry: Entry, revision: int, *, adding: bool) -> int | None:
        """The number that is known and makes this one stale, or None."""
        claim, newest = (network_id, entry), self._newest.get(_key(network_id, entry), -1)
        if adding:
            known = max(newest, self._gone.get(claim, -1))
        else:
            known = self._claims.get(claim, newest)
        return known if revision < known else None

    def added(self, network_id: str, entry: Entry, revision: int | None) -> None:
        """A claim was made, or renewed."""
        if revision is None:
            return
        key = _key(network_id, entry)
        self._claims[network_id, entry] = revision
        self._newest[key] = max(revision, self._newest.get(key, -1))
        self._gone.pop((network_id, entry), None)

    def removed(self, network_id: str, entry: Entry, revision: int | None) -> None:
        """A claim was taken back, or there was none."""
        claim = network_id, entry
        numbers = (revision, self._claims.pop(claim, None), self._gone.get(claim))
        known = [number for number in numbers if number is not None]
        if not known:
            return
        self._gone[claim] = max(known)
        self._gone.move_to_end(claim)
        if len(self._gone) > _MAX_GONE:
            oldest, _ = self._gone.popitem(last=False)
            if oldest not in self._claims:
                self._newest.pop(_key(*oldest), None)

    def messages(
        self, chosen: Callable[[str, Entry], bool]
    ) -> Iterator[AddEntries | RemoveEntries]:
        """What brings the numbers of *chosen* claims that were taken away back."""
        for (network_id, entry), revision in self._gone.items():
            if not chosen(network_id, entry):
                continue
            flooding = entry.mac == FLOODING_MAC
            entries = [] if flooding else [entry]
            newest = self._newest.get(_key(network_id, entry))
            if newest is not None and not flooding:
                yield AddEntries(network_id, None, entry.vtep, entries, False, newest)
                revision = max(revision, newest)
            yield RemoveEntries(network_id, entry.vtep, entries, flooding, revision)


def _key(network_id: str, entry: Entry) -> _Key:
    return network_id, entry.mac, entry.vtep if entry.mac == FLOODING_MAC else entry.ip

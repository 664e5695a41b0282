"""Addresses that move to and fro: two who claim one, and don't know of each other.

Five moves within 180 s: the numbers of RFC 7432 §15.1, where duplicate MAC addresses are told from
machines that migrate. Pure.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

MOVES = 5
PERIOD = 180.0  #: seconds

#: Addresses that are remembered at the most.
_MAX = 10_000

_Key = tuple[str, str]  #: network, MAC or IP


class Flap(NamedTuple):
    """An address that moves too often, and between whom it did so last."""

    network_id: str
    address: str
    old: str  #: VTEP
    new: str  #: VTEP

    def __str__(self) -> str:
        return (
            f"network {self.network_id}: {self.address} moved {MOVES} times and more within"
            f" {PERIOD:.0f} s, now from VTEP {self.old} to {self.new}"
        )


class Flaps:
    """Counts moves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Where an address was that nobody claims just now, and which MAC had it.
        self._left: OrderedDict[_Key, tuple[float, str, str]] = OrderedDict()
        self._moves: OrderedDict[_Key, list[float]] = OrderedDict()
        self._flaps: dict[_Key, Flap] = {}
        self._news: list[Flap] = []

    def __bool__(self) -> bool:
        """Whether a claim of an address that nobody has may be a move."""
        return bool(self._left)

    def left(self, network_id: str, address: str, vtep: str, mac: str) -> None:
        """A claim of an address was taken back."""
        self._left[network_id, address] = self._clock(), vtep, mac
        self._left.move_to_end((network_id, address))
        if len(self._left) > _MAX:
            self._left.popitem(last=False)

    def came(
        self, network_id: str, address: str, vtep: str, before: str | None, mac: str = ""
    ) -> None:
        """An address was claimed.

        :param before: VTEP of the claim that was the newest; None: there was none.
        :param mac: of an IP: whose; it moves where another MAC has it elsewhere.
        """
        key, now = (network_id, address), self._clock()
        at, last, of = self._left.pop(key, (now, "", mac))
        if before is None and now - at < PERIOD and (not mac or of != mac):
            before = last or None
        if before in (None, vtep):
            return
        known = self._current()  # before this move counts
        moves = [at for at in self._moves.get(key, ()) if now - at < PERIOD][1 - MOVES :]
        self._moves[key] = [*moves, now]
        self._moves.move_to_end(key)
        if len(self._moves) > _MAX:
            oldest, _ = self._moves.popitem(last=False)
            self._flaps.pop(oldest, None)
        if len(moves) + 1 >= MOVES or key in known:
            flap = Flap(network_id, address, str(before), vtep)
            if key not in known:
                self._news.append(flap)
            known[key] = flap

    def news(self) -> list[Flap]:
        """Those that began since the last call."""
        news, self._news = self._news, []
        return news

    def current(self) -> list[Flap]:
        """Those that have not been quiet for :data:`PERIOD` seconds."""
        return list(self._current().values())

    def forget(self) -> None:
        """What was so far were no moves: a table that was read from disk."""
        for held in (self._left, self._moves, self._flaps, self._news):
            held.clear()

    def _current(self) -> dict[_Key, Flap]:
        """Keeps those alone."""
        if self._flaps:
            since = self._clock() - PERIOD
            self._flaps = {k: flap for k, flap in self._flaps.items() if self._moved(k, since)}
        return self._flaps

    def _moved(self, key: _Key, since: float) -> bool:
        """Whether the address moved since."""
        moves = self._moves.get(key, [])
        return bool(moves) and moves[-1] > since

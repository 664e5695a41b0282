"""Hosts whose agent is dead: they leave the flooding sets, and come back with it.

Hosts of ours learn who is dead from each answer to ``sync``. Stock hosts are told nothing: with a
flooding entry their agent takes the tunnel away, and machines whose agent is dead may be well.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ovs_l2pop.neutron.server import agents, queries

#: Seconds for which one look serves all who ask.
_FRESH = 5.0


class Liveness:
    """Who is dead. Safe to use from several threads.

    :param limit: seconds without a report; 0: nobody is ever dead.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._dead: set[str] = set()
        self._seen_at = float("-inf")

    def dead(self) -> set[str]:
        """The VTEPs of hosts whose agent is dead."""
        if not self._limit:
            return set()
        with self._lock:
            if self._clock() >= self._seen_at + _FRESH:
                rows = queries.all_agents()
                now = datetime.now(UTC).replace(tzinfo=None)  # as the database has it
                self._dead = agents.dead(rows, self._limit, now)
                self._seen_at = self._clock()
            return self._dead

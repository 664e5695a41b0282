"""Hosts whose agent is dead: they leave the flooding sets, and come back with it.

Hosts of ours learn who is dead from each answer to ``sync``. Stock hosts are told nothing: with a
flooding entry their agent takes the tunnel away, and machines whose agent is dead may be well.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ovs_l2pop.neutron.server import agents, queries
from ovs_l2pop.neutron.server.agents import Agent

#: Seconds for which one look serves all who ask.
_FRESH = 5.0


class Liveness:
    """Who is dead. Safe to use from several threads.

    :param limit: seconds without a report; 0: nobody is ever dead.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._dead: dict[str, Agent] = {}
        self._seen_at = float("-inf")

    def dead(self) -> dict[str, Agent]:
        """Dead agents by host."""
        if not self.limit:
            return {}
        with self._lock:
            if self._clock() >= self._seen_at + _FRESH:
                rows = queries.all_agents()
                now = datetime.now(UTC).replace(tzinfo=None)  # as the database has it
                self._dead = agents.dead(rows, self.limit, now)
                self._seen_at = self._clock()
            return self._dead

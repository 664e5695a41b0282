"""Hosts whose agent's row is gone though the agent lives.

An operator deletes the row of an agent that reports, and its next report (half a minute) brings it
back. Until then the host is where it was: nobody is cut off for what is known to pass. A row whose
agent was dead is gone when it is gone.

Each process knows the rows that it has seen, and one that serves hosts looks at all of them.
"""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ovs_l2pop.neutron.server import agents, queries
from ovs_l2pop.neutron.server.agents import Agent, AgentRow

#: Seconds for which one look at all rows serves all who ask. Far less than two reports are apart.
_FRESH = 20.0


class Roster:
    """Who is where. Safe to use from several threads.

    :param grace: seconds for which a host is believed in without a row, and after which an agent
        that has not reported is dead: Neutron's ``agent_down_time``. It must be longer than from
        one report to the next.
    """

    def __init__(
        self, grace: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        #: Host → its living agent, and when its row was seen.
        self._seen: dict[str, tuple[Agent, float]] = {}
        self._looked_at = float("-inf")
        #: What rows said when they were last seen.
        self._said: dict[str, Agent] = {}
        #: Raised whenever a host is somewhere else than it was, or isn't there any more.
        self.generation = 0

    def on(self, hosts: Iterable[str]) -> dict[str, Agent]:
        """The VTEP of each of these hosts, as its row says or said."""
        wanted = set(hosts)
        return self.complete(queries.agents_on(sorted(wanted)), wanted) if wanted else {}

    def complete(self, rows: list[AgentRow], hosts: Iterable[str]) -> dict[str, Agent]:
        """:param rows: of these hosts, just read."""
        self.see(rows)
        found = agents.by_host(rows)
        now = self._clock()
        with self._lock:
            for host in set(hosts) - found.keys():
                agent, seen_at = self._seen.get(host, (None, 0.0))
                if agent is not None and now < seen_at + self._grace():
                    found[host] = agent
        return found

    def agent(self, host: str) -> Agent | None:
        """The VTEP of a host, as of some seconds ago."""
        self.look()
        with self._lock:
            said = self._said.get(host)
        return said or self.on([host]).get(host)

    def believes(self, host: str) -> bool:
        """Whether the host's agent is or was there, and alive."""
        with self._lock:
            return host in self._seen

    def look(self) -> None:
        """Know all hosts that there are."""
        with self._lock:
            now = self._clock()
            if now < self._looked_at + _FRESH:
                return
            self._looked_at = now
        rows = queries.all_agents()
        self.see(rows)
        with self._lock:
            gone = self._said.keys() - {row.host for row in rows}
            for host in gone:
                del self._said[host]
            missed = [host for host, (_, at) in self._seen.items() if now >= at + self._grace()]
            for host in missed:
                del self._seen[host]
            self.generation += bool(gone or missed)

    def see(self, rows: Iterable[AgentRow]) -> None:
        """These rows are there."""
        utc = datetime.now(UTC).replace(tzinfo=None)  # as the database has it
        now, grace = self._clock(), self._grace()
        with self._lock:
            for agent, alive in agents.living(rows, grace, utc):
                if self._said.get(agent.host) != agent:
                    self._said[agent.host] = agent
                    self.generation += 1
                if alive:
                    self._seen[agent.host] = agent, now
                else:
                    self._seen.pop(agent.host, None)

"""Upstream's l2population messages, as its server casts them to agents.

They go into the table like those of ``ovs-l2pop send``, with the same validation, and are kept on
disk. Nobody waits: RPC has acknowledged a cast before it is delivered, and what is refused is
logged by the agent, each cause once.
"""

from typing import Any

import oslo_messaging

from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.messages import Parser, Told

#: ``neutron_lib.agent.topics``: AGENT, L2POPULATION, UPDATE.
TOPIC = "q-agent-notifier-l2population-update"


class UpstreamMessages:
    """Endpoint of :data:`TOPIC`.

    What a message has besides ``fdb_entries`` and ``host`` is left to later versions of it.
    """

    # The version of the OVS agent's endpoint. The server asks for 1.0.
    target = oslo_messaging.Target(version="1.7")

    def __init__(self, worker: Worker, host: str) -> None:
        self._worker = worker
        self._host = host

    def add_fdb_entries(
        self, context: Any, fdb_entries: Any = None, host: Any = None, **_: Any
    ) -> None:
        """Entries came."""
        self._take("add_fdb_entries", fdb_entries, host)

    def remove_fdb_entries(
        self, context: Any, fdb_entries: Any = None, host: Any = None, **_: Any
    ) -> None:
        """Entries went."""
        self._take("remove_fdb_entries", fdb_entries, host)

    def update_fdb_entries(
        self, context: Any, fdb_entries: Any = None, host: Any = None, **_: Any
    ) -> None:
        """Ports have other addresses."""
        self._take("update_fdb_entries", fdb_entries, host)

    def _take(self, method: str, fdb_entries: Any, host: Any) -> None:
        """:param host: of old servers, which fanned out what one host was to hear."""
        if host and host != self._host:
            return
        message = {"method": method, "fdb_entries": fdb_entries}
        changes, refusals = Parser(self._worker.local_ip).parse(message)
        self._worker.submit([Told(changes)], refusals)

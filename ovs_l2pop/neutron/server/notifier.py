"""RPC to agents. Casts only: nobody waits for a host."""

from collections.abc import Collection, Iterable
from typing import Any

import oslo_messaging
from neutron.plugins.ml2.drivers.l2pop import rpc as l2pop_rpc
from neutron_lib import context as n_context
from neutron_lib import rpc as n_rpc
from oslo_config import cfg

from ovs_l2pop.neutron.server.upstream import Fdb
from ovs_l2pop.sync import protocol


class Notifier:
    """Sends upstream's messages through upstream's own client, and ours on our topic."""

    def __init__(self) -> None:
        self._upstream = l2pop_rpc.L2populationAgentNotifyAPI()
        target = oslo_messaging.Target(topic=protocol.AGENT_TOPIC, version=protocol.VERSION)
        self._client = n_rpc.get_client(target)
        self._context = n_context.get_admin_context_without_session()

    def upstream(self, method: str, fdb: Fdb, hosts: Iterable[str] | None) -> None:
        """``method`` to each of ``hosts`` by name; to all agents there are if None."""
        send = getattr(self._upstream, method)
        for host in (None,) if hosts is None else hosts:
            send(self._context, fdb, host)

    def ours(self, updates: Iterable[protocol.Update], hosts: Collection[str]) -> None:
        """``update_ports`` to each of ``hosts``; to all of ours there are where these are many.

        All of ours listen to both, also those of releases that know no fanout, and all leave alone
        what is of a network that they don't have.
        """
        bodies: list[dict[str, Any]] = [update.to_wire() for update in updates]
        many = len(hosts) > cfg.CONF.ovs_l2pop.fanout_above
        for how in [{"fanout": True}] if many else [{"server": host} for host in hosts]:
            client = self._client.prepare(topic=protocol.AGENT_TOPIC, **how)
            for body in bodies:
                client.cast(self._context, "update_ports", **body)

"""The ML2 mechanism driver ``ovs_l2pop``: ``mechanism_drivers = openvswitch,ovs_l2pop``.

It binds nothing and restricts nothing. It hears what becomes of ports and has those told who need
to know. No hook raises after the commit: what has happened has happened, and where telling it
failed the hosts that ask will get it with their next ``sync``.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from neutron.plugins.ml2 import managers
from neutron_lib import constants as n_const
from neutron_lib import exceptions as n_exc
from neutron_lib import rpc as n_rpc
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log as logging

from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Segment
from ovs_l2pop.neutron.server import agents, queries, wiring
from ovs_l2pop.neutron.server.decisions import ACTIVE, BUILD, Kind, Step, View, decide
from ovs_l2pop.neutron.server.liveness import Liveness
from ovs_l2pop.neutron.server.memory import Memory
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.options import OPTS
from ovs_l2pop.neutron.server.pictures import Gallery
from ovs_l2pop.neutron.server.publisher import Publisher
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync import protocol

LOG = logging.getLogger(__name__)

Port = dict[str, Any]
Hook = TypeVar("Hook", bound=Callable[..., None])

#: What says "I have no opinion" in Neutron's capability checks: None since 2026.2. Before, every
#: driver had to agree, and None would have been a veto.
_ABSTAIN = None if hasattr(managers.MechanismManager, "_mech_driver_tri_state_check") else True


def _harmless(hook: Hook) -> Hook:
    """Logs what a hook raises."""

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception:
            LOG.exception("%s: hosts could not be told", hook.__name__)

    return cast(Hook, guarded)


class OvsL2popMechanismDriver(api.MechanismDriver):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        cfg.CONF.register_opts(OPTS, group="ovs_l2pop")
        self._roster = Roster(lambda: float(cfg.CONF.agent_down_time))
        self._publisher = Publisher(Notifier(), Memory(), self._roster)
        self._hears_wiring = False
        self._servers: Any = None

    def initialize(self) -> None:
        """Hear of agents. The plugin that calls is not complete yet."""
        registry.subscribe(self.agent_deleted, resources.AGENT, events.AFTER_DELETE)
        registry.subscribe(self.agent_created, resources.AGENT, events.AFTER_CREATE)
        registry.subscribe(self.agent_reported, resources.AGENT, events.AFTER_UPDATE)

    def start_rpc_listeners(self) -> list[Any]:
        """Serve agents of ours. Called in each process that serves agents."""
        self._hear_wiring()
        connection = n_rpc.Connection()
        liveness = Liveness(cfg.CONF.ovs_l2pop.dead_host_time)
        endpoint = SyncEndpoint(Gallery(roster=self._roster), liveness)
        connection.create_consumer(protocol.SERVER_TOPIC, [endpoint], fanout=False)
        self._servers = connection
        servers: list[Any] = connection.consume_in_threads()
        return servers

    # -- no opinion --------------------------------------------------------------------------

    def check_vlan_transparency(self, context: Any) -> bool | None:
        return _ABSTAIN

    def check_vlan_qinq(self, context: Any) -> bool | None:
        return _ABSTAIN

    def filter_hosts_with_segment_access(
        self, context: Any, segments: Any, candidate_hosts: Any, agent_getter: Any
    ) -> set[str]:
        """None: what drivers answer is joined, so this leaves it to the others."""
        return set()

    # -- hooks -------------------------------------------------------------------------------

    def update_port_precommit(self, context: Any) -> None:
        """A MAC address that others know must not change under them (Neutron bug 1486379).

        :raises InvalidInput: it would.
        """
        port, original = context.current, context.original
        if original["mac_address"] == port["mac_address"] or context.status != ACTIVE:
            return
        types = {segment[api.NETWORK_TYPE] for segment in context.network.network_segments}
        if types and types.isdisjoint(MAX_SEGMENT_ID):
            return
        raise n_exc.InvalidInput(
            error_message=f"port {port['id']} is ACTIVE, and hosts reach it by the MAC address"
            f" {original['mac_address']}: take it down before changing that"
        )

    @_harmless
    def create_port_postcommit(self, context: Any) -> None:
        self._hear_wiring()

    @_harmless
    def update_port_postcommit(self, context: Any) -> None:
        self._hear_wiring()
        port, original = context.current, context.original
        if _is_distributed(port):
            self._update_distributed(context)
            return
        told = BUILD if _activated(context) else original["status"]
        before = _view(original, context.original_host, told)
        after = _view(port, context.host, port["status"])
        if (before.status, after.status) == (ACTIVE, BUILD):
            self._publisher.rewiring(after)
        for step in decide(before, after):
            self._publish(step, context, left=step.view is before)

    @_harmless
    def delete_port_postcommit(self, context: Any) -> None:
        before = _view(context.current, context.host, context.status)
        for step in decide(before, None):
            for where in _bound(context):
                self._publisher.publish(step, where, deleted=True)

    # -- what Neutron may call if this driver is the one named `l2population` ------------------

    @_harmless
    def update_port_up(self, context: Any, refresh_tunnels: bool = False) -> None:
        """The host of ``context`` has wired the port."""
        view = _view(context.current, context.host, ACTIVE)
        for where in _bound(context) if view.host else ():
            # Of every other port the hooks have told; agents call for each that they look at.
            if view.kind is Kind.HA:
                self._publisher.announce(view, where)
            if refresh_tunnels:
                self._publisher.refresh(view, where)

    @_harmless
    def update_port_down(self, context: Any) -> None:
        """The host of ``context`` has the port no more.

        It need not be the host that the port is bound to: this comes late after a migration.
        Whatever the port's status and binding say has been told when they changed.
        """
        view = _view(context.current, context.host, context.status)
        if view.host and view.kind is Kind.HA:
            for where in _bound(context):
                self._publisher.withdraw(view, where)

    # -- agents ------------------------------------------------------------------------------

    @_harmless
    def agent_deleted(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        """An operator deleted an agent's row.

        That of a living one comes back with its next report: others are told that the host is gone
        only where it doesn't.
        """
        was = _row(payload.states[0])
        self._roster.see([was])
        before = self._agent_changed(was)
        if before is not None and self._roster.believes(was.host):
            grace = cfg.CONF.agent_down_time + 1.0
            again = threading.Timer(grace, self.agent_missing, [before])
            again.daemon = True
            again.start()

    @_harmless
    def agent_missing(self, before: agents.Agent) -> None:
        """Its row was deleted that long ago."""
        rows = queries.host(before.host).agents
        after = self._roster.complete(rows, [before.host]).get(before.host)
        self._publisher.host_changed(before, after)

    @_harmless
    def agent_created(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        """An agent reports for the first time, or for the first time since its row was deleted."""
        self._agent_changed(None, payload.desired_state["host"], payload.resource_id)

    @_harmless
    def agent_reported(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        """An agent reports, as each does twice a minute. It may have another VTEP than before."""
        before, report = payload.states[1], payload.desired_state
        old, new = before.configurations or {}, report.get("configurations") or {}
        if old.get("tunneling_ip") != new.get("tunneling_ip"):
            self._agent_changed(_row(before))

    # -- details -----------------------------------------------------------------------------

    def _update_distributed(self, context: Any) -> None:
        """A context of a DVR interface has the status at its host, but not the one before.

        An agent's report changes nothing else of the port; an update by API does, and so does
        binding it to a host.
        """
        bound = context.original_vif_type != context.vif_type
        if bound or _changed(context.original, context.current):
            return
        after = _view(context.current, context.host, context.status)
        was = {ACTIVE: BUILD, BUILD: ACTIVE}.get(after.status, ACTIVE)
        if after.status == BUILD:
            self._publisher.rewiring(after)
        for step in decide(_view(context.current, context.host, was), after):
            self._publish(step, context)

    def _publish(self, step: Step, context: Any, *, left: bool = False) -> None:
        """:param left: the step is about where the port was before."""
        if not (_stays(context) and self._publisher.publish(step)):
            for where in _left(context) if left else _bound(context):
                self._publisher.publish(step, where)

    def _agent_changed(
        self, row: agents.AgentRow | None, host: str = "", agent_id: str = ""
    ) -> agents.Agent | None:
        """
        :param row: the agent's as it was; if None, its host and id.
        :returns: what made the host a VTEP before.
        """
        was = []
        if row is not None:
            host, agent_id = row.host, row.agent_id
            was.append(row)
        rows = queries.host(host).agents
        was += [other for other in rows if other.agent_id != agent_id]
        before = agents.by_host(was).get(host)
        after = self._roster.complete(rows, () if row is None else [host]).get(host)
        self._publisher.host_changed(before, after)
        return before

    def _hear_wiring(self) -> None:
        if not self._hears_wiring:
            self._hears_wiring = wiring.hear(self)


def _row(agent: Any) -> agents.AgentRow:
    """:param agent: a row as Neutron has it."""
    heartbeat = agent.heartbeat_timestamp.replace(tzinfo=None)
    text = json.dumps(dict(agent.configurations))
    return agents.AgentRow(agent.host, text, heartbeat, agent.id)


def _is_distributed(port: Port) -> bool:
    return bool(port["device_owner"] == n_const.DEVICE_OWNER_DVR_INTERFACE)


def _kind(port: Port) -> Kind:
    owner = port["device_owner"]
    if owner == n_const.DEVICE_OWNER_DVR_INTERFACE:
        return Kind.DISTRIBUTED
    if owner == n_const.DEVICE_OWNER_HA_REPLICATED_INT:
        return Kind.HA
    if owner == n_const.DEVICE_OWNER_ROUTER_SNAT and queries.is_ha_router(port["device_id"]):
        return Kind.HA
    return Kind.ORDINARY


def _view(port: Port, host: str | None, status: str) -> View:
    """The port at a host. One that is administratively down is down, whatever was reported."""
    return View(
        port_id=port["id"],
        network_id=port["network_id"],
        kind=_kind(port),
        host=host or "",
        status=status if port.get("admin_state_up", True) else n_const.PORT_STATUS_DOWN,
        mac=port["mac_address"],
        ips=tuple(ip["ip_address"] for ip in port.get("fixed_ips") or ()),
        allowed=queries.single_addresses(
            pair["ip_address"] for pair in port.get("allowed_address_pairs") or ()
        ),
        router_id=port.get("device_id") or "",
    )


def _activated(context: Any) -> bool:
    """Whether the port's binding to another host has become the active one (live migration).

    That sets the port DOWN and unbinds it from the old host in a step of its own, of which no
    driver hears; the next has what that left as its original.
    """
    unbound = portbindings.VIF_TYPE_UNBOUND
    return bool(
        context.host != context.original_host
        and context.original.get(portbindings.VIF_TYPE) == unbound
        and context.vif_type != unbound
    )


def _bound(context: Any) -> list[NetworkSegment]:
    """The segment that the port is bound to, if any."""
    return _segments(context, [context.bottom_bound_segment])


def _left(context: Any) -> list[NetworkSegment]:
    """The segment that the port was bound to; where nobody knows any more, those that it may be."""
    if _activated(context):
        return _segments(context, context.network.network_segments)
    return _segments(context, [context.original_bottom_bound_segment])


def _stays(context: Any) -> bool:
    """Whether the port is bound as it was.

    Then the database names its segment in no time, and the context of an agent's report would read
    the whole network for that.
    """
    return bool(
        context.host == context.original_host and context.vif_type == context.original_vif_type
    )


def _segments(context: Any, found: Iterable[Any]) -> list[NetworkSegment]:
    several = len(context.network.network_segments) > 1
    return [
        NetworkSegment(
            context.current["network_id"],
            Segment(segment[api.NETWORK_TYPE], segment[api.SEGMENTATION_ID]),
            segment[api.ID] if several else None,
        )
        for segment in found
        if segment is not None and segment[api.SEGMENTATION_ID] is not None
    ]


#: What changes by itself with a port's status.
_OF_STATUS = ("status", "updated_at", "revision_number")


def _changed(before: Port, after: Port) -> bool:
    return any(before.get(name) != after[name] for name in after if name not in _OF_STATUS)

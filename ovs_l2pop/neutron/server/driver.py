"""The ML2 mechanism driver ``ovs_l2pop``: ``mechanism_drivers = openvswitch,ovs_l2pop``.

It binds nothing and restricts nothing. It hears what becomes of ports and has those told who need
to know. No hook raises after the commit: what has happened has happened, and where telling it
failed the hosts that ask will get it with their next ``sync``.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from neutron.plugins.ml2 import managers
from neutron_lib import constants as n_const
from neutron_lib import exceptions as n_exc
from neutron_lib import rpc as n_rpc
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api
from oslo_log import log as logging

from ovs_l2pop.messages import MAX_SEGMENT_ID, Segment
from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.server import queries, wiring
from ovs_l2pop.neutron.server.decisions import ACTIVE, BUILD, Kind, View, decide
from ovs_l2pop.neutron.server.memory import Memory
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.publisher import Publisher
from ovs_l2pop.neutron.server.sync import SyncEndpoint

LOG = logging.getLogger(__name__)

Port = dict[str, Any]
Hook = TypeVar("Hook", bound=Callable[..., None])

#: What says "I have no opinion" in Neutron's capability checks: None since 2026.2. Before, every
#: driver had to agree, and None would have been a veto.
_ABSTAIN = None if hasattr(managers.MechanismManager, "_mech_driver_tri_state_check") else True


def _harmless(hook: Hook) -> Hook:
    """Logs what a hook raises."""

    @functools.wraps(hook)
    def guarded(self: Any, context: Any, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, context, *args, **kwargs)
        except Exception:
            LOG.exception("port %s: others could not be told", context.current.get("id"))

    return cast(Hook, guarded)


class OvsL2popMechanismDriver(api.MechanismDriver):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._publisher = Publisher(Notifier(), Memory())
        self._hears_wiring = False
        self._servers: Any = None

    def initialize(self) -> None:
        """Nothing: the plugin that calls is not complete yet."""

    def start_rpc_listeners(self) -> list[Any]:
        """Serve agents of ours. Called in each process that serves agents."""
        self._hear_wiring()
        connection = n_rpc.Connection()
        connection.create_consumer(protocol.SERVER_TOPIC, [SyncEndpoint()], fanout=False)
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
        before = _view(original, context.original_host, _original_status(context))
        after = _view(port, context.host, port["status"])
        if (before.status, after.status) == (ACTIVE, BUILD):
            self._publisher.rewiring(after)
        for step in decide(before, after):
            segment = _segment(context, of_original=step.view is before)
            if segment is not None:
                self._publisher.publish(step, segment)

    @_harmless
    def delete_port_postcommit(self, context: Any) -> None:
        port = context.current
        before = _view(port, context.host, context.status)
        for step in decide(before, None):
            segment = _segment(context)
            if segment is not None:
                self._publisher.publish(step, segment, deleted=True)

    # -- what Neutron may call if this driver is the one named `l2population` ------------------

    @_harmless
    def update_port_up(self, context: Any, refresh_tunnels: bool = False) -> None:
        """The host of ``context`` has wired the port."""
        view = _view(context.current, context.host, ACTIVE)
        if not view.host or (segment := _segment(context)) is None:
            return
        self._publisher.announce(view, segment)
        if refresh_tunnels:
            self._publisher.refresh(view, segment)

    @_harmless
    def update_port_down(self, context: Any) -> None:
        """The host of ``context`` has the port no more.

        It need not be the host that the port is bound to: this comes late after a migration.
        Whatever the port's status and binding say has been told when they changed.
        """
        view = _view(context.current, context.host, context.status)
        if view.host and view.kind is Kind.HA and (segment := _segment(context)) is not None:
            self._publisher.withdraw(view, segment)

    # -- details -----------------------------------------------------------------------------

    def _update_distributed(self, context: Any) -> None:
        """A context of a DVR interface has the status at its host, but not the one before.

        An agent's report changes nothing else of the port; an update by API does.
        """
        if _changed(context.original, context.current):
            return
        after = _view(context.current, context.host, context.status)
        was = {ACTIVE: BUILD, BUILD: ACTIVE}.get(after.status, ACTIVE)
        if after.status == BUILD:
            self._publisher.rewiring(after)
        for step in decide(_view(context.current, context.host, was), after):
            segment = _segment(context)
            if segment is not None:
                self._publisher.publish(step, segment)

    def _hear_wiring(self) -> None:
        if not self._hears_wiring:
            self._hears_wiring = wiring.hear(self)


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


def _original_status(context: Any) -> str:
    """What others may know the port by.

    Activating the binding of another host (live migration) sets the port DOWN and unbinds it in a
    step of its own that no driver hears of; the next has that as its original.
    """
    original = context.original
    unbound = portbindings.VIF_TYPE_UNBOUND
    activated = (
        context.host != context.original_host
        and original.get(portbindings.VIF_TYPE) == unbound
        and context.vif_type != unbound
    )
    return BUILD if activated else str(original["status"])


def _segment(context: Any, *, of_original: bool = False) -> Segment | None:
    """The segment that the port is or was bound to."""
    bound = context.bottom_bound_segment
    if of_original:
        bound = context.original_bottom_bound_segment or bound
    if bound is None or bound[api.SEGMENTATION_ID] is None:
        return None
    return Segment(bound[api.NETWORK_TYPE], bound[api.SEGMENTATION_ID])


#: What changes by itself with a port's status.
_OF_STATUS = ("status", "updated_at", "revision_number")


def _changed(before: Port, after: Port) -> bool:
    return any(before.get(name) != after[name] for name in after if name not in _OF_STATUS)

"""The extension ``ovs_l2pop`` of ``neutron-openvswitch-agent``.

With the server's driver ``l2population`` away and the agent's ``l2_population`` on, the stock agent
lays out br-tun and leaves tunnels, unicast, flood and ARP to whoever fills them: this extension. It
shares br-tun by a cookie of its own, and by priorities that no flow of the agent has.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oslo_messaging
from neutron.plugins.ml2.drivers.openvswitch.agent import vlanmanager
from neutron_lib import context as n_context
from neutron_lib import rpc as n_rpc
from neutron_lib.agent import l2_extension
from oslo_config import cfg
from oslo_log import log as logging

from ovs_l2pop.agent.control import ControlServer
from ovs_l2pop.agent.history import History
from ovs_l2pop.agent.probing import Prober
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.backends.openvswitch.backend import OpenvswitchBackend
from ovs_l2pop.backends.openvswitch.datapath import DatapathTransport
from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
from ovs_l2pop.backends.openvswitch.rows import Bridges
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket, Transport
from ovs_l2pop.config import limits
from ovs_l2pop.core.errors import BackendError, ConfigError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Attachment, Segment
from ovs_l2pop.netlink.addresses import HostAddresses
from ovs_l2pop.neutron.agent.options import OPTS
from ovs_l2pop.sync import endpoint, protocol
from ovs_l2pop.sync.endpoint import Updates
from ovs_l2pop.sync.follower import SYNC_TIMEOUT, Follower

LOG = logging.getLogger(__name__)


class L2popExtension(l2_extension.L2AgentExtension):
    """What the agent calls."""

    def consume_api(self, agent_api: Any) -> None:
        """The agent's bridges; called before :meth:`initialize`."""
        self._api = agent_api

    def initialize(self, connection: Any, driver_type: str) -> None:
        """Take over; the base flows are there, and RPC isn't consumed yet."""
        conf = cfg.CONF
        conf.register_opts(OPTS, group="ovs_l2pop")
        if driver_type != "ovs":
            raise ConfigError(
                f"extension ovs_l2pop is for the Open vSwitch agent, not {driver_type}"
            )
        self._bridge = self._api.request_tun_br()
        if self._bridge is None:
            raise ConfigError("extension ovs_l2pop needs tunnels: set [agent] tunnel_types")
        self._types = tuple(kind for kind in conf.AGENT.tunnel_types if kind in MAX_SEGMENT_ID)
        self._vlans = vlanmanager.LocalVlanManager()
        #: Where each port is plugged in: the one who says which networks this host has.
        self._ports: dict[str, Attachment] = {}
        settings = _settings(conf, self._bridge.br_name, self._types)
        backend = OpenvswitchBackend(settings, self._transport)
        # A cookie that stays, so that a restart finds its flows; reserved, so that the agent's
        # clean-up leaves them.
        self._bridge.set_agent_uuid_stamp(backend.pipeline.cookie)
        state_path = Path(conf.ovs_l2pop.state_path or Path(conf.state_path) / "ovs-l2pop")
        self._worker = Worker(
            *(settings.local_ip, backend, Store(state_path), conf.ovs_l2pop.drift_interval),
            orphan_time=conf.ovs_l2pop.orphan_time,
            addresses=HostAddresses(),
            limits=limits(conf.ovs_l2pop),
            holds=conf.ovs_l2pop.hold_moving_addresses,
            prober=Prober.every(conf.ovs_l2pop.vtep_probe_interval, settings.local_ip),
            history=History(state_path),
            speaker=lambda: self._follower,
            housekeeping=lambda: self._control.keep_place(),
        )
        self._control = ControlServer(state_path / "agent.sock", self._worker)
        self._follower = Follower(self._worker, self._sync, conf.ovs_l2pop.sync_interval)
        self._worker.start().result()
        self._control.start()
        connection.create_consumer(protocol.AGENT_TOPIC, [Updates(self._follower)], fanout=False)
        self._follower.start()

    def handle_port(self, context: Any, data: Mapping[str, Any]) -> None:
        """A port was wired or updated; the agent reports it up when this returns."""
        if data.get("network_type") not in self._types:
            return
        network_id, segmentation_id = data["network_id"], data["segmentation_id"]
        try:
            mapping = self._vlans.get(network_id, segmentation_id)
        except vlanmanager.MappingNotFound:
            LOG.debug("port %s: its network has no local VLAN", data["port_id"])
            return
        segment = Segment(data["network_type"], segmentation_id)
        attachment = Attachment(network_id, segment, mapping.vlan)
        known = attachment in self._ports.values()
        self._ports[data["port_id"]] = attachment
        if known and not self._follower.unserved(network_id):
            return
        new = self._follower.use(attachment)
        if not known:
            # At its start the agent takes the ports of our flood for its own and floods to them,
            # with a flow that it never updates.
            mapping.tun_ofports.clear()
            self._api.br_tun.delete_flood_to_tun(mapping.vlan)
        if new:
            self._follower.sync()

    def delete_port(self, context: Any, data: Mapping[str, Any]) -> None:
        """A port goes; with the last of a network its local VLAN is free when this returns."""
        attachment = self._ports.pop(data["port_id"], None)
        if attachment is None:
            return
        network_id = attachment.network_id
        if all(other.network_id != network_id for other in self._ports.values()):
            self._follower.leave(network_id)

    def handle_switch_restart(self) -> None:
        """All flows are gone; the agent's own are back."""
        self._worker.reconnect()
        self._follower.soon()

    def _transport(self) -> Transport:
        path = Path(cfg.CONF.ovs_l2pop.openvswitch_rundir) / f"{self._bridge.br_name}.mgmt"
        if os.access(path, os.R_OK | os.W_OK):
            return ManagementSocket(str(path))
        try:
            datapath, _, _ = self._api.br_tun._get_dp()
        except RuntimeError as error:
            raise BackendError(f"bridge {self._bridge.br_name}: {error}") from error
        return DatapathTransport(datapath)

    def _sync(
        self, networks: Mapping[str, str], cursor: protocol.Cursor | None, own: bool
    ) -> object:
        version, more = endpoint.call(own)
        target = oslo_messaging.Target(topic=protocol.SERVER_TOPIC, version=version)
        client = n_rpc.get_client(target).prepare(timeout=SYNC_TIMEOUT)
        asking = {"host": cfg.CONF.host, "networks": networks, "cursor": cursor, **more}
        try:
            return client.call(n_context.get_admin_context_without_session(), "sync", **asking)
        except oslo_messaging.MessagingException as error:
            if endpoint.is_unsupported(error):
                raise protocol.OldServerError(f"sync {version} is not known") from error
            raise


def _settings(conf: Any, tunnel_bridge: str, tunnel_types: tuple[str, ...]) -> OpenvswitchSettings:
    """The agent's own options, in our terms."""
    agent, ovs = conf.AGENT, conf.OVS
    tos = "inherit" if agent.dscp_inherit else str(agent.dscp << 2) if agent.dscp else None
    return OpenvswitchSettings(
        local_ip=str(ovs.local_ip),
        tunnel_types=tunnel_types,
        arp_responder=agent.arp_responder,
        ovsdb_connection=ovs.ovsdb_connection,
        rundir=Path(conf.ovs_l2pop.openvswitch_rundir),
        bridges=Bridges(
            ovs.integration_bridge,
            tunnel_bridge,
            ovs.datapath_type,
            ovs.int_peer_patch_port,
            ovs.tun_peer_patch_port,
        ),
        vxlan_udp_port=agent.vxlan_udp_port,
        tunnel_csum=agent.tunnel_csum,
        dont_fragment=agent.dont_fragment,
        tos=tos,
        openflow_library="os_ken",
        shared=True,
        distributed=agent.enable_distributed_routing,
        known_vteps_only=conf.ovs_l2pop.known_vteps_only,
        drop_unknown_unicast=conf.ovs_l2pop.unknown_unicast == "drop",
        drop_unknown_neighbour=conf.ovs_l2pop.unknown_neighbour == "drop",
        broadcast_rate=conf.ovs_l2pop.broadcast_rate,
        packet_too_big=conf.ovs_l2pop.packet_too_big,
        flow_tunnels=conf.ovs_l2pop.tunnel_ports == "flow",
    )

"""A cloud for tests: the real ML2 plugin on SQLite, hosts that are played.

Casts are caught where oslo.messaging would hand them to the broker, and given to hosts that behave
as far as it matters like a stock agent (:class:`StockHost`, upstream's rules) or like ours.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar
from unittest import mock

import oslo_messaging.rpc.client as rpc_client
from neutron.db.models import l3 as l3_models
from neutron.db.models import l3_attrs, l3ha
from neutron.plugins.ml2 import managers, rpc
from neutron.tests.common import helpers
from neutron.tests.unit.plugins.ml2 import test_plugin
from neutron_lib import constants
from neutron_lib import context as n_context
from neutron_lib.agent import topics
from neutron_lib.api.definitions import multiprovidernet as mpnet
from neutron_lib.api.definitions import portbindings
from neutron_lib.api.definitions import provider_net as pnet
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_serialization import jsonutils
from oslo_utils import uuidutils

from ovs_l2pop.core.messages import AddEntries, Change, RemoveEntries
from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Update
from ovs_l2pop.sync.replica import Replica

UPSTREAM_TOPIC = topics.get_topic_name(topics.AGENT, topics.L2POPULATION, topics.UPDATE)
FLOODING = ("00:00:00:00:00:00", "0.0.0.0")
COMPUTE = constants.DEVICE_OWNER_COMPUTE_PREFIX + "fake"

Body = dict[str, Any]


class Cast:
    """One message to one host, or to all."""

    def __init__(self, topic: str, host: str | None, method: str, body: Body) -> None:
        self.topic, self.host, self.method, self.body = topic, host, method, body

    @property
    def fdb(self) -> Body:
        return self.body["fdb_entries"]  # type: ignore[no-any-return]

    def pairs(self, network_id: str, vtep: str) -> list[tuple[str, str]]:
        """What an add or remove says of a VTEP."""
        ports = self.fdb.get(network_id, {}).get("ports", {})
        return [tuple(pair) for pair in ports.get(vtep, ())]

    def __repr__(self) -> str:
        return f"{self.host or 'fanout'}: {self.method} {self.body}"


class StockHost:
    """What upstream's messages make of a stock agent's flows, for one network.

    As ``ovs_neutron_agent`` does it: removing an entry matches MAC (unicast) or IP (ARP) only.

    :param segment_id: of the host's segment; None takes any.
    """

    def __init__(self, vtep: str, segment_id: int | None = None) -> None:
        self.vtep = vtep
        self.segment_id = segment_id
        self.flood: set[str] = set()
        self.unicast: dict[str, str] = {}
        self.arp: dict[str, str] = {}

    def take(self, cast: Cast, network_id: str) -> None:
        if cast.method == "update_fdb_entries":
            for vtep, change in cast.fdb["chg_ip"].get(network_id, {}).items():
                if vtep != self.vtep:
                    self.arp.update((ip, mac) for mac, ip in change.get("after", ()))
                    for _, ip in change.get("before", ()):
                        self.arp.pop(ip, None)
            return
        body = cast.fdb.get(network_id, {})
        if self.segment_id not in (None, body.get("segment_id")):
            return
        for vtep, pairs in body.get("ports", {}).items():
            if vtep == self.vtep:
                continue
            for mac, ip in pairs:
                if cast.method == "add_fdb_entries":
                    if (mac, ip) == FLOODING:
                        self.flood.add(vtep)
                    else:
                        self.unicast[mac], self.arp[ip] = vtep, mac
                elif (mac, ip) == FLOODING:
                    self.flood.discard(vtep)
                else:
                    self.unicast.pop(mac, None)
                    self.arp.pop(ip, None)


class OurHost:
    """A host with our extension: a replica, and the entries that it gave out."""

    def __init__(self, name: str, vtep: str) -> None:
        self.name, self.vtep = name, vtep
        self.now = time.monotonic()
        self.replica = Replica(vtep, lambda: self.now)
        self.entries: set[tuple[str, str, str]] = set()

    def take(self, cast: Cast) -> None:
        self.now += 0.001
        self.absorb(self.replica.updated(Update.from_wire(cast.body)))

    def sync(self, endpoint: SyncEndpoint) -> int:
        """Ask until all is told; how many calls that took."""
        asked, cursor, calls = self.replica.digests(), None, 0
        while True:
            self.now += 1.0
            before = self.now
            reply = endpoint.sync(None, self.name, asked, cursor, own=self.replica.with_own)
            calls += 1
            changes, cursor = self.replica.synced(Answer.from_wire(reply), before)
            self.absorb(changes)
            if cursor is None:
                return calls

    def absorb(self, changes: list[Change]) -> None:
        assert self.replica.take_refusals() == []
        for change in changes:
            assert isinstance(change, AddEntries | RemoveEntries)
            said: set[tuple[str, str, str]] = set(change.entries)
            said |= {(*FLOODING, change.vtep)} if change.flooding else set()
            if isinstance(change, AddEntries):
                assert not said & self.entries, "told twice"
                self.entries |= said
            else:
                assert said <= self.entries, "taken back without having been told"
                self.entries -= said


class Cloud(test_plugin.Ml2PluginV2TestCase):  # type: ignore[misc]
    """Hosts A, B, C, D with VTEPs 20.0.0.1 to 20.0.0.4; one VXLAN and one VLAN network."""

    driver_name: ClassVar[str] = "ovs_l2pop"
    #: Hosts that run our extension.
    ours: ClassVar[Sequence[str]] = ()
    hosts: ClassVar[Sequence[str]] = ("A", "B", "C", "D")
    _extension_drivers: ClassVar[list[str]] = ["port_security"]

    def setUp(self) -> None:
        self._mechanism_drivers = ["openvswitch", self.driver_name]
        super().setUp()
        # Nobody sends heartbeats here.
        cfg.CONF.set_override("agent_down_time", 3600)
        self.plugin = directory.get_plugin()
        notifier = rpc.AgentNotifierApi(topics.AGENT)
        self.callbacks = rpc.RpcCallbacks(notifier, managers.TypeManager())
        mock.patch("neutron.plugins.ml2.rpc.AgentNotifierApi").start()
        self.casts: list[Cast] = []
        mock.patch.object(rpc_client._BaseCallContext, "cast", self._catch()).start()
        for number, host in enumerate(self.hosts, 1):
            self.register(host, f"20.0.0.{number}", ours=host in self.ours)
        self._watch_the_log()
        self.net = self.network_of("vxlan", 1001)
        self.subnet_id = self.make_subnet(self.net, "10.0.0.0/16")

    def _watch_the_log(self) -> None:
        """Nothing that is played here is worth a warning of ours."""
        warned: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("ovs_l2pop").addHandler(handler)

        def check() -> None:
            logging.getLogger("ovs_l2pop").removeHandler(handler)
            assert warned == []

        self.addCleanup(check)

    def get_additional_service_plugins(self) -> dict[str, str]:
        return {"revisions": "revisions", "timestamp": "timestamp"}

    # -- the cloud ---------------------------------------------------------------------------

    @property
    def admin(self) -> Any:
        """One for each call, as each request has: a refused one leaves nothing behind."""
        return n_context.get_admin_context()

    @property
    def mech(self) -> Any:
        return self.plugin.mechanism_manager.mech_drivers[self.driver_name].obj

    def register(self, host: str, vtep: str, *, ours: bool = False, **more: Any) -> None:
        configurations = {
            "tunneling_ip": vtep,
            "tunnel_types": ["vxlan"],
            "bridge_mappings": {"physnet1": "br-ex"},
            "l2_population": True,
            "extensions": ["qos", *([protocol.EXTENSION] if ours else [])],
        }
        agent = {
            "agent_type": constants.AGENT_TYPE_OVS,
            "binary": constants.AGENT_PROCESS_OVS,
            "host": host,
            "topic": constants.L2_AGENT_TOPIC,
            "start_flag": True,
        }
        agent.update({name: more.pop(name) for name in list(agent) if name in more})
        helpers._register_agent(agent | {"configurations": configurations | more})

    def vtep(self, host: str) -> str:
        return f"20.0.0.{self.hosts.index(host) + 1}"

    def network_of(self, kind: str, segment: int) -> str:
        body: Body = {pnet.NETWORK_TYPE: kind, pnet.SEGMENTATION_ID: segment}
        if kind == "vlan":
            body[pnet.PHYSICAL_NETWORK] = "physnet1"
        network = {"name": kind, "admin_state_up": True, "shared": False, "tenant_id": "p"}
        made = self.plugin.create_network(self.admin, {"network": network | body})
        return str(made["id"])

    def network_of_segments(self, *segments: tuple[str, int]) -> str:
        bodies = [{pnet.NETWORK_TYPE: kind, pnet.SEGMENTATION_ID: n} for kind, n in segments]
        for body in bodies:
            body[pnet.PHYSICAL_NETWORK] = "physnet1" if body[pnet.NETWORK_TYPE] == "vlan" else None
        network = {"name": "", "admin_state_up": True, "shared": False, "tenant_id": "p"}
        made = self.plugin.create_network(
            self.admin, {"network": network | {mpnet.SEGMENTS: bodies}}
        )
        return str(made["id"])

    def make_subnet(self, network_id: str, cidr: str, **more: Any) -> str:
        unset = (
            "allocation_pools",
            "dns_nameservers",
            "host_routes",
            "ipv6_address_mode",
            "ipv6_ra_mode",
            "subnetpool_id",
            "prefixlen",
        )
        subnet = {
            "network_id": network_id,
            "tenant_id": "p",
            "project_id": "p",
            "name": "",
            "cidr": cidr,
            "ip_version": 4,
            "gateway_ip": None,
            "enable_dhcp": False,
        } | dict.fromkeys(unset, constants.ATTR_NOT_SPECIFIED)
        return str(self.plugin.create_subnet(self.admin, {"subnet": subnet | more})["id"])

    def bind_to_distributed(self, port: Body, host: str) -> None:
        attributes = {portbindings.HOST_ID: host, "device_id": port["device_id"]}
        self.plugin.update_distributed_port_binding(self.admin, port["id"], {"port": attributes})

    def port_on(self, host: str, *, up: bool = False, net: str | None = None, **more: Any) -> Body:
        port = {
            "network_id": net or self.net,
            "tenant_id": "p",
            "name": "",
            "admin_state_up": True,
            "device_id": "vm",
            "device_owner": COMPUTE,
            "mac_address": constants.ATTR_NOT_SPECIFIED,
            "fixed_ips": constants.ATTR_NOT_SPECIFIED,
            portbindings.HOST_ID: host,
        }
        made: Body = self.plugin.create_port(self.admin, {"port": port | more})
        if up:
            self.up(made, host)
        return made

    def dvr_interface(self, hosts: Iterable[str]) -> Body:
        """The interface of a distributed router, bound to hosts and wired on none."""
        router_id = uuidutils.generate_uuid()
        port = self.port_on(
            "", device_owner=constants.DEVICE_OWNER_DVR_INTERFACE, device_id=router_id
        )
        for host in hosts:
            self.bind_to_distributed(port, host)
        return port

    def ha_router(self, hosts: Iterable[str]) -> str:
        """A highly available router that is scheduled to hosts."""
        router_id = uuidutils.generate_uuid()
        # The network that routers talk to each other on is not part of the play.
        others = self.network_of("vlan", 4000)
        with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
            session.add(l3_models.Router(id=router_id))
            session.add(l3_attrs.RouterExtraAttributes(router_id=router_id, ha=True))
        for host in hosts:
            row = l3ha.L3HARouterAgentPortBinding(
                router_id=router_id,
                l3_agent_id=helpers.register_l3_agent(host)["id"],
                port_id=self.port_on(host, net=others)["id"],
            )
            with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
                session.add(row)
        return str(router_id)

    def ha_interface(self, router_id: str, host: str) -> Body:
        owner = constants.DEVICE_OWNER_HA_REPLICATED_INT
        return self.port_on(host, device_owner=owner, device_id=router_id)

    def agent_on(self, host: str) -> Body:
        (agent,) = self.plugin.get_agents(
            self.admin, filters={"host": [host], "agent_type": [constants.AGENT_TYPE_OVS]}
        )
        return agent  # type: ignore[no-any-return]

    def update(self, port: Body, **attributes: Any) -> Body:
        done: Body = self.plugin.update_port(self.admin, port["id"], {"port": attributes})
        return done

    def rebind(self, port: Body, host: str) -> None:
        self.update(port, **{portbindings.HOST_ID: host})

    def delete(self, port: Body) -> None:
        # The L3 service does it this way with ports of routers.
        self.plugin.delete_port(self.admin, port["id"], l3_port_check=False)

    def pairs(self, port: Body) -> list[tuple[str, str]]:
        return [(port["mac_address"], ip["ip_address"]) for ip in port["fixed_ips"]]

    # -- what agents do ----------------------------------------------------------------------

    def wire(self, ports: Sequence[Body], host: str, *, refresh: bool = False) -> None:
        """As an agent does it with ports that it finds: details, then up, in one call each."""
        ids = [port["id"] for port in ports]
        context = n_context.get_admin_context()
        self.callbacks.get_devices_details_list_and_failed_devices(
            context, devices=ids, agent_id=host, host=host
        )
        self.callbacks.update_device_list(
            n_context.get_admin_context(),
            devices_up=ids,
            devices_down=[],
            agent_id=host,
            host=host,
            refresh_tunnels=refresh,
        )

    def up(self, port: Body, host: str) -> None:
        self.wire([port], host)

    def down(self, port: Body, host: str) -> None:
        self.callbacks.update_device_down(self.admin, device=port["id"], agent_id=host, host=host)

    # -- what was sent -----------------------------------------------------------------------

    def _catch(self) -> Any:
        def cast(context: Any, _ctxt: Any, method: str, **body: Any) -> None:
            target = context.target
            if target.topic in (UPSTREAM_TOPIC, protocol.AGENT_TOPIC):
                wire = jsonutils.loads(jsonutils.dumps(body))
                host = None if target.fanout else target.server
                self.casts.append(Cast(target.topic, host, method, wire))

        return cast

    def sent(self) -> list[Cast]:
        """Messages since the last time."""
        casts, self.casts = self.casts, []
        return casts

    def expect(self, *changes: tuple[str, str], tables: str = "") -> list[Cast]:
        """That exactly these messages were sent since the last time.

        :param changes: what is told, and hosts that have the network; for "add", "remove" and
            "update" all of them, for "ours" only those of ours. The port's own host, which is not
            among them, is told too if it is ours.
        :param tables: hosts that are sent the whole network, if they can't ask for it.
        :returns: the messages to others than the port's own host.
        """
        casts = self.sent()
        named = {host for _, hosts in changes for host in hosts}
        own = [cast for cast in casts if cast.method == "update_ports" and cast.host not in named]
        casts = [cast for cast in casts if cast not in own]
        assert len(own) <= len(changes), own
        assert {cast.host for cast in own} <= set(self.ours), own
        wanted: Counter[tuple[str | None, str]] = Counter()
        for what, hosts in changes:
            ours = [host for host in hosts if host in self.ours]
            wanted.update((host, "update_ports") for host in ours)
            if what != "ours":
                # A cloud of stock agents is told all at once.
                stock = set(hosts) - set(ours) if self.ours else {None}
                wanted.update((host, f"{what}_fdb_entries") for host in stock)
        for host in tables:
            if host not in self.ours:
                wanted[host, "add_fdb_entries"] += 1
        assert Counter((cast.host, cast.method) for cast in casts) == wanted, casts
        return casts

    def stock_state(self, host: str, casts: Sequence[Cast]) -> StockHost:
        """What these messages make of a host."""
        stock = StockHost(self.vtep(host))
        for cast in casts:
            if cast.topic == UPSTREAM_TOPIC and cast.host in (None, host):
                stock.take(cast, self.net)
        return stock


def upstream_to(casts: Sequence[Cast], host: str | None) -> list[Cast]:
    return [c for c in casts if c.topic == UPSTREAM_TOPIC and c.host == host]


def ours_to(casts: Sequence[Cast], host: str) -> list[Cast]:
    return [c for c in casts if c.topic == protocol.AGENT_TOPIC and c.host in (None, host)]

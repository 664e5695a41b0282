"""The whole cloud: control plane, hosts, and what a test does with them."""

import ipaddress
import itertools
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from l2pop_lab.topology import Lab, LabError, namespaces
from l2pop_lab.topology.running import Running
from neutronlab import management
from neutronlab.api import NeutronApi, Resource
from neutronlab.control import ControlPlane
from neutronlab.daemon import DAEMON, DaemonNode
from neutronlab.database import Template
from neutronlab.forwarding import Forwarding
from neutronlab.installation import Installation
from neutronlab.messages import Message, Messages
from neutronlab.node import AgentKind, Node
from neutronlab.settings import Options
from neutronlab.things import Instance, Network, Port
from neutronlab.waiting import wait_until

UPSTREAM = ("openvswitch", "l2population")
OURS_DRIVERS = ("openvswitch", "ovs_l2pop")

WIRED_TIMEOUT = 30.0
"""Seconds; an agent looks for new ports every 2 s."""


class Cloud(Running):
    """A cloud with a host for each of *agents*; a context manager. Needs root.

    :param agents: how the hosts' agents are set up: h1, h2, …
    :param mechanism_drivers: of the server.
    :param installation: where Neutron is.
    :param template: the database's, made by the first cloud and copied by the others.
    :param options: more options for the server processes, by section.
    """

    def __init__(
        self,
        agents: Sequence[AgentKind],
        mechanism_drivers: Sequence[str],
        installation: Installation,
        template: Template,
        *,
        options: Options | None = None,
        rpc_workers: int = 1,
    ) -> None:
        self.lab = Lab(len(agents))
        self.nodes: list[Node] = []
        self._agents = list(agents)
        self._mechanism_drivers = mechanism_drivers
        self._installation = installation
        self._template = template
        self._options = options or {}
        self._rpc_workers = rpc_workers
        self._control: ControlPlane | None = None
        self._machine_numbers = itertools.count(1)
        self._plugged: list[Instance] = []

    # -- life -------------------------------------------------------------------------------

    def start(self) -> Self:
        """Bring the cloud up; on failure leave nothing behind."""
        self.lab.start()
        try:
            self._start()
        except BaseException as error:
            for node in self.nodes:
                end = node.agent_log().splitlines()[-20:] + node.agent_output().splitlines()[-20:]
                error.add_note("\n".join([f"-- agent of {node.name}", *end]))
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Take everything away; safe to repeat."""
        # The laboratory would end all processes in good order, for which agents take long.
        for node in self.nodes:
            node.kill_agent()
        if self._control is not None:
            self._control.kill()
        self.lab.stop()

    def __enter__(self) -> Self:
        return self.start()

    def _start(self) -> None:
        control = self._control = ControlPlane(
            self.lab.add_place("ctl"),
            self._installation,
            self._template,
            mechanism_drivers=self._mechanism_drivers,
            options=self._options,
            rpc_workers=self._rpc_workers,
        )
        management.make(control.place)
        for number, (host, kind) in enumerate(zip(self.lab.hosts, self._agents, strict=True), 1):
            make = DaemonNode if kind.name == DAEMON.name else Node
            node = make(host, kind, self._installation, control.broker.url)
            node.connect(control.place, number)
            self.nodes.append(node)
        control.start()
        # Not before the RPC server listens: what an agent asks of nobody it waits 60 s for.
        for node in self.nodes:
            node.start_agent()
        self.wait_agents()
        control.start_periodic_workers()

    @property
    def control(self) -> ControlPlane:
        """The control plane."""
        assert self._control is not None, "the cloud isn't running"
        return self._control

    @property
    def api(self) -> NeutronApi:
        """The REST API."""
        return self.control.api

    @property
    def messages(self) -> Messages:
        """The RPC messages."""
        return self.control.messages

    def node(self, name: str) -> Node:
        """Return the host of this name."""
        return next(node for node in self.nodes if node.name == name)

    def wait_agents(self, nodes: Iterable[Node] | None = None, timeout: float = 60.0) -> None:
        """Wait until the agents of *nodes* (all by default) have reported for the first time."""
        names = {node.name for node in (self.nodes if nodes is None else nodes)}

        def reported() -> bool:
            for node in self.nodes:
                if node.name in names:
                    node.agent_must_run()
            agents = self.api.list("agents", agent_type="Open vSwitch agent")
            return names <= {agent["host"] for agent in agents if agent["alive"]}

        wait_until(reported, "all agents have reported", timeout)

    def restart_agent(
        self, node: Node, number: int = signal.SIGKILL, kind: AgentKind | None = None
    ) -> None:
        """End an agent by a signal, start it again, and wait until it has wired its ports.

        :param kind: what it is from now on, None for what it was.
        """
        node.stop_agent(number)
        mark = self.messages.mark()
        has_ports = any(port.host == node.name for port in self.ports())
        node.start_agent(kind)

        def wired() -> bool:
            node.agent_must_run()
            # "tunnel_sync" comes at its start, "update_device_list" when ports are wired.
            method = "update_device_list" if has_ports else "report_state"
            found = self.messages.since(mark, method=method)
            return any(_sender(message) == node.name for message in found)

        wait_until(wired, f"the agent of {node.name} has wired its ports", timeout=60)

    # -- networks and ports -----------------------------------------------------------------

    def create_network(self, *cidrs: str, **attributes: Any) -> Network:
        """Create a network with a subnet for each of *cidrs*.

        :param attributes: more of the network's, as ``**{"provider:network_type": "vlan"}``.
        """
        attributes.setdefault("name", "lab")
        created = self.api.create("networks", **attributes)
        subnets = {}
        for cidr in cidrs:
            subnet = self.api.create(
                "subnets",
                network_id=created["id"],
                cidr=cidr,
                ip_version=ipaddress.ip_network(cidr).version,
                allocation_pools=[_pool(cidr)],
                enable_dhcp=False,
                gateway_ip=None,
            )
            subnets[subnet["id"]] = cidr
        return Network(
            id=created["id"],
            type=created["provider:network_type"],
            segment=created["provider:segmentation_id"],
            mtu=created["mtu"],
            subnets=subnets,
        )

    def port_attributes(self, network: Network, node: Node | None) -> dict[str, Any]:
        """Return what Nova would ask for: a port bound to a host."""
        attributes: dict[str, Any] = {
            "network_id": network.id,
            "device_owner": "compute:nova",
            "device_id": "lab",
        }
        if network.subnets:
            attributes["fixed_ips"] = [{"subnet_id": subnet} for subnet in network.subnets]
        if node is not None:
            attributes["binding:host_id"] = node.name
        return attributes

    def create_port(self, network: Network, node: Node | None = None, **attributes: Any) -> Port:
        """Create a port, bound to *node*'s host if one is given."""
        wanted = self.port_attributes(network, node) | attributes
        return _port(self.api.create("ports", **wanted))

    def create_ports(self, network: Network, nodes: Sequence[Node]) -> list[Port]:
        """Create a port on each of *nodes* by one request."""
        wanted = [self.port_attributes(network, node) for node in nodes]
        return [_port(resource) for resource in self.api.create_many("ports", wanted)]

    def port(self, id: str) -> Port:  # noqa: A002
        """Read a port."""
        return _port(self.api.get("ports", id))

    def ports(self, **filters: Any) -> list[Port]:
        """Read all ports with these attributes."""
        return [_port(resource) for resource in self.api.list("ports", **filters)]

    def wait_active(self, *ids: str, timeout: float = WIRED_TIMEOUT) -> None:
        """Wait until ports are ACTIVE: wired by an agent that has told the server so."""

        def pending() -> dict[str, str]:
            status = {port.id: port.status for port in self.ports()}
            return {port: status[port] for port in ids if status[port] != "ACTIVE"}

        wait_until(lambda: not pending(), f"ports {', '.join(ids)} are ACTIVE", timeout)

    # -- machines ---------------------------------------------------------------------------

    def plug(self, port: Port, network: Network, node: Node, *, mtu: int | None = None) -> Instance:
        """Plug a machine in for a port, as Nova does on a host; don't wait for the agent."""
        prefixes = [ipaddress.ip_network(cidr) for cidr in network.subnets.values()]
        addresses = [
            f"{address}/{prefix.prefixlen}"
            for address in port.ips
            for prefix in prefixes
            if ipaddress.ip_address(address) in prefix
        ]
        machine = node.host.add_machine(
            f"vm{next(self._machine_numbers)}",
            port.mac,
            addresses,
            tag=node.tag(network),
            mtu=mtu or network.mtu,
            dad=False,
            external_ids={
                "iface-id": port.id,
                "iface-status": "active",
                "vm-uuid": port.id,
            },
        )
        instance = Instance(port, network, node, machine)
        self._plugged.append(instance)
        return instance

    def boot(
        self, network: Network, node: Node, *, wait: bool = True, **attributes: Any
    ) -> Instance:
        """Create a port on a host and plug a machine in for it."""
        port = self.create_port(network, node, **attributes)
        instance = self.plug(port, network, node)
        if wait:
            self.wait_active(port.id)
            instance.port = self.port(port.id)
        return instance

    def boot_many(self, network: Network, nodes: Sequence[Node]) -> list[Instance]:
        """Boot one instance on each of *nodes*, at the same time."""
        ports = self.create_ports(network, nodes)
        with ThreadPoolExecutor(4) as pool:
            instances = list(pool.map(self.plug, ports, itertools.repeat(network), nodes))
        self.wait_active(*(port.id for port in ports))
        for instance in instances:
            instance.port = self.port(instance.port.id)
        return instances

    def unplug(self, instance: Instance) -> None:
        """Take the machine away; the port stays."""
        instance.machine.remove()
        self._plugged.remove(instance)

    def delete(self, instance: Instance) -> None:
        """Take the machine away and delete its port, in Nova's order."""
        self.unplug(instance)
        self.api.delete("ports", instance.port.id)

    def clean(self, keep: Iterable[Instance] = ()) -> None:
        """Take all machines away but *keep*'s, and delete all ports and networks but theirs."""
        kept = list(keep)
        for instance in [one for one in self._plugged if one not in kept]:
            self.unplug(instance)
        ports = {instance.port.id for instance in kept}
        for port in self.ports():
            if port.id not in ports:
                self.api.delete("ports", port.id)
        networks = {instance.network.id for instance in kept}
        for network in self.api.list("networks"):
            if network["id"] not in networks:
                self.api.delete("networks", network["id"])

    def migrate(self, instance: Instance, target: Node) -> Instance:
        """Live-migrate an instance in Nova's steps and return it as it is on its new host."""
        port, source = instance.port, instance.node
        self.api.add_binding(port.id, target.name)
        # Without it the new host's agent leaves the port alone for good if it sees it only after
        # the activation (neutron 29.0.0 takes the then inactive old binding for the target).
        profile = {"migrating_to": target.name}
        self.api.update("ports", port.id, **{"binding:profile": profile})
        moved = self.plug(port, instance.network, target)
        # The guest is still on the old host: its double must not answer ARP.
        keep = {"net/ipv6/conf/eth0/keep_addr_on_down": 1}
        namespaces.set_sysctls(moved.machine.namespace, keep)
        moved.machine.exec("ip", "link", "set", "eth0", "down")
        wait_until(
            lambda: port.id in target.local_vlans(), f"{target.name} has wired port {port.id}"
        )
        self.api.activate_binding(port.id, target.name)
        self.unplug(instance)
        moved.machine.exec("ip", "link", "set", "eth0", "up")
        announce(moved)
        self.api.delete_binding(port.id, source.name)
        self.api.update("ports", port.id, **{"binding:profile": {}})
        self.wait_active(port.id)
        moved.port = self.port(port.id)
        return moved

    def move(self, instance: Instance, target: Node) -> Instance:
        """Move an instance that is switched off: unplug, bind to the new host, plug in there."""
        self.unplug(instance)
        self.api.update("ports", instance.port.id, **{"binding:host_id": target.name})
        moved = self.plug(instance.port, instance.network, target)
        self.wait_active(instance.port.id)
        announce(moved)
        moved.port = self.port(instance.port.id)
        return moved

    # -- what there should be ---------------------------------------------------------------

    def expected_forwarding(self) -> dict[str, dict[str, Forwarding]]:
        """Return what the hosts' flows should say: host name → network id → forwarding.

        Read from the API, so from the database: of every network that a host has an ACTIVE port
        on, all ACTIVE ports of other hosts.
        """
        vteps = {node.name: node.vtep for node in self.nodes}
        tunnelled = {
            network["id"]
            for network in self.api.list("networks")
            if network["provider:network_type"] in ("vxlan", "gre", "geneve")
        }
        active = [
            port
            for port in self.ports()
            if port.status == "ACTIVE" and port.network_id in tunnelled and port.host in vteps
        ]
        expected: dict[str, dict[str, Forwarding]] = {name: {} for name in vteps}
        for name, network in {(port.host, port.network_id) for port in active}:
            others = [port for port in active if port.network_id == network and port.host != name]
            expected[name][network] = Forwarding(
                unicast={port.mac: vteps[port.host] for port in others if port.ips},
                arp={ip: port.mac for port in others for ip in port.ips if ":" not in ip},
                flood=frozenset(vteps[port.host] for port in others),
                nd={ip: port.mac for port in others for ip in port.ips if ":" in ip},
            )
        return expected

    def actual_forwarding(self) -> dict[str, dict[str, Forwarding]]:
        """Return what the hosts' flows say, in the form of :meth:`expected_forwarding`.

        Flows of a local VLAN that no port of the host has stand under ``VLAN <number>``.
        """
        networks = {port.id: port.network_id for port in self.ports()}
        actual: dict[str, dict[str, Forwarding]] = {}
        for node in self.nodes:
            names = {
                vlan: networks[port]
                for port, vlan in node.local_vlans().items()
                if port in networks
            }
            found = node.forwarding()
            actual[node.name] = {
                names.get(vlan, f"VLAN {vlan}"): found.get(vlan, Forwarding())
                for vlan in {*found, *names}
                # Upstream leaves an empty flow or two of a VLAN that has just gone.
                if vlan in names or found[vlan] != Forwarding()
            }
        return actual

    def wait_consistent(self, timeout: float = 30.0) -> None:
        """Wait until every host's flows say what the database says.

        :raises LabError: after *timeout* seconds, with the differences.
        """
        differences: dict[str, tuple[Forwarding | None, Forwarding | None]] = {}

        def consistent() -> bool:
            expected, actual = self.expected_forwarding(), self.actual_forwarding()
            differences.clear()
            for name in expected:
                for network in {*expected[name], *actual[name]}:
                    pair = expected[name].get(network), actual[name].get(network)
                    if not _agree(self.node(name), *pair):
                        differences[f"{name} {network}"] = pair
            return not differences

        try:
            wait_until(consistent, "flows and database agree", timeout, interval=0.5)
        except LabError as error:
            lines = [
                f"{where}:\n  wanted {wanted}\n  found  {found}"
                for where, (wanted, found) in differences.items()
            ]
            raise LabError("\n".join([str(error), *lines])) from None


def _agree(node: Node, wanted: Forwarding | None, found: Forwarding | None) -> bool:
    """Tell whether a host's flows for a network are right."""
    if wanted and found and not node.kind.extensions:
        # Upstream answers no IPv6; what ours had of that may still lie in a table of ours.
        found = replace(found, nd=wanted.nd)
        if wanted.flood <= found.flood:
            # Upstream floods a network that is new on a host to every tunnel that there is
            # (neutron 29.0.0, provision_local_vlan), and keeps to it until something changes.
            found = replace(found, flood=wanted.flood)
    return wanted == found


def announce(instance: Instance) -> None:
    """Tell the switches where an instance is now, as QEMU does after a migration (RARP, RFC 903).

    Without it br-int of the new host goes on sending the instance's frames to the tunnels, where
    it has learned its MAC address, for five minutes.
    """
    mac = bytes.fromhex(instance.mac.replace(":", ""))
    header = b"\xff" * 6 + mac + b"\x80\x35"
    body = bytes.fromhex("0001080006040003") + (mac + bytes(4)) * 2
    for _ in range(5):
        instance.machine.send((header + body).ljust(60, b"\0"))
        time.sleep(0.1)


def _sender(message: Message) -> str | None:
    """Return the host of the agent that has sent a message to the server."""
    agent_state = message.args.get("agent_state", {}).get("agent_state", {})
    host: str | None = message.args.get("host") or agent_state.get("host")
    return host


def _port(resource: Resource) -> Port:
    return Port(
        id=resource["id"],
        network_id=resource["network_id"],
        mac=resource["mac_address"],
        ips=tuple(fixed["ip_address"] for fixed in resource["fixed_ips"]),
        host=resource.get("binding:host_id", ""),
        status=resource["status"],
    )


def _pool(cidr: str) -> dict[str, str]:
    """What Neutron gives by itself: addresses from .200 (::c8) on are a test's to ask for."""
    network = ipaddress.ip_network(cidr)
    return {"start": str(network[2]), "end": str(network[199])}

"""The laboratory with the machines of a layout, and agents that are fed."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any, TypeVar

from l2pop_lab.demo.feed import Delivery
from l2pop_lab.demo.layout import Layout, Member, Network
from l2pop_lab.topology import AgentProcess, Host, Lab, Machine
from l2pop_lab.topology.host import INTEGRATION_BRIDGE
from l2pop_lab.topology.namespaces import ip_batch
from ovs_l2pop import resources
from ovs_l2pop.agent.client import ask
from ovs_l2pop.backends.linuxbridge.rows import bridge_names, tunnel_name
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.core.errors import ControlError
from ovs_l2pop.core.messages import FLOODING_MAC

T = TypeVar("T")
R = TypeVar("R")

TUNNEL_BRIDGE = "br-tun"
THREADS = 8


class Mode(Enum):
    """What the agents are there for, and the name of their state's directory."""

    L2POP = "state"
    FLOOD = "state-flood"


def in_parallel(function: Callable[[T], R], items: Iterable[T], threads: int = THREADS) -> list[R]:
    """Call *function* for all items, some at a time; the first exception counts."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


class Stage:
    """A running laboratory, populated."""

    def __init__(self, layout: Layout, lab: Lab) -> None:
        self.layout = layout
        self.lab = lab
        self.machines: dict[str, Machine] = {}
        self.vteps = {number: host.vtep for number, host in enumerate(lab.hosts, 1)}
        self.agents: dict[int, AgentProcess] = {}
        self.linuxbridge = self.host(layout.linuxbridge)
        self._switches = [host for host in lab.hosts if host is not self.linuxbridge]
        self._learned = f"cookie={pipeline.load(resources.flows()).learned_cookie:#x},"

    def host(self, number: int) -> Host:
        """Return a host by its number in the layout, from 1."""
        return self.lab.hosts[number - 1]

    def plug_machines(self) -> None:
        """Make the machines and plug them in."""
        # There the bridge of a network comes with its first machine: Nova makes it.
        options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        for network in self._bridged_networks():
            name, _ = bridge_names(network.network_id)
            lines = [f"link add {name} {options}", f"link set {name} up"]
            ip_batch(lines, self.linuxbridge.namespace)
        in_parallel(self._plug, self.layout.members)

    def launch_agents(self, mode: Mode) -> None:
        """Start an agent on every host, without waiting for it."""
        self.agents = dict(
            zip(self.vteps, in_parallel(lambda n: self._launch(n, mode), self.vteps), strict=True)
        )

    def wait_for_agents(self) -> None:
        """Wait until all agents answer."""
        for agent in self.agents.values():
            agent.wait_ready()

    def replace_agents(self, mode: Mode) -> None:
        """End the agents, take their bridges and tunnels away and start others."""
        in_parallel(lambda agent: agent.stop(), self.agents.values())
        in_parallel(lambda host: host.vsctl("del-br", TUNNEL_BRIDGE), self._switches)
        names = [tunnel_name(network.vni) for network in self._bridged_networks()]
        ip_batch((f"link delete {name}" for name in names), self.linuxbridge.namespace)
        self.launch_agents(mode)
        self.wait_for_agents()

    def feed(self, batches: Iterable[list[Delivery]]) -> tuple[int, float]:
        """Hand messages to agents, the batches one after the other, each until it is written.

        Return the number of messages and the seconds that it took.

        :raises ControlError: if something was refused or isn't in the switch.
        """
        count = 0
        begin = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            for batch in batches:
                list(pool.map(self._deliver, batch))
                count += sum(len(delivery.messages) for delivery in batch)
        return count, time.monotonic() - begin

    def drift(self, number: int) -> list[object]:
        """Return what ``ovs-l2pop check`` lists on a host."""
        rows = ask(self.agents[number].control_socket, {"command": "check"})["rows"]
        return list(rows)

    def tunnels(self) -> int:
        """Count the tunnels on all hosts, each to one other: ports of switches, and destinations
        of Linux bridges, where one device serves them all."""
        found = (
            host.vsctl("--bare", "--columns=name", "find", "Interface", "type=vxlan").split()
            for host in self._switches
        )
        reached = {entry["dst"] for entry in self._forwarding() if entry["mac"] == FLOODING_MAC}
        return sum(map(len, found)) + len(reached)

    def flows(self) -> tuple[int, int]:
        """Count the flows in br-tun of all switches, and those among them that were learned."""
        dumps = in_parallel(lambda host: host.ofctl("dump-flows", TUNNEL_BRIDGE), self._switches)
        lines = [line for dump in dumps for line in dump.splitlines() if "cookie=" in line]
        return len(lines), sum(self._learned in line for line in lines)

    def entries(self) -> tuple[int, int]:
        """Count what the Linux bridge host has instead: forwarding entries of tunnels and
        neighbours, and those among them that were learned."""
        learned = [entry["state"] != "permanent" for entry in self._forwarding()]
        neighbours = self._shown(
            "ip", "-j", "neighbour", "show", "nud", "permanent", "proto", "108"
        )
        return len(learned) + len(neighbours), sum(learned)

    def _forwarding(self) -> list[dict[str, Any]]:
        return [e for e in self._shown("bridge", "-j", "fdb", "show") if "dst" in e]

    def _shown(self, *command: str) -> list[dict[str, Any]]:
        return list(json.loads(self.linuxbridge.exec(*command) or "[]"))

    def _bridged_networks(self) -> list[Network]:
        here = self.layout.linuxbridge
        return [network for network in self.layout.networks if here in network.hosts]

    def _plug(self, member: Member) -> None:
        host = self.host(member.host)
        bridge = INTEGRATION_BRIDGE
        tag: int | None = member.local_vlan
        if host is self.linuxbridge:
            bridge, _ = bridge_names(self.layout.network(member.network).network_id)
            tag = None
        self.machines[member.name] = host.add_machine(
            member.name, member.mac, member.addresses, tag=tag, bridge=bridge, dad=False
        )

    def _launch(self, number: int, mode: Mode) -> AgentProcess:
        host = self.host(number)
        config = host.agent_config(
            ovs_l2pop={
                "state_path": host.directory / mode.value,
                "arp_responder": mode is Mode.L2POP,
            }
        )
        return host.start_agent(config=config, wait=False)

    def _deliver(self, delivery: Delivery) -> None:
        lines = [json.dumps(message).encode() + b"\n" for message in delivery.messages]
        answer = ask(self.agents[delivery.host].control_socket, {"command": "send"}, lines)
        if trouble := answer["refused"] or answer["pending"]:
            raise ControlError(f"the agent of {self.host(delivery.host).name}: {trouble}")

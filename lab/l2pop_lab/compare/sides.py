"""A side of the comparison: hosts of one backend, with agents and machines."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from l2pop_lab.compare.dataplanes import Dataplane
from l2pop_lab.compare.streams import (
    BLUE,
    GREEN,
    Network,
    announced,
    encode,
    machine_addresses,
    machine_mac,
)
from l2pop_lab.topology import AgentProcess, Capture, Host, Lab, LabError, Machine
from ovs_l2pop.agent.client import ask
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.wire import Message

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "ovs_l2pop": {
        "tunnel_types": "vxlan,gre,geneve",
        "drift_interval": 60,
        "hold_moving_addresses": True,
    },
}
"""The agents' options, the same on both sides, beside where things are."""


class CompareError(L2popError):
    """A measurement or a check couldn't be carried out."""


class Side:
    """Some hosts of a laboratory, numbered from 1, that have the same backend."""

    def __init__(self, lab: Lab, hosts: Sequence[Host], dataplane: Dataplane) -> None:
        self.lab = lab
        self.hosts = list(hosts)
        self.dataplane = dataplane
        self.agents: dict[str, AgentProcess] = {}
        self._captures: dict[str, Capture] = {}

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.dataplane.name

    @property
    def vteps(self) -> dict[int, str]:
        """The VTEPs by the numbers of their hosts."""
        return {number: host.vtep for number, host in enumerate(self.hosts, 1)}

    def agent(self, host: Host) -> AgentProcess:
        """The agent that runs on a host."""
        return self.agents[host.name]

    # -- agents -----------------------------------------------------------------------------

    def launch_agents(self, **options: Mapping[str, object]) -> None:
        """Start an agent on every host, without waiting for it."""
        for host in self.hosts:
            config = host.agent_config(**{**OPTIONS, **options})
            self.agents[host.name] = host.start_agent(config=config, wait=False)

    def wait_for_agents(self) -> None:
        """Wait until all agents answer."""
        for host in self.hosts:
            self.agent(host).wait_ready()

    def start_agent(self, host: Host) -> float:
        """Start the agent of *host* as it was last configured; the seconds until it is ready."""
        begin = time.monotonic()
        self.agents[host.name] = host.start_agent(config=host.directory / "agent.conf")
        return time.monotonic() - begin

    def restart_agents(self, **options: Mapping[str, object]) -> None:
        """End all agents and start them again with other options."""
        for host in self.hosts:
            self.agent(host).stop(signal.SIGTERM)
        self.launch_agents(**options)
        self.wait_for_agents()

    def mend(self) -> None:
        """Start agents again that a failed measurement has left dead."""
        for host in self.hosts:
            if self.agent(host).process.poll() is not None:
                self.start_agent(host)

    # -- messages ---------------------------------------------------------------------------

    def deliver(self, host: Host, data: bytes) -> dict[str, Any]:
        """Hand messages to an agent as ``ovs-l2pop send`` does; its answer when all is written."""
        return ask(self.agent(host).control_socket, {"command": "send"}, [data])

    def tell(self, host: Host, *messages: Message) -> None:
        """Hand messages to an agent and wait until they are in the dataplane.

        :raises CompareError: if something was refused or isn't there.
        """
        accepted(self.deliver(host, encode(messages)))

    def tell_all(self, *messages: Message) -> None:
        """Hand the same messages to all agents."""
        for host in self.hosts:
            self.tell(host, *messages)

    def drift(self, host: Host) -> list[list[Any]]:
        """The rows that ``ovs-l2pop check`` lists."""
        return list(ask(self.agent(host).control_socket, {"command": "check"})["rows"])

    def repair(self, host: Host) -> None:
        """Do what ``ovs-l2pop repair`` does."""
        ask(self.agent(host).control_socket, {"command": "repair"})

    # -- machines ---------------------------------------------------------------------------

    def plug(
        self,
        host: Host,
        name: str,
        mac: str,
        addresses: Sequence[str],
        network: Network,
        mtu: int = 1450,
    ) -> Machine:
        """Plug a machine into a network that the host has."""
        bridge, tag = self.dataplane.place(network)
        return host.add_machine(name, mac, addresses, tag=tag, bridge=bridge, mtu=mtu, dad=False)

    def populate(self, network: Network, numbers: Sequence[int]) -> list[Machine]:
        """Have some hosts have the network, each with a machine, all announced to each other."""
        machines = []
        for number in numbers:
            host = self.hosts[number - 1]
            self.tell(host, network.attach())
            machines.append(
                self.plug(
                    host,
                    f"{network.name}{number}",
                    machine_mac(number),
                    machine_addresses(number),
                    network,
                )
            )
        told = announced({number: self.vteps[number] for number in numbers})
        for number in numbers:
            self.tell(self.hosts[number - 1], network.add(told))
        return machines

    def machine(self, number: int, network: Network = BLUE) -> Machine:
        """The machine of a network on a host, by the host's number."""
        return self.hosts[number - 1].machines[f"{network.name}{number}"]

    def captures(self) -> tuple[Capture, dict[Machine, Capture]]:
        """Collect what the hosts send on the underlay, each frame once, and what machines receive.

        They go on until :meth:`close`; who looks at them clears them first.
        """
        known = self._captures
        if not known:
            known[""] = Capture(self.lab.underlay, [host.name for host in self.hosts], "in")
        machines = [machine for host in self.hosts for machine in host.machines.values()]
        for machine in machines:
            if machine.namespace not in known:
                known[machine.namespace] = machine.capture()
        return known[""], {machine: known[machine.namespace] for machine in machines}

    def close(self) -> None:
        """End the captures."""
        for capture in self._captures.values():
            with suppress(LabError):  # frames that it has lost, when nobody looked
                capture.stop()
        self._captures.clear()

    def populate_all(self) -> None:
        """Make the networks and machines that measurements work with."""
        self.populate(BLUE, range(1, len(self.hosts) + 1))
        self.populate(GREEN, (1, 2))


def accepted(answer: Mapping[str, Any]) -> None:
    """Make sure that an agent has taken everything and written it.

    :raises CompareError: with the first refusal.
    """
    if answer["refused_count"]:
        raise CompareError(f"{answer['refused_count']} refused, the first: {answer['refused'][0]}")
    if answer["pending"]:
        raise CompareError(f"not written: {answer['pending']}")

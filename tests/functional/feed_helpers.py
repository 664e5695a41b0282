"""Messages to agents, in the form that Neutron's driver casts them."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine
from ovs_l2pop.agent.client import ask
from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import Segment
from ovs_l2pop.core.wire import Message

Pair = list[str]

FLOODING: Pair = ["00:00:00:00:00:00", "0.0.0.0"]


def network_id(number: int) -> str:
    """A UUID, the same for the same number."""
    return str(uuid5(NAMESPACE_DNS, f"network {number}"))


@dataclass(frozen=True, slots=True)
class Net:
    """A network, and the messages about it."""

    number: int
    segment: int
    kind: str = "vxlan"

    @property
    def id(self) -> str:
        return network_id(self.number)

    def attach(self, local_vlan: int) -> Message:
        return wire.attach(self.id, Segment(self.kind, self.segment), local_vlan)

    def detach(self) -> Message:
        return wire.detach(self.id)

    def add(self, ports: Mapping[str, Sequence[Any]]) -> Message:
        """*ports*: VTEP → pairs."""
        return wire.add(self.id, Segment(self.kind, self.segment), ports)

    def remove(self, ports: Mapping[str, Sequence[Any]]) -> Message:
        return wire.remove(self.id, Segment(self.kind, self.segment), ports)

    def chg_ip(
        self, vtep: str, before: Sequence[Any] | None, after: Sequence[Any] | None
    ) -> Message:
        """None leaves the list out."""
        return wire.update(wire.changed_ip(self.id, vtep, before, after))


def lines(messages: Iterable[Message]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(message) + "\n" for message in messages)


def answer_to(agent: AgentProcess, data: bytes) -> dict[str, Any]:
    """Send bytes as messages, as ``ovs-l2pop send`` does but without its start; the answer."""
    return ask(agent.control_socket, {"command": "send"}, [data])


def send(agent: AgentProcess, *messages: Message) -> None:
    """Send messages and wait until they are in the switch; all must be accepted."""
    answer = answer_to(agent, lines(messages).encode())
    assert answer == {"refused": [], "refused_count": 0, "pending": None}


def drift(agent: AgentProcess) -> list[list[Any]]:
    """The rows that ``ovs-l2pop check`` lists."""
    rows = ask(agent.control_socket, {"command": "check"})["rows"]
    assert isinstance(rows, list)
    return rows


def configured(host: Host, command: str, *argv: str) -> list[str]:
    """A command that reads the configuration of the host's agent, to be run in its namespace."""
    socket, config = host.directory / "agent.sock", host.directory / "agent.conf"
    ours = [sys.executable, "-m", "ovs_l2pop", "--socket", str(socket), command]
    return [*ours, "--config-file", str(config), *argv]


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    """Wait until *condition* holds; fail, naming *what* was awaited, after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        time.sleep(0.05)


def wait_healthy(agent: AgentProcess, timeout: float) -> None:
    """Wait until nothing needs a person's attention."""
    wait_until(
        lambda: agent.cli("show", "health").returncode == 0, "nothing is wrong any more", timeout
    )


def pairs_of(machine: Machine) -> list[Pair]:
    """A machine's entries: one pair for each of its addresses."""
    return [[machine.mac, str(interface.ip)] for interface in machine.interfaces]


@dataclass(slots=True)
class Site:
    """A laboratory with an agent on every host."""

    lab: Lab
    agents: dict[str, AgentProcess] = field(default_factory=dict)

    @classmethod
    def start(cls, lab: Lab, **options: Mapping[str, object]) -> "Site":
        """Start agents; *options* as for ``Host.agent_config``."""
        site = cls(lab)
        for host in lab.hosts:
            config = host.agent_config(**options)
            site.agents[host.name] = host.start_agent(config=config, wait=False)
        for agent in site.agents.values():
            agent.wait_ready()
        return site

    def agent(self, host: Host) -> AgentProcess:
        return self.agents[host.name]

    def populate(
        self, net: Net, machines: Sequence[Machine], announced: Sequence[Machine] | None = None
    ) -> None:
        """Attach the network on every machine's host, by the machine's tag, and tell every host of
        the *announced* machines (None: of all) and of every host that copies should go to."""
        announced = machines if announced is None else announced
        ports: dict[str, list[Pair]] = {}
        vlans: dict[str, int] = {}
        for machine in machines:
            assert machine.tag is not None
            vlans[machine.host.name] = machine.tag
            pairs = ports.setdefault(machine.host.vtep, [FLOODING])
            pairs += pairs_of(machine) if machine in announced else []
        for host in self.lab.hosts:
            if host.name in vlans:
                send(self.agent(host), net.attach(vlans[host.name]), net.add(ports))

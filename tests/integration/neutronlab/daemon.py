"""A host of the cloud that our daemon runs, with no Neutron agent on it."""

import json
import signal
from collections.abc import Mapping
from typing import Any

from l2pop_lab.topology import AgentProcess, LabError
from neutronlab.node import AgentKind, Node
from neutronlab.things import Network

DAEMON = AgentKind("daemon", extensions=("ovs_l2pop",))


def daemon(**options: Mapping[str, object]) -> AgentKind:
    """A daemon with more options, by section."""
    return AgentKind("daemon", extensions=("ovs_l2pop",), options=options)


class DaemonNode(Node):
    """Runs ``ovs-l2pop agent`` of this checkout, in the interpreter that runs the tests.

    The test is the operator: it attaches networks, which :meth:`tag` does when the first machine
    of one is plugged in.
    """

    _agent: AgentProcess | None = None

    @property
    def agent(self) -> AgentProcess:
        """The daemon that was started last."""
        if self._agent is None:
            raise LabError(f"the daemon of {self.name} was never started")
        return self._agent

    def start_agent(self, kind: AgentKind | None = None) -> None:
        """Start the daemon; don't wait for it."""
        self.kind = kind or self.kind
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {"transport_url": self._transport_url, "host": self.name}
        }
        for section, options in self.kind.options.items():
            sections.setdefault(section, {}).update(options)
        self._agent = self.host.start_agent(config=self.host.agent_config(**sections), wait=False)

    def stop_agent(self, number: int = signal.SIGTERM, grace: float = 15.0) -> bool:
        """End the daemon by a signal.

        :return: True; it has to end by itself.
        """
        self.agent.stop(number, grace)
        return True

    def kill_agent(self) -> None:
        """Kill the daemon."""
        if self._agent is not None:
            self._agent.kill()

    def agent_must_run(self) -> None:
        """Make sure that the daemon hasn't ended by itself."""
        if (status := self.agent.process.poll()) is not None:
            raise LabError(f"the daemon of {self.name} ended ({status}):\n{self.agent.log()}")

    @property
    def agent_pid(self) -> int:
        """The daemon's process id."""
        return self.agent.pid

    def agent_log(self) -> str:
        """Return the daemon's log, all its runs."""
        logs = sorted(
            self.host.directory.glob("agent-*.log"), key=lambda path: path.stat().st_ctime
        )
        return "".join(path.read_text(errors="replace") for path in logs)

    def agent_output(self) -> str:
        """Return nothing: what the daemon prints is its log."""
        return ""

    # -- what an operator does --------------------------------------------------------------

    def tag(self, network: Network) -> int:
        """Attach a network unless it is here already, and return its local VLAN."""
        rows = self.show("networks")
        taken = {row["network_id"]: row["local_vlan"] for row in rows if row["local_vlan"]}
        if network.id not in taken:
            taken[network.id] = max(taken.values(), default=0) + 1
            self.attach(network, taken[network.id])
        vlan: int = taken[network.id]
        return vlan

    def attach(self, network: Network, vlan: int) -> None:
        """Attach a network."""
        self.send(
            {
                "method": "attach_network",
                "network_id": network.id,
                "network_type": network.type,
                "segment_id": network.segment,
                "local_vlan": vlan,
            }
        )

    def detach(self, network: Network) -> None:
        """Detach a network."""
        self.send({"method": "detach_network", "network_id": network.id})

    def send(self, *messages: Mapping[str, Any]) -> None:
        """Feed messages to the daemon; all must be taken."""
        done = self.agent.cli("send", input="\n".join(map(json.dumps, messages)))
        if done.returncode:
            raise LabError(f"send to {self.name}: {done.stderr}")

    def show(self, what: str) -> list[dict[str, Any]]:
        """Return one of the daemon's listings."""
        self.agent.wait_ready()
        done = self.agent.cli("show", what, "-f", "json")
        if done.returncode:
            raise LabError(f"show {what} of {self.name}: {done.stderr}")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

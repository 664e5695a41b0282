"""What a switch holds and does, read with Open vSwitch's own tools."""

import os
import re
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import NamedTuple

from feed_helpers import wait_until

from l2pop_lab.topology import CapturedFrame, Host
from l2pop_lab.topology.frames import Tunnel, decode
from l2pop_lab.topology.running import Running

OURS = "cookie=0x6c32706f70/-1"
LEARNED = "cookie=0x6c32706f71/-1"

# Numbers of tables, by Neutron's names.
LOCAL_SWITCHING, UCAST_TO_TUN, ARP_RESPONDER, FLOOD_TO_TUN = 0, 20, 21, 22
ND_RESPONDER, FLOOD_SHARD = 23, 26


def flows(host: Host, *filters: str, bridge: str = "br-tun") -> list[str]:
    """The flows that match *filters* (as ``ovs-ofctl dump-flows`` takes them), without statistics,
    ports by name, sorted."""
    dump = host.ofctl("--names", "--no-stats", "dump-flows", bridge, ",".join(filters))
    return sorted(line.strip() for line in dump.splitlines() if "actions=" in line)


def table(host: Host, number: int) -> list[str]:
    """Our flows of a table but its miss flow."""
    return [flow for flow in flows(host, OURS, f"table={number}") if "priority=0" not in flow]


def groups(host: Host, bridge: str = "br-tun") -> list[str]:
    """The groups of a bridge, sorted."""
    dump = host.ofctl("dump-groups", bridge)
    return sorted(line.strip() for line in dump.splitlines() if "group_id=" in line)


def tunnel_port(host: Host, peer: Host, kind: str = "vxlan") -> str:
    """The name of the port that leads to a peer (of IPv4)."""
    flow = host.tunnel_ports == "flow"
    return f"{kind}-flow" if flow else f"{kind}-{int(IPv4Address(peer.vtep)):08x}"


def ports(host: Host, bridge: str = "br-tun") -> set[str]:
    """The names of a bridge's ports."""
    return set(host.vsctl("list-ports", bridge).split())


class Switch(NamedTuple):
    """All that an agent has a hand in on br-tun, but for numbers of ports."""

    flows: list[str]
    groups: list[str]
    ports: set[str]

    @classmethod
    def of(cls, host: Host) -> "Switch":
        return cls(flows(host, OURS), groups(host), ports(host))


def copies(frames: Iterable[CapturedFrame]) -> list[Tunnel]:
    """What tunnels carry among captured frames."""
    return [tunnel for frame in frames if (tunnel := decode(frame.data).tunnel)]


def traced(host: Host, port: str, flow: str) -> list[str]:
    """The VTEPs to which a packet goes that enters br-int by *port*, by ``ofproto/trace``."""
    text = host.trace("br-int", f"in_port={host.ofport(port)},{flow}")
    return sorted(re.findall(r"tunneling to (\S+) via", text))


class FlowMonitor(Running):
    """Notes every change to the flows of a bridge, whoever makes it; a context manager.

    ``ovs-ofctl monitor watch:`` (ovs-ofctl(8)): one line for each flow added or deleted. A flow
    written over another, even an equal one, counts as added.
    """

    _MARK = "table=200"

    def __init__(self, host: Host, bridge: str = "br-tun") -> None:
        self._host, self._bridge = host, bridge
        self._path = host.directory / f"monitor-{bridge}.out"
        with self._path.open("wb") as output:
            self._process: subprocess.Popen[bytes] = host.popen(
                [
                    *("ovs-ofctl", "-O", "OpenFlow14", "monitor"),
                    *(f"unix:{host.rundir}/{bridge}.mgmt", "watch:!initial"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OVS_RUNDIR": str(host.rundir)},
            )
        wait_until(self._answers, "the flow monitor runs")

    def events(self) -> list[str]:
        """What has happened so far: "ADDED table=…", "DELETED …"."""
        marks = self._marks()
        self._mark()
        wait_until(lambda: self._marks() > marks, "the mark is seen")
        return [line for line in self._lines() if self._MARK not in line]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        self._mark()
        return self._marks() > 0

    def _mark(self) -> None:
        self._host.ofctl("add-flow", self._bridge, f"{self._MARK},actions=drop")
        self._host.ofctl("del-flows", self._bridge, self._MARK)

    def _marks(self) -> int:
        return sum("DELETED" in line and self._MARK in line for line in self._lines())

    def _lines(self) -> list[str]:
        text = self._path.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [line.strip()[6:] for line in whole.splitlines() if line.startswith(" event=")]

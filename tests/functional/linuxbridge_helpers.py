"""What a Linux bridge host's kernel holds, read with iproute2; messages and machines for it."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from feed_helpers import FLOODING, Net, Site, pairs_of, send, wait_until

from l2pop_lab.topology import AgentProcess, Host, Machine
from l2pop_lab.topology.running import Running
from ovs_l2pop.agent.client import ask
from ovs_l2pop.core.wire import Message

#: How many times larger and longer than usual: ``OVS_L2POP_SCALE=4 make functional``.
SCALE = int(os.environ.get("OVS_L2POP_SCALE", "1"))

#: How neighbours of ours are marked.
PROTOCOL = "108"


def attach(net: Net, bridge: str | None = None) -> Message:
    """The message without the local VLAN, which a Linux bridge host does without."""
    message = net.attach(1)
    del message["local_vlan"]
    return message | ({"bridge": bridge} if bridge else {})


def bridge_of(net: Net) -> str:
    return f"brq{net.id[:11]}"


def tunnel_of(net: Net) -> str:
    return f"vxlan-{net.segment}"


def plug(host: Host, name: str, mac: str, net: Net, ip: str | Sequence[str] = ()) -> Machine:
    """A machine in the network's own bridge."""
    return host.add_machine(name, mac, ip, bridge=bridge_of(net), dad=False)


def announce(site: Site, net: Net, machines: Sequence[Machine]) -> None:
    """Tell every host that has the network of these machines."""
    ports: dict[str, list[Any]] = {host.vtep: [FLOODING] for host in site.lab.hosts}
    for machine in machines:
        ports[machine.host.vtep] += pairs_of(machine)
    for agent in site.agents.values():
        send(agent, net.add(ports))


def restart(site: Site, host: Host, number: int, **options: dict[str, object]) -> AgentProcess:
    """End the agent by a signal and start it again, with other options where some are given."""
    site.agent(host).stop(number)
    config = host.agent_config(**options) if options else host.directory / "agent.conf"
    site.agents[host.name] = host.start_agent(config=config)
    return site.agent(host)


def repair(agent: AgentProcess) -> list[str]:
    """As ``ovs-l2pop repair`` does, but without its start; what was refused."""
    return list(ask(agent.control_socket, {"command": "repair"})["refused"])


# -- reading -------------------------------------------------------------------------------------


def _json(host: Host, *command: str) -> list[dict[str, Any]]:
    found = json.loads(host.exec(*command) or "[]")
    assert isinstance(found, list)
    return [entry for entry in found if entry]


def link(host: Host, name: str) -> dict[str, Any]:
    """A device as ``ip -j -d link`` shows it; empty if there is none."""
    found = [entry for entry in _json(host, "ip", "-j", "-d", "link") if entry["ifname"] == name]
    return found[0] if found else {}


def vxlan(host: Host, name: str) -> dict[str, Any]:
    """The attributes of a vxlan device."""
    data = link(host, name)["linkinfo"]["info_data"]
    assert isinstance(data, dict)
    return data


def devices(host: Host, *kinds: str) -> set[str]:
    """The names of all devices of some kinds, vxlan and bridge by default."""
    wanted = kinds or ("vxlan", "bridge")
    return {
        entry["ifname"]
        for entry in _json(host, "ip", "-j", "-d", "link")
        if entry.get("linkinfo", {}).get("info_kind") in wanted
    }


def fdb(host: Host, device: str) -> list[dict[str, Any]]:
    """All entries of a device, in its own table and in its bridge's."""
    return _json(host, "bridge", "-j", "fdb", "show", "dev", device)


def unicast(host: Host, device: str) -> dict[str, str]:
    """The permanent entries of a tunnel's own table but those for BUM traffic: MAC → VTEP. Those
    that say of a MAC that it is at this host are left out."""
    return {
        entry["mac"]: entry["dst"]
        for entry in fdb(host, device)
        if entry.get("dst", "::") not in ("::", "0.0.0.0")
        and entry["state"] == "permanent"
        and entry["mac"] != FLOODING[0]
    }


def flooding(host: Host, device: str) -> list[str]:
    """The VTEPs that BUM traffic is copied to, or the multicast group."""
    return sorted(entry["dst"] for entry in fdb(host, device) if entry["mac"] == FLOODING[0])


def neighbours(host: Host, device: str) -> dict[str, str]:
    """The permanent neighbours of a device: IP → MAC."""
    found = _json(host, "ip", "-j", "neighbour", "show", "dev", device, "nud", "permanent")
    return {entry["dst"]: entry["lladdr"] for entry in found}


class Kernel(NamedTuple):
    """All that an agent has a hand in, by the numbers of devices, and strangers' things too."""

    links: dict[str, Any]
    entries: list[str]
    neighbours: list[str]
    filters: list[str]

    @classmethod
    def of(cls, host: Host) -> "Kernel":
        shown = ("ifindex", "flags", "mtu", "master", "ifalias", "operstate")
        links, filters = {}, []
        for entry in _json(host, "ip", "-j", "-d", "link"):
            name, info = entry["ifname"], entry.get("linkinfo", {})
            kind, data = info.get("info_kind"), info.get("info_data", {})
            bridge = ("stp_state", "forward_delay", "mcast_snooping")
            links[name] = {
                **{key: entry.get(key) for key in shown},
                "data": {k: data[k] for k in bridge} if kind == "bridge" else data,
                "suppress": info.get("info_slave_data", {}).get("neigh_suppress"),
            }
            if kind in ("vxlan", "bridge"):
                for way in ("ingress", "egress"):
                    text = host.exec("tc", "filter", "show", "dev", name, way)
                    # The numbers of actions and programs are the kernel's.
                    filters += re.sub(r"(index \d+ ref \d+ bind|\bid) \d+", "", text).splitlines()
        learned = {"", "stale"}
        entries = [
            json.dumps(entry, sort_keys=True)
            for entry in _json(host, "bridge", "-j", "fdb", "show")
            if entry["state"] not in learned or "extern_learn" in entry["flags"]
        ]
        neighbours = [
            json.dumps(entry, sort_keys=True)
            for entry in _json(host, "ip", "-j", "neighbour", "show", "nud", "permanent")
        ]
        return cls(links, sorted(entries), sorted(neighbours), filters)


class Monitor(Running):
    """Notes every change of devices, entries, neighbours and filters; a context manager.

    ``ip monitor``, ``bridge monitor`` and ``tc monitor``, whose lines it keeps.
    """

    _MARK = "l2p-mark"
    _COMMANDS = (
        ("ip", "monitor", "link", "neigh", "address"),
        ("bridge", "monitor", "fdb"),
        ("tc", "monitor"),
    )

    def __init__(self, host: Host) -> None:
        self._host = host
        self._marks = 0
        self._paths = [host.directory / f"monitor-{command[0]}" for command in self._COMMANDS]
        self._processes: list[subprocess.Popen[bytes]] = []
        for command, path in zip(self._COMMANDS, self._paths, strict=True):
            with path.open("wb") as output:
                self._processes.append(host.popen(command, stdout=output, stderr=subprocess.STDOUT))
        wait_until(self._listening, "the monitors listen")
        self._start = [len(text) for text in self._texts()]

    def events(self) -> list[str]:
        """The lines so far."""
        before = [len(text) for text in self._texts()]
        self._mark()
        wait_until(
            lambda: all(len(t) > n for t, n in zip(self._texts(), before, strict=True)), "the mark"
        )
        return [
            line
            for text, start in zip(self._texts(), self._start, strict=True)
            for line in text[start:].splitlines()
            if self._MARK not in line and line.strip() and "link/ether" not in line
        ]

    def stop(self) -> None:
        """End it."""
        for process in self._processes:
            process.terminate()
            process.wait(10)
        self._host.exec("ip", "link", "delete", self._MARK, check=False)

    def _mark(self) -> None:
        """Something that all three tell."""
        run = self._host.exec
        run("ip", "link", "add", self._MARK, "type", "veth", "peer", f"{self._MARK}2", check=False)
        run("bridge", "fdb", "replace", "02:00:00:00:00:01", "dev", self._MARK, "self")
        run("bridge", "fdb", "del", "02:00:00:00:00:01", "dev", self._MARK, "self")
        run("tc", "qdisc", "add", "dev", self._MARK, "clsact")
        run("tc", "qdisc", "del", "dev", self._MARK, "clsact")

    def _listening(self) -> bool:
        self._mark()
        return all(self._texts())

    def _texts(self) -> list[str]:
        return [path.read_text() for path in self._paths]

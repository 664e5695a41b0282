"""Behind the agent's back, on a Linux bridge host: the kernel tells, and the agent mends."""

import shlex
import time
from collections.abc import Callable, Iterator

import pytest
from feed_helpers import FLOODING, Net, drift, send
from linuxbridge_helpers import Kernel, attach, bridge_of, tunnel_of

from l2pop_lab.topology import AgentProcess, Host, Lab

A, B = "10.200.0.11", "10.200.0.12"
MAC1 = "fa:16:3e:00:00:01"
NET, OTHER = Net(1, 77), Net(2, 78)
TUNNEL, BRIDGE = tunnel_of(NET), bridge_of(NET)

#: Longer than any test takes: what is mended was noticed by what the kernel told.
FAR = 600
SOON = 8


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1, linuxbridge=[1]).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"drift_interval": FAR}))
    pairs = [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"]]
    for net in (NET, OTHER):
        send(agent, attach(net), net.add({A: pairs, B: [FLOODING]}))
    yield agent
    assert agent.stop() == 0


DAMAGES = {
    "entry deleted": ("missing unicast", f"bridge fdb del {MAC1} dev {TUNNEL} self"),
    "entry led elsewhere": (
        "missing unicast",
        f"bridge fdb replace {MAC1} dev {TUNNEL} dst 10.200.0.99 self permanent extern_learn",
    ),
    "entry of the bridge deleted": (
        "missing unicast",
        f"bridge fdb del {MAC1} dev {TUNNEL} master",
    ),
    "flooding entry deleted": (
        "missing flooding",
        f"bridge fdb del {FLOODING[0]} dev {TUNNEL} dst {A} self",
    ),
    "flooding entry added": (
        "surplus flooding",
        f"bridge fdb append {FLOODING[0]} dev {TUNNEL} dst 10.200.0.99 self",
    ),
    "neighbour deleted": ("missing neighbour", f"ip neigh del 10.0.0.1 dev {BRIDGE}"),
    "neighbour changed": (
        "missing neighbour",
        f"ip neigh replace fd00::1 lladdr {MAC1[:-1]}9 dev {BRIDGE} nud permanent proto 108",
    ),
    "filter deleted": ("missing tunnel", f"tc filter del dev {TUNNEL} ingress"),
    "filter of what leaves deleted": ("missing tunnel", f"tc filter del dev {TUNNEL} egress"),
    "filter with another program": (
        "missing tunnel",
        f"tc filter replace dev {TUNNEL} egress pref 1 handle 0x6c32 bpf da bytecode '1,6 0 0 0,'",
    ),
    "filters' place on the tunnel deleted": ("missing tunnel", f"tc qdisc del dev {TUNNEL} clsact"),
    "tunnel down": ("missing tunnel", f"ip link set {TUNNEL} down"),
    "tunnel out of its bridge": ("missing tunnel", f"ip link set {TUNNEL} nomaster"),
    "the bridge answers too": ("missing tunnel", f"bridge link set dev {TUNNEL} neigh_suppress on"),
    "tunnel robbed of our mark": ("missing tunnel", f"ip link set {TUNNEL} alias ''"),
    "tunnel not flooded to": ("missing tunnel", f"bridge link set dev {TUNNEL} bcast_flood off"),
    "tunnel not learned from": ("missing tunnel", f"bridge link set dev {TUNNEL} learning off"),
    "tunnel sends back what came in": (
        "missing tunnel",
        f"bridge link set dev {TUNNEL} hairpin on",
    ),
    "tunnel asked for others' addresses": (
        "missing tunnel",
        f"ip link set {TUNNEL} type bridge_slave proxy_arp on",
    ),
    "tunnel isolated": ("missing tunnel", f"bridge link set dev {TUNNEL} isolated on"),
    "another MTU": ("missing tunnel", f"ip link set {TUNNEL} mtu 1400"),
    "tunnel deleted": ("missing tunnel", f"ip link del {TUNNEL}"),
    "bridge deleted": ("missing tunnel", f"ip link del {BRIDGE}"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damage(agent: AgentProcess, host: Host, name: str) -> None:
    words, command = DAMAGES[name]
    before, logged = state(host), len(agent.log())
    host.exec(*shlex.split(command))
    deadline = time.monotonic() + SOON
    while not (told := agent.log()[logged:]) or state(host) != before:
        assert time.monotonic() < deadline, f"not mended, and logged: {told}"
        time.sleep(0.2)
    assert f"somebody changed the dataplane: {words}" in agent.log()[logged:]
    assert drift(agent) == []


def test_what_is_no_damage(agent: AgentProcess, host: Host) -> None:
    """Our own writes, what is learned, and what others have: nothing is read back for it."""
    reads, logged = kernel_time(agent), agent.log()
    many = [[f"fa:16:3e:00:01:{number:02x}", f"10.0.1.{number}"] for number in range(200)]
    send(agent, NET.add({A: many}))
    send(agent, NET.remove({A: many}))
    host.exec("bridge", "fdb", "add", "02:00:00:00:00:05", "dev", TUNNEL, "dst", B, "dynamic")
    host.exec("ip", "link", "add", "other", "type", "bridge")
    time.sleep(3.5)
    assert "WARNING" not in agent.log().removeprefix(logged)
    assert kernel_time(agent) - reads < 30


def kernel_time(agent: AgentProcess) -> int:
    """Clock ticks that the agent has spent in the kernel."""
    with open(f"/proc/{agent.pid}/stat") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[12])


def state(host: Host) -> object:
    """What is there, but for the devices' numbers and own addresses: they may be new ones."""
    kernel = Kernel.of(host)
    links = {
        name: {key: value for key, value in link.items() if key != "ifindex"}
        for name, link in kernel.links.items()
    }
    entries = [entry for entry in kernel.entries if "dst" in entry or "extern_learn" in entry]
    return kernel._replace(links=links, entries=entries, filters=sorted(kernel.filters))

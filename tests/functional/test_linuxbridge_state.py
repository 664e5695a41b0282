"""What messages make of the kernel of a Linux bridge host, read with iproute2.

One host; the VTEPs that it hears of, A, B and C, aren't there.
"""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, send, wait_until
from linuxbridge_helpers import (
    PROTOCOL,
    Kernel,
    Monitor,
    attach,
    bridge_of,
    devices,
    fdb,
    flooding,
    link,
    neighbours,
    repair,
    restart,
    tunnel_of,
    unicast,
    vxlan,
)

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.agent.client import ask
from ovs_l2pop.core.wire import Message

A, B, C = "10.200.0.11", "10.200.0.12", "10.200.0.13"
MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))
NET, OTHER = Net(1, 77), Net(2, 78)


@pytest.fixture(scope="module")
def site(make_module_lab: Callable[..., Lab]) -> Site:
    return Site.start(make_module_lab(1, linuxbridge=[1]))


@pytest.fixture
def host(site: Site) -> Host:
    return site.lab.hosts[0]


@pytest.fixture
def agent(site: Site, host: Host) -> Iterator[AgentProcess]:
    """The agent with an empty table; the host has nothing of ours before and after."""
    yield site.agent(host)
    agent = site.agent(host)
    for network_id in {network_id for network_id, *_ in shown(agent, "networks")}:
        send(agent, {"method": "detach_network", "network_id": network_id})
    entries = shown(agent, "entries")
    messages = []
    for network_id in {network_id for network_id, *_ in shown(agent, "networks")}:
        pairs = [entry[1:3] for entry in entries if entry[0] == network_id]
        body = {"ports": {vtep: [FLOODING, *pairs] for vtep in (A, B, C, host.vtep)}}
        messages.append({"method": "remove_fdb_entries", "fdb_entries": {network_id: body}})
    send(agent, *messages)
    left = devices(host), drift(agent)
    for name in left[0]:  # so that the next test doesn't suffer
        host.exec("ip", "link", "delete", name)
    assert left == (set(), [])


def shown(agent: AgentProcess, what: str) -> list[list[str]]:
    """The rows of ``ovs-l2pop show``."""
    rows = ask(agent.control_socket, {"command": "show", "what": what})["rows"]
    assert isinstance(rows, list)
    return rows


def run(host: Host, command: str) -> str:
    return host.exec(*command.split())


def refusals(agent: AgentProcess, *messages: Message) -> list[str]:
    answer = answer_to(agent, lines(messages).encode())
    assert answer["pending"] is None
    return [str(text) for text in answer["refused"]]


# -- devices -------------------------------------------------------------------------------------


def test_a_network_is_a_tunnel_in_a_bridge(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET))
    assert devices(host) == {"vxlan-77", bridge_of(NET)}
    tunnel, bridge = link(host, "vxlan-77"), link(host, bridge_of(NET))
    assert tunnel["master"] == bridge_of(NET)
    assert tunnel["mtu"] == 1600 - 50
    assert "UP" in tunnel["flags"]
    assert "UP" in bridge["flags"]
    assert tunnel["ifalias"] == bridge["ifalias"] == f"ovs-l2pop network {NET.id}"
    assert tunnel["linkinfo"]["info_slave_data"]["neigh_suppress"] is False
    data = vxlan(host, "vxlan-77")
    wanted = {"id": 77, "local": host.vtep, "link": "phy0", "port": 4789, "learning": True}
    assert wanted.items() <= data.items()
    assert "proxy" not in data  # L1: it drops what it can't answer
    assert "group" not in data
    of_bridge = bridge["linkinfo"]["info_data"]
    assert (of_bridge["stp_state"], of_bridge["forward_delay"]) == (0, 0)
    # The host itself takes no part in the network.
    assert host.exec("ip", "address", "show", "dev", bridge_of(NET)).count("inet") == 0
    send(agent, NET.detach())
    assert devices(host) == set()


def test_a_local_vlan_is_ignored(agent: AgentProcess, host: Host) -> None:
    send(agent, NET.attach(5))
    assert devices(host) == {"vxlan-77", bridge_of(NET)}


def test_other_tunnels_are_refused(agent: AgentProcess, host: Host) -> None:
    gre = Net(3, 80, "gre")
    (refusal,) = refusals(agent, attach(gre), attach(NET))
    assert "vxlan tunnels only, not gre" in refusal
    assert devices(host) == {"vxlan-77", bridge_of(NET)}


def test_another_vni(agent: AgentProcess, host: Host) -> None:
    """The network keeps its bridge, which may be full of machines."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    bridge = link(host, bridge_of(NET))["ifindex"]
    moved = Net(NET.number, 79)
    send(agent, attach(moved), moved.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert devices(host) == {"vxlan-79", bridge_of(NET)}
    assert link(host, bridge_of(NET))["ifindex"] == bridge
    assert unicast(host, "vxlan-79") == {MAC1: A}
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}
    assert drift(agent) == []


def test_a_vni_goes_to_another_network(agent: AgentProcess, host: Host) -> None:
    """Nothing of the one is left for the other: not what was learned either."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    heir = Net(OTHER.number, NET.segment)
    run(host, f"bridge fdb add {MAC3} dev vxlan-77 dst {C} self dynamic")
    send(
        agent,
        NET.detach(),
        attach(heir),
        heir.add({A: [FLOODING, [MAC1, "10.0.0.1"], [MAC2, "10.0.0.2"]]}),
    )
    assert devices(host) == {"vxlan-77", bridge_of(heir)}
    assert link(host, "vxlan-77")["ifalias"] == f"ovs-l2pop network {heir.id}"
    assert unicast(host, "vxlan-77") == {MAC1: A, MAC2: A}
    assert flooding(host, "vxlan-77") == [A]
    assert [entry for entry in fdb(host, "vxlan-77") if entry["mac"] == MAC3] == []
    assert neighbours(host, bridge_of(heir)) == {"10.0.0.1": MAC1, "10.0.0.2": MAC2}
    assert drift(agent) == []


def test_networks_exchange_their_vnis(agent: AgentProcess, host: Host) -> None:
    """Neither waits for the other to leave its bridge."""
    heirs = Net(NET.number, OTHER.segment), Net(OTHER.number, NET.segment)
    for (one, other), mac in (((NET, OTHER), MAC1), (heirs, MAC2)):
        send(agent, NET.detach(), OTHER.detach())
        send(agent, attach(NET), attach(OTHER))
        send(
            agent,
            *(NET.detach(), OTHER.detach(), attach(one), attach(other)),
            *(one.add({A: [FLOODING, [mac, "10.0.0.1"]]}), other.add({B: [[mac, "10.0.0.2"]]})),
        )
        for net, ip, vtep in ((one, "10.0.0.1", A), (other, "10.0.0.2", B)):
            assert link(host, tunnel_of(net))["ifalias"] == f"ovs-l2pop network {net.id}"
            assert link(host, tunnel_of(net))["master"] == bridge_of(net)
            assert unicast(host, tunnel_of(net))[mac] == vtep
            assert neighbours(host, bridge_of(net))[ip] == mac
        assert drift(agent) == []


def test_a_vni_whose_new_network_has_no_bridge(agent: AgentProcess, host: Host) -> None:
    """What comes through the tunnel is no longer for those in the old bridge."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    heir = Net(OTHER.number, NET.segment)
    told = refusals(agent, NET.detach(), attach(heir, "br-nowhere"))
    assert any("there is no bridge br-nowhere" in text for text in told)
    assert "master" not in link(host, "vxlan-77")
    host.exec("ip", "link", "add", "br-nowhere", "type", "bridge")
    try:
        assert agent.cli("repair").returncode == 0
        assert link(host, "vxlan-77")["master"] == "br-nowhere"
        send(agent, heir.add({B: [FLOODING, [MAC2, "10.0.0.2"]]}))
        assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC2: B}, [B])
        assert drift(agent) == []
        send(agent, heir.detach())
    finally:
        host.exec("ip", "link", "delete", "br-nowhere")


# -- entries -------------------------------------------------------------------------------------


def test_entries(agent: AgentProcess, host: Host) -> None:
    ports = {
        A: [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"], [MAC2, "10.0.0.2"]],
        B: [FLOODING, [MAC3, "10.0.0.3"]],
        host.vtep: [FLOODING, ["fa:16:3e:00:00:09", "10.0.0.9"]],
    }
    send(agent, attach(NET), NET.add(ports))
    assert unicast(host, "vxlan-77") == {MAC1: A, MAC2: A, MAC3: B}
    assert flooding(host, "vxlan-77") == [A, B]
    assert neighbours(host, bridge_of(NET)) == {
        "10.0.0.1": MAC1,
        "10.0.0.2": MAC2,
        "10.0.0.3": MAC3,
        "fd00::1": MAC1,
    }
    # The bridge answers only for what it knows to be behind the tunnel.
    bridged = {e["mac"] for e in fdb(host, "vxlan-77") if "sticky" in e["flags"]}
    assert {MAC1, MAC2, MAC3} == bridged
    # A machine of this host is nowhere else.
    here = [e["mac"] for e in fdb(host, "vxlan-77") if e.get("dst") == "0.0.0.0"]
    assert here == ["fa:16:3e:00:00:09"]
    assert drift(agent) == []
    send(agent, NET.remove({A: [[MAC1, "10.0.0.1"], [MAC1, "fd00::1"], FLOODING]}))
    assert unicast(host, "vxlan-77") == {MAC2: A, MAC3: B}
    assert flooding(host, "vxlan-77") == [B]
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.2": MAC2, "10.0.0.3": MAC3}
    send(agent, NET.remove({A: [[MAC2, "10.0.0.2"]], B: [FLOODING, [MAC3, "10.0.0.3"]]}))
    assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({}, [])
    assert neighbours(host, bridge_of(NET)) == {}
    assert drift(agent) == []


def test_entries_may_come_before_the_network(agent: AgentProcess, host: Host) -> None:
    send(agent, NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert devices(host) == set()
    send(agent, attach(NET))
    assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC1: A}, [A])


def test_a_machine_moves_without_a_gap(agent: AgentProcess, host: Host) -> None:
    """A17: both orders of (add at B, remove at A). L3: no moment without the entry."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING]}))
    with Monitor(host) as monitor:
        send(agent, NET.add({B: [[MAC1, "10.0.0.1"]]}), NET.remove({A: [[MAC1, "10.0.0.1"]]}))
        assert unicast(host, "vxlan-77") == {MAC1: B}
        send(agent, NET.remove({B: [[MAC1, "10.0.0.1"]]}), NET.add({A: [[MAC1, "10.0.0.1"]]}))
        assert unicast(host, "vxlan-77") == {MAC1: A}
        send(agent, NET.add({B: [[MAC1, "10.0.0.1"]]}))
        send(agent, NET.remove({A: [[MAC1, "10.0.0.1"]]}))
        events = monitor.events()
        assert [event for event in events if "eleted" in event] == []
        assert [event for event in events if MAC1 in event]
    assert unicast(host, "vxlan-77") == {MAC1: B}
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_an_address_goes_to_another_machine(
    agent: AgentProcess, host: Host, order: tuple[int, ...]
) -> None:
    """A18, L2: whatever comes late, the address is the new machine's."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    messages = [
        NET.add({B: [FLOODING, [MAC2, "10.0.0.1"]]}),
        NET.remove({A: [[MAC1, "10.0.0.1"]]}),
        NET.remove({A: [FLOODING]}),
    ]
    for index in order:
        send(agent, messages[index])
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC2}
    assert unicast(host, "vxlan-77") == {MAC2: B}
    assert flooding(host, "vxlan-77") == [B]
    assert drift(agent) == []


def test_a_change_of_addresses(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, NET.chg_ip(A, [[MAC1, "10.0.0.1"]], [[MAC1, "10.0.0.5"], [MAC1, "fd00::5"]]))
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.5": MAC1, "fd00::5": MAC1}
    assert unicast(host, "vxlan-77") == {MAC1: A}


def test_what_was_learned_gives_way(agent: AgentProcess, host: Host) -> None:
    """L3. What is learned is nobody's row: check doesn't speak of it."""
    send(agent, attach(NET), NET.add({A: [FLOODING], B: [FLOODING]}))
    run(host, f"bridge fdb add {MAC1} dev vxlan-77 dst {B} self dynamic")
    run(host, f"bridge fdb add {MAC1} dev vxlan-77 master dynamic")
    run(host, f"bridge fdb add {MAC2} dev vxlan-77 dst {B} self dynamic")
    assert drift(agent) == []
    send(agent, NET.add({A: [[MAC1, "10.0.0.1"]]}))
    assert unicast(host, "vxlan-77") == {MAC1: A}
    assert drift(agent) == []
    assert [e["dst"] for e in fdb(host, "vxlan-77") if e["mac"] == MAC2 and "dst" in e] == [B]


def test_a_stream_leaves_what_upstreams_agent_would_have_left(
    agent: AgentProcess, host: Host
) -> None:
    """Machines come, move and go in good order, as a server without defects tells it: the state
    is that of a model of Neutron's last Linux bridge agent (2024.2), but for where it keeps
    neighbours, and for IPv6, which it had none of."""
    choice = random.Random(20250101)
    vteps = [A, B, C]
    upstream_fdb: dict[str, str] = {}
    upstream_neighbours: dict[str, str] = {}
    upstream_flooding: set[str] = set()
    at: dict[int, str] = {}

    def pairs(number: int) -> list[list[str]]:
        return [[f"fa:16:3e:01:00:{number:02x}", f"10.0.1.{number}"]]

    def add(number: int, vtep: str) -> Message:
        first = vtep not in at.values()
        at[number] = vtep
        for mac, ip in pairs(number):
            upstream_fdb[mac], upstream_neighbours[ip] = vtep, mac
        upstream_flooding.add(vtep)
        return NET.add({vtep: [*([FLOODING] if first else []), *pairs(number)]})

    def remove(number: int) -> Message:
        vtep = at.pop(number)
        for mac, ip in pairs(number):
            del upstream_fdb[mac], upstream_neighbours[ip]
        last = vtep not in at.values()
        if last:
            upstream_flooding.discard(vtep)
        return NET.remove({vtep: [*([FLOODING] if last else []), *pairs(number)]})

    send(agent, attach(NET))
    for _ in range(40):
        messages = []
        for _ in range(choice.randrange(1, 12)):
            number = choice.randrange(1, 30)
            if number in at:
                messages.append(remove(number))
            if choice.random() < 0.7:
                messages.append(add(number, choice.choice(vteps)))
        send(agent, *messages)
        assert unicast(host, "vxlan-77") == upstream_fdb
        assert neighbours(host, bridge_of(NET)) == upstream_neighbours
        assert flooding(host, "vxlan-77") == sorted(upstream_flooding)
    assert drift(agent) == []


@pytest.mark.parametrize("count", [1, 600])
def test_a_withdrawal_takes_nothing_of_a_strangers(
    agent: AgentProcess, host: Host, count: int
) -> None:
    """Ours were taken away, and somebody wrote the same without our marks."""
    others = [[f"fa:16:3e:01:{n >> 8:02x}:{n & 255:02x}", f"10.0.1.{n}"] for n in range(1, 200)]
    others = [[mac, ip.replace("10.0.1", f"10.0.{k}")] for k in (1, 2, 3) for mac, ip in others]
    pairs = [[MAC1, "10.0.0.1"], [MAC1, "fd00::1"], [MAC2, "10.0.0.2"], *others[: count - 1]]
    send(agent, attach(NET), NET.add({A: [FLOODING, *pairs]}))
    bridge = bridge_of(NET)
    for command in (
        f"bridge fdb del {MAC1} dev vxlan-77 self",
        f"bridge fdb add {MAC1} dev vxlan-77 dst {A} self permanent",
        f"bridge fdb del {MAC1} dev vxlan-77 master",
        f"bridge fdb add {MAC1} dev vxlan-77 master static",
        f"ip neigh del 10.0.0.1 dev {bridge}",
        f"ip neigh add 10.0.0.1 lladdr {MAC1} dev {bridge} nud permanent",
        f"ip neigh del fd00::1 dev {bridge}",
        f"ip neigh add fd00::1 lladdr {MAC1} dev {bridge} nud permanent",
    ):
        run(host, command)
    send(agent, NET.remove({A: pairs}))
    assert unicast(host, "vxlan-77") == {MAC1: A}
    pinned = [e for e in fdb(host, "vxlan-77") if e["mac"] == MAC1 and "master" in e]
    assert [entry["state"] for entry in pinned] == ["static"]
    assert neighbours(host, bridge) == {"10.0.0.1": MAC1, "fd00::1": MAC1}
    assert drift(agent) == []


def test_bad_entries_cost_the_others_nothing(agent: AgentProcess, host: Host) -> None:
    bad = [
        ["not a mac", "10.0.0.7"],
        ["01:00:5e:00:00:01", "10.0.0.7"],
        [MAC2, "10.0.0.300"],
        [MAC2, "fd00::1::2"],
        17,
    ]
    told = refusals(
        agent,
        attach(NET),
        NET.add({A: [FLOODING, [MAC1, "10.0.0.1"], *bad], "fd00::5": [FLOODING], "x": []}),
    )
    assert len(told) == 7
    assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC1: A}, [A])


# -- bridges that lost their name or their marks --------------------------------------------------


def test_a_renamed_bridge_keeps_its_machines(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    bridge = bridge_of(NET)
    host.exec("ip", "link", "add", "tap-x", "mtu", "1450", "type", "veth", "peer", "peer-x")
    try:
        host.exec("ip", "link", "set", "tap-x", "master", bridge)
        number = link(host, bridge)["ifindex"]
        for commands in (
            ["ip link set BRIDGE name elsewhere"],
            ["ip link set BRIDGE alias ''", "ip link set BRIDGE name elsewhere"],
            ["ip link set vxlan-77 nomaster", "ip link set BRIDGE name elsewhere"],
            ["ip link del vxlan-77", "ip link set BRIDGE name elsewhere"],
        ):
            for command in commands:
                host.exec(*(word.strip("'") for word in command.replace("BRIDGE", bridge).split()))
            assert agent.cli("repair").returncode == 0
            assert devices(host) == {"vxlan-77", bridge}
            assert link(host, bridge)["ifindex"] == number
            assert link(host, "tap-x")["master"] == link(host, "vxlan-77")["master"] == bridge
            assert neighbours(host, bridge) == {"10.0.0.1": MAC1}
            assert drift(agent) == []
    finally:
        host.exec("ip", "link", "del", "tap-x")


@pytest.mark.parametrize("robbed", ["bridge", "tunnel", "both"])
@pytest.mark.parametrize("running", [True, False])
def test_lost_aliases(agent: AgentProcess, host: Host, robbed: str, running: bool) -> None:
    """What is ours is known by its group of devices too, and goes with its network."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    bridge = bridge_of(NET)
    names = {"bridge": [bridge], "tunnel": ["vxlan-77"], "both": [bridge, "vxlan-77"]}[robbed]
    for name in names:
        host.exec("ip", "link", "set", name, "alias", "")
    if running:
        assert agent.cli("repair").returncode == 0
        assert {link(host, n)["ifalias"] for n in names} == {f"ovs-l2pop network {NET.id}"}
        assert unicast(host, "vxlan-77") == {MAC1: A}
        assert drift(agent) == []
    send(agent, NET.detach())
    assert devices(host) == set()


def test_an_empty_bridge_of_ours_without_its_alias(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET))
    host.exec("ip", "link", "set", bridge_of(NET), "alias", "")
    host.exec("ip", "link", "del", "vxlan-77")
    send(agent, NET.detach())
    assert agent.cli("repair").returncode == 0
    assert devices(host) == set()


# -- bridges of others ---------------------------------------------------------------------------


def test_a_bridge_stays_while_others_are_in_it(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    host.exec("ip", "link", "add", "tap-x", "type", "veth", "peer", "peer-x")
    host.exec("ip", "link", "set", "tap-x", "mtu", "1450", "master", bridge_of(NET))
    number = link(host, bridge_of(NET))["ifindex"]
    send(agent, NET.detach())
    assert devices(host) == {bridge_of(NET)}
    assert neighbours(host, bridge_of(NET)) == {}
    assert drift(agent) == []
    # The network comes back to it.
    send(agent, attach(NET))
    assert link(host, "vxlan-77")["master"] == bridge_of(NET)
    assert link(host, bridge_of(NET))["ifindex"] == number
    send(agent, NET.detach())
    # Nobody is in it any more: it is told, and goes.
    host.exec("ip", "link", "delete", "tap-x")
    assert [row[:4] for row in drift(agent)] == [["surplus", "bridge", bridge_of(NET), "empty"]]
    assert agent.cli("repair").returncode == 0
    assert devices(host) == set()


@pytest.mark.parametrize("name", ["brq", "br-named"])
def test_a_bridge_of_somebody_else_is_used_and_never_deleted(
    agent: AgentProcess, host: Host, name: str
) -> None:
    named = None if name == "brq" else name
    name = named or bridge_of(NET)
    host.exec("ip", "link", "add", name, "type", "bridge")
    try:
        ports = {A: [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"]]}
        send(agent, attach(NET, named), NET.add(ports))
        assert devices(host) == {"vxlan-77", name}
        assert link(host, "vxlan-77")["master"] == name
        assert "ifalias" not in link(host, name)
        assert neighbours(host, name) == {"10.0.0.1": MAC1, "fd00::1": MAC1}
        assert drift(agent) == []
        send(agent, NET.detach())
        assert devices(host) == {name}
        assert neighbours(host, name) == {}
    finally:
        host.exec("ip", "link", "delete", name)


def test_a_network_moves_to_another_bridge(agent: AgentProcess, host: Host) -> None:
    ports = {A: [FLOODING, [MAC1, "10.0.0.1"]]}
    send(agent, attach(NET), NET.add(ports))
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    try:
        number = link(host, "vxlan-77")["ifindex"]
        send(agent, attach(NET, "br-op"))
        assert devices(host) == {"vxlan-77", "br-op"}
        assert link(host, "vxlan-77")["ifindex"] == number
        assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC1: A}, [A])
        assert neighbours(host, "br-op") == {"10.0.0.1": MAC1}
        assert drift(agent) == []
        send(agent, attach(NET))
        assert link(host, "vxlan-77")["master"] == bridge_of(NET)
        assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}
        assert neighbours(host, "br-op") == {}
        assert drift(agent) == []
    finally:
        host.exec("ip", "link", "delete", "br-op")


def test_networks_exchange_their_bridges(agent: AgentProcess, host: Host) -> None:
    bridges = ["br-a", "br-b"]
    for name in bridges:
        host.exec("ip", "link", "add", name, "type", "bridge")
    try:
        send(agent, attach(NET, "br-a"), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
        send(agent, attach(OTHER, "br-b"), OTHER.add({B: [FLOODING, [MAC2, "10.0.0.2"]]}))
        numbers = [link(host, name)["ifindex"] for name in ("vxlan-77", "vxlan-78")]
        send(agent, NET.detach(), OTHER.detach(), attach(NET, "br-b"), attach(OTHER, "br-a"))
        assert [link(host, f"vxlan-{n}")["master"] for n in (77, 78)] == ["br-b", "br-a"]
        assert [link(host, f"vxlan-{n}")["ifindex"] for n in (77, 78)] == numbers
        assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC1: A}, [A])
        assert neighbours(host, "br-b") == {"10.0.0.1": MAC1}
        assert neighbours(host, "br-a") == {"10.0.0.2": MAC2}
        assert drift(agent) == []
        send(agent, NET.detach(), OTHER.detach())
    finally:
        for name in bridges:
            host.exec("ip", "link", "delete", name)


def test_a_bridge_that_is_missing_or_none(agent: AgentProcess, host: Host) -> None:
    told = refusals(
        agent, attach(NET, "br-nowhere"), NET.add({A: [[MAC1, "10.0.0.1"]]}), attach(OTHER, "phy0")
    )
    assert any("there is no bridge br-nowhere" in text for text in told)
    assert any("phy0 is not a bridge" in text for text in told)
    assert devices(host) == set()
    assert neighbours(host, "phy0") == {}
    host.exec("ip", "link", "add", "br-nowhere", "type", "bridge")
    try:
        agent.cli("repair")
        assert link(host, "vxlan-77")["master"] == "br-nowhere"
        assert unicast(host, "vxlan-77") == {MAC1: A}
        send(agent, OTHER.detach())
        assert drift(agent) == []
        send(agent, NET.detach())
    finally:
        host.exec("ip", "link", "delete", "br-nowhere")


def test_networks_whose_ids_begin_alike(site: Site, agent: AgentProcess, host: Host) -> None:
    """Neutron's names of bridges have 40 bits of the id; two networks in one would be one."""
    twin = NET.id[:11] + OTHER.id[11:]
    ports = {"ports": {B: [FLOODING, [MAC2, "10.0.0.1"]]}}
    entries = {twin: ports | {"network_type": "vxlan", "segment_id": OTHER.segment}}
    send(
        agent,
        attach(NET),
        NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}),
        attach(OTHER) | {"network_id": twin},
        {"method": "add_fdb_entries", "fdb_entries": entries},
    )
    second = link(host, "vxlan-78")["master"]
    assert devices(host) == {"vxlan-77", "vxlan-78", bridge_of(NET), second}
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}
    assert neighbours(host, second) == {"10.0.0.1": MAC2}
    # The first one goes, and the second one stays where its machines are.
    send(agent, NET.detach())
    agent = restart(site, host, signal.SIGKILL)
    assert link(host, "vxlan-78")["master"] == second
    send(agent, attach(NET))
    assert link(host, "vxlan-77")["master"] == bridge_of(NET)
    assert drift(agent) == []


def test_two_networks_never_share_a_bridge(agent: AgentProcess, host: Host) -> None:
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    try:
        told = refusals(
            agent,
            attach(NET, "br-op"),
            NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}),
            attach(OTHER, "br-op"),
            OTHER.add({B: [FLOODING, [MAC2, "10.0.0.2"]]}),
        )
        assert any(f"bridge br-op has vxlan-77 of network {NET.id} in it" in text for text in told)
        assert devices(host) == {"vxlan-77", "br-op"}
        assert neighbours(host, "br-op") == {"10.0.0.1": MAC1}
        # With a bridge of its own it gets all that was refused.
        send(agent, attach(OTHER))
        assert link(host, "vxlan-78")["master"] == bridge_of(OTHER)
        assert (unicast(host, "vxlan-78"), flooding(host, "vxlan-78")) == ({MAC2: B}, [B])
        assert neighbours(host, bridge_of(OTHER)) == {"10.0.0.2": MAC2}
        assert drift(agent) == []
        send(agent, NET.detach())
    finally:
        host.exec("ip", "link", "delete", "br-op")


# -- strangers and orphans -----------------------------------------------------------------------


def test_strangers_are_left_alone(site: Site, agent: AgentProcess, host: Host) -> None:
    """Their devices, and their entries on ours, over messages, repair and restart."""
    for command in (
        "ip link add vxlan-500 type vxlan id 500 local 10.200.0.1 dstport 4789",
        "ip link add br-other type bridge",
        "ip link set vxlan-500 master br-other",
        f"bridge fdb append 00:00:00:00:00:00 dev vxlan-500 dst {C} self",
        f"bridge fdb add {MAC3} dev vxlan-500 dst {C} self",
        f"bridge fdb add {MAC3} dev vxlan-500 master static",
        f"ip neighbour add 10.0.0.33 lladdr {MAC3} dev br-other nud permanent",
    ):
        run(host, command)
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    for command in (
        f"bridge fdb add {MAC3} dev vxlan-77 dst {C} self",
        "bridge fdb add fa:16:3e:00:00:44 dev vxlan-77 master static",
        f"ip neighbour add 10.0.0.33 lladdr {MAC3} dev {bridge_of(NET)} nud permanent",
    ):
        run(host, command)
    assert drift(agent) == []
    before = Kernel.of(host)
    assert agent.cli("repair").returncode == 0
    restart(site, host, signal.SIGKILL)
    agent = site.agent(host)
    assert Kernel.of(host) == before
    send(agent, NET.detach())
    assert devices(host) == {"vxlan-500", "br-other"}
    for name in ("vxlan-500", "br-other"):
        host.exec("ip", "link", "delete", name)


def test_an_address_that_is_announced_is_ours(agent: AgentProcess, host: Host) -> None:
    """Whoever has written something for it on our devices."""
    send(agent, attach(NET), NET.add({A: [FLOODING]}))
    host.exec("bridge", "fdb", "add", MAC1, "dev", "vxlan-77", "dst", C, "self")
    neighbour = f"ip neighbour add 10.0.0.1 lladdr {MAC3} dev {bridge_of(NET)} nud permanent"
    run(host, neighbour)
    send(agent, NET.add({A: [[MAC1, "10.0.0.1"]]}))
    assert unicast(host, "vxlan-77") == {MAC1: A}
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}
    assert drift(agent) == []
    send(agent, NET.remove({A: [[MAC1, "10.0.0.1"]]}))
    assert (unicast(host, "vxlan-77"), neighbours(host, bridge_of(NET))) == ({}, {})


def test_a_strangers_device_is_not_taken_over_but_can_be_handed_over(
    agent: AgentProcess, host: Host
) -> None:
    run(host, "ip link add vxlan-77 type vxlan id 77 local 10.200.0.1 dstport 8472 ttl 3")
    told = refusals(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert any("ip link set dev vxlan-77 alias ovs-l2pop" in text for text in told)
    assert vxlan(host, "vxlan-77")["port"] == 8472
    assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({}, [])
    host.exec("ip", "link", "set", "dev", "vxlan-77", "alias", "ovs-l2pop")
    assert agent.cli("repair").returncode == 0
    assert vxlan(host, "vxlan-77")["port"] == 4789
    assert unicast(host, "vxlan-77") == {MAC1: A}
    assert drift(agent) == []


def test_a_vni_that_somebody_else_uses(agent: AgentProcess, host: Host) -> None:
    run(host, "ip link add theirs type vxlan id 77 local 10.200.0.1 dstport 4789")
    try:
        told = refusals(agent, attach(NET), attach(OTHER))
        assert any("vxlan-77" in text and "VNI already exists" in text for text in told)
        # No half of the network is left, and the other network is there.
        assert devices(host) == {"theirs", "vxlan-78", bridge_of(OTHER)}
    finally:
        host.exec("ip", "link", "delete", "theirs")
    assert agent.cli("repair").returncode == 0
    assert drift(agent) == []


def test_orphans_go(site: Site, agent: AgentProcess, host: Host) -> None:
    """The agent comes back without a memory, and is not to keep what nobody speaks for."""
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, attach(OTHER, "br-op"), OTHER.add({A: [FLOODING, [MAC2, "10.0.0.2"]]}))
    run(host, f"ip neighbour add 10.0.0.33 lladdr {MAC3} dev br-op nud permanent")
    agent.kill()
    (host.directory / "state" / "table.jsonl").unlink()
    config = host.agent_config(ovs_l2pop={"orphan_time": 0})
    site.agents[host.name] = host.start_agent(config=config)
    assert devices(host) == {"br-op"}
    assert neighbours(host, "br-op") == {"10.0.0.33": MAC3}
    assert drift(site.agent(host)) == []
    host.exec("ip", "link", "delete", "br-op")


def test_what_a_killed_agent_left_half_made_is_ours(
    site: Site, agent: AgentProcess, host: Host
) -> None:
    """A device can't be made with an alias; between the two it has a group of devices."""
    agent.kill()
    group = str(0x6C32706F)
    host.exec("ip", "link", "add", "vxlan-77", "group", group, "type", "vxlan", "id", "77")
    host.exec("ip", "link", "add", bridge_of(NET), "group", group, "type", "bridge")
    host.exec("ip", "link", "add", "l2p-78", "group", group, "type", "vxlan", "id", "78")
    site.agents[host.name] = host.start_agent()
    assert devices(host) == set()
    send(site.agent(host), attach(NET), attach(OTHER))
    assert drift(site.agent(host)) == []


def test_the_table_of_a_device_is_full(agent: AgentProcess, host: Host) -> None:
    """What the kernel refuses is named, everything beside it is written."""
    host.exec("ip", "link", "add", bridge_of(NET), "type", "bridge")
    device = "ip link add vxlan-77 type vxlan id 77 local 10.200.0.1 dev phy0 dstport 4789"
    run(host, f"{device} maxaddress 3")
    host.exec("ip", "link", "set", "dev", "vxlan-77", "alias", "ovs-l2pop")
    macs = [f"fa:16:3e:00:02:{number:02x}" for number in range(5)]
    pairs = [[mac, f"10.0.2.{number + 1}"] for number, mac in enumerate(macs)]
    told = refusals(agent, attach(NET), NET.add({A: [FLOODING, *pairs]}))
    written = unicast(host, "vxlan-77")
    refused = [mac for mac in macs if any(mac in text and "No space" in text for text in told)]
    assert sorted([*written, *refused]) == macs
    assert len(neighbours(host, bridge_of(NET))) == 5
    send(agent, NET.remove({A: pairs}), NET.detach())
    host.exec("ip", "link", "delete", bridge_of(NET))


def test_neighbours_carry_our_mark(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET), NET.add({A: [[MAC1, "10.0.0.1"]]}))
    shown = json.loads(host.exec("ip", "-j", "neighbour", "show", "dev", bridge_of(NET)))
    assert [entry["protocol"] for entry in shown] == [PROTOCOL]


# -- check, repair, clean ------------------------------------------------------------------------


def test_no_dhcp_because_the_table_is_empty(agent: AgentProcess, host: Host) -> None:
    """The broadcast of a machine that wants an address goes nowhere: one line says so."""
    send(agent, attach(NET), NET.add({A: [FLOODING], B: [FLOODING]}))
    host.exec("bridge", "fdb", "flush", "dev", "vxlan-77", "self")
    assert flooding(host, "vxlan-77") == []
    answer = agent.cli("check", "-f", "value")
    assert answer.returncode == 1
    (line,) = answer.stdout.splitlines()
    assert line.startswith("missing flooding vxlan-77 broadcast (DHCP, ARP)")
    assert line.endswith(f"reaches nobody; should be copied to {A} {B}")
    assert agent.cli("repair").returncode == 0
    assert flooding(host, "vxlan-77") == [A, B]
    assert agent.cli("check").returncode == 0


DAMAGE: dict[str, Callable[[Host], object]] = {
    "unicast": lambda host: host.exec("bridge", "fdb", "del", MAC1, "dev", "vxlan-77"),
    "wrong VTEP": lambda host: run(host, f"bridge fdb replace {MAC1} dev vxlan-77 dst {C} self"),
    "bridge's half": lambda host: run(host, f"bridge fdb del {MAC1} dev vxlan-77 master"),
    "one VTEP": lambda host: run(host, f"bridge fdb del 00:00:00:00:00:00 dev vxlan-77 dst {A}"),
    "one VTEP more": lambda host: run(
        host, f"bridge fdb append 00:00:00:00:00:00 dev vxlan-77 dst {C}"
    ),
    "neighbour": lambda host: run(host, f"ip neighbour del 10.0.0.1 dev {bridge_of(NET)}"),
    "wrong neighbour": lambda host: run(
        host,
        f"ip neighbour replace 10.0.0.1 lladdr {MAC3} dev {bridge_of(NET)} nud permanent",
    ),
    "tunnel": lambda host: host.exec("ip", "link", "delete", "vxlan-77"),
    "bridge": lambda host: host.exec("ip", "link", "delete", bridge_of(NET)),
    "tunnel down": lambda host: host.exec("ip", "link", "set", "vxlan-77", "down"),
    "bridge down": lambda host: host.exec("ip", "link", "set", bridge_of(NET), "down"),
    "out of the bridge": lambda host: host.exec("ip", "link", "set", "vxlan-77", "nomaster"),
    "MTU": lambda host: host.exec("ip", "link", "set", "vxlan-77", "mtu", "1400"),
    "TTL": lambda host: run(host, "ip link set vxlan-77 type vxlan ttl 9"),
    "learning": lambda host: run(host, "ip link set vxlan-77 type vxlan nolearning"),
    "alias": lambda host: host.exec("ip", "link", "set", "vxlan-77", "alias", "ovs-l2pop"),
    "responder": lambda host: run(host, "bridge link set dev vxlan-77 neigh_suppress on"),
    "filter of the tunnel": lambda host: run(host, "tc filter del dev vxlan-77 ingress"),
    "filters' place": lambda host: run(host, "tc qdisc del dev vxlan-77 clsact"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_finds_and_repair_mends(agent: AgentProcess, host: Host, damage: str) -> None:
    ports = {A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING, [MAC2, "10.0.0.2"]]}
    send(agent, attach(NET), NET.add(ports))
    before = Kernel.of(host)
    DAMAGE[damage](host)
    assert drift(agent) != []
    assert repair(agent) == []
    assert drift(agent) == []
    after = Kernel.of(host)
    if damage not in ("tunnel", "bridge"):
        assert after == before
    assert (unicast(host, "vxlan-77"), flooding(host, "vxlan-77")) == ({MAC1: A, MAC2: B}, [A, B])
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1, "10.0.0.2": MAC2}


@pytest.mark.parametrize(
    "command",
    [f"sysctl -qw net.ipv6.conf.{bridge_of(NET)}.disable_ipv6=1", "ip link set vxlan-77 mtu 1200"],
    ids=["by somebody", "by the kernel"],
)
def test_repair_where_ipv6_was_switched_off(agent: AgentProcess, host: Host, command: str) -> None:
    """A bridge has no IPv6 neighbours then. With an MTU under 1,280 the kernel does it."""
    wanted = {"10.0.0.1": MAC1, "fd00::1": MAC1}
    send(agent, attach(NET), NET.add({A: [[MAC1, ip] for ip in wanted]}))
    run(host, command)
    assert neighbours(host, bridge_of(NET)) == {"10.0.0.1": MAC1}
    assert drift(agent) != []
    assert agent.cli("repair").returncode == 0
    assert neighbours(host, bridge_of(NET)) == wanted
    assert drift(agent) == []


def test_two_tunnels_of_ours_in_one_bridge(agent: AgentProcess, host: Host) -> None:
    """Somebody put the one there: it goes back, and the other one has all that it had."""
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, attach(OTHER), OTHER.add({B: [FLOODING, [MAC2, "10.0.0.2"]]}))
    before = Kernel.of(host)
    run(host, f"ip link set vxlan-78 master {bridge_of(NET)}")
    assert drift(agent) != []
    assert agent.cli("repair").returncode == 0
    assert drift(agent) == []
    assert Kernel.of(host) == before
    run(host, f"ip link set vxlan-78 master {bridge_of(NET)}")
    send(agent, OTHER.detach())
    assert devices(host) == {"vxlan-77", bridge_of(NET)}
    assert drift(agent) == []


def test_a_message_mends_a_deleted_device(agent: AgentProcess, host: Host) -> None:
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    host.exec("ip", "link", "delete", "vxlan-77")
    answer_to(agent, lines([NET.add({A: [[MAC2, "10.0.0.2"]]})]).encode())
    wait_until(lambda: drift(agent) == [], "the device is back")
    assert unicast(host, tunnel_of(NET)) == {MAC1: A, MAC2: A}


def test_clean_takes_everything_of_ours_away(site: Site, agent: AgentProcess, host: Host) -> None:
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    send(agent, attach(NET), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, attach(OTHER, "br-op"), OTHER.add({A: [[MAC2, "10.0.0.2"]]}))
    config = str(host.directory / "agent.conf")
    command = ("python", "-m", "ovs_l2pop", "clean", "--yes", "--config-file", config, "-f", "json")
    busy = _in_namespace(host, command)
    assert busy[0] == 2 or busy[0] == 1
    assert "another agent programs the Linux bridges of this host" in busy[1]
    agent.stop()
    status, text = _in_namespace(host, command)
    assert status == 0, text
    assert devices(host) == {"br-op"}
    assert neighbours(host, "br-op") == {}
    host.exec("ip", "link", "delete", "br-op")
    (host.directory / "state" / "table.jsonl").unlink()
    site.agents[host.name] = host.start_agent()


def _in_namespace(host: Host, command: tuple[str, ...]) -> tuple[int, str]:
    argv = ["ip", "netns", "exec", host.namespace, sys.executable, *command[1:]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr

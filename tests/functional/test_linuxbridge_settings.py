"""Modes and settings of a Linux bridge host, and what changes when they do.

h1                   h2
vm1 ─ brq… ─ vxlan-77   vm2      a ping runs from vm1 to vm2
"""

import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, pairs_of, send, wait_until
from frame_helpers import BROADCAST, arp, plain
from linuxbridge_helpers import (
    attach,
    bridge_of,
    devices,
    flooding,
    link,
    neighbours,
    plug,
    restart,
    unicast,
    vxlan,
)

from l2pop_lab.topology import Host, Lab, Machine
from l2pop_lab.topology.frames import decode

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
NET = Net(1, 77)
GROUP, OTHER_GROUP = "239.1.1.1", "239.1.1.2"


def build(lab: Lab, **vxlan_options: object) -> Site:
    """Two hosts with the network, a machine on each, all announced."""
    site = Site.start(lab, **({"vxlan": vxlan_options} if vxlan_options else {}))
    for number, (host, mac) in enumerate(zip(lab.hosts, (MAC1, MAC2), strict=True), 1):
        send(site.agent(host), attach(NET))
        plug(host, f"vm{number}", mac, NET, [f"10.0.0.{number}", f"fd00::{number}"])
    for agent in site.agents.values():
        send(agent, NET.add(everybody(lab)))
    return site


def everybody(lab: Lab) -> dict[str, Any]:
    machines = [machine for host in lab.hosts for machine in host.machines.values()]
    return {machine.host.vtep: [FLOODING, *pairs_of(machine)] for machine in machines}


def vms(site: Site) -> tuple[Machine, Machine]:
    one, two = site.lab.hosts
    return one.machines["vm1"], two.machines["vm2"]


@pytest.fixture(scope="module")
def site(make_module_lab: Callable[..., Lab]) -> Site:
    return build(make_module_lab(2, linuxbridge=[1, 2]))


def change(site: Site, host: Host, **options: object) -> None:
    """Restart a host's agent with these options of [vxlan]; all is in line afterwards."""
    agent = restart(site, host, signal.SIGTERM, vxlan=options)
    assert drift(agent) == []


# -- in place ------------------------------------------------------------------------------------


def test_changed_in_place(site: Site) -> None:
    """Not a packet is lost, and the device is the same."""
    one, _ = site.lab.hosts
    vm1, _ = vms(site)
    number = link(one, "vxlan-77")["ifindex"]
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"ttl": 33}, {"ttl": 33, "tos": None}),
        ({"tos": "0x20"}, {"ttl": 0, "tos": "0x20"}),
        ({"tos": "inherit", "vxlan_group": GROUP}, {"ttl": 0, "tos": "0x1", "group": None}),
        ({}, {"ttl": 0, "tos": None}),
    ]
    with vm1.ping_forever("10.0.0.2") as running:
        for options, seen in changes:
            change(site, one, **options)
            data = vxlan(one, "vxlan-77")
            assert {key: data.get(key) for key in seen} == seen
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert link(one, "vxlan-77")["ifindex"] == number


def test_ttl_and_tos_are_on_the_wire(site: Site) -> None:
    one, _ = site.lab.hosts
    vm1, _ = vms(site)
    change(site, one, ttl=33)
    with one.capture(direction="out") as sent:
        assert vm1.ping("10.0.0.2", count=1).lost == 0
    outer = [frame.ip.ttl for data in sent.data if (frame := decode(data)).tunnel and frame.ip]
    assert outer == [33]
    change(site, one)


def test_the_responder_is_switched(site: Site) -> None:
    """L1, L14. Off: nothing is left of it; on again: all is back."""
    one, _ = site.lab.hosts
    vm1, _ = vms(site)
    before = link(one, "vxlan-77")["ifindex"], neighbours(one, bridge_of(NET))
    with vm1.ping_forever("10.0.0.2") as running:
        change(site, one, arp_responder=False)
        assert neighbours(one, bridge_of(NET)) == {}
        for way in ("ingress", "egress"):
            assert one.exec("tc", "filter", "show", "dev", "vxlan-77", way) == ""
        assert unicast(one, "vxlan-77") == {MAC2: site.lab.hosts[1].vtep}
        with one.capture(direction="out") as sent:
            vm1.send(arp(MAC1, "10.0.0.1", "10.0.0.2"))
            sent.wait_for(lambda data: decode(data).innermost.arp is not None)
        change(site, one)
    assert running.stop().lost == 0
    assert (link(one, "vxlan-77")["ifindex"], neighbours(one, bridge_of(NET))) == before


def test_the_common_option_counts_where_vxlan_has_none(site: Site) -> None:
    one, _ = site.lab.hosts
    restart(site, one, signal.SIGTERM, ovs_l2pop={"arp_responder": False})
    assert neighbours(one, bridge_of(NET)) == {}
    restart(
        site, one, signal.SIGTERM, ovs_l2pop={"arp_responder": False}, vxlan={"arp_responder": True}
    )
    assert set(neighbours(one, bridge_of(NET))) == {"10.0.0.2", "fd00::2"}
    change(site, one)


def test_from_unicast_to_multicast_and_back(site: Site) -> None:
    """L14: in place, on one host and then on the other; nobody deletes a device."""
    one, two = site.lab.hosts
    vm1, _ = vms(site)
    numbers = [link(host, "vxlan-77")["ifindex"] for host in (one, two)]
    with vm1.ping_forever("10.0.0.2") as running:
        for host in (one, two):
            change(site, host, l2_population=False, vxlan_group=GROUP, ttl=4)
    assert running.stop().longest_gap <= 1
    for host in (one, two):
        assert vxlan(host, "vxlan-77")["group"] == GROUP
        assert flooding(host, "vxlan-77") == [GROUP]
        assert unicast(host, "vxlan-77") == {}
        assert neighbours(host, bridge_of(NET)) == {}
        assert GROUP in host.exec("ip", "maddress", "show", "dev", "phy0")
    with one.capture(direction="out") as sent, two.machines["vm2"].capture() as got:
        vm1.send(plain(BROADCAST, MAC1, "to the group"))
        got.wait_for(lambda data: b"to the group" in data)
    outer = [frame for data in sent.data if b"to the group" in data and (frame := decode(data)).ip]
    assert [(frame.ip.destination, frame.ip.ttl) for frame in outer if frame.ip] == [(GROUP, 4)]

    for host in (one, two):
        change(site, host, l2_population=False, vxlan_group=OTHER_GROUP)
        assert vxlan(host, "vxlan-77")["group"] == OTHER_GROUP
        groups = host.exec("ip", "maddress", "show", "dev", "phy0")
        assert OTHER_GROUP in groups
        assert GROUP not in groups
    vm1.forget_neighbours()
    assert vm1.ping("10.0.0.2").lost == 0

    with vm1.ping_forever("10.0.0.2") as running:
        for host in (one, two):
            change(site, host)
    assert running.stop().longest_gap <= 1
    assert [link(host, "vxlan-77")["ifindex"] for host in (one, two)] == numbers
    assert "group" not in vxlan(one, "vxlan-77")
    assert flooding(one, "vxlan-77") == [two.vtep]
    assert unicast(one, "vxlan-77") == {MAC2: two.vtep}
    assert OTHER_GROUP not in one.exec("ip", "maddress", "show", "dev", "phy0")


def test_an_empty_table_in_multicast_mode(site: Site) -> None:
    """The group is in it; without, broadcast goes nowhere."""
    one, _ = site.lab.hosts
    change(site, one, l2_population=False, vxlan_group=GROUP)
    one.exec("bridge", "fdb", "flush", "dev", "vxlan-77", "self")
    assert flooding(one, "vxlan-77") == []
    checked = site.agent(one).cli("check", "-f", "value")
    assert checked.returncode == 1
    assert checked.stdout.strip().endswith(f"reaches nobody; should be copied to {GROUP}")
    assert site.agent(one).cli("repair").returncode == 0
    assert flooding(one, "vxlan-77") == [GROUP]
    with one.capture(direction="out") as sent:
        one.machines["vm1"].send(plain(BROADCAST, MAC1, "to the group again"))
        sent.wait_for(lambda data: b"to the group again" in data)
    change(site, one)
    assert flooding(one, "vxlan-77") == [site.lab.hosts[1].vtep]


# -- another device ------------------------------------------------------------------------------


def test_another_udp_port(site: Site) -> None:
    """No device can change it: another one takes its place, with all entries, within a moment."""
    one, two = site.lab.hosts
    vm1, _ = vms(site)
    before = unicast(one, "vxlan-77"), neighbours(one, bridge_of(NET))
    number = link(one, "vxlan-77")["ifindex"]
    with vm1.ping_forever("10.0.0.2"):
        for host in (one, two):
            change(site, host, udp_dstport=8472)
    assert link(one, "vxlan-77")["ifindex"] != number
    assert devices(one) == {"vxlan-77", bridge_of(NET)}
    assert vxlan(one, "vxlan-77")["port"] == 8472
    assert (unicast(one, "vxlan-77"), neighbours(one, bridge_of(NET))) == before
    assert vm1.ping("10.0.0.2").lost == 0
    assert vm1.ping("fd00::2").lost == 0
    for host in (one, two):
        change(site, host)
    assert vm1.ping("10.0.0.2").lost == 0


def test_how_long_an_exchange_interrupts(site: Site) -> None:
    """Seen from a machine that sends all the time: what leaves by the tunnel. The new device is
    made and filled before the old one goes."""
    one, _ = site.lab.hosts
    vm1, _ = vms(site)
    assert vm1.ping("10.0.0.2").lost == 0
    with one.capture(direction="out") as sent:
        flow = vm1.popen(["ping", "-n", "-q", "-i", "0.002", "10.0.0.2"])
        wait_until(lambda: len(sent.frames) > 20, "it flows")
        change(site, one, udp_dstport=8472)
        seen = len(sent.frames)
        wait_until(lambda: len(sent.frames) > seen + 20, "it flows again")
        flow.terminate()
        flow.wait(10)
    times = [frame.time for frame in sent.frames if decode(frame.data).ip]
    gap = max(later - earlier for earlier, later in pairwise(times))
    assert gap < 0.5, f"{gap:.3f} s"
    change(site, one)


def test_a_device_with_proxy_is_replaced(site: Site) -> None:
    """As somebody may have made it; same VNI and port, so the old one goes first."""
    one, _ = site.lab.hosts
    vm1, _ = vms(site)
    agent = site.agent(one)
    one.exec("ip", "link", "delete", "vxlan-77")
    device = "ip link add vxlan-77 type vxlan id 77 local 10.200.0.1 dev phy0 dstport 4789 proxy"
    one.exec(*device.split())
    one.exec("ip", "link", "set", "vxlan-77", "alias", "ovs-l2pop")
    assert agent.cli("repair").returncode == 0
    assert "proxy" not in vxlan(one, "vxlan-77")
    assert agent.cli("check").returncode == 0
    assert vm1.ping("10.0.0.2").lost == 0


# -- groups --------------------------------------------------------------------------------------


def test_groups_by_vni(make_lab: Callable[..., Lab]) -> None:
    """L11: stable and the same on every host; one that has none is refused."""
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    config = host.agent_config(
        vxlan={"l2_population": False, "multicast_ranges": "239.9.0.1:1:10,239.8.0.0/16:100:70000"}
    )
    agent = host.start_agent(config=config)
    nets = {5: "239.9.0.1", 258: "239.8.1.2", 65536 + 258: "239.8.1.2"}
    for number, vni in enumerate(nets, 10):
        send(agent, attach(Net(number, vni)))
    for vni, group in nets.items():
        assert vxlan(host, f"vxlan-{vni}")["group"] == group
    (refusal,) = answer_to(agent, lines([attach(Net(20, 50))]).encode())["refused"]
    assert "VNI 50 is in none of multicast_ranges, and vxlan_group is not set" in refusal
    config = host.agent_config(vxlan={"l2_population": False, "vxlan_group": "239.0.0.0/8"})
    agent.stop()
    agent = host.start_agent(config=config)
    assert vxlan(host, "vxlan-258")["group"] == "239.0.1.2"
    assert vxlan(host, f"vxlan-{65536 + 258}")["group"] == "239.1.1.2"
    assert drift(agent) == []


def test_more_groups_than_the_kernel_joins(make_lab: Callable[..., Lab]) -> None:
    """It joins 20 (here 3): the others are refused, with what to do; also where the networks were
    there before in unicast mode."""
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    limit = "net.ipv4.igmp_max_memberships"
    host.exec("sysctl", "-q", "-w", f"{limit}=3")
    agent = host.start_agent()
    send(agent, *(attach(Net(number, 100 + number)) for number in range(4)))
    agent.stop()
    config = host.agent_config(vxlan={"l2_population": False, "vxlan_group": "239.1.0.0/16"})
    agent = host.start_agent(config=config)
    answer = answer_to(agent, lines([attach(Net(4, 104))]).encode())
    assert any(f"raise sysctl {limit}" in text for text in answer["refused"])
    assert f"raise sysctl {limit}" in agent.log()
    host.exec("sysctl", "-q", "-w", f"{limit}=5")
    assert agent.cli("repair").returncode == 0
    assert drift(agent) == []
    joined = host.exec("ip", "maddress", "show", "dev", "phy0")
    assert {f"239.1.0.{number}" for number in range(100, 105)} <= set(joined.split())


def test_groups_that_every_host_hears_are_warned_of(make_lab: Callable[..., Lab]) -> None:
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    config = host.agent_config(vxlan={"l2_population": False, "vxlan_group": "224.0.0.1"})
    agent = host.start_agent(config=config)
    assert "WARNING" in agent.log()
    assert "224.0.0.1/32 is in 224.0.0.0/24" in agent.log()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"l2_population": False}, "multicast mode needs vxlan_group or multicast_ranges"),
        ({"local_ip": "10.200.0.9"}, "[vxlan] local_ip 10.200.0.9 is not [ovs_l2pop] local_ip"),
        ({"vxlan_group": "ff05::1"}, "is not of the address family of local_ip"),
        ({"ttl": 256}, "ttl"),
    ],
)
def test_bad_settings_end_the_agent(
    site: Site, make_lab: Callable[..., Lab], options: dict[str, Any], said: str
) -> None:
    one = site.lab.hosts[0]
    agent = one.start_agent(config=one.agent_config(vxlan=options), wait=False)
    assert agent.process.wait(20) == 1
    assert said in agent.log()
    assert "Traceback" not in agent.log()
    one.agent_config()


# -- MTU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "fits"), [(4, 1550), (6, 1530)])
def test_mtu(make_lab: Callable[..., Lab], family: int, fits: int) -> None:
    """L7: who takes larger packets than the tunnel is told of, and nothing else suffers."""
    (host,) = make_lab(1, linuxbridge=[1], family=family).hosts
    agent = host.start_agent()
    other = Net(2, 78)
    vtep = "10.200.0.11" if family == 4 else "fd00:200::11"
    send(agent, attach(NET), attach(other), NET.add({vtep: [FLOODING]}))
    assert link(host, "vxlan-77")["mtu"] == fits
    host.add_machine("good", MAC1, bridge=bridge_of(NET), mtu=fits)
    assert agent.cli("check").returncode == 0
    host.add_machine("large", MAC2, bridge=bridge_of(NET), mtu=fits + 1)
    checked = agent.cli("check", "-f", "value")
    assert checked.returncode == 1
    assert checked.stdout == f"surplus mtu tap-large MTU {fits + 1} vxlan-77 takes {fits}\n"
    repaired = agent.cli("repair")
    assert repaired.returncode == 1
    overhead = 1600 - fits
    assert f"packets of more than {fits} bytes don't fit through vxlan-77" in repaired.stderr
    assert f"phy0 takes 1600, outer headers {overhead}" in repaired.stderr
    # Told to who attaches, too; and everything else is written.
    send(agent, NET.detach())
    answer = answer_to(agent, lines([attach(NET), NET.add({vtep: [[MAC1, "10.0.0.1"]]})]).encode())
    assert len(answer["refused"]) == 1
    assert "tap-large" in answer["refused"][0]
    assert unicast(host, "vxlan-77") == {MAC1: vtep}
    host.exec("ip", "link", "set", "tap-large", "mtu", "1400")
    assert agent.cli("check").returncode == 0


def test_the_underlays_mtu_changes(make_lab: Callable[..., Lab]) -> None:
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    agent = host.start_agent()
    send(agent, attach(NET))
    host.exec("ip", "link", "set", "phy0", "mtu", "1500")
    wait_until(lambda: link(host, "vxlan-77")["mtu"] == 1450, "the tunnel follows")
    host.exec("ip", "link", "set", "phy0", "mtu", "100")
    wait_until(lambda: "too small for VXLAN" in agent.log(), "it is told")
    assert agent.cli("check").returncode == 2
    host.exec("ip", "link", "set", "phy0", "mtu", "1600")
    wait_until(lambda: agent.cli("check").returncode == 0, "all is well")
    assert link(host, "vxlan-77")["mtu"] == 1550


# -- VTEPs ---------------------------------------------------------------------------------------


def test_ipv6_vteps(make_lab: Callable[..., Lab]) -> None:
    site = build(make_lab(2, linuxbridge=[1, 2], family=6))
    one, two = site.lab.hosts
    vm1, _ = vms(site)
    assert vxlan(one, "vxlan-77")["local6"] == one.vtep
    assert (unicast(one, "vxlan-77"), flooding(one, "vxlan-77")) == ({MAC2: two.vtep}, [two.vtep])
    for address in ("10.0.0.2", "fd00::2"):
        assert vm1.ping(address).lost == 0
    assert drift(site.agent(one)) == []
    # In multicast mode too.
    for host in (one, two):
        change(site, host, l2_population=False, vxlan_group="ff05::4242")
    vm1.forget_neighbours()
    assert vm1.ping("10.0.0.2").lost == 0
    assert vxlan(one, "vxlan-77")["group6"] == "ff05::4242"


def test_from_ipv4_to_ipv6_vteps(make_lab: Callable[..., Lab]) -> None:
    """Another family is another device."""
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    agent = host.start_agent()
    send(agent, attach(NET))
    host.exec("sysctl", "-qw", "net.ipv6.conf.phy0.disable_ipv6=0")
    host.exec("ip", "address", "add", "fd00:200::1/64", "dev", "phy0", "nodad")
    agent.stop()
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"local_ip": "fd00:200::1"}))
    send(agent, NET.add({"fd00:200::2": [FLOODING]}))
    assert vxlan(host, "vxlan-77")["local6"] == "fd00:200::1"
    assert flooding(host, "vxlan-77") == ["fd00:200::2"]
    assert link(host, "vxlan-77")["mtu"] == 1530
    assert drift(agent) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_vtep_on_loopback(make_lab: Callable[..., Lab], family: int) -> None:
    """L9: packets leave by whatever device routes say, from the VTEP's address."""
    lab = make_lab(2, linuxbridge=[1, 2], family=family)
    one, two = lab.hosts
    length = 32 if family == 4 else 128
    vteps = ["10.255.0.1", "10.255.0.2"] if family == 4 else ["fd00:255::1", "fd00:255::2"]
    nodad = ["nodad"] if family == 6 else []
    for host, peer, vtep, other in ((one, two, *vteps), (two, one, *reversed(vteps))):
        assert isinstance(host, Host)
        assert isinstance(peer, Host)
        if family == 6:
            host.exec("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
        host.exec("ip", "address", "add", f"{vtep}/{length}", "dev", "lo", *nodad)
        host.exec("ip", "route", "add", f"{other}/{length}", "via", peer.vtep)
        if family == 4:
            # Another address of the device, that a kernel could take instead.
            host.exec("ip", "address", "add", f"10.201.0.{host.name[1:]}/24", "dev", "phy0")
    site = Site(lab)
    for number, (host, vtep) in enumerate(zip(lab.hosts, vteps, strict=True), 1):
        config = host.agent_config(ovs_l2pop={"local_ip": vtep})
        agent = site.agents[host.name] = host.start_agent(config=config)
        send(agent, attach(NET))
        plug(host, f"vm{number}", (MAC1, MAC2)[number - 1], NET, f"10.0.0.{number}")
        assert "link" not in vxlan(host, "vxlan-77")
        # From the way to the other VTEP.
        assert link(host, "vxlan-77")["mtu"] == (1550 if family == 4 else 1530)
    vm1, vm2 = vms(site)
    ports = {vteps[0]: [FLOODING, *pairs_of(vm1)], vteps[1]: [FLOODING, *pairs_of(vm2)]}
    for agent in site.agents.values():
        send(agent, NET.add(ports))
    with one.capture(direction="out") as sent:
        assert vm1.ping("10.0.0.2").lost == 0
    tunnels = [frame.tunnel for data in sent.data if (frame := decode(data)).tunnel]
    assert {(tunnel.source, tunnel.destination) for tunnel in tunnels if tunnel} == {tuple(vteps)}
    assert drift(site.agent(one)) == []


def test_a_vtep_that_isnt_there_yet(make_lab: Callable[..., Lab]) -> None:
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    config = host.agent_config(ovs_l2pop={"local_ip": "10.200.0.99"})
    agent = host.start_agent(config=config)
    checked = agent.cli("check")
    assert checked.returncode == 2
    assert "local_ip 10.200.0.99 is on no device of this host" in checked.stderr
    answer = answer_to(agent, lines([attach(NET)]).encode())
    assert answer["refused"] == []
    assert "10.200.0.99" in answer["pending"]
    host.exec("ip", "address", "add", "10.200.0.99/24", "dev", "phy0")
    wait_until(lambda: devices(host) == {"vxlan-77", bridge_of(NET)}, "it is made")
    # And when it goes, nothing is torn down.
    host.exec("ip", "address", "del", "10.200.0.99/24", "dev", "phy0")
    wait_until(lambda: agent.cli("check").returncode == 2, "it is noticed")
    assert devices(host) == {"vxlan-77", bridge_of(NET)}
    assert agent.stop() == 0


def test_the_underlays_device_is_made_anew(make_lab: Callable[..., Lab]) -> None:
    """With it the kernel deletes all tunnels that are bound to it."""
    lab = make_lab(1, linuxbridge=[1])
    (host,) = lab.hosts
    agent = host.start_agent()
    send(agent, attach(NET), NET.add({"10.200.0.11": [FLOODING, [MAC1, "10.0.0.1"]]}))
    host.exec("ip", "link", "delete", "phy0")
    wait_until(lambda: "vxlan-77" not in devices(host), "it is gone")
    for command in (
        "ip link add phy0 mtu 1600 type veth peer name phy1 mtu 1600",
        "ip address add 10.200.0.1/24 dev phy0",
        "ip link set phy0 up",
    ):
        host.exec(*command.split())
    wait_until(lambda: "vxlan-77" in devices(host), "it is back", 30)
    wait_until(lambda: unicast(host, "vxlan-77") == {MAC1: "10.200.0.11"}, "all is back")
    assert agent.cli("check").returncode == 0

"""Machines that nobody announced: learned from their frames, until an announcement says better.

h1            h2      h3
vm1 ─ br-int  vm2     vm3      one network; every host floods to both others
"""

import re
from ipaddress import IPv4Address

import pytest
from feed_helpers import FLOODING, Net, Site, send, wait_until
from frame_helpers import BROADCAST, arp, plain
from switch_helpers import LEARNED, UCAST_TO_TUN, copies, flows, table, traced

from l2pop_lab.topology import Host, Lab, Machine, craft

MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))
VIRTUAL = "00:00:5e:00:01:07"  # a VRRP router's
NET, OTHER = Net(1, 77), Net(2, 78)


@pytest.fixture(scope="module")
def site(lab3: Lab) -> Site:
    for host, mac, tag in zip(lab3.hosts, (MAC1, MAC2, MAC3), (5, 6, 7), strict=True):
        host.add_machine(f"vm{host.name[1:]}", mac, tag=tag)
    site = Site.start(lab3)
    everywhere = {host.vtep: [FLOODING] for host in lab3.hosts}
    for host, tag in zip(lab3.hosts, (5, 6, 7), strict=True):
        # A second network keeps the tunnels, whatever happens to the first.
        send(site.agent(host), NET.attach(tag), NET.add(everywhere))
        send(site.agent(host), OTHER.attach(tag + 100), OTHER.add(everywhere))
    return site


@pytest.fixture(autouse=True)
def _nothing_learned(site: Site) -> None:
    for host in site.lab.hosts:
        host.ofctl("del-flows", "br-tun", LEARNED)
        host.appctl("fdb/flush", "br-int")


def machines(site: Site) -> list[Machine]:
    return [host.machines[f"vm{host.name[1:]}"] for host in site.lab.hosts]


def learned(host: Host) -> dict[str, str]:
    """MAC → VTEP of what the switch has learned."""
    where = re.compile(r"load:0x([0-9a-f]+)->NXM_NX_TUN_IPV4_DST|output:\"vxlan-([0-9a-f]{8})")
    found = {}
    for flow in flows(host, f"{LEARNED},table={UCAST_TO_TUN}"):
        (told,) = (match[1] or match[2] for match in where.finditer(flow))
        found[flow.split("dl_dst=")[1].split()[0]] = str(IPv4Address(int(told, 16)))
    return found


def speak(machine: Machine, mac: str, *listeners: Host) -> None:
    """The machine shows itself by a broadcast; wait until the listeners have learned it."""
    machine.send(arp(mac, "10.0.0.9", "10.0.0.9"))
    for host in listeners:
        wait_until(lambda h=host: mac in learned(h), f"{host.name} learned {mac}")  # type: ignore[misc]


def test_an_unannounced_machine_is_learned_from_its_frames(site: Site) -> None:
    one, two, three = site.lab.hosts
    vm1, vm2, vm3 = machines(site)
    # Not known yet: both others get a copy.
    with site.lab.capture_underlay() as underlay:
        vm1.send(plain(MAC2, MAC1, "first"))
        underlay.wait_for(lambda data: b"first" in data, count=2)
    speak(vm2, MAC2, one, three)
    assert learned(one) == {MAC2: "10.200.0.2"}
    # vm1's frame has taught the others; the answer goes to h1 alone, and so does the next frame.
    with site.lab.capture_underlay() as underlay, vm3.capture() as aside, vm2.capture() as there:
        vm2.send(plain(MAC1, MAC2, "answer"))
        vm1.send(plain(MAC2, MAC1, "second"))
        there.wait_for(lambda data: b"second" in data)
        vm3.send(plain(BROADCAST, MAC3, "the end"))
        there.wait_for(lambda data: b"the end" in data)
    found = [
        (tunnel.source, tunnel.destination, tunnel.vni, tunnel.inner.vlans)
        for tunnel in copies(underlay.frames)
        if tunnel.inner.source != MAC3
    ]
    assert sorted(found) == [
        (one.vtep, two.vtep, 77, ()),
        (two.vtep, one.vtep, 77, ()),
    ]
    assert aside.data == []


def _look_through_caches(host: Host) -> None:
    """What frames teach by a cached flow is learned when the switch looks at that, in 0.5 s."""
    for _ in range(2):
        host.appctl("revalidator/wait")


def test_a_learned_machine_that_moves_is_followed(site: Site) -> None:
    """A24: a virtual MAC fails over; its first frame from the new place turns everybody."""
    one, two, three = site.lab.hosts
    _, vm2, vm3 = machines(site)
    speak(vm2, VIRTUAL, one, three)
    assert learned(one)[VIRTUAL] == "10.200.0.2"
    vm3.send(arp(VIRTUAL, "10.0.0.7", "10.0.0.7"))
    wait_until(lambda: learned(one)[VIRTUAL] == "10.200.0.3", "h1 follows")
    assert traced(one, "tap-vm1", f"dl_src={MAC1},dl_dst={VIRTUAL}") == [three.vtep]
    # RARP is how QEMU announces a migrated machine.
    vm2.send(plain(BROADCAST, VIRTUAL, "rarp")[:12] + b"\x80\x35" + bytes(46))
    wait_until(lambda: learned(one)[VIRTUAL] == "10.200.0.2", "h1 follows back")
    assert traced(one, "tap-vm1", f"dl_src={MAC1},dl_dst={VIRTUAL}") == [two.vtep]


@pytest.mark.parametrize("how", ["ARP", "RARP", "advertisement"])
def test_who_says_that_it_has_moved_is_not_learned_where_it_was(site: Site, how: str) -> None:
    """What it sent before by the old way is counted, and so learned, after its announcement."""
    one = site.lab.hosts[0]
    vm1, vm2, vm3 = machines(site)
    announcement = {
        "ARP": arp(VIRTUAL, "10.0.0.7", "10.0.0.7"),
        "RARP": plain(BROADCAST, VIRTUAL, "rarp")[:12] + b"\x80\x35" + bytes(46),
        "advertisement": craft.advertisement(VIRTUAL, "fd00::7"),
    }[how]
    ways = {vm2: "10.200.0.2", vm3: "10.200.0.3"}
    found = []
    with vm1.capture() as heard:
        for number in range(6):
            before, after = (vm2, vm3) if number % 2 == 0 else (vm3, vm2)
            for count in range(20):
                before.send(plain(MAC1, VIRTUAL, f"{number}.{count} before"))
            heard.wait_for(lambda data, n=number: f"{n}.19 before".encode() in data)  # type: ignore[misc]
            after.send(announcement)
            wait_until(lambda to=ways[after]: learned(one)[VIRTUAL] == to, "h1 follows")  # type: ignore[misc]
            _look_through_caches(one)
            found.append(learned(one)[VIRTUAL] == ways[after])
            # The next round's frames come from there.
    assert all(found), found


def test_an_announced_entry_beats_a_learned_one(site: Site) -> None:
    one, two, three = site.lab.hosts
    _, vm2, _ = machines(site)
    speak(vm2, MAC2, one, three)
    # A spoofed or late frame must not take the machine away from where it was announced.
    send(site.agent(one), NET.add({three.vtep: [[MAC2, "10.0.0.2"]]}))
    try:
        trace = f"dl_src={MAC1},dl_dst={MAC2}"
        assert traced(one, "tap-vm1", trace) == [three.vtep]
        speak(vm2, MAC2, one)
        assert traced(one, "tap-vm1", trace) == [three.vtep]
        _look_through_caches(one)
    finally:
        send(site.agent(one), NET.remove({three.vtep: [[MAC2, "10.0.0.2"]]}))
    # What was learned under the announcement may be anybody's word: it goes with it.
    assert table(one, UCAST_TO_TUN) == []
    assert traced(one, "tap-vm1", trace) == [two.vtep, three.vtep]
    speak(vm2, MAC2, one)
    assert traced(one, "tap-vm1", trace) == [two.vtep]


@pytest.mark.expected_warnings(r"receive tunnel port not found")
def test_what_was_learned_goes_with_its_tunnel(site: Site) -> None:
    one, two, three = site.lab.hosts
    _, vm2, vm3 = machines(site)
    speak(vm2, MAC2, one, three)
    speak(vm3, MAC3, one, two)
    assert set(learned(one)) == {MAC2, MAC3}
    # Of a port of its own the switch knows what it leads to.
    left = {MAC3} if one.tunnel_ports != "flow" else set()
    send(site.agent(one), NET.remove({two.vtep: [FLOODING]}), OTHER.remove({two.vtep: [FLOODING]}))
    try:
        assert set(learned(one)) == left
        # The number of the tunnel's port is free for another one: no frame may go astray there.
        assert traced(one, "tap-vm1", f"dl_src={MAC1},dl_dst={MAC2}") == [three.vtep]
        send(site.agent(one), NET.add({"10.200.0.77": [FLOODING]}))
        assert set(learned(one)) == left
        send(site.agent(one), NET.remove({"10.200.0.77": [FLOODING]}))
    finally:
        send(site.agent(one), NET.add({two.vtep: [FLOODING]}), OTHER.add({two.vtep: [FLOODING]}))


def test_learned_flows_are_no_drift(site: Site) -> None:
    one, _, three = site.lab.hosts
    _, vm2, _ = machines(site)
    speak(vm2, MAC2, one, three)
    agent = site.agent(one)
    assert agent.cli("check").returncode == 0
    assert agent.cli("repair").returncode == 0
    assert set(learned(one)) == {MAC2}
    # Nor does a restart of the agent forget them.
    agent.stop()
    site.agents[one.name] = one.start_agent()
    assert set(learned(one)) == {MAC2}


def test_learned_flows_expire(site: Site) -> None:
    one, _, three = site.lab.hosts
    _, vm2, _ = machines(site)
    speak(vm2, MAC2, one, three)
    (flow,) = flows(one, f"{LEARNED},table={UCAST_TO_TUN}")
    assert "hard_timeout=300" in flow
    assert f"priority={3 if one.tunnel_ports == 'flow' else 1}," in flow  # below what is announced

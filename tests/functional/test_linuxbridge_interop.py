"""One VXLAN network across an Open vSwitch host and a Linux bridge host, fed by the same messages.

h1                          h2                       h3
vm1 ─ br-int ─ br-tun          vm2 ─ brq… ─ vxlan-77    vm3 ─ brq… ─ vxlan-77
Open vSwitch                   Linux bridge             Linux bridge
"""

from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, Site, drift, pairs_of, send, wait_until
from frame_helpers import BROADCAST, arp, plain
from linuxbridge_helpers import flooding, plug, unicast
from switch_helpers import copies

from l2pop_lab.topology import Lab, LinuxBridgeHost, Machine
from l2pop_lab.topology.frames import decode
from ovs_l2pop.core.wire import Message

NET = Net(1, 77)


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4 underlay", "IPv6 underlay"])
def site(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Site:
    lab = make_module_lab(3, linuxbridge=[2, 3], family=request.param)
    return build(lab)


def build(lab: Lab) -> Site:
    site = Site.start(lab)
    machines = []
    for number, host in enumerate(lab.hosts, 1):
        mac, addresses = f"fa:16:3e:00:00:0{number}", [f"10.0.0.{number}", f"fd00::{number}"]
        # The same message for both kinds: the one takes the local VLAN, the other ignores it.
        send(site.agent(host), NET.attach(5))
        if isinstance(host, LinuxBridgeHost):
            machines.append(plug(host, f"vm{number}", mac, NET, addresses))
        else:
            machines.append(host.add_machine(f"vm{number}", mac, addresses, tag=5, dad=False))
    message = NET.add({m.host.vtep: [FLOODING, *pairs_of(m)] for m in machines})
    tell(site, message)
    return site


def tell(site: Site, message: Message) -> None:
    for agent in site.agents.values():
        send(agent, message)


def machines(site: Site) -> list[Machine]:
    return [host.machines[f"vm{host.name[1:]}"] for host in site.lab.hosts]


def test_everybody_reaches_everybody(site: Site) -> None:
    for one in machines(site):
        for other in machines(site):
            if one is not other:
                for interface in other.interfaces:
                    result = one.ping(str(interface.ip))
                    assert (result.lost, result.duplicates) == (0, 0), f"{one} to {interface}"
    for agent in site.agents.values():
        assert drift(agent) == []


def test_large_packets_fit(site: Site) -> None:
    """Both fill the same MTU; neither adds more than the other takes."""
    vm1, vm2, _ = machines(site)
    for one, other in ((vm1, vm2), (vm2, vm1)):
        text = one.exec("ping", "-c", "2", "-i", "0.1", "-M", "do", "-s", "1422", other.ip)
        assert "2 received" in text


def test_addresses_are_answered_on_the_askers_host(site: Site) -> None:
    """Whichever kind it is: no ARP crosses the underlay."""
    for machine in machines(site):
        machine.forget_neighbours()
    with site.lab.capture_underlay() as underlay:
        for one in machines(site):
            for other in machines(site):
                if one is not other:
                    assert one.ping(other.ip, count=1).lost == 0
    carried = copies(underlay.frames)
    assert carried
    broadcasts = [t.inner for t in carried if t.inner.is_flooded and t.inner.arp]
    assert broadcasts == []


@pytest.mark.parametrize("sender", [0, 1], ids=["from Open vSwitch", "from Linux bridge"])
@pytest.mark.parametrize("destination", [BROADCAST, "fa:16:3e:00:00:99"])
def test_floods_reach_each_host_once(site: Site, sender: int, destination: str) -> None:
    """Broadcast, and unknown unicast: both kinds have the same policy (L13)."""
    everyone = machines(site)
    source = everyone.pop(sender)
    captures = [machine.capture() for machine in everyone]
    text = f"flood {sender} {destination}".encode()
    frame = plain(destination, source.mac, text.decode())
    try:
        with site.lab.capture_underlay() as underlay:
            source.send(frame)
            for capture in captures:
                capture.wait_for(lambda data: text in data)
            mark = plain(BROADCAST, source.mac, "mark")
            source.send(mark)
            underlay.wait_for(lambda data: b"mark" in data, count=2)
    finally:
        counts = [sum(text in data.data for data in capture.stop()) for capture in captures]
    assert counts == [1, 1]
    sent = [copies([captured])[0] for captured in underlay.frames if text in captured.data]
    assert sorted(copy.destination for copy in sent) == sorted(m.host.vtep for m in everyone)


def test_announcements_cross(site: Site) -> None:
    vm1, vm2, vm3 = machines(site)
    for source, receivers in ((vm1, (vm2, vm3)), (vm2, (vm1, vm3))):
        captures = [machine.capture() for machine in receivers]
        source.send(arp(source.mac, "10.0.0.50", "10.0.0.50"))
        for capture in captures:
            capture.wait_for(lambda data: decode(data).arp is not None)
            capture.stop()


def test_a_machine_moves_between_the_kinds(site: Site) -> None:
    """One message tells both."""
    one, two, _ = site.lab.hosts
    vm3 = machines(site)[2]
    mac, address = "fa:16:3e:00:00:40", "10.0.0.40"
    guest = one.add_machine("guest", mac, [address], tag=5)
    tell(site, NET.add({one.vtep: [[mac, address]]}))
    assert vm3.ping(address).lost == 0
    assert unicast(vm3.host, "vxlan-77")[mac] == one.vtep
    guest.remove()
    guest = plug(two, "guest", mac, NET, [address])
    tell(site, NET.add({two.vtep: [[mac, address]]}))
    tell(site, NET.remove({one.vtep: [[mac, address]]}))
    assert vm3.ping(address).lost == 0
    assert machines(site)[0].ping(address).lost == 0
    assert unicast(vm3.host, "vxlan-77")[mac] == two.vtep
    assert mac not in unicast(two, "vxlan-77")
    tell(site, NET.remove({two.vtep: [[mac, address]]}))
    guest.remove()
    for agent in site.agents.values():
        assert drift(agent) == []


def test_an_unannounced_machine_is_found_from_both_sides(site: Site) -> None:
    vm1, vm2, _ = machines(site)
    for host, other in ((site.lab.hosts[0], vm2), (site.lab.hosts[1], vm1)):
        mac, address = f"fa:16:3e:00:00:5{host.name[1:]}", f"10.0.0.5{host.name[1:]}"
        if isinstance(host, LinuxBridgeHost):
            guest = plug(host, "silent", mac, NET, [address])
        else:
            guest = host.add_machine("silent", mac, [address], tag=5)
        assert other.ping(address).lost == 0
        guest.remove()


def test_a_host_leaves(site: Site) -> None:
    one, two, three = site.lab.hosts
    tell(site, NET.remove({two.vtep: [FLOODING]}))
    assert flooding(three, "vxlan-77") == [one.vtep]
    with machines(site)[2].capture() as got, site.lab.capture_underlay() as underlay:
        machines(site)[0].send(plain(BROADCAST, machines(site)[0].mac, "to the rest"))
        got.wait_for(lambda data: b"to the rest" in data)
    gone = [c for c in copies(underlay.frames) if c.destination == two.vtep]
    assert gone == []
    tell(site, NET.add({two.vtep: [FLOODING]}))
    wait_until(lambda: two.vtep in flooding(three, "vxlan-77"), "it is back")

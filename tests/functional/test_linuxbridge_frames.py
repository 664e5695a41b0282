"""Where frames go between Linux bridge hosts, and who answers ARP and ND.

h1                   h2       h3
vm1 ─ brq… ─ vxlan-77   vm2      vm3      one network; vm4 ─ another one, on h1 and h2

The vms have no address of their own but where a test says so: all that they get was sent by a test,
or is an answer of a host. Every host knows the addresses of vm1, vm2 and vm3.
"""

from collections.abc import Callable, Iterator

import pytest
from feed_helpers import FLOODING, Net, Site, drift, pairs_of, send, wait_until
from frame_helpers import (
    BROADCAST,
    advertisement,
    arp,
    plain,
    solicitation,
)
from linuxbridge_helpers import attach, fdb, plug
from switch_helpers import copies

from l2pop_lab.topology import Host, Lab, Machine
from l2pop_lab.topology.frames import NeighbourType, decode

MAC1, MAC2, MAC3, MAC4 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3, 4))
UNKNOWN_MAC, UNKNOWN_IP, UNKNOWN_IP6 = "fa:16:3e:00:00:99", "10.0.0.99", "fd00::99"
NET, OTHER = Net(1, 77), Net(2, 78)


@pytest.fixture(scope="module")
def site(make_module_lab: Callable[..., Lab]) -> Site:
    site = Site.start(make_module_lab(3, linuxbridge=[1, 2, 3]))
    hosts = site.lab.hosts
    everybody = {
        host.vtep: [FLOODING, [mac, f"10.0.0.{number}"], [mac, f"fd00::{number}"]]
        for number, (host, mac) in enumerate(zip(hosts, (MAC1, MAC2, MAC3), strict=True), 1)
    }
    for number, (host, mac) in enumerate(zip(hosts, (MAC1, MAC2, MAC3), strict=True), 1):
        send(site.agent(host), attach(NET), attach(OTHER), NET.add(everybody))
        machine = plug(host, f"vm{number}", mac, NET)
        machine.send(plain(mac, mac, "here I am"))
        wait_until(lambda h=host, m=machine: bool(fdb(h, m.port)), "learned")  # type: ignore[misc]
    for host in hosts[:2]:
        plug(host, f"other{host.name[1:]}", MAC4 if host is hosts[0] else MAC2, OTHER)
        send(site.agent(host), OTHER.add({hosts[0].vtep: [FLOODING], hosts[1].vtep: [FLOODING]}))
    return site


@pytest.fixture
def vm1(site: Site) -> Machine:
    return site.lab.hosts[0].machines["vm1"]


def others(site: Site) -> list[Host]:
    return site.lab.hosts[1:]


def same(data: bytes, frame: bytes) -> bool:
    """The tail that Ethernet pads with doesn't count."""
    return data.rstrip(b"\0") == frame.rstrip(b"\0")


def expect(site: Site, frame: bytes, receivers: list[Host]) -> None:
    """Send *frame* from vm1: exactly *receivers* get it, each once by one tunnel copy, and vm1 gets
    nothing back."""
    one = site.lab.hosts[0]
    vm1 = one.machines["vm1"]
    captures = {
        machine: machine.capture()
        for host in site.lab.hosts
        for machine in host.machines.values()
        if machine is not vm1
    }
    try:
        with site.lab.capture_underlay() as underlay, vm1.capture() as back:
            vm1.send(frame)
            # What one port sends is forwarded in order: when this is there, all is.
            mark = plain(BROADCAST, MAC1, "the end")
            vm1.send(mark)
            for host in others(site):
                capture = captures[host.machines[f"vm{host.name[1:]}"]]
                capture.wait_for(lambda data: same(data, mark))
            underlay.wait_for(lambda data: mark.rstrip(b"\0") in data, count=2)
    finally:
        got = {
            machine: sum(same(one.data, frame) for one in capture.stop())
            for machine, capture in captures.items()
        }
    wanted = {host.machines[f"vm{host.name[1:]}"] for host in receivers}
    assert got == {machine: int(machine in wanted) for machine in got}
    sent = [
        (tunnel.source, tunnel.destination, tunnel.vni)
        for captured, tunnel in zip(underlay.frames, copies(underlay.frames), strict=True)
        if frame.rstrip(b"\0") in captured.data
    ]
    assert sorted(sent) == sorted((one.vtep, host.vtep, NET.segment) for host in receivers)
    assert back.frames == []


# -- unicast, broadcast, multicast ---------------------------------------------------------------


def test_unicast_goes_to_one_vtep(site: Site) -> None:
    for host, mac in zip(others(site), (MAC2, MAC3), strict=True):
        expect(site, plain(mac, MAC1, f"to {mac}"), [host])


@pytest.mark.parametrize(
    ("destination", "text"),
    [
        (UNKNOWN_MAC, "unknown unicast, as the backend openvswitch floods it: L13"),
        (BROADCAST, "broadcast"),
        ("01:00:5e:00:00:fb", "IPv4 multicast"),
        ("33:33:00:00:00:01", "IPv6 multicast"),
    ],
)
def test_bum_traffic_goes_to_every_vtep_once(site: Site, destination: str, text: str) -> None:
    expect(site, plain(destination, MAC1, text), others(site))


def test_an_unannounced_machine_is_learned(site: Site, vm1: Machine) -> None:
    """As behind Open vSwitch: the first answer tells where it is."""
    two, _ = others(site)
    vm2 = two.machines["vm2"]
    quiet = "fa:16:3e:00:00:77"
    with vm1.capture() as got:
        vm2.send(plain(MAC1, quiet, "here I am too"))
        got.wait_for(lambda data: b"here I am too" in data)
    expect(site, plain(quiet, MAC1, "to the learned one"), [two])
    assert drift(site.agent(site.lab.hosts[0])) == []


def test_what_was_learned_is_overwritten_by_an_announcement(site: Site, vm1: Machine) -> None:
    """L3, with an entry that the kernel did learn."""
    two, three = others(site)
    mac = "fa:16:3e:00:00:78"
    with vm1.capture() as got:
        two.machines["vm2"].send(plain(MAC1, mac, "over here"))
        got.wait_for(lambda data: b"over here" in data)
    agent = site.agent(site.lab.hosts[0])
    send(agent, NET.add({three.vtep: [[mac, "10.0.0.78"]]}))
    expect(site, plain(mac, MAC1, "to the announced place"), [three])
    assert drift(agent) == []
    send(agent, NET.remove({three.vtep: [[mac, "10.0.0.78"]]}))


# -- ARP and ND ----------------------------------------------------------------------------------


def answers(site: Site, frame: bytes) -> list[bytes]:
    """What vm1 gets for *frame*, of which nothing may leave the host."""
    vm1 = site.lab.hosts[0].machines["vm1"]
    with site.lab.capture_underlay() as underlay, vm1.capture() as back:
        vm1.send(frame)
        mark = plain(BROADCAST, MAC1, "the end of it")
        vm1.send(mark)
        underlay.wait_for(lambda data: mark.rstrip(b"\0") in data, count=2)
    assert [f for f in underlay.data if frame[6:].rstrip(b"\0") in f] == []
    return back.data


def test_arp_for_a_known_address_is_answered_here(site: Site) -> None:
    (answer,) = answers(site, arp(MAC1, "10.0.0.1", "10.0.0.2"))
    frame = decode(answer)
    assert (frame.destination, frame.source) == (MAC1, MAC2)
    assert frame.arp is not None
    told = frame.arp
    assert (told.operation, told.sender_mac, told.sender_ip) == (2, MAC2, "10.0.0.2")
    assert (told.target_mac, told.target_ip) == (MAC1, "10.0.0.1")


def test_a_solicitation_for_a_known_address_is_answered_here(site: Site) -> None:
    (answer,) = answers(site, solicitation(MAC1, "fd00::1", "fd00::2", sll=MAC1))
    frame = decode(answer)
    told = frame.neighbour
    assert told is not None
    assert (told.type, told.target, told.link_layer) == (
        NeighbourType.ADVERTISEMENT,
        "fd00::2",
        MAC2,
    )
    assert (frame.destination, told.router, told.solicited) == (MAC1, False, True)


FORWARDED = {
    "ARP for an unknown address (L4)": arp(MAC1, "10.0.0.1", UNKNOWN_IP),
    "a machine announces its own address": arp(MAC1, "10.0.0.1", "10.0.0.1"),
    "a machine announces a VIP": arp(MAC1, UNKNOWN_IP, UNKNOWN_IP),
    "the same as a reply": arp(MAC1, UNKNOWN_IP, UNKNOWN_IP, operation=2, tha=BROADCAST),
    "a machine announces another one's address": arp(MAC1, "10.0.0.2", "10.0.0.2"),
    "a probe for a free address": arp(MAC1, "0.0.0.0", UNKNOWN_IP),
    "a probe for a known address": arp(MAC1, "0.0.0.0", "10.0.0.2"),
    "a solicitation for an unknown address": solicitation(MAC1, "fd00::1", UNKNOWN_IP6, sll=MAC1),
    "duplicate address detection": solicitation(MAC1, "::", UNKNOWN_IP6, sll=None),
    "the same for a known address": solicitation(MAC1, "::", "fd00::2", sll=None),
    "an unsolicited advertisement": advertisement(
        MAC1, "fd00::1", "33:33:00:00:00:01", UNKNOWN_IP6, 1
    ),
}


@pytest.mark.parametrize("case", FORWARDED)
def test_what_the_host_must_not_answer_is_forwarded_once(site: Site, case: str) -> None:
    expect(site, FORWARDED[case], others(site))


@pytest.mark.parametrize(
    "frame",
    [
        arp(MAC1, "10.0.0.1", "10.0.0.2", operation=2, tha=MAC2, destination=MAC2),
        arp(MAC1, "10.0.0.1", "10.0.0.2", destination=MAC2),
        solicitation(MAC1, "fd00::1", "fd00::2", sll=MAC1, destination=MAC2),
    ],
    ids=["an answer", "a unicast request", "a unicast solicitation"],
)
def test_what_goes_to_one_machine_gets_there(site: Site, frame: bytes) -> None:
    """A device with ``proxy`` would swallow an answer to a host that doesn't know the asker."""
    expect(site, frame, [others(site)[0]])


def test_what_comes_back_from_others_goes_no_further(site: Site, vm1: Machine) -> None:
    """An announcement that comes in by a tunnel leaves by none."""
    two = others(site)[0]
    with site.lab.capture_underlay() as underlay, vm1.capture() as got:
        two.machines["vm2"].send(arp(MAC2, UNKNOWN_IP, UNKNOWN_IP))
        got.wait_for(lambda data: decode(data).arp is not None)
        two.machines["vm2"].send(plain(BROADCAST, MAC2, "end"))
        got.wait_for(lambda data: b"end" in data)
    senders = [t.source for t in copies(underlay.frames) if t.inner.arp is not None]
    assert senders == [two.vtep, two.vtep]
    assert len([frame for frame in got.data if decode(frame).arp is not None]) == 1


@pytest.fixture
def guests(site: Site) -> Iterator[list[Machine]]:
    """Linux guests with addresses, announced to all, on h1, h2 and h3."""
    found = []
    for number, host in enumerate(site.lab.hosts, 1):
        guest = plug(
            host,
            f"guest{number}",
            f"fa:16:3e:00:01:0{number}",
            NET,
            [f"10.0.0.{10 + number}", f"fd00::{10 + number}"],
        )
        found.append(guest)
    ports = {guest.host.vtep: pairs_of(guest) for guest in found}
    for agent in site.agents.values():
        send(agent, NET.add(ports))
    yield found
    for agent in site.agents.values():
        send(agent, NET.remove(ports))
    for guest in found:
        guest.remove()


@pytest.mark.parametrize("version", [4, 6])
def test_a_vip_moves(site: Site, guests: list[Machine], version: int) -> None:
    """L4: nobody was told of it. It is found by asking, and moves by being announced."""
    client, first, second = guests
    vip = "10.0.0.50" if version == 4 else "fd00::50"
    prefix = "24" if version == 4 else "64"
    first.exec("ip", "address", "add", f"{vip}/{prefix}", "dev", "eth0", *nodad(version))
    assert client.ping(vip).lost == 0
    assert client.neighbours()[vip][0] == first.mac
    first.exec("ip", "address", "del", f"{vip}/{prefix}", "dev", "eth0")
    second.exec("ip", "address", "add", f"{vip}/{prefix}", "dev", "eth0", *nodad(version))
    second.send(
        arp(second.mac, vip, vip)
        if version == 4
        else advertisement(second.mac, vip, "33:33:00:00:00:01", vip, 1)
    )
    wait_until(lambda: client.neighbours()[vip][0] == second.mac, "the client has heard of it", 5)
    assert client.ping(vip).lost == 0
    assert drift(site.agent(site.lab.hosts[0])) == []


def nodad(version: int) -> list[str]:
    return ["nodad"] if version == 6 else []


def test_guests_reach_each_other_and_nothing_drifts(site: Site, guests: list[Machine]) -> None:
    for guest in guests:
        for other in guests:
            if guest is not other:
                for interface in other.interfaces:
                    assert guest.ping(str(interface.ip)).lost == 0
    for agent in site.agents.values():
        assert drift(agent) == []


def test_duplicate_address_detection_across_hosts(site: Site, guests: list[Machine]) -> None:
    """Only the holder may answer, so it must be asked."""
    client, _, holder = guests
    address = str(holder.interfaces[1].ip)
    client.exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1")
    client.exec("ip", "address", "add", f"{address}/64", "dev", "eth0")
    wait_until(
        lambda: "dadfailed" in client.exec("ip", "-6", "address", "show", "dev", "eth0"),
        "the duplicate is found",
    )
    client.exec("ip", "address", "del", f"{address}/64", "dev", "eth0")


def test_why_not_proxy(make_lab: Callable[..., Lab]) -> None:
    """What the responder of the vxlan device itself does, which Neutron's agent switched on: it
    swallows requests for addresses that it doesn't know (L4), announcements, and answers too."""
    lab = make_lab(2, linuxbridge=[1, 2])
    one, two = lab.hosts
    for number, (host, other) in enumerate(((one, two), (two, one)), 1):
        for command in (
            "ip link add br0 type bridge",
            f"ip link add vxlan-77 type vxlan id 77 local {host.vtep} dstport 4789 proxy",
            "ip link set vxlan-77 master br0 up",
            "ip link set br0 up",
            f"bridge fdb append 00:00:00:00:00:00 dev vxlan-77 dst {other.vtep}",
            "ip neighbour add 10.0.0.2 lladdr fa:16:3e:00:00:02 dev vxlan-77 nud permanent",
        ):
            host.exec(*command.split())
        host.add_machine(f"vm{number}", (MAC1, MAC2)[number - 1], bridge="br0")
    vm1, vm2 = one.machines["vm1"], two.machines["vm2"]
    frames = [
        arp(MAC1, "10.0.0.1", UNKNOWN_IP),
        arp(MAC1, UNKNOWN_IP, UNKNOWN_IP),
        arp(MAC1, "10.0.0.1", "10.0.0.2", operation=2, tha=MAC2, destination=MAC2),
    ]
    with vm2.capture() as got:
        for frame in frames:
            vm1.send(frame)
        vm1.send(plain(BROADCAST, MAC1, "the end"))
        got.wait_for(lambda data: b"the end" in data)
    assert [frame for frame in got.data if decode(frame).arp is not None] == []


# -- isolation -----------------------------------------------------------------------------------


def test_networks_are_apart(site: Site, vm1: Machine) -> None:
    """The other network has the MAC address of vm2 as well."""
    one, two = site.lab.hosts[:2]
    other1, other2 = one.machines["other1"], two.machines["other2"]
    captures = [machine.capture() for machine in (vm1, two.machines["vm2"])]
    try:
        with other2.capture() as got, one.capture(direction="out") as sent:
            other1.send(plain(MAC2, MAC4, "among ourselves"))
            got.wait_for(lambda data: b"among ourselves" in data)
            other1.send(arp(MAC4, "10.0.0.4", "10.0.0.2"))  # known in the first network alone
            got.wait_for(lambda data: decode(data).arp is not None)
    finally:
        theirs = [frame for capture in captures for frame in capture.stop()]
    assert {tunnel.vni for tunnel in copies(sent.frames)} == {OTHER.segment}
    assert theirs == []


def test_the_host_answers_for_none_of_its_own_addresses(site: Site, vm1: Machine) -> None:
    """A kernel does, for all of them on each of its devices, unless told otherwise."""
    vtep = site.lab.hosts[0].vtep
    expect(site, arp(MAC1, "10.0.0.1", vtep), others(site))

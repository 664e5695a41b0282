"""Where frames go, and what the ARP and ND responders say.

h1              h2       h3
vm1 ─ br-int    vm2      vm3      one network, VNI 77, another local VLAN on every host

The vms have no address of their own: all that they get was sent by a test or a switch. Two tests
plug in Linux guests with addresses.
"""

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

import pytest
from feed_helpers import FLOODING, Net, Site, pairs_of, send, wait_until
from frame_helpers import (
    BROADCAST,
    NO_MAC,
    advertisement,
    arp,
    arp_body,
    ethernet,
    icmpv6_checksum,
    mac_bytes,
    plain,
    solicitation,
)
from switch_helpers import ARP_RESPONDER, ND_RESPONDER, copies, table, traced, tunnel_port

from l2pop_lab.topology import Host, Lab, Machine
from l2pop_lab.topology.frames import ArpOperation, NeighbourType, decode

MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))
GUEST_MAC1, GUEST_MAC2 = "fa:16:3e:00:01:01", "fa:16:3e:00:01:02"
UNKNOWN_MAC, UNKNOWN_IP, UNKNOWN_IP6 = "fa:16:3e:00:00:99", "10.0.0.99", "fd00::99"
NET = Net(1, 77)


@pytest.fixture(scope="module")
def site(lab3: Lab) -> Site:
    one, two, three = lab3.hosts
    for host, mac, tag in ((one, MAC1, 5), (two, MAC2, 6), (three, MAC3, 7)):
        host.add_machine(f"vm{host.name[1:]}", mac, tag=tag)
    site = Site.start(lab3)
    everybody = {
        one.vtep: [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"]],
        two.vtep: [FLOODING, [MAC2, "10.0.0.2"], [MAC2, "fd00::2"]],
        three.vtep: [FLOODING, [MAC3, "10.0.0.3"], [MAC3, "fd00::3"]],
    }
    for host, tag in ((one, 5), (two, 6), (three, 7)):
        send(site.agent(host), NET.attach(tag), NET.add(everybody))
    introduce(site)
    return site


@pytest.fixture
def guests(site: Site) -> Iterator[tuple[Machine, Machine]]:
    one, two, _ = site.lab.hosts
    guest1 = one.add_machine("guest1", GUEST_MAC1, ["10.0.0.11", "fd00::11"], tag=5, dad=False)
    guest2 = two.add_machine("guest2", GUEST_MAC2, ["10.0.0.12", "fd00::12"], tag=6, dad=False)
    ports = {one.vtep: pairs_of(guest1), two.vtep: pairs_of(guest2)}
    for host in (one, two):
        send(site.agent(host), NET.add(ports))
    yield guest1, guest2
    for host in (one, two):
        send(site.agent(host), NET.remove(ports))
    guest1.remove()
    guest2.remove()


def introduce(site: Site) -> None:
    """Have br-int know its machines, so that nothing depends on which test comes first."""
    for host in site.lab.hosts:
        host.appctl("fdb/flush", "br-int")
        for machine in host.machines.values():
            machine.send(plain(machine.mac, machine.mac, "here I am"))
            wait_until(lambda h=host, m=machine: m.mac in h.appctl("fdb/show", "br-int"), "learned")  # type: ignore[misc]


@pytest.fixture
def vm1(site: Site) -> Machine:
    return site.lab.hosts[0].machines["vm1"]


def others(site: Site) -> list[Host]:
    return site.lab.hosts[1:]


def is_echo(data: bytes, frame: bytes) -> bool:
    """Whether *data* is *frame*: the tail that Ethernet pads with doesn't count."""
    return data.rstrip(b"\0") == frame.rstrip(b"\0")


def expect(site: Site, frame: bytes, receivers: list[Host], disbelief: Sequence[Host] = ()) -> None:
    """Send *frame* from vm1: exactly *receivers* get it, by one tunnel copy each, unchanged and
    untagged, and vm1 gets nothing back. Hosts of *disbelief* have the sender themselves."""
    vm1 = site.lab.hosts[0].machines["vm1"]
    believers = [host for host in receivers if host not in disbelief]
    machines = [host.machines[f"vm{host.name[1:]}"] for host in believers]
    captures = [machine.capture() for machine in machines]
    try:
        with site.lab.capture_underlay() as underlay, vm1.capture() as back:
            vm1.send(frame)
            for capture in captures:
                capture.wait_for(lambda data: is_echo(data, frame))
            # Frames of one port are forwarded in order: when this one is there, all are.
            mark = plain(UNKNOWN_MAC, MAC1, "the end")
            vm1.send(mark)
            underlay.wait_for(lambda data: mark.rstrip(b"\0") in data, count=2)
    finally:
        for capture in captures:
            capture.stop()
    sent = [
        (tunnel.source, tunnel.destination, tunnel.vni, tunnel.inner.vlans)
        for captured, tunnel in zip(underlay.frames, copies(underlay.frames), strict=True)
        if frame.rstrip(b"\0") in captured.data
    ]
    one = site.lab.hosts[0].vtep
    assert sorted(sent) == sorted((one, host.vtep, NET.segment, ()) for host in receivers)
    assert back.frames == []


# -- unicast, broadcast, multicast -----------------------------------------------------------


def test_unicast_goes_to_one_vtep(site: Site) -> None:
    for host, mac in zip(others(site), (MAC2, MAC3), strict=True):
        expect(site, plain(mac, MAC1, f"to {mac}"), [host])


@pytest.mark.parametrize(
    ("destination", "text"),
    [
        (UNKNOWN_MAC, "unknown unicast"),
        (BROADCAST, "broadcast"),
        ("01:00:5e:00:00:fb", "IPv4 multicast"),
        ("33:33:00:00:00:01", "IPv6 multicast"),
        ("01:80:c2:00:00:20", "a group of IEEE 802.1, above those that bridges keep to themselves"),
    ],
)
def test_bum_traffic_goes_to_every_vtep_once(site: Site, destination: str, text: str) -> None:
    expect(site, plain(destination, MAC1, text), others(site))


def test_trace_agrees(site: Site) -> None:
    one, two, three = site.lab.hosts

    def trace(to: str, rest: str = "ip") -> list[str]:
        return traced(one, "tap-vm1", f"dl_src={MAC1},dl_dst={to},{rest}")

    assert trace(MAC2) == [two.vtep]
    assert trace(MAC3, "ipv6") == [three.vtep]
    assert trace(UNKNOWN_MAC) == [two.vtep, three.vtep]
    assert trace(BROADCAST) == [two.vtep, three.vtep]
    assert trace("01:00:5e:00:00:01") == [two.vtep, three.vtep]
    arp_fields = f"arp,arp_op=1,arp_spa=10.0.0.1,arp_sha={MAC1},arp_tpa="
    assert trace(BROADCAST, f"{arp_fields}10.0.0.2") == []
    assert trace(BROADCAST, f"{arp_fields}{UNKNOWN_IP}") == [two.vtep, three.vtep]


def test_a_tunnel_is_not_a_way_to_another_tunnel(site: Site) -> None:
    # The loop that a full mesh must not have: what came in by a tunnel leaves towards br-int only.
    one, two, _ = site.lab.hosts
    port = one.ofport(tunnel_port(one, two))
    source = f"tun_src={two.vtep},tun_dst={one.vtep}"
    for destination in (BROADCAST, MAC3, UNKNOWN_MAC):
        flow = f"in_port={port},{source},tun_id=77,dl_src={MAC2},dl_dst={destination}"
        assert "tunneling to" not in one.trace("br-tun", flow)
        assert 'bridge("br-int")' in one.trace("br-tun", flow)
    # And a VNI that no network here has leads nowhere.
    unknown = one.trace("br-tun", f"in_port={port},{source},tun_id=78,dl_src={MAC2},dl_dst={MAC1}")
    assert "Datapath actions: drop" in unknown
    assert two.ofport(tunnel_port(two, one)) > 0


def test_unicast_arp_and_nd_go_to_the_machine_itself(
    vm1: Machine, guests: tuple[Machine, Machine]
) -> None:
    """Neighbour unreachability detection asks by unicast, and wants the machine's own answer."""
    _, guest2 = guests
    frames = [
        arp(MAC1, "10.0.0.1", "10.0.0.12", destination=GUEST_MAC2),
        solicitation(MAC1, "fd00::1", "fd00::12", sll=MAC1, destination=GUEST_MAC2),
    ]
    with guest2.capture() as there, vm1.capture() as back:
        for frame in frames:
            vm1.send(frame)
            there.wait_for(lambda data, frame=frame: is_echo(data, frame))  # type: ignore[misc]
        back.wait_for(lambda data: decode(data).arp is not None)
        back.wait_for(lambda data: decode(data).neighbour is not None)


# -- the ARP responder -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tha", "tail"), [(NO_MAC, b""), (BROADCAST, b""), (MAC3, b"what pads it comes back")]
)
def test_arp_reply_byte_by_byte(site: Site, vm1: Machine, tha: str, tail: bytes) -> None:
    request = ethernet(
        BROADCAST, MAC1, 0x0806, arp_body(1, MAC1, "10.0.0.1", tha, "10.0.0.2") + tail
    )
    reply = ethernet(MAC1, MAC2, 0x0806, arp_body(2, MAC2, "10.0.0.2", MAC1, "10.0.0.1") + tail)
    with site.lab.capture_underlay() as underlay, vm1.capture() as back:
        vm1.send(request)
        back.wait_for(lambda data: len(data) >= 42)
    assert back.data == [reply]
    assert underlay.frames == []


def test_arp_reply_goes_to_who_asks_in_the_packet(vm1: Machine) -> None:
    # A proxy asks for somebody behind it: frame and message name different askers (RFC 826).
    body = arp_body(1, "fa:16:3e:00:00:aa", "10.0.0.77", NO_MAC, "10.0.0.3")
    reply_body = arp_body(2, MAC3, "10.0.0.3", "fa:16:3e:00:00:aa", "10.0.0.77")
    with vm1.capture() as back:
        vm1.send(ethernet(BROADCAST, MAC1, 0x0806, body))
        back.wait_for(lambda data: True)
    assert back.data == [ethernet("fa:16:3e:00:00:aa", MAC3, 0x0806, reply_body)]


def test_priority_tag_is_no_part_of_the_answer(site: Site, vm1: Machine) -> None:
    # A guest may send with 802.1p priority and VID 0.
    request = arp(MAC1, "10.0.0.1", "10.0.0.2")
    tagged = request[:12] + struct.pack("!HH", 0x8100, 5 << 13) + request[12:]
    with site.lab.capture_underlay() as underlay, vm1.capture() as back:
        vm1.send(tagged)
        back.wait_for(lambda data: decode(data).arp is not None)
    (answer,) = back.data
    assert (
        decode(answer).arp
        == decode(ethernet(MAC1, MAC2, 0x0806, arp_body(2, MAC2, "10.0.0.2", MAC1, "10.0.0.1"))).arp
    )
    assert underlay.frames == []


def test_arp_for_an_unknown_address_is_asked_everywhere(site: Site) -> None:
    expect(site, arp(MAC1, "10.0.0.1", UNKNOWN_IP), others(site))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(MAC1, "10.0.0.2", "10.0.0.2"), id="GARP as request"),
        pytest.param(arp(MAC1, "10.0.0.2", "10.0.0.2", tha=BROADCAST), id="GARP with tha ff"),
        pytest.param(arp(MAC1, "10.0.0.2", "10.0.0.2", operation=2), id="GARP as reply"),
        pytest.param(arp(MAC1, "10.0.0.9", "10.0.0.2", operation=2), id="reply by broadcast"),
        pytest.param(arp(MAC1, "0.0.0.0", "10.0.0.2"), id="probe"),
        pytest.param(arp(MAC2, "0.0.0.0", "10.0.0.2"), id="probe by the owner's MAC"),
        pytest.param(arp(MAC2, "10.0.0.2", "10.0.0.2"), id="GARP by the owner's MAC"),
        pytest.param(arp(MAC1, "10.0.0.1", "10.0.0.2", operation=3), id="RARP operation"),
    ],
)
def test_announcements_and_probes_of_known_addresses_are_not_answered(
    site: Site, frame: bytes
) -> None:
    """A25. They go to everybody unchanged, still as broadcasts; the host that has the machine whose
    MAC it is keeps its own."""
    owner = [site.lab.hosts[1]] if decode(frame).source == MAC2 else []
    try:
        expect(site, frame, others(site), owner)
    finally:
        introduce(site)  # br-int has learned whatever MAC the frame was from


def test_equality_of_sender_and_target_is_told_exactly(site: Site, vm1: Machine) -> None:
    """All one-bit differences and random pairs are questions; equal pairs are announcements."""
    one, two, _ = site.lab.hosts
    chance = random.Random(826)
    known = [str(IPv4Address(chance.randrange(1 << 24, 223 << 24))) for _ in range(40)]
    send(site.agent(one), NET.add({two.vtep: [[MAC2, ip] for ip in known]}))
    pairs = [(ip, int(IPv4Address(ip)) ^ 1 << bit) for bit, ip in enumerate(known[:32])]
    pairs += [(ip, int(IPv4Address(ip)) ^ 1 << bit) for bit in range(32) for ip in known[32:34]]
    pairs += [(chance.choice(known), chance.randrange(1, 1 << 32)) for _ in range(60)]
    pairs += [(ip, int(IPv4Address(known[at - 1]))) for at, ip in enumerate(known)]
    questions = [(str(IPv4Address(spa)), tpa) for tpa, spa in pairs]
    assert all(spa != tpa for spa, tpa in questions)
    try:
        with site.lab.capture_underlay() as underlay, vm1.capture() as back:
            for spa, tpa in questions:
                vm1.send(arp(MAC1, spa, tpa))
            back.wait_for(lambda data: True, count=len(questions), timeout=20)
            assert underlay.frames == []
            back.clear()
            for ip in known:
                vm1.send(arp(MAC1, ip, ip))
                vm1.send(arp(MAC1, "0.0.0.0", ip))
            underlay.wait_for(lambda data: True, count=4 * len(known), timeout=20)
        assert back.frames == []
    finally:
        send(site.agent(one), NET.remove({two.vtep: [[MAC2, ip] for ip in known]}))
    announced = [t.inner.arp for t in copies(underlay.frames)]
    for ip in known:
        for spa in (ip, "0.0.0.0"):
            assert (
                sum(a is not None and (a.sender_ip, a.target_ip) == (spa, ip) for a in announced)
                == 2
            )


# -- the ND responder ------------------------------------------------------------------------


def test_advertisement_byte_by_byte(site: Site, vm1: Machine) -> None:
    with site.lab.capture_underlay() as underlay, vm1.capture() as back:
        vm1.send(solicitation(MAC1, "fd00::1", "fd00::2", sll=MAC1))
        back.wait_for(lambda data: decode(data).neighbour is not None)
    (answer,) = back.data
    frame = decode(answer)
    assert (frame.destination, frame.source, frame.vlans) == (MAC1, MAC2, ())
    ip, found = frame.ip, frame.neighbour
    assert ip is not None
    assert found is not None
    assert (ip.source, ip.destination, ip.ttl) == ("fd00::2", "fd00::1", 255)
    assert (found.type, found.target) == (NeighbourType.ADVERTISEMENT, "fd00::2")
    assert (found.router, found.solicited, found.override) == (False, True, True)
    assert found.link_layer == MAC2
    assert ip.payload[1] == 0
    assert ip.payload[4:8] == bytes.fromhex("60000000")
    assert ip.payload[24:] == b"\x02\x01" + mac_bytes(MAC2)
    assert icmpv6_checksum(answer[22:38], answer[38:54], ip.payload) == 0
    assert underlay.frames == []


@pytest.mark.expected_warnings(r"tap-guest2: Network is down")
def test_a_linux_guest_believes_the_answers(guests: tuple[Machine, Machine]) -> None:
    guest1, guest2 = guests
    two = guest2.host
    # With its device down, only the responder can have spoken for it.
    two.exec("ip", "link", "set", guest2.port, "down")
    try:
        for address in ("fd00::12", "10.0.0.12"):
            guest1.ping(address, count=1, timeout=0.2)
            assert guest1.neighbours()[address] == (GUEST_MAC2, "REACHABLE")
    finally:
        two.exec("ip", "link", "set", guest2.port, "up")
    guest1.forget_neighbours()
    guest2.forget_neighbours()
    assert guest1.ping("fd00::12").lost == 0
    assert guest1.ping("10.0.0.12").lost == 0


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(solicitation(MAC1, "fd00::1", UNKNOWN_IP6, sll=MAC1), id="unknown target"),
        pytest.param(
            solicitation(MAC1, "::", "fd00::2", sll=None), id="duplicate address detection"
        ),
        pytest.param(
            solicitation(MAC1, "fd00::1", "fd00::2", sll=None), id="without link-layer address"
        ),
        pytest.param(
            advertisement(MAC1, "fd00::2", "33:33:00:00:00:01", "fd00::2", 0b001),
            id="unsolicited advertisement",
        ),
    ],
)
def test_what_the_nd_responder_leaves_to_others(site: Site, frame: bytes) -> None:
    expect(site, frame, others(site))


# -- without the responders --------------------------------------------------------------------


def is_answer(data: bytes) -> bool:
    """A reply to an ARP request, or an advertisement to a solicitation."""
    frame = decode(data)
    if frame.arp is not None:
        return frame.arp.operation == ArpOperation.REPLY
    found = frame.neighbour
    return found is not None and found.type == NeighbourType.ADVERTISEMENT and found.solicited


def test_responders_can_be_off(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    one, two = lab.hosts
    vm1 = one.add_machine("vm1", MAC1, ["10.0.0.1", "fd00::1"], tag=5, dad=False)
    vm2 = two.add_machine("vm2", MAC2, ["10.0.0.2", "fd00::2"], tag=5, dad=False)
    site = Site.start(lab, ovs_l2pop={"arp_responder": False})
    site.populate(NET, [vm1, vm2])
    assert table(one, ARP_RESPONDER) == []
    assert [flow for flow in table(one, ND_RESPONDER) if "nd_target" in flow] == []
    frames = [
        arp(MAC1, "10.0.0.1", "10.0.0.2"),
        solicitation(MAC1, "fd00::1", "fd00::2", sll=MAC1),
    ]
    with vm2.capture() as there, vm1.capture() as back:
        for frame in frames:
            vm1.send(frame)
            there.wait_for(lambda data, frame=frame: is_echo(data, frame))  # type: ignore[misc]
        back.wait_for(is_answer, count=2)
    # One answer each: the machine's own. It may have something to say of itself besides.
    assert len(list(filter(is_answer, back.data))) == 2

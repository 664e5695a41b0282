"""Networks see nothing of each other, whatever they have in common.

h1                h2
red1, blue1       red2, blue2       the same MACs and the same addresses in both networks
"""

import threading
import time
from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, lines, send, wait_until
from frame_helpers import BROADCAST, arp, ethernet, plain
from switch_helpers import LEARNED, OURS, copies, flows, tunnel_port

from l2pop_lab.topology import Lab, Machine
from l2pop_lab.topology.frames import decode

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
STRANGER = "fa:16:3e:00:00:77"
RED, BLUE = Net(1, 77), Net(2, 78)
GREEN = Net(3, 77, "gre")


def build(lab: Lab, other: Net) -> Site:
    """RED with local VLANs 5 and 6 on h1 and h2, *other* with 6 and 5: crossed on purpose."""
    one, two = lab.hosts
    red = [
        one.add_machine("red1", MAC1, ["10.0.0.1", "fd00::1"], tag=5, dad=False),
        two.add_machine("red2", MAC2, ["10.0.0.2", "fd00::2"], tag=6, dad=False),
    ]
    blue = [
        one.add_machine("blue1", MAC1, ["10.0.0.1", "fd00::1"], tag=6, dad=False),
        two.add_machine("blue2", MAC2, ["10.0.0.2", "fd00::2"], tag=5, dad=False),
    ]
    site = Site.start(lab, ovs_l2pop={"tunnel_types": "vxlan,gre"})
    site.populate(RED, red)
    site.populate(other, blue)
    return site


@pytest.fixture(scope="module")
def site(lab2: Lab) -> Site:
    return build(lab2, BLUE)


def machine(site: Site, name: str) -> Machine:
    return site.lab.hosts[int(name[-1]) - 1].machines[name]


def speak_and_listen(site: Site, color: str, other: str) -> None:
    """Whatever a machine sends arrives at its peer; the other network's machines hear nothing."""
    speaker, peer = machine(site, f"{color}1"), machine(site, f"{color}2")
    strangers = [machine(site, f"{other}1"), machine(site, f"{other}2")]
    frames = [
        plain(MAC2, MAC1, f"{color} unicast"),
        plain(BROADCAST, MAC1, f"{color} broadcast"),
        plain("01:00:5e:01:02:03", MAC1, f"{color} multicast"),
        plain(STRANGER, MAC1, f"{color} unknown unicast"),
        arp(MAC1, "10.0.0.1", "10.0.0.88"),
        arp(MAC1, "10.0.0.1", "10.0.0.1"),
    ]
    captures = [stranger.capture() for stranger in strangers]
    try:
        with peer.capture() as heard:
            for frame in frames:
                speaker.send(frame)
            heard.wait_for(lambda data: data in frames, count=len(frames))
    finally:
        overheard = [frame.data for capture in captures for frame in capture.stop()]
    assert not [data for data in overheard if data in frames]


@pytest.mark.parametrize(("color", "other"), [("red", "blue"), ("blue", "red")])
def test_overlapping_macs_and_addresses(site: Site, color: str, other: str) -> None:
    for address in ("10.0.0.2", "fd00::2"):
        assert machine(site, f"{color}1").ping(address).lost == 0
    speak_and_listen(site, color, other)


def test_an_address_known_in_one_network_is_unknown_in_the_other(site: Site) -> None:
    one, two = site.lab.hosts
    send(site.agent(one), RED.add({two.vtep: [[STRANGER, "10.0.0.66"]]}))
    question = arp(MAC1, "10.0.0.1", "10.0.0.66")
    red1, blue1 = machine(site, "red1"), machine(site, "blue1")
    with red1.capture() as red, blue1.capture() as blue, site.lab.capture_underlay() as underlay:
        red1.send(question)
        red.wait_for(lambda data: decode(data).arp is not None)
        blue1.send(question)
        underlay.wait_for(lambda data: question[:42] in data)
    assert [t.vni for t in copies(underlay.frames) if t.inner.arp] == [BLUE.segment]
    assert not [data for data in blue.data if decode(data).arp]


def test_frames_leave_untagged(site: Site) -> None:
    """A34: neither the local VLAN nor a priority tag (VID 0) travels, on any way out of br-tun."""
    red1 = machine(site, "red1")
    one, _ = site.lab.hosts
    # A learned way, too: red2 speaks with a MAC that nobody announced.
    machine(site, "red2").send(plain(BROADCAST, STRANGER, "learn me"))
    wait_until(lambda: STRANGER in str(flows(one, LEARNED)), "the stranger is learned")
    priority = (3 << 13).to_bytes(2, "big")
    frames = []
    for destination in (MAC2, BROADCAST, "01:00:5e:01:02:03", STRANGER):
        frames.append(plain(destination, MAC1, f"untagged to {destination}"))
        body = frames[-1][14:]
        frames.append(
            ethernet(destination, MAC1, 0x8100, priority + b"\x88\xb5" + body.replace(b"un", b"pr"))
        )
    with site.lab.capture_underlay() as underlay:
        for frame in frames:
            red1.send(frame)
        underlay.wait_for(lambda data: b"tagged to" in data, count=len(frames))
    sent = [tunnel for tunnel in copies(underlay.frames) if tunnel.inner.ethertype == 0x88B5]
    assert len(sent) == len(frames)
    assert {(tunnel.vni, tunnel.inner.vlans) for tunnel in sent} == {(RED.segment, ())}


@pytest.mark.parametrize("at_once", [True, False], ids=["one batch", "one by one"])
def test_a_local_vlan_that_another_network_gets_is_empty(site: Site, at_once: bool) -> None:
    """Nothing of the network before is left in it, announced or learned."""
    one, _ = site.lab.hosts
    machine(site, "red2").send(plain(BROADCAST, STRANGER, "learn me"))
    wait_until(lambda: STRANGER in str(flows(one, LEARNED)), "the stranger is learned")
    new = Net(9, 79)
    hand_over = [RED.detach(), new.attach(5)]
    try:
        for messages in [hand_over] if at_once else [[m] for m in hand_over]:
            send(site.agent(one), *messages)
        # Only the way in is there; the other network's own VLAN is as it was.
        assert [flow for flow in flows(one) if "dl_vlan=5" in flow] == []
        assert not [f for f in flows(one) if "=0x0005/" in f or "tun_id=0x4d" in f or ":0x4d" in f]
        assert STRANGER not in str(flows(one))
        assert [f for f in flows(one, OURS) if "dl_vlan=6" in f and MAC2 in f]
        with site.lab.capture_underlay() as underlay:
            for destination in (MAC2, STRANGER, BROADCAST):
                machine(site, "red1").send(plain(destination, MAC1, "into the void"))
            machine(site, "blue1").send(plain(BROADCAST, MAC1, "the end"))
            underlay.wait_for(lambda data: b"the end" in data)
        assert not [frame for frame in underlay.data if b"into the void" in frame]
    finally:
        send(site.agent(one), new.detach(), RED.attach(5))
    assert machine(site, "red1").ping("10.0.0.2").lost == 0


def test_no_frame_of_the_network_before_comes_in_a_local_vlan_that_was_given_away(
    site: Site,
) -> None:
    """The port keeps its place, and frames come all the time: the switch forwards by its caches."""
    one, _ = site.lab.hosts
    red1, red2 = machine(site, "red1"), machine(site, "red2")
    new = Net(9, 79)
    sending = threading.Event()

    def talk() -> None:
        while not sending.wait(0.001):
            red2.send(plain(BROADCAST, MAC2, "red"))

    talker = threading.Thread(target=talk)
    late = 0
    with red1.capture() as capture:
        talker.start()
        try:
            for _ in range(15):
                capture.wait_for(lambda data: b"red" in data)
                send(site.agent(one), RED.detach(), new.attach(5))
                given = time.time()
                time.sleep(0.02)
                late += sum(frame.time > given for frame in capture.frames)
                assert not [flow for flow in flows(one, LEARNED) if "vlan_tci=0x0005/" in flow]
                capture.clear()
                send(site.agent(one), new.detach(), RED.attach(5))
        finally:
            sending.set()
            talker.join()
            send(site.agent(one), new.detach(), RED.attach(5))
    assert late == 0


def test_two_networks_swap_their_local_vlans(site: Site) -> None:
    one, _ = site.lab.hosts
    red1, blue1 = machine(site, "red1"), machine(site, "blue1")
    machine(site, "red2").send(plain(BROADCAST, STRANGER, "learn me"))
    wait_until(lambda: STRANGER in str(flows(one, LEARNED)), "the stranger is learned")
    before = flows(one, OURS)
    for red, blue in ((6, 5), (5, 6)):
        # The machines' ports follow, as a Neutron agent would have them.
        send(site.agent(one), RED.detach(), BLUE.detach(), RED.attach(red), BLUE.attach(blue))
        assert STRANGER not in str(flows(one, LEARNED))
        one.vsctl(
            *("set", "Port", red1.port, f"tag={red}"),
            *("--", "set", "Port", blue1.port, f"tag={blue}"),
        )
        one.appctl("fdb/flush", "br-int")
        speak_and_listen(site, "red", "blue")
        speak_and_listen(site, "blue", "red")
    assert flows(one, OURS) == before


def test_a_local_vlan_or_segment_of_another_network_is_refused(site: Site) -> None:
    one, _ = site.lab.hosts
    before = flows(one, OURS)
    for message, holder in ((Net(9, 79).attach(5), RED), (Net(9, 78).attach(9), BLUE)):
        answer = answer_to(site.agent(one), lines([message]).encode())
        assert answer["refused_count"] == 1
        assert holder.id in answer["refused"][0]
    assert flows(one, OURS) == before


@pytest.mark.expected_warnings(r"receive tunnel port not found")  # h2 still sends when h1 is off
def test_one_number_on_two_kinds_of_tunnel(make_lab: Callable[..., Lab]) -> None:
    """A34: VNI 77 on VXLAN and key 77 on GRE are two networks."""
    site = build(make_lab(2), GREEN)
    with site.lab.capture_underlay() as underlay:
        speak_and_listen(site, "red", "blue")
        speak_and_listen(site, "blue", "red")
    kinds = {(tunnel.kind, tunnel.vni) for tunnel in copies(underlay.frames)}
    assert kinds == {("vxlan", 77), ("gre", 77)}
    for color in ("red", "blue"):
        assert machine(site, f"{color}1").ping("10.0.0.2").lost == 0
    # A frame that comes by the one kind with the other's number alone leads nowhere.
    one, two = site.lab.hosts
    send(site.agent(one), RED.detach())
    way = f"in_port={one.ofport(tunnel_port(one, two, 'gre'))},tun_src={two.vtep}"
    assert 'bridge("br-int")' in one.trace("br-tun", f"{way},tun_id=77,dl_dst={MAC1}")
    send(site.agent(one), GREEN.detach(), RED.attach(5), Net(9, 99, "gre").attach(7))
    send(site.agent(one), Net(9, 99, "gre").add({two.vtep: [FLOODING]}))
    way = f"in_port={one.ofport(tunnel_port(one, two, 'gre'))},tun_src={two.vtep}"
    trace = one.trace("br-tun", f"{way},tun_id=77,dl_dst={MAC1}")
    assert "Datapath actions: drop" in trace

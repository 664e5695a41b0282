"""What a machine or a VTEP sends takes nothing over that was announced to be elsewhere.

h1               h2
vm1, sly ─ brq…  vm2       one network; all of vm1, vm2 are announced, on both hosts

The vms have no addresses: all that they get was sent by a test.
"""

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from signal import SIGTERM

import pytest
from feed_helpers import FLOODING, Net, Site, drift, send, wait_until
from frame_helpers import BROADCAST, plain
from linuxbridge_helpers import (
    Monitor,
    attach,
    bridge_of,
    fdb,
    flooding,
    plug,
    restart,
    tunnel_of,
    unicast,
)
from switch_helpers import copies

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine, namespaces
from l2pop_lab.topology.capture import Capture
from ovs_l2pop.agent.client import ask
from ovs_l2pop.backends.linuxbridge.backend import LinuxBridgeBackend
from ovs_l2pop.backends.linuxbridge.guard import Filter
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings
from ovs_l2pop.backends.linuxbridge.rows import Closed, Guard, Member
from ovs_l2pop.core.messages import Parser
from ovs_l2pop.core.reconciler import Reconciler
from ovs_l2pop.core.table import ForwardingTable
from ovs_l2pop.netlink.messages import NETFILTER, Message, attribute, nested, text
from ovs_l2pop.netlink.socket import Netlink

MAC1, MAC2, SLY = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "fa:16:3e:00:00:66"
QUIET = "fa:16:3e:00:00:77"
NET, OTHER = Net(1, 77), Net(2, 78)
TUNNEL = tunnel_of(NET)
#: Longer than any test takes: what is mended was noticed by what the kernel told.
FAR = 600


@pytest.fixture(scope="module", params=[True, False], ids=["responder", "no responder"])
def site(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Iterator[Site]:
    lab = make_module_lab(2, linuxbridge=[1, 2])
    site = Site.start(
        lab, vxlan={"arp_responder": request.param}, ovs_l2pop={"drift_interval": FAR}
    )
    for number, (host, mac) in enumerate(zip(lab.hosts, (MAC1, MAC2), strict=True), 1):
        send(site.agent(host), attach(NET), NET.add(everybody(site)))
        plug(host, f"vm{number}", mac, NET)
    plug(lab.hosts[0], "sly", SLY, NET)
    yield site
    for agent in site.agents.values():
        assert agent.stop() == 0
    lab.stop()


def everybody(site: Site) -> dict[str, list[list[str]]]:
    macs = zip(site.lab.hosts, (MAC1, MAC2), strict=True)
    return {
        host.vtep: [FLOODING, [mac, f"10.0.0.{number}"], [mac, f"fd00::{number}"]]
        for number, (host, mac) in enumerate(macs, 1)
    }


def machine(site: Site, name: str) -> Machine:
    return next(h.machines[name] for h in site.lab.hosts if name in h.machines)


def through_tunnel(
    host: Host, to: Host, frame: bytes, source: str | None = None, vni: int = NET.segment
) -> None:
    """Send a VXLAN packet by hand."""

    def send_it() -> None:
        family = socket.AF_INET6 if ":" in to.vtep else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.bind((source or host.vtep, 0))
            head = struct.pack("!II", 1 << 27, vni << 8)
            udp.sendto(head + frame, (to.vtep, 4789))

    namespaces.call(host.namespace, send_it)


def reaches(sender: Machine, receiver: Machine, mac: str, text: str) -> None:
    with receiver.capture() as got:
        sender.send(plain(mac, sender.mac, text))
        got.wait_for(lambda data: text.encode() in data)


def test_a_guest_takes_no_remote_machine_over(site: Site) -> None:
    """Whatever it sends from that MAC: neither its neighbours nor its host are taken in."""
    one, two = site.lab.hosts
    sly, vm1, vm2 = (machine(site, name) for name in ("sly", "vm1", "vm2"))
    with vm1.capture() as got:
        sly.send(plain(BROADCAST, MAC2, "I am vm2"))
        sly.send(plain(MAC1, MAC2, "really"))
        got.wait_for(lambda data: b"really" in data)
    with sly.capture() as stolen:
        reaches(vm1, vm2, MAC2, "to the real one")
    assert not [data for data in stolen.data if b"to the real one" in data]
    reaches(vm2, vm1, MAC1, "back")
    assert drift(site.agent(one)) == drift(site.agent(two)) == []


def test_a_tunnel_takes_no_machine_of_this_host_over(site: Site) -> None:
    """The machine has said nothing; everybody still reaches it, and no copy leaves for its MAC."""
    one, two = site.lab.hosts
    vm1, vm2, sly = (machine(site, name) for name in ("vm1", "vm2", "sly"))
    one.exec("ip", "link", "set", bridge_of(NET), "type", "bridge", "fdb_flush")
    with vm1.capture() as got:
        through_tunnel(two, one, plain(BROADCAST, MAC1, "I am vm1"))
        through_tunnel(two, one, plain(BROADCAST, QUIET, "I am nobody"))
        got.wait_for(lambda data: b"I am nobody" in data)
    assert not [data for data in got.data if b"I am vm1" in data]
    assert {e["mac"] for e in fdb(one, TUNNEL) if "dst" not in e} >= {QUIET}  # learned as ever
    with one.capture(direction="out") as sent:
        reaches(sly, vm1, MAC1, "from beside")
        sly.send(plain(BROADCAST, SLY, "the end"))
        sent.wait_for(lambda data: b"the end" in data)
    assert not [data for data in sent.data if b"from beside" in data]
    reaches(vm2, vm1, MAC1, "from afar")
    assert drift(site.agent(one)) == []


def test_a_machine_moves_here(site: Site) -> None:
    """By the other host's withdrawal, or by being announced here: no frame of it is needed."""
    one, _ = site.lab.hosts
    agent, vm1 = site.agent(one), machine(site, "vm1")
    moved = [MAC2, "10.0.0.2"]
    mover = plug(one, "mover", MAC2, NET)
    vtep = site.lab.hosts[1].vtep
    try:
        send(agent, NET.add({one.vtep: [moved]}))
        reaches(vm1, mover, MAC2, "announced here")
        send(agent, NET.remove({one.vtep: [moved]}), NET.remove({vtep: everybody(site)[vtep][1:]}))
        assert MAC2 not in {entry["mac"] for entry in fdb(one, TUNNEL)}
        reaches(vm1, mover, MAC2, "announced nowhere")
        assert drift(agent) == []
    finally:
        mover.remove()
        send(agent, NET.add(everybody(site)))
    reaches(vm1, machine(site, "vm2"), MAC2, "announced there again")


# -- who may send into a network -----------------------------------------------------------------

STRANGER = "10.200.0.99"


def dropped(agent: AgentProcess) -> int:
    """As ``show health`` tells it."""
    rows = ask(agent.control_socket, {"command": "show", "what": "health"})["rows"]
    return sum(int(detail.split()[0]) for what, _, detail in rows if what == "strangers")


def test_a_stranger_sends_nothing_in(site: Site) -> None:
    """It has address, port and VNI of a network, and is none of its VTEPs."""
    one, two = site.lab.hosts
    agent, vm1 = site.agent(one), machine(site, "vm1")
    before = dropped(agent)
    two.exec("ip", "address", "add", f"{STRANGER}/24", "dev", "phy0")
    try:
        with vm1.capture() as got:
            through_tunnel(two, one, plain(BROADCAST, QUIET, "from a stranger"), STRANGER)
            through_tunnel(two, one, plain(BROADCAST, MAC2, "from a member"))
            got.wait_for(lambda data: b"from a member" in data)
            assert not [data for data in got.data if b"from a stranger" in data]
            assert dropped(agent) == before + 1
            # Another network's VTEP is a stranger here as well.
            send(agent, attach(OTHER), OTHER.add({STRANGER: [FLOODING]}))
            through_tunnel(two, one, plain(BROADCAST, QUIET, "from a neighbour"), STRANGER)
            through_tunnel(two, one, plain(BROADCAST, MAC2, "again from a member"))
            got.wait_for(lambda data: b"again from a member" in data)
            assert not [data for data in got.data if b"from a neighbour" in data]
            assert dropped(agent) == before + 2
            # Once it is announced it is none any more.
            send(agent, NET.add({STRANGER: [FLOODING]}))
            through_tunnel(two, one, plain(BROADCAST, QUIET, "no stranger any more"), STRANGER)
            got.wait_for(lambda data: b"no stranger any more" in data)
            send(agent, NET.remove({STRANGER: [FLOODING]}), OTHER.remove({STRANGER: [FLOODING]}))
            send(agent, OTHER.detach())
            through_tunnel(two, one, plain(BROADCAST, QUIET, "a stranger again"), STRANGER)
            through_tunnel(two, one, plain(BROADCAST, MAC2, "the end"))
            got.wait_for(lambda data: b"the end" in data)
            assert not [data for data in got.data if b"a stranger again" in data]
        assert drift(agent) == []
    finally:
        two.exec("ip", "address", "del", f"{STRANGER}/24", "dev", "phy0")


def test_over_ipv6(make_lab: Callable[..., Lab]) -> None:
    site = Site.start(make_lab(2, linuxbridge=[1, 2], family=6))
    one, two = site.lab.hosts
    agent, stranger = site.agent(one), "fd00:200::99"
    send(agent, attach(NET), NET.add(everybody(site)))
    vm1, sly = plug(one, "vm1", MAC1, NET), plug(one, "sly", SLY, NET)
    two.exec("ip", "address", "add", f"{stranger}/64", "dev", "phy0", "nodad")
    with sly.capture() as got:
        through_tunnel(two, one, plain(BROADCAST, QUIET, "from a stranger"), stranger)
        through_tunnel(two, one, plain(BROADCAST, MAC1, "I am vm1"))
        through_tunnel(two, one, plain(BROADCAST, MAC2, "from a member"))
        got.wait_for(lambda data: b"from a member" in data)
    assert [data for data in got.data if b"stranger" in data or b"I am vm1" in data] == []
    assert dropped(agent) == 1
    reaches(sly, vm1, MAC1, "from beside")
    assert drift(agent) == []


def test_networks_whose_members_nobody_knows_are_open(site: Site) -> None:
    """Without any remote VTEP announced nothing tells who is a stranger; a tunnel of somebody
    else's, with another VNI, is none of our business."""
    one, two = site.lab.hosts
    agent = site.agent(one)
    before = dropped(agent)
    send(agent, attach(OTHER))
    heard = plug(one, "heard", "fa:16:3e:00:00:31", OTHER)
    for command in (
        f"ip link add foreign type vxlan id 99 local {one.vtep} dstport 4789",
        "ip link set foreign up",
    ):
        one.exec(*command.split())
    try:
        with heard.capture() as got, Capture(one.namespace, ["foreign"]) as others:
            through_tunnel(two, one, plain(BROADCAST, MAC2, "anybody"), vni=OTHER.segment)
            got.wait_for(lambda data: b"anybody" in data)
            through_tunnel(two, one, plain(BROADCAST, MAC2, "somebody else's"), vni=99)
            others.wait_for(lambda data: b"somebody else's" in data)
    finally:
        one.exec("ip", "link", "del", "foreign")
        heard.remove()
    send(agent, OTHER.detach())
    assert (dropped(agent), drift(agent)) == (before, [])


def elements(host: Host) -> set[object]:
    """What the packet filter of a host holds."""

    def read() -> set[object]:
        with closing(Filter()) as strangers:
            return set(strangers.rows())

    return namespaces.call(host.namespace, read)


def tamper(host: Host, *messages: tuple[int, bytes]) -> None:
    """Change nftables by hand: kind of message, and what is behind the name of our table."""

    def write() -> None:
        with closing(Netlink(NETFILTER)) as netlink:
            head, name = bytes((1, 0, 0, 0)), text(1, "ovs-l2pop")
            mark = Message(0x10, 0, bytes((0, 0, 0, 10))), Message(0x11, 0, bytes((0, 0, 0, 10)))
            one = [Message(10 << 8 | kind, 0, head + name + more) for kind, more in messages]
            assert netlink.write_together([mark[0], *one, mark[1]]) == []

    namespaces.call(host.namespace, write)


def element(name: str, key: bytes) -> bytes:
    return text(2, name) + nested(3, nested(1, nested(1, attribute(1, key))))


MEMBER = bytes((0, 0, 77, 0, 10, 200, 0, 2))  # VNI 77, 10.200.0.2
DAMAGES = {
    "the table deleted, as nft flush ruleset does": [(2, b"")],
    "its rules flushed": [(8, text(2, "input"))],
    "a member removed": [(14, element("members", MEMBER))],
    "a member added": [(12, element("members", MEMBER[:7] + b"\x63"))],
    "a network opened": [(14, element("closed", b"\0\0\x4d"))],
    "a network closed": [(12, element("closed", b"\0\0\x4e"))],
    "a chain of somebody else's": [(3, text(3, "mine"))],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_filter_is_mended(site: Site, name: str) -> None:
    one, _ = site.lab.hosts
    agent, before = site.agent(one), elements(one)
    assert Closed(77) in before
    logged = len(agent.log())
    tamper(one, *DAMAGES[name])
    wait_until(lambda: "somebody changed" in agent.log()[logged:], "it is noticed", 8)
    wait_until(lambda: elements(one) == before, "it is mended", 8)
    assert drift(agent) == []


def test_no_copy_comes_back_by_an_address_of_this_host(make_lab: Callable[..., Lab]) -> None:
    """Whichever of its addresses somebody announced: neither copies nor a tunnel to itself."""
    one, two = make_lab(2, linuxbridge=[1, 2]).hosts
    other = "10.200.0.77"
    one.exec("ip", "address", "add", f"{other}/24", "dev", "phy0")
    settings = LinuxBridgeSettings(one.vtep, ("vxlan",), True, True, 4789, 0, 0, ())
    table, backend = ForwardingTable(one.vtep), LinuxBridgeBackend(settings)
    reconciler = Reconciler(table, backend)
    try:
        told = NET.add({two.vtep: [FLOODING], other: [FLOODING, [MAC2, "10.0.0.2"]]})
        for message in (attach(NET), told):
            for change in Parser(one.vtep).parse(message)[0]:
                table.apply(change)
        namespaces.call(one.namespace, reconciler.resync)
        assert flooding(one, TUNNEL) == [two.vtep, other]
        table.set_own([other])
        namespaces.call(one.namespace, reconciler.follow)
        assert (flooding(one, TUNNEL), unicast(one, TUNNEL)) == ([two.vtep], {})
        vm1, vm2 = (plug(one, f"vm{n}", mac, NET) for n, mac in ((1, MAC1), (2, MAC2)))
        with vm2.capture() as got, one.capture(direction="out") as sent:
            vm1.send(plain(BROADCAST, MAC1, "to all"))
            vm1.send(plain(BROADCAST, MAC1, "the end"))
            got.wait_for(lambda data: b"the end" in data)
            sent.wait_for(lambda data: b"the end" in data)
        assert len([data for data in got.data if b"to all" in data]) == 1
        assert {tunnel.destination for tunnel in copies(sent.frames)} == {two.vtep}
        reaches(vm2, vm1, MAC1, "back")
        assert not namespaces.call(one.namespace, reconciler.drift).missing
    finally:
        backend.close()


def test_entries_of_the_release_before(site: Site) -> None:
    """Which the bridge let move: held from the start on, and at no moment gone."""
    one, _ = site.lab.hosts
    site.agent(one).stop()
    one.exec("bridge", "fdb", "del", MAC2, "dev", TUNNEL, "master")
    one.exec("bridge", "fdb", "add", MAC2, "dev", TUNNEL, "master", "extern_learn")
    for device in (TUNNEL, bridge_of(NET)):
        one.exec("ip", "link", "set", device, "group", "0")
    with Monitor(one) as monitor:
        site.agents[one.name] = one.start_agent(config=one.directory / "agent.conf")
        wait_until(lambda: "sticky" in one.exec("bridge", "fdb", "show", "dev", TUNNEL), "held")
        assert not [event for event in monitor.events() if "eleted" in event]
    assert unicast(one, TUNNEL)[MAC2] == site.lab.hosts[1].vtep
    test_a_guest_takes_no_remote_machine_over(site)


def test_held_at_a_restart(site: Site) -> None:
    one, _ = site.lab.hosts
    with Monitor(one) as monitor:
        restart(site, one, SIGTERM)
        assert monitor.events() == []


def test_the_filter_goes(site: Site) -> None:
    """With the option, with the network, and with all else that is ours."""
    one, _ = site.lab.hosts
    agent, before = site.agent(one), elements(one)
    send(agent, attach(OTHER), OTHER.add({STRANGER: [FLOODING]}))
    assert elements(one) == before | {Closed(78), Member(78, STRANGER)}
    send(agent, OTHER.detach())
    assert elements(one) == before
    restart(site, one, SIGTERM, vxlan={"udp_dstport": 8472})
    assert elements(one) == before - {Guard(4789)} | {Guard(8472)}
    restart(site, one, SIGTERM, ovs_l2pop={"known_vteps_only": False})
    assert elements(one) == set()
    restart(site, one, SIGTERM)
    assert elements(one) == set()  # as it was configured last
    restart(site, one, SIGTERM, ovs_l2pop={"known_vteps_only": True})
    assert elements(one) == before
    site.agent(one).stop()
    conf = one.directory / "agent.conf"
    one.exec(sys.executable, "-m", "ovs_l2pop", "clean", "--yes", "--config-file", str(conf))
    assert elements(one) == set()
    site.agents[one.name] = one.start_agent(config=conf)
    assert elements(one) == before

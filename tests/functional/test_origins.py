"""Whose frames count: who may send into a network, and who is believed to be where.

h1: vm1, near1     h2: vm2     h3: vm3, of another network with them, so that the tunnel is there
"""

import json
import time
from collections.abc import Iterator

import pytest
from feed_helpers import FLOODING, Net, Site, drift, pairs_of, send, wait_until
from frame_helpers import BROADCAST, arp, plain
from switch_helpers import LEARNED, copies, flows

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine
from ovs_l2pop.core.wire import Message

MAC1, NEAR1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 8, 2, 3))
KINDS = {"vxlan": (77, 5), "gre": (78, 6), "geneve": (79, 7)}
NETS = {kind: Net(segment, segment, kind) for kind, (segment, _) in KINDS.items()}
NET = NETS["vxlan"]


@pytest.fixture(scope="module")
def site(lab3: Lab) -> Site:
    site = Site.start(lab3, ovs_l2pop={"tunnel_types": ",".join(KINDS)})
    one, two, three = lab3.hosts
    for kind, (_, vlan) in KINDS.items():
        for host, mac in zip(lab3.hosts, (MAC1, MAC2, MAC3), strict=True):
            host.add_machine(f"{kind}{host.name[1:]}", mac, tag=vlan)
            # Known to all, so that the tunnels are there whoever is a member of what.
            other = Net(100 + vlan, 100 + vlan, kind)
            everywhere = {peer.vtep: [FLOODING] for peer in lab3.hosts}
            send(site.agent(host), other.attach(100 + vlan), other.add(everywhere))
        for host in lab3.hosts:
            send(site.agent(host), NETS[kind].attach(vlan))
        for host in (two, three):
            own = {two.vtep: [FLOODING, [MAC2, "10.0.0.2"]]}
            send(site.agent(host), NETS[kind].add({one.vtep: [FLOODING], **own}))
    one.add_machine("near1", NEAR1, "10.0.0.8", tag=5)
    return site


@pytest.fixture(autouse=True)
def members(site: Site) -> Iterator[None]:
    """h1 knows h2 in each network, with its machine, and its own machine."""
    one, two, three = site.lab.hosts
    for kind, net in NETS.items():
        announced = {
            one.vtep: [FLOODING, [MAC1, "10.0.0.1"]],
            two.vtep: [FLOODING, [MAC2, "10.0.0.2"]],
        }
        send(site.agent(one), net.remove({three.vtep: [FLOODING]}), net.add(announced))
        assert kind in KINDS
    for host in site.lab.hosts:
        host.ofctl("del-flows", "br-tun", LEARNED)
        host.appctl("fdb/flush", "br-int")
    yield
    assert drift(site.agent(one)) == []


def machine(site: Site, name: str) -> Machine:
    return site.lab.hosts[int(name[-1]) - 1].machines[name]


def health(site: Site, host: Host) -> dict[str, str]:
    """What → detail; nothing is in trouble, but that one machine has moved five times by now."""
    rows = json.loads(site.agent(host).cli("show", "health", "-f", "json").stdout)
    assert {row["what"] for row in rows if row["state"] != "ok"} <= {"moving addresses"}, rows
    return {row["what"]: row["detail"] for row in rows}


def heard(listener: Machine, speaker: Machine, frame: bytes, timeout: float = 5.0) -> None:
    with listener.capture() as capture:
        speaker.send(frame)
        capture.wait_for(lambda data: data == frame, timeout=timeout)


def settled(host: Host, agent: AgentProcess, message: Message) -> None:
    """Told, and no cached flow of the switch does as it did before."""
    send(agent, message)
    for _ in range(2):
        host.appctl("revalidator/wait")


# -- who may send into a network ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_are_kept_out_and_counted(site: Site, kind: str) -> None:
    one, two, three = site.lab.hosts
    net, agent = NETS[kind], site.agent(one)
    here, member, stranger = (machine(site, f"{kind}{n}") for n in (1, 2, 3))
    with here.capture() as capture:
        stranger.send(plain(BROADCAST, MAC3, "from a stranger"))
        stranger.send(plain(MAC1, MAC3, "from a stranger"))
        wait_until(lambda: f"2 in network {net.id}" in health(site, one).get("strangers", ""), "2")
        member.send(plain(BROADCAST, MAC2, "from a member"))
        capture.wait_for(lambda data: b"from a member" in data)
    assert not [data for data in capture.data if b"stranger" in data]
    assert MAC3 not in str(flows(one, LEARNED))
    # Announced there it is a member, and not for longer than that.
    settled(one, agent, net.add({three.vtep: [[MAC3, "10.0.0.3"]]}))
    heard(here, stranger, plain(BROADCAST, MAC3, "announced"))
    settled(one, agent, net.remove({three.vtep: [[MAC3, "10.0.0.3"]]}))
    with here.capture() as capture:
        stranger.send(plain(BROADCAST, MAC3, "withdrawn"))
        wait_until(lambda: f"3 in network {net.id}" in health(site, one).get("strangers", ""), "3")
    assert not [data for data in capture.data if b"withdrawn" in data]
    # Nobody is known: nothing says who is a stranger.
    settled(one, agent, net.remove({two.vtep: [FLOODING, [MAC2, "10.0.0.2"]]}))
    heard(here, stranger, plain(BROADCAST, MAC3, "as long as nobody is known"))


def test_everybody_is_let_in_where_that_is_wanted(site: Site) -> None:
    one, _, _ = site.lab.hosts
    frame = plain(BROADCAST, MAC3, "from anybody")
    site.agent(one).stop()
    kinds = ",".join(KINDS)
    config = one.agent_config(ovs_l2pop={"tunnel_types": kinds, "known_vteps_only": False})
    site.agents[one.name] = one.start_agent(config=config)
    try:
        heard(machine(site, "vxlan1"), machine(site, "vxlan3"), frame)
        assert "strangers" not in health(site, one)
    finally:
        site.agent(one).stop()
        config = one.agent_config(ovs_l2pop={"tunnel_types": kinds, "known_vteps_only": True})
        site.agents[one.name] = one.start_agent(config=config)


@pytest.mark.parametrize("changing", ["another", "the sender"])
def test_a_member_is_heard_while_members_come_and_go(site: Site, changing: str) -> None:
    """The way in closes and opens behind it: no frame of it meets a closed one."""
    one, two, three = site.lab.hosts
    here, speaker = machine(site, "vxlan1"), machine(site, "vxlan2")
    agent = site.agent(one)
    if changing == "another":
        changes = [call({three.vtep: [FLOODING]}) for call in (NET.add, NET.remove)]
    else:  # the only one: with it the network is closed, without it open
        body = {two.vtep: [FLOODING, [MAC2, "10.0.0.2"]]}
        changes = [call(body) for call in (NET.remove, NET.add)]
    frames = [plain(BROADCAST, MAC2, f"frame {number}.") for number in range(400)]
    with here.capture() as capture:
        for number, frame in enumerate(frames):
            speaker.send(frame)
            if number % 10 == 5:
                send(agent, changes[number // 10 % 2])
            time.sleep(0.002)
        capture.wait_for(lambda data: data == frames[-1])
        time.sleep(0.1)
    assert [data for data in capture.data if data in frames] == frames


# -- what is here stays here -------------------------------------------------------------------


def test_a_silent_machine_here_is_not_moved_by_a_frame_from_a_tunnel(site: Site) -> None:
    one, two, _ = site.lab.hosts
    here, near, far = (machine(site, name) for name in ("vxlan1", "near1", "vxlan2"))
    far.send(plain(BROADCAST, MAC1, "I am vxlan1"))
    far.send(plain(NEAR1, MAC1, "I am vxlan1"))
    # It has gone through when the next one is there.
    heard(here, far, plain(BROADCAST, MAC2, "the end"))
    assert MAC1 not in str(flows(one, LEARNED))
    assert MAC1 not in one.appctl("fdb/show", "br-int")
    two.appctl("fdb/flush", "br-int")  # it believes its own machine
    heard(here, near, plain(MAC1, NEAR1, "from near"))
    heard(here, far, plain(MAC1, MAC2, "from far"))


def test_what_was_learned_of_an_announced_machine_goes_with_the_announcement(site: Site) -> None:
    one, two, three = site.lab.hosts
    agent = site.agent(one)
    mac, pair = "fa:16:3e:00:00:55", ["fa:16:3e:00:00:55", "10.0.0.55"]
    send(agent, NET.add({three.vtep: [FLOODING], two.vtep: [pair]}))
    heard(machine(site, "vxlan1"), machine(site, "vxlan3"), plain(BROADCAST, mac, "I am elsewhere"))
    for _ in range(2):  # until the switch has learned all that it can from that frame
        one.appctl("revalidator/wait")
    send(agent, NET.remove({two.vtep: [pair]}))
    assert mac not in str(flows(one, LEARNED))
    # As for any machine that nobody knows: copies to all, until it speaks.
    frame = plain(mac, MAC1, "where are you?")
    with site.lab.capture_underlay() as underlay:
        machine(site, "vxlan1").send(frame)
        underlay.wait_for(lambda data: b"where are you" in data, count=2)
    assert {tunnel.destination for tunnel in copies(underlay.frames)} == {two.vtep, three.vtep}


# -- what is elsewhere stays there -------------------------------------------------------------


def pinned(host: Host, mac: str) -> bool:
    table = host.appctl("fdb/show", "br-int")
    return any(mac in line and "static" in line for line in table.splitlines())


@pytest.mark.parametrize(
    "frame",
    [
        arp(MAC2, "10.0.0.2", "10.0.0.2"),
        plain(MAC1, MAC2, "to a neighbour"),
        plain("fa:16:3e:00:00:99", MAC2, "to nobody"),
        plain(MAC2, MAC2, "to itself"),
    ],
    ids=["announcement", "to a neighbour", "to nobody", "to itself"],
)
def test_a_guest_that_takes_the_address_of_a_machine_elsewhere(site: Site, frame: bytes) -> None:
    one, two, _ = site.lab.hosts
    here, near, far = (machine(site, name) for name in ("vxlan1", "near1", "vxlan2"))
    here.send(plain(BROADCAST, MAC1, "I am here"))
    near.send(frame)
    wait_until(lambda: pinned(one, MAC2), "it is pinned", timeout=2.5)
    heard(far, here, plain(MAC2, MAC1, "to the real one"))
    # As often as it likes.
    near.send(frame)
    heard(far, here, plain(MAC2, MAC1, "to the real one again"))
    for told in (site.agent(one).log(), health(site, one)["machines elsewhere"]):
        assert MAC2 in told
        assert NET.id in told
        assert near.port in told
    # It has moved here in earnest, and the message comes.
    send(
        site.agent(one),
        NET.add({one.vtep: [[MAC2, "10.0.0.2"]]}),
        NET.remove({two.vtep: [[MAC2, "10.0.0.2"]]}),
    )
    assert not pinned(one, MAC2)
    heard(near, here, plain(MAC2, MAC1, "to where it is now"))
    assert "machines elsewhere" not in health(site, one)
    send(site.agent(one), NET.remove({one.vtep: [[MAC2, "10.0.0.2"]]}))


def test_a_pin_outlives_the_agent_and_goes_with_the_network(site: Site) -> None:
    one, _, _ = site.lab.hosts
    machine(site, "near1").send(plain(BROADCAST, MAC2, "I am vxlan2"))
    wait_until(lambda: pinned(one, MAC2), "it is pinned")
    site.agent(one).stop()
    assert pinned(one, MAC2)
    site.agents[one.name] = one.start_agent(
        config=one.agent_config(ovs_l2pop={"tunnel_types": ",".join(KINDS)})
    )
    wait_until(lambda: MAC2 in health(site, one).get("machines elsewhere", ""), "it is known")
    send(site.agent(one), NET.detach())
    assert not pinned(one, MAC2)
    send(site.agent(one), NET.attach(5))


def test_a_machine_here_that_was_believed_elsewhere_is_found(site: Site) -> None:
    """It was behind the tunnel when it spoke last, and is silent since it came."""
    one, two, _ = site.lab.hosts
    near, far = machine(site, "near1"), machine(site, "vxlan2")
    mac = near.mac
    heard(near, far, plain(BROADCAST, mac, "from where it was"))
    assert mac in one.appctl("fdb/show", "br-int")
    pairs = pairs_of(near)
    send(site.agent(one), NET.add({one.vtep: pairs}))
    try:
        wait_until(lambda: mac not in one.appctl("fdb/show", "br-int"), "it is forgotten", 3.0)
        heard(near, machine(site, "vxlan1"), plain(mac, MAC1, "to where it is"))
    finally:
        send(site.agent(one), NET.remove({one.vtep: pairs}))
    assert two.vtep


def test_static_entries_of_an_operator_stay(site: Site) -> None:
    one, two, _ = site.lab.hosts
    near, mac, other = machine(site, "near1"), "fa:16:3e:00:00:66", "fa:16:3e:00:00:67"
    far = {two.vtep: [[other, "10.0.0.67"]]}
    one.appctl("fdb/add", "br-int", near.port, "5", MAC2)
    one.appctl("fdb/add", "br-int", "patch-tun", "5", mac)
    before = [line for line in one.appctl("fdb/show", "br-int").splitlines() if "static" in line]
    try:
        send(site.agent(one), NET.add(far))
        near.send(plain(BROADCAST, other, "look here"))
        wait_until(lambda: pinned(one, other), "the agent has looked")
        send(site.agent(one), NET.remove(far))
        table = one.appctl("fdb/show", "br-int").splitlines()
        assert sorted(line for line in table if "static" in line) == sorted(before)
    finally:
        one.appctl("fdb/del", "br-int", "5", MAC2)
        one.appctl("fdb/del", "br-int", "5", mac)

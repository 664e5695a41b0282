"""Who sends a packet for which the underlay has no room is told, in all kinds of tunnels.

h1, h2: a machine each in a network of every kind, with a larger MTU than the underlay (1600) takes
"""

import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from feed_helpers import Net, Site, drift, wait_until
from switch_helpers import table

from l2pop_lab.topology import Host, Lab, Machine, namespaces

KINDS = {"vxlan": (1, 5, 1550), "geneve": (2, 6, 1550), "gre": (3, 7, 1558)}
NETS = {kind: Net(number, 76 + number, kind) for kind, (number, _, _) in KINDS.items()}
LARGE = 1700


@pytest.fixture(scope="module")
def site(lab2: Lab) -> Site:
    site = Site.start(lab2, ovs_l2pop={"tunnel_types": ",".join(KINDS), "drift_interval": 1})
    for kind, (number, vlan, _) in KINDS.items():
        machines = []
        for place, host in enumerate(lab2.hosts, 1):
            name, mac = f"{kind}{place}", f"fa:16:3e:00:0{number}:0{place}"
            addresses = [f"10.0.{number}.{place}", f"fd00:{number}::{place}"]
            machines.append(host.add_machine(name, mac, addresses, tag=vlan, mtu=LARGE))
        site.populate(NETS[kind], machines)
    wait_until(lambda: all(map(answering, lab2.hosts)), "packets are measured")
    return site


@pytest.fixture(autouse=True)
def nothing_learned(site: Site) -> Iterator[None]:
    yield
    for host in site.lab.hosts:
        assert drift(site.agent(host)) == []
        for machine in host.machines.values():
            machine.exec("ip", "route", "flush", "cache")
            machine.exec("ip", "-6", "route", "flush", "cache")


def answering(host: Host) -> bool:
    return sum("check_pkt_larger" in flow for flow in table(host, 2)) == len(KINDS)


def pair(site: Site, kind: str, six: bool) -> tuple[Machine, str]:
    """A machine, and the address of its peer."""
    number = KINDS[kind][0]
    peer = f"fd00:{number}::2" if six else f"10.0.{number}.2"
    return site.lab.hosts[0].machines[f"{kind}1"], peer


def ping(machine: Machine, peer: str, packet: int, *more: str) -> tuple[bool, str]:
    """Whether one echo of an IP packet of that size is answered; what ping says."""
    heads = 48 if ":" in peer else 28
    words = ["ping", "-n", "-c", "1", "-W", "1", "-s", str(packet - heads), *more, peer]
    text = machine.exec(*words, check=False)
    return " 1 received" in text, text


def path_mtu(machine: Machine, peer: str) -> int | None:
    """What the machine's kernel has heard."""
    (route,) = json.loads(machine.exec("ip", "-j", "route", "get", peer))
    metrics = route.get("metrics", [{}])
    found = metrics[0].get("mtu") if metrics else None
    return None if found is None else int(found)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_byte_too_many_is_told(site: Site, kind: str, six: bool) -> None:
    machine, peer = pair(site, kind, six)
    most = KINDS[kind][2]
    wait_until(lambda: ping(machine, peer, most, "-M", "do")[0], "what fits is answered")
    assert path_mtu(machine, peer) is None
    answered, said = ping(machine, peer, most + 1, "-M", "do")
    assert not answered
    assert re.search(rf"mtu\s?=\s?{most}\b", said), said
    assert path_mtu(machine, peer) == most


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_transfer_goes_through(site: Site, six: bool) -> None:
    machine, peer = pair(site, "vxlan", six)
    other = site.lab.hosts[1].machines["vxlan2"]
    family = socket.AF_INET6 if six else socket.AF_INET

    def listen() -> socket.socket:
        return socket.create_server((peer, 7777), family=family)

    listener = namespaces.call(other.namespace, listen)
    data, came = bytes(300_000), bytearray()

    def take() -> None:
        taken, _ = listener.accept()
        with taken:
            taken.settimeout(10)
            while piece := taken.recv(1 << 16):
                came.extend(piece)

    thread = threading.Thread(target=take)
    thread.start()

    def give() -> None:
        with socket.create_connection((peer, 7777), timeout=10) as giver:
            giver.sendall(data)

    namespaces.call(machine.namespace, give)
    thread.join(15)
    listener.close()
    assert len(came) == len(data)
    assert path_mtu(machine, peer) == KINDS["vxlan"][2]


@pytest.mark.expected_warnings(r"Message too long")
def test_who_permits_fragments_is_not_told(site: Site) -> None:
    machine, peer = pair(site, "vxlan", False)
    answered, said = ping(machine, peer, 1600, "-M", "dont")
    assert not answered
    assert "mtu" not in said
    assert path_mtu(machine, peer) is None


@pytest.mark.expected_warnings(r"Message too long")  # until the agent has noticed
def test_the_underlay_changes(site: Site) -> None:
    one = site.lab.hosts[0]
    machine, peer = pair(site, "vxlan", False)
    one.exec("ip", "link", "set", "dev", "phy0", "mtu", "1450")

    def told() -> bool:
        return ping(machine, peer, 1500, "-M", "do")[0] or path_mtu(machine, peer) == 1400

    wait_until(told, "1400 are told")
    assert path_mtu(machine, peer) == 1400
    one.exec("ip", "link", "set", "dev", "phy0", "mtu", "1600")

    def through() -> bool:
        machine.exec("ip", "route", "flush", "cache")  # it may have been told 1400 again
        return ping(machine, peer, 1550, "-M", "do")[0]

    wait_until(through, "1550 go through again")


def test_nothing_is_measured_where_nobody_sends_more(site: Site) -> None:
    two = site.lab.hosts[1]
    for machine in list(two.machines.values()):
        machine.remove()
    wait_until(lambda: not any("check_pkt_larger" in f for f in table(two, 2)), "no flows for it")
    assert drift(site.agent(two)) == []

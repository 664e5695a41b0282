"""``broadcast_rate``: what a network may flood, by meters of the switch.

h1: vm1 in one network, vm2 in another     h2: vm3, vm4, announced to be there
"""

import json
import time
from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, Site, drift, send, wait_until
from frame_helpers import BROADCAST, arp, plain, solicitation

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine

MACS = {f"vm{number}": f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3, 4)}
NET, OTHER = Net(1, 77), Net(2, 78)
RATE = 20


def meters(host: Host) -> set[str]:
    """As ovs-ofctl prints them."""
    text = host.ofctl("dump-meters", "br-tun")
    return {" ".join(f"meter={meter}".split()) for meter in text.split("meter=")[1:]}


def limited(rate: int, *vlans: int) -> set[str]:
    """What :func:`meters` says then."""
    band = f"type=drop rate={rate} burst_size={rate}"
    return {f"meter={0x6000 + vlan} pktps burst stats bands= {band}" for vlan in vlans}


@pytest.fixture(scope="module")
def site(lab2: Lab) -> Site:
    one, two = lab2.hosts
    one.add_machine("vm1", MACS["vm1"], "10.0.0.1", tag=5)
    one.add_machine("vm2", MACS["vm2"], "10.0.0.2", tag=6)
    two.add_machine("vm3", MACS["vm3"], "10.0.0.3", tag=5)
    two.add_machine("vm4", MACS["vm4"], "10.0.0.4", tag=6)
    # Of meters the switch tells nothing unasked.
    site = Site.start(lab2, ovs_l2pop={"drift_interval": 1}, openvswitch={"broadcast_rate": RATE})
    for net, names in ((NET, ("vm1", "vm3")), (OTHER, ("vm2", "vm4"))):
        site.populate(net, [machine(site, name) for name in names])
    return site


def machine(site: Site, name: str) -> Machine:
    return site.lab.hosts[0 if name in ("vm1", "vm2") else 1].machines[name]


def agent(site: Site) -> AgentProcess:
    return site.agent(site.lab.hosts[0])


@pytest.mark.parametrize(
    "frame",
    [
        plain(BROADCAST, MACS["vm1"], "storm"),
        plain("33:33:00:00:00:99", MACS["vm1"], "storm"),
        plain("fa:16:3e:00:00:77", MACS["vm1"], "storm"),
        arp(MACS["vm1"], "10.0.0.1", "10.0.0.77"),
        solicitation(MACS["vm1"], "fe80::1", "fe80::77", sll=MACS["vm1"]),
    ],
    ids=["broadcast", "multicast", "unknown unicast", "unknown ARP", "unknown ND"],
)
def test_a_storm_takes_nothing_from_others(site: Site, frame: bytes) -> None:
    vm1, vm2, vm3, vm4 = (machine(site, name) for name in ("vm1", "vm2", "vm3", "vm4"))
    other = plain(BROADCAST, MACS["vm2"], "of another network")
    unicast = plain(MACS["vm3"], MACS["vm1"], "to one alone")
    began = time.monotonic()
    with site.lab.capture_underlay() as underlay, vm4.capture() as heard, vm3.capture() as told:
        for number in range(400):
            vm1.send(frame)
            if number == 300:
                vm2.send(other)
                vm1.send(unicast)
        heard.wait_for(lambda data: data == other)
        told.wait_for(lambda data: data == unicast)
        with vm1.capture() as answers:
            vm1.send(arp(MACS["vm1"], "10.0.0.1", "10.0.0.3"))
            answers.wait_for(lambda data: data[12:14] == b"\x08\x06" and data[20:22] == b"\0\2")
    took = time.monotonic() - began
    came = sum(frame in captured.data for captured in underlay.frames)
    assert 0 < came <= RATE * (took + 1) + 1
    rows = json.loads(agent(site).cli("show", "health", "-f", "json").stdout)
    (row,) = [row for row in rows if row["what"] == "broadcast"]
    assert row["state"] == "ok"
    assert f"over {RATE} a second" in row["detail"]
    assert NET.id in row["detail"]
    assert OTHER.id not in row["detail"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda host: host.ofctl("del-meter", "br-tun", f"meter={0x6005}"),
        lambda host: host.ofctl("del-meters", "br-tun"),
        lambda host: host.ofctl(
            "mod-meter", "br-tun", f"meter={0x6005},kbps,band=type=drop,rate=1"
        ),
        lambda host: host.ofctl(
            "add-meter", "br-tun", f"meter={0x6077},pktps,band=type=drop,rate=1"
        ),
    ],
    ids=["one deleted", "all deleted", "changed", "one more"],
)
def test_meters_are_healed(site: Site, damage: Callable[[Host], object]) -> None:
    one = site.lab.hosts[0]
    damage(one)
    wait_until(lambda: meters(one) == limited(RATE, 5, 6), "meters are as they were")
    assert drift(agent(site)) == []


def test_others_meters_stay(site: Site) -> None:
    one = site.lab.hosts[0]
    one.ofctl("add-meter", "br-tun", "meter=7,pktps,band=type=drop,rate=9")
    assert drift(agent(site)) == []
    one.ofctl("del-meter", "br-tun", "meter=7")


def test_a_large_flood_is_metered_once(site: Site) -> None:
    # Two shards: metered once more in each, half of the rate would be over it.
    everywhere = {f"10.201.{number // 250}.{number % 250 + 1}": [FLOODING] for number in range(450)}
    send(agent(site), NET.add(everywhere))
    vm1, vm3 = machine(site, "vm1"), machine(site, "vm3")
    frame = plain(BROADCAST, MACS["vm1"], "to very many")
    time.sleep(1)  # the meter's own time until it is full again
    with vm3.capture() as heard:
        for _ in range(RATE // 2):
            vm1.send(frame)
        heard.wait_for(lambda data: data == frame, count=RATE // 2)
    send(agent(site), NET.remove(everywhere))
    assert drift(agent(site)) == []


def test_a_network_takes_its_meter_along(site: Site) -> None:
    one = site.lab.hosts[0]
    send(agent(site), OTHER.detach())
    assert meters(one) == limited(RATE, 5)
    send(agent(site), OTHER.attach(8))
    assert meters(one) == limited(RATE, 5, 8)
    send(agent(site), OTHER.attach(6))
    assert meters(one) == limited(RATE, 5, 6)
    assert drift(agent(site)) == []


@pytest.mark.parametrize("rate", [30, 0, RATE])
def test_another_rate(site: Site, rate: int) -> None:
    one = site.lab.hosts[0]
    agent(site).stop()
    config = one.agent_config(openvswitch={"broadcast_rate": rate})
    site.agents[one.name] = one.start_agent(config=config)
    wait_until(lambda: meters(one) == (limited(rate, 5, 6) if rate else set()), "the new rate")
    assert drift(agent(site)) == []

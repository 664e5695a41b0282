"""What is announced behind any address of a host is on that host, whichever its VTEP is.

h1: vm1, vm2 in one network
"""

from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, Site, drift, pairs_of, send, wait_until
from linuxbridge_helpers import attach, plug

from l2pop_lab.topology import Host, Lab, Machine

NET = Net(1, 77)
#: Another address of h1's, there from the beginning; one that it gets later.
OTHER, LATER = "10.200.0.77", "10.200.0.78"


def address(host: Host, verb: str, address: str) -> None:
    device = (
        "phy0" if "phy0" in host.exec("ip", "-br", "addr", "show", "to", host.vtep) else "br-phy"
    )
    host.exec("ip", "address", verb, f"{address}/32", "dev", device)


@pytest.fixture(scope="module", params=["openvswitch", "linuxbridge"])
def place(
    request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]
) -> tuple[Site, list[Machine]]:
    kind = request.param
    lab = make_module_lab(2, **({"linuxbridge": [1, 2]} if kind == "linuxbridge" else {}))
    host = lab.hosts[0]
    address(host, "add", OTHER)
    site = Site.start(lab)
    macs = [f"fa:16:3e:00:00:0{number}" for number in (1, 2)]
    send(site.agent(host), attach(NET) if kind == "linuxbridge" else NET.attach(5))
    machines = [
        plug(host, f"vm{n}", mac, NET, [f"10.0.0.{n}"])
        if kind == "linuxbridge"
        else host.add_machine(f"vm{n}", mac, [f"10.0.0.{n}"], tag=5)
        for n, mac in enumerate(macs, 1)
    ]
    return site, machines


def tunnels(site: Site) -> str:
    return site.agents["h1"].cli("show", "vteps", "-f", "value").stdout


def test_another_address_of_the_host(place: tuple[Site, list[Machine]]) -> None:
    site, machines = place
    send(site.agents["h1"], NET.add({OTHER: [FLOODING, *pairs_of(machines[1])]}))
    reach_each_other(site, machines)


def test_an_address_that_the_host_gets_later(place: tuple[Site, list[Machine]]) -> None:
    site, machines = place
    host, agent = site.lab.hosts[0], site.agents["h1"]
    send(agent, NET.add({LATER: [FLOODING, *pairs_of(machines[1])]}))
    address(host, "add", LATER)
    wait_until(lambda: f"{LATER} 1 1 1 True" in tunnels(site), "it is known to be here")
    reach_each_other(site, machines)
    address(host, "del", LATER)
    wait_until(lambda: f"{LATER} 1 1 1 False" in tunnels(site), "it is elsewhere again")
    send(agent, NET.remove({LATER: [FLOODING, *pairs_of(machines[1])]}))


def reach_each_other(site: Site, machines: list[Machine]) -> None:
    one = machines[0]
    with site.lab.hosts[0].capture("phy0", direction="out") as capture:
        one.forget_neighbours()
        result = one.ping("10.0.0.2", count=5)
    assert (result.received, result.duplicates) == (5, 0)
    assert [frame for frame in capture.stop() if OTHER_BYTES in frame.data] == []
    assert drift(site.agents["h1"]) == []


OTHER_BYTES = bytes([10, 200, 0, 77])

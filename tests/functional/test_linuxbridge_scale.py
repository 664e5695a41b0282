"""Many networks, entries and VTEPs on a Linux bridge host."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
from feed_helpers import FLOODING, Net, answer_to, drift, lines, send
from frame_helpers import BROADCAST, plain
from linuxbridge_helpers import (
    SCALE,
    attach,
    bridge_of,
    devices,
    flooding,
    neighbours,
    plug,
    unicast,
)

from l2pop_lab.topology import AgentProcess, Host, Lab
from l2pop_lab.topology.frames import decode
from ovs_l2pop.core.wire import Message

NET = Net(5000, 77)


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1, linuxbridge=[1]).hosts[0]


def accepted(agent: AgentProcess, messages: Iterator[Message]) -> float:
    """Send messages, which must all be taken; the seconds that it took."""
    data = lines(messages).encode()
    start = time.monotonic()
    answer = answer_to(agent, data)
    assert answer == {"refused": [], "refused_count": 0, "pending": None}
    return time.monotonic() - start


def mac(number: int) -> str:
    return f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def ip(number: int) -> str:
    return f"10.{number // 62500 + 1}.{number // 250 % 250}.{number % 250 + 1}"


def test_many_networks(host: Host) -> None:
    agent = host.start_agent()
    count = 150 * SCALE
    nets = [Net(number, 1000 + number) for number in range(count)]

    def messages() -> Iterator[Message]:
        for net in nets:
            yield attach(net)
            yield net.add({"10.200.0.11": [FLOODING, [mac(net.number), ip(net.number)]]})

    accepted(agent, messages())
    assert len(devices(host, "vxlan")) == len(devices(host, "bridge")) == count
    assert drift(agent) == []
    for net in nets[::50]:
        assert unicast(host, f"vxlan-{net.segment}") == {mac(net.number): "10.200.0.11"}
        assert flooding(host, f"vxlan-{net.segment}") == ["10.200.0.11"]
        assert neighbours(host, bridge_of(net)) == {ip(net.number): mac(net.number)}
    # One network more, or less, costs what it costs alone.
    start = time.monotonic()
    send(agent, attach(NET), NET.add({"10.200.0.11": [FLOODING]}))
    assert time.monotonic() - start < 2
    agent.kill()
    agent = host.start_agent()
    assert drift(agent) == []
    accepted(agent, (net.detach() for net in nets))
    assert devices(host) == {"vxlan-77", bridge_of(NET)}
    assert drift(agent) == []


def test_many_entries(host: Host) -> None:
    """All are there, in both tables of each, and so are the neighbours; none was lost."""
    count = 5_000 * SCALE
    agent = host.start_agent()
    ports: dict[str, list[list[str]]] = {}
    for number in range(count):
        ports.setdefault(f"10.200.1.{number % 200 + 1}", [FLOODING]).append(
            [mac(number), ip(number)]
        )
    accepted(agent, iter([attach(NET), NET.add(ports)]))
    written = unicast(host, "vxlan-77")
    assert written == {mac(n): f"10.200.1.{n % 200 + 1}" for n in range(count)}
    assert neighbours(host, bridge_of(NET)) == {ip(n): mac(n) for n in range(count)}
    assert len(flooding(host, "vxlan-77")) == 200
    assert drift(agent) == []
    # What is lost is found, however it was.
    host.exec("bridge", "fdb", "flush", "dev", "vxlan-77", "self")
    assert len(drift(agent)) > count
    assert agent.cli("repair", "-f", "value").returncode == 0
    assert unicast(host, "vxlan-77") == written
    # All machines move.
    moved = {"10.200.2.1": [FLOODING, *([mac(n), ip(n)] for n in range(count))]}
    accepted(agent, iter([NET.add(moved), NET.remove(ports)]))
    assert set(unicast(host, "vxlan-77").values()) == {"10.200.2.1"}
    assert flooding(host, "vxlan-77") == ["10.200.2.1"]
    assert len(neighbours(host, bridge_of(NET))) == count
    assert drift(agent) == []


def test_what_was_learned_in_masses_gives_way(host: Host) -> None:
    """From flood and learn to L2 population, in a network where everybody has spoken."""
    agent = host.start_agent()
    send(agent, attach(NET))
    count = 3000
    script = "".join(
        f"fdb add {mac(n)} dev vxlan-77 dst 10.200.3.1 self dynamic\n" for n in range(count)
    )
    host.exec("bridge", "-batch", "-", input=script)
    entries = [[mac(n), ip(n)] for n in range(count)]
    accepted(agent, iter([NET.add({"10.200.3.2": [FLOODING, *entries]})]))
    assert set(unicast(host, "vxlan-77").values()) == {"10.200.3.2"}
    assert len(unicast(host, "vxlan-77")) == count
    assert drift(agent) == []


@pytest.mark.parametrize("vteps", [400, 1000])
def test_a_flood_to_many_vteps(host: Host, vteps: int) -> None:
    """One copy to each, of everything that is flooded."""
    agent = host.start_agent()
    send(agent, attach(NET))
    machine = plug(host, "vm1", mac(1), NET)
    wanted = [f"10.200.{4 + n // 250}.{n % 250 + 1}" for n in range(vteps)]
    send(agent, NET.add({vtep: [FLOODING] for vtep in wanted}))
    assert flooding(host, "vxlan-77") == sorted(wanted)
    # Nobody answers ARP for them.
    host.exec("ip", "route", "add", "10.200.0.0/16", "via", "10.200.0.2")
    gateway = "10.200.0.2 lladdr 02:00:00:00:00:02 dev phy0 nud permanent"
    host.exec("ip", "neighbour", "replace", *gateway.split())
    for destination in (BROADCAST, "33:33:00:00:00:01", mac(99)):
        text = f"flood to {destination}".encode()
        with host.capture(direction="out") as sent:
            machine.send(plain(destination, mac(1), text.decode()))
            sent.wait_for(lambda data, text=text: text in data, count=vteps)  # type: ignore[misc]
        copies = [decode(data).tunnel for data in sent.data if text in data]
        assert sorted(copy.destination for copy in copies if copy) == sorted(wanted)
    # One VTEP more and one less write one entry each.
    send(agent, NET.remove({wanted[7]: [FLOODING]}), NET.add({"10.200.3.3": [FLOODING]}))
    assert flooding(host, "vxlan-77") == sorted({*wanted, "10.200.3.3"} - {wanted[7]})
    shown = json.loads(agent.cli("check", "-f", "json").stdout)
    assert shown == []

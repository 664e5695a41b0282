"""An agent of a Linux bridge host ends and comes back, in good order or by SIGKILL.

h1                   h2
vm1 ─ brq… ─ vxlan-77   vm2      a ping runs from vm1 to vm2
"""

import json
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from feed_helpers import FLOODING, Net, Site, drift, lines, send, wait_until
from frame_helpers import arp, mac_bytes
from linuxbridge_helpers import (
    SCALE,
    Kernel,
    Monitor,
    announce,
    attach,
    devices,
    plug,
    restart,
    unicast,
)

from l2pop_lab.topology import AgentProcess, Host, Lab

MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))
A, B = "10.200.0.11", "10.200.0.12"
NET, MANY = Net(1, 77), Net(2, 78)


@pytest.fixture(scope="module")
def site(make_module_lab: Callable[..., Lab]) -> Site:
    site = Site.start(make_module_lab(2, linuxbridge=[1, 2]))
    machines = []
    for number, host in enumerate(site.lab.hosts, 1):
        send(site.agent(host), attach(NET), attach(MANY))
        addresses = [f"10.0.0.{number}", f"fd00::{number}"]
        machines.append(plug(host, f"vm{number}", (MAC1, MAC2)[number - 1], NET, addresses))
        send(site.agent(host), MANY.add(many(2000)))
    announce(site, NET, machines)
    assert machines[0].ping("10.0.0.2").lost == 0
    return site


def many(count: int, start: int = 0) -> dict[str, list[list[str]]]:
    """Machines behind ten VTEPs."""
    ports: dict[str, list[list[str]]] = {}
    for number in range(start, start + count):
        pair = [
            f"fa:16:3f:00:{number // 256:02x}:{number % 256:02x}",
            f"10.{number // 62500 + 1}.{number // 250 % 250}.{number % 250 + 1}",
        ]
        ports.setdefault(f"10.200.1.{number % 10 + 1}", [FLOODING]).append(pair)
    return ports


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_loses_and_writes_nothing(site: Site, number: int) -> None:
    """No packet, no device, no entry, no neighbour, no filter; not for a moment."""
    one, _ = site.lab.hosts
    before = Kernel.of(one)
    with Monitor(one) as monitor:
        with one.machines["vm1"].ping_forever("10.0.0.2") as running:
            agent = restart(site, one, number)
            assert drift(agent) == []
        assert monitor.events() == []
        # The monitors would have seen it.
        send(agent, NET.add({A: [[MAC3, "10.0.0.66"]]}))
        send(agent, NET.remove({A: [[MAC3, "10.0.0.66"]]}))
        assert [event for event in monitor.events() if MAC3 in event]
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.sent > 5
    assert Kernel.of(one) == before


@pytest.mark.parametrize("dropped", ["", "-sys_admin"], ids=["goes on", "makes its own"])
def test_questions_are_answered_all_the_while(site: Site, dropped: str) -> None:
    """By the programs that are there, until the next agent's take their place: who may not have
    those of others fills a map of its own first."""
    one, _ = site.lab.hosts
    send(site.agent(one), NET.add({A: [[MAC3, "10.0.0.66"]]}))  # there is no such machine
    python = one.directory / "python"
    bounds = f"setpriv --bounding-set={dropped} " if dropped else ""
    python.write_text(f'#!/bin/sh\nexec {bounds}{sys.executable} "$@"\n')
    python.chmod(0o755)
    before = programs(one)
    vm1, question = one.machines["vm1"], arp(MAC1, "10.0.0.1", "10.0.0.66")
    with vm1.capture() as seen:
        site.agent(one).stop(signal.SIGKILL)
        agent = one.start_agent(python=str(python), wait=False)
        site.agents[one.name] = agent
        asked = 0
        while asked < 20 or not (one.directory / "agent.sock").exists():
            vm1.send(question)
            asked += 1
            time.sleep(0.02)
        agent.wait_ready()
        vm1.send(question)
        owner = mac_bytes(MAC3)
        wait_until(
            lambda: sum(data[6:12] == owner for data in seen.data) == asked + 1,
            "each question is answered, once",
        )
    assert (programs(one) == before) == (not dropped)
    assert drift(agent) == []
    send(agent, NET.remove({A: [[MAC3, "10.0.0.66"]]}))


def programs(host: Host) -> list[str]:
    """Numbers of the programs that filters run."""
    ways = ("ingress", "egress")
    shown = (host.exec("tc", "filter", "show", "dev", "vxlan-77", way) for way in ways)
    return re.findall(r" id (\d+) ", " ".join(shown))


def test_what_changed_while_the_agent_was_away_is_put_right(site: Site) -> None:
    one, _ = site.lab.hosts
    before = Kernel.of(one)
    site.agent(one).kill()
    for command in (
        f"bridge fdb del {MAC2} dev vxlan-77 self",
        "ip link set vxlan-77 type vxlan ttl 7",
        "ip link set vxlan-78 nomaster",
        f"bridge fdb append 00:00:00:00:00:00 dev vxlan-77 dst {B}",
        "ip link set vxlan-77 mtu 1300",
    ):
        one.exec(*command.split())
    site.agents[one.name] = one.start_agent()
    assert drift(site.agent(one)) == []
    assert Kernel.of(one) == before


def test_a_second_agent_waits(site: Site) -> None:
    """With a state and a socket of its own, but for the same bridges."""
    one, _ = site.lab.hosts
    before = Kernel.of(one)
    config = one.agent_config(
        ovs_l2pop={
            "state_path": one.directory / "state2",
            "control_socket": one.directory / "agent2.sock",
        }
    )
    second = one.start_agent(config=config)
    one.agent_config()
    checked = second.cli("check")
    assert checked.returncode == 2
    assert "another agent programs the Linux bridges of this host" in checked.stderr
    assert Kernel.of(one) == before
    assert second.stop() == 0
    assert drift(site.agent(one)) == []


def test_killed_at_any_moment(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """In the middle of a large send, and of an exchange of all devices: a restart finds the rest,
    and nothing is left over."""
    host = make_lab(1, linuxbridge=[1]).hosts[0]
    agent = host.start_agent()
    nets = [Net(number, 100 + number) for number in range(1, 31)]
    path = tmp_path / "messages"
    path.write_text(
        lines(m for net in nets for m in (attach(net), net.add(many(50, 50 * net.number))))
    )
    choice = random.Random(4)
    seen = set()
    port = 4789
    for attempt in range(4 * SCALE):
        if attempt % 2:  # another port for all of them
            port = 8472 if port == 4789 else 4789
            agent.stop()
            config = host.agent_config(vxlan={"udp_dstport": port})
            agent = host.start_agent(config=config, wait=False)
            time.sleep(0.4 + choice.random() / 2)
        else:
            send(agent, *(net.detach() for net in nets))
            _send_until(agent, path, host, choice.randrange(2, 2 * len(nets)))
        agent.kill()
        seen.add(len(devices(host)))
        agent = host.start_agent(config=host.directory / "agent.conf")
        assert drift(agent) == [], f"attempt {attempt}"
    assert agent.cli("send", str(path)).returncode == 0
    assert devices(host, "vxlan") == {f"vxlan-{net.segment}" for net in nets}
    links = json.loads(host.exec("ip", "-j", "-d", "link"))
    ports = {
        entry["linkinfo"]["info_data"]["port"]
        for entry in links
        if entry.get("linkinfo", {}).get("info_kind") == "vxlan"
    }
    assert ports == {port}
    assert all(len(unicast(host, f"vxlan-{net.segment}")) == 50 for net in nets)
    assert drift(agent) == []
    assert len(seen) > 1, "it was never killed in the middle"


def _send_until(agent: AgentProcess, path: Path, host: Host, count: int) -> None:
    """Kill the agent when it has made so many devices."""
    thread = threading.Thread(target=lambda: agent.cli("send", str(path)))
    thread.start()
    while thread.is_alive() and len(devices(host)) < count:
        pass
    agent.kill()
    thread.join()


def test_messages_survive(site: Site) -> None:
    one, _ = site.lab.hosts
    agent = site.agent(one)
    send(agent, NET.add({A: [[MAC3, "10.0.0.66"]]}))
    restart(site, one, signal.SIGKILL)
    assert unicast(one, "vxlan-77")[MAC3] == A
    send(site.agent(one), NET.remove({A: [[MAC3, "10.0.0.66"]]}))
    assert MAC3 not in unicast(one, "vxlan-77")

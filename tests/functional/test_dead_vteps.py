"""A VTEP that is dead gets no floods, where the agent is told to ask; real frames and real silence.

h1 ─ vm1      h2      h3      one network; h1 asks every 0.2 s
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, Site, drift, send, wait_until
from frame_helpers import BROADCAST, plain
from linuxbridge_helpers import plug

from l2pop_lab.topology import AgentProcess, Host, Lab, LinuxBridgeHost, Machine, namespaces
from l2pop_lab.topology.frames import decode
from ovs_l2pop.agent.client import ask

NET = Net(1, 77)
ALL = ["ok", "2 of 2 answer"]
MACS = [f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module", params=[[], [1]], ids=["Open vSwitch", "Linux bridge"])
def site(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Site:
    site = Site.start(
        make_module_lab(3, linuxbridge=request.param), ovs_l2pop={"vtep_probe_interval": 0.2}
    )
    everybody = {
        host.vtep: [FLOODING, [mac, f"10.0.0.{number}"]]
        for number, (host, mac) in enumerate(zip(site.lab.hosts, MACS, strict=True), 1)
    }
    for number, (host, mac) in enumerate(zip(site.lab.hosts, MACS, strict=True), 1):
        send(site.agent(host), NET.attach(5), NET.add(everybody))
        if isinstance(host, LinuxBridgeHost):
            plug(host, f"vm{number}", mac, NET)
        else:
            host.add_machine(f"vm{number}", mac, tag=5)
    return site


def underlay(site: Site, host: Host, state: str) -> None:
    """The other end of its cable."""
    command = ["ip", "link", "set", "dev", host.name, state]
    subprocess.run(namespaces.command(site.lab.underlay, command), check=True)


def health(agent: AgentProcess) -> dict[str, list[str]]:
    rows: list[Any] = ask(agent.control_socket, {"command": "show", "what": "health"})["rows"]
    return {row[0]: row[1:] for row in rows}


def troubled(agent: AgentProcess) -> bool:
    return health(agent)["VTEPs"][0] == "trouble"


def reached(site: Site, sender: Machine, destination: str) -> set[str]:
    """VTEPs that copies of a frame go to."""
    text = f"to {destination}"
    with sender.host.capture(direction="out") as sent:
        for number in range(3):
            sender.send(plain(destination, sender.mac, f"{text} {number}"))
        sent.wait_for(lambda data: f"{text} 2".encode() in data)
    tunnels = (decode(data).tunnel for data in sent.data if text.encode() in data)
    return {tunnel.destination for tunnel in tunnels if tunnel}


def test_who_is_dead_gets_no_floods_until_it_answers(site: Site) -> None:
    one, two, three = site.lab.hosts
    vm1 = one.machines["vm1"]
    wait_until(lambda: health(site.agent(one))["VTEPs"] == ALL, "all answer")
    assert reached(site, vm1, BROADCAST) == {two.vtep, three.vtep}
    underlay(site, three, "down")
    try:
        wait_until(lambda: troubled(site.agent(one)), "h3 is dead")
        state, detail = health(site.agent(one))["VTEPs"]
        assert state == "trouble"
        assert detail == f"1 of 2 don't answer, and get no floods: {three.vtep}"
        wait_until(lambda: reached(site, vm1, BROADCAST) == {two.vtep}, "only h2 gets floods")
        assert reached(site, vm1, MACS[1]) == {two.vtep}
        assert drift(site.agent(one)) == []
    finally:
        underlay(site, three, "up")
    wait_until(lambda: health(site.agent(one))["VTEPs"] == ALL, "h3 answers again")
    wait_until(lambda: reached(site, vm1, BROADCAST) == {two.vtep, three.vtep}, "both get floods")
    assert f"VTEP {three.vtep} doesn't answer any more" in site.agent(one).log()


def test_who_is_cut_off_takes_nobody_for_dead(site: Site) -> None:
    one, two, _ = site.lab.hosts
    wait_until(lambda: health(site.agent(one))["VTEPs"] == ALL, "all answer")
    underlay(site, one, "down")
    try:
        wait_until(lambda: troubled(site.agent(two)), "h2 hasn't heard of h1")
        assert not troubled(site.agent(one))
    finally:
        underlay(site, one, "up")
    wait_until(lambda: health(site.agent(two))["VTEPs"] == ALL, "h1 answers again")


def test_who_may_not_ask_says_so(make_lab: Callable[..., Lab]) -> None:
    """Without the capability, and in no group that may."""
    (host,) = make_lab(1).hosts
    host.exec("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
    python = host.directory / "python"
    python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-net_raw {sys.executable} "$@"\n')
    python.chmod(0o755)
    config = host.agent_config(ovs_l2pop={"vtep_probe_interval": 0.2})
    agent = host.start_agent(config=config, python=str(python))
    send(agent, NET.attach(5), NET.add({"192.0.2.9": [FLOODING]}))
    wait_until(lambda: troubled(agent), "it says so")
    assert "can't be asked: Operation not permitted" in health(agent)["VTEPs"][1]

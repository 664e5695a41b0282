"""The agent's table is lost, damaged, or can't be kept; the machines must not notice.

h1            h2
vm1 ─ br-int  vm2     a network; a ping runs from vm1 to vm2. h1's agent is the one with bad luck.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feed_helpers import (
    FLOODING,
    Message,
    Net,
    Site,
    drift,
    pairs_of,
    send,
    wait_healthy,
    wait_until,
)
from linuxbridge_helpers import Kernel, announce, attach, plug
from switch_helpers import Switch

from ovs_l2pop.lab import AgentProcess, Host, Lab

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
A, B = "10.200.0.11", "10.200.0.12"
NET, OTHER = Net(1, 77), Net(2, 78)


class World:
    """A site of either kind, and what was told to its first host."""

    def __init__(self, lab: Lab, kind: str) -> None:
        self.kind = kind
        self.site = Site.start(lab)
        one, two = lab.hosts
        ips = (["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"])
        if kind == "linuxbridge":
            self.attach = [attach(NET), attach(OTHER)]
            for agent in self.site.agents.values():
                send(agent, attach(NET))
            machines = [
                plug(host, f"vm{n}", mac, NET, ip)
                for n, host, mac, ip in zip((1, 2), (one, two), (MAC1, MAC2), ips, strict=True)
            ]
            announce(self.site, NET, machines)
        else:
            self.attach = [NET.attach(5), OTHER.attach(9)]
            machines = [
                host.add_machine(f"vm{n}", mac, ip, tag=4 + n, dad=False)
                for n, host, mac, ip in zip((1, 2), (one, two), (MAC1, MAC2), ips, strict=True)
            ]
            self.site.populate(NET, machines)
        ports = {two.vtep: [FLOODING, *pairs_of(machines[1])], A: [FLOODING], B: [FLOODING]}
        self.entries = [
            NET.add(ports),
            OTHER.add(
                {A: [FLOODING, *([f"fa:16:3f:00:00:{n:02x}", f"10.1.0.{n}"] for n in range(1, 99))]}
            ),
        ]
        send(self.agent, *self.attach, *self.entries)
        self.machine = machines[0]
        assert self.machine.ping("10.0.0.2").lost == 0

    @property
    def host(self) -> Host:
        return self.site.lab.hosts[0]

    @property
    def agent(self) -> AgentProcess:
        return self.site.agent(self.host)

    @property
    def state(self) -> Path:
        return self.host.directory / "state"

    def installed(self) -> object:
        return Kernel.of(self.host) if self.kind == "linuxbridge" else Switch.of(self.host)

    def start(self, **options: object) -> AgentProcess:
        config = self.host.agent_config(ovs_l2pop=options)
        self.site.agents[self.host.name] = self.host.start_agent(config=config)
        return self.agent

    def entries_shown(self) -> int:
        return len(json.loads(self.agent.cli("show", "entries", "-f", "json").stdout))


@pytest.fixture(scope="module", params=["openvswitch", "linuxbridge"])
def world(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> World:
    options = {"linuxbridge": [1, 2]} if request.param == "linuxbridge" else {}
    return World(make_module_lab(2, **options), request.param)


def health(agent: AgentProcess) -> dict[str, list[str]]:
    """What → state and detail."""
    rows = json.loads(agent.cli("show", "health", "-f", "json").stdout)
    return {row["what"]: [row["state"], row["detail"]] for row in rows}


def kept(agent: AgentProcess) -> str:
    return health(agent).get("kept of before", ["", ""])[1]


# -- lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lost_table_costs_nothing(world: World, number: int) -> None:
    """Nothing is deleted until somebody has spoken; then what that leaves out goes."""
    before = world.installed()
    with world.machine.ping_forever("10.0.0.2") as running:
        world.agent.stop(number)
        shutil.rmtree(world.state)
        agent = world.start()
        assert world.installed() == before
        assert "rows of networks that nobody has spoken for" in kept(agent)
        assert agent.cli("show", "health").returncode == 1
        assert drift(agent) == []
        assert agent.cli("repair").returncode == 0
        # Also for the next life, if nothing was said in this one.
        agent.kill()
        agent = world.start()
        assert world.installed() == before
        # Told as a feeder tells it, one after the other, and not all of what was.
        send(agent, world.attach[0])
        for message in one_by_one(world.entries[0], without=B):
            send(agent, message)
        assert len(json.loads(agent.cli("show", "health", "-f", "json").stdout)) > 4
        wait_until(lambda: gone(world, B), "what nobody knows any more of NET has gone", 15)
        assert kept(agent), "of OTHER nobody has spoken"
        send(agent, world.attach[1], *world.entries)
        wait_healthy(agent, 15)
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.sent > 100
    assert world.installed() == before
    assert drift(agent) == []


def one_by_one(message: Message, without: str) -> Iterator[Message]:
    ((_, body),) = message["fdb_entries"].items()
    for vtep, pairs in body["ports"].items():
        if vtep != without:
            for pair in pairs:
                yield NET.add({vtep: [pair]})


def gone(world: World, vtep: str) -> bool:
    if world.kind == "linuxbridge":
        return vtep not in world.host.exec("bridge", "fdb", "show", "dev", "vxlan-77")
    return "vxlan-0ac8000c" not in world.host.ofctl(
        "--names", "dump-flows", "br-tun", "table=22,dl_vlan=5"
    )


def test_what_nobody_speaks_for_goes_later_and_is_told(world: World) -> None:
    before = world.installed()
    world.agent.stop()
    shutil.rmtree(world.state)
    agent = world.start(orphan_time=3)
    send(agent, world.attach[0], world.entries[0])
    wait_until(lambda: "nobody has spoken for networks" in agent.log(), "the rest goes", 20)
    assert "deleted: " in agent.log()
    wait_healthy(agent, 10)
    assert world.installed() != before
    assert world.machine.ping("10.0.0.2").lost == 0
    assert drift(agent) == []
    agent.stop()
    agent = world.start()  # all is known to be known: nothing is kept
    assert kept(agent) == ""
    send(agent, *world.attach, *world.entries)
    assert drift(agent) == []


def test_a_place_that_another_network_gets_is_that_ones(world: World) -> None:
    """Its frames must not come to who was there before."""
    world.agent.stop()
    shutil.rmtree(world.state)
    agent = world.start()
    if world.kind == "openvswitch":
        send(agent, Net(3, 79).attach(9))
        shown = world.host.ofctl("dump-flows", "br-tun")
        assert "10.1.0.7" not in shown, "of the network that had VLAN 9"
        assert "0x4e" not in shown, "VNI 78"
        assert "0x4f" in shown
        send(agent, Net(3, 79).detach())
    send(agent, *world.attach, *world.entries)
    wait_healthy(agent, 15)
    assert drift(agent) == []
    assert world.machine.ping("10.0.0.2").lost == 0

"""Random messages, settings and damage on a Linux bridge host: the kernel has what the table says.

What should be there is derived from the table's facts in a way of its own, and read with iproute2.
"""

import json
import random
import signal
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from feed_helpers import FLOODING, Message, Net, answer_to, drift, lines
from linuxbridge_helpers import attach, devices, flooding, neighbours, unicast, vxlan

from ovs_l2pop.lab import AgentProcess, Host, Lab
from ovs_l2pop.messages import Parser
from ovs_l2pop.table import (
    FloodFact,
    ForwardingTable,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
)

STEPS = 30
NETS = [Net(number, 100 + number) for number in range(4)]
VTEPS = [f"10.200.0.{number}" for number in (11, 12, 13)]


class World:
    """The truth, told to an agent piece by piece."""

    def __init__(self, host: Host, seed: int) -> None:
        self.choice = random.Random(seed)
        self.host = host
        self.table = ForwardingTable(host.vtep)
        self.options: dict[str, object] = {}

    def message(self) -> Message:
        choice = self.choice
        net = choice.choice(NETS)
        kind = choice.random()
        if kind < 0.15:
            return attach(net, choice.choice([None, None, "br-op"]))
        if kind < 0.2:
            return attach(Net(net.number, choice.choice([net.segment, 200 + net.number])))
        if kind < 0.28:
            return net.detach()
        segment = choice.choice([net.segment, net.segment, 200 + net.number])
        net = Net(net.number, segment)
        vtep = choice.choice([*VTEPS, self.host.vtep])
        pairs = [self.pair() for _ in range(choice.randrange(5))]
        if choice.random() < 0.5:
            pairs.append(FLOODING)
        if kind < 0.7:
            return net.add({vtep: pairs})
        if kind < 0.92:
            return net.remove({vtep: pairs})
        return net.chg_ip(vtep, [self.pair()], [self.pair()])

    def pair(self) -> list[str]:
        machine, address = self.choice.randrange(1, 9), self.choice.randrange(1, 9)
        ip = f"10.0.0.{address}" if self.choice.random() < 0.7 else f"fd00::{address}"
        return [f"fa:16:3e:00:00:0{machine}", ip]

    def tell(self, agent: AgentProcess, messages: list[Message]) -> None:
        answer = answer_to(agent, lines(messages).encode())
        assert answer["pending"] is None
        for message in messages:
            for change in Parser(self.host.vtep).parse(message)[0]:
                self.table.apply(change)

    def wanted(self) -> dict[str, Any]:
        populate = self.options.get("l2_population", True)
        answers = populate and self.options.get("arp_responder", True)
        state: dict[str, Any] = {}
        entries: dict[str, dict[str, str]] = defaultdict(dict)
        floods: dict[str, list[str]] = defaultdict(list)
        known: dict[str, dict[str, str]] = defaultdict(dict)
        for _, fact in self.table.facts(self.table.keys()):
            if fact is None:
                continue
            name = f"vxlan-{fact.attachment.segment.segment_id}"
            bridge = fact.attachment.bridge or f"brq{fact.attachment.network_id[:11]}"
            match fact:
                case NetworkFact():
                    state[name] = bridge
                case UnicastFact(_, mac, vtep) if populate:
                    entries[name][mac] = vtep
                case FloodFact(_, vteps) if populate:
                    floods[name] += vteps
                case NeighbourFact(_, ip, mac) if answers:
                    known[bridge][ip] = mac
        return {
            "tunnels": state,
            "unicast": {name: entries[name] for name in state},
            "flooding": {
                name: sorted(floods[name]) if populate else ["239.1.1.1"] for name in state
            },
            "neighbours": {bridge: known[bridge] for bridge in state.values()},
            "port": {name: self.options.get("udp_dstport", 4789) for name in state},
            "ttl": {name: self.options.get("ttl", 0) for name in state},
        }

    def there(self) -> dict[str, Any]:
        host = self.host
        links = {
            entry["ifname"]: entry.get("master")
            for entry in _links(host)
            if entry.get("linkinfo", {}).get("info_kind") == "vxlan"
        }
        return {
            "tunnels": links,
            "unicast": {name: unicast(host, name) for name in links},
            "flooding": {name: flooding(host, name) for name in links},
            "neighbours": {bridge: neighbours(host, bridge) for bridge in links.values() if bridge},
            "port": {name: vxlan(host, name)["port"] for name in links},
            "ttl": {name: vxlan(host, name)["ttl"] for name in links},
        }

    def other_settings(self) -> None:
        choice = self.choice
        self.options = {
            "ttl": choice.choice([0, 5]),
            "udp_dstport": choice.choice([4789, 8472]),
            "arp_responder": choice.random() < 0.7,
            "l2_population": choice.random() < 0.7,
            "vxlan_group": "239.1.1.1",
        }

    def damage(self) -> list[str]:
        """Something that somebody else does; what repair has to mend."""
        names = sorted(devices(self.host, "vxlan"))
        if not names:
            return []
        name = self.choice.choice(names)
        return self.choice.choice(
            [
                ["ip", "link", "delete", name],
                ["ip", "link", "set", name, "down"],
                ["ip", "link", "set", name, "nomaster"],
                ["bridge", "fdb", "flush", "dev", name, "self"],
                ["bridge", "link", "set", "dev", name, "neigh_suppress", "off"],
            ]
        )


def _links(host: Host) -> list[dict[str, Any]]:
    found = json.loads(host.exec("ip", "-j", "-d", "link"))
    return [entry for entry in found if entry]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_kernel_holds_what_the_table_says(make_lab: Callable[..., Lab], seed: int) -> None:
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    world = World(host, seed)
    agent = host.start_agent()
    for step in range(STEPS):
        told = [world.message() for _ in range(world.choice.randrange(1, 25))]
        # One bridge for one network: what is refused is another test's.
        named = [m for m in told if m.get("bridge") and m["network_id"] != NETS[0].id]
        world.tell(agent, [m for m in told if m not in named])
        kind = world.choice.random()
        if kind < 0.15:
            agent.stop(world.choice.choice([signal.SIGTERM, signal.SIGKILL]))
            world.other_settings()
            agent = host.start_agent(config=host.agent_config(vxlan=world.options))
        elif kind < 0.3 and (command := world.damage()):
            host.exec(*command, check=False)
            assert agent.cli("repair").returncode == 0
        assert drift(agent) == [], f"step {step}"
        assert world.there() == world.wanted(), f"step {step}"
    world.tell(agent, [net.detach() for net in NETS])
    assert devices(host) == {"br-op"}

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
from feed_helpers import FLOODING, Net, answer_to, drift, lines
from linuxbridge_helpers import SCALE, attach, devices, link, repair

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.core.messages import Parser
from ovs_l2pop.core.table import (
    FloodFact,
    ForwardingTable,
    LocalFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
)
from ovs_l2pop.core.wire import Message

STEPS = 12 * SCALE
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
            return attach(Net(net.number, choice.choice(NETS).segment))
        if kind < 0.28:
            return net.detach()
        segments = {a.network_id: a.segment.segment_id for a in self.table.attachments()}
        segment = choice.choice([segments.get(net.id, net.segment), choice.choice(NETS).segment])
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

    def hear(self, message: Message) -> None:
        for change in Parser(self.host.vtep).parse(message)[0]:
            self.table.apply(change)

    def tell(self, agent: AgentProcess, messages: list[Message]) -> None:
        answer = answer_to(agent, lines(messages).encode())
        # A VNI that another network has is refused before it comes to the kernel.
        assert [text for text in answer["refused"] if text.startswith("switch")] == []
        assert answer["pending"] is None

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
                case LocalFact(_, mac) if populate:
                    entries[name][mac] = "0.0.0.0"
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
        # All at once: to ask for each device takes a process each.
        links = {
            entry["ifname"]: entry
            for entry in self._listed("ip", "-j", "-d", "link")
            if entry.get("linkinfo", {}).get("info_kind") == "vxlan"
        }
        bridges = {name: entry.get("master") for name, entry in links.items()}
        state: dict[str, Any] = {
            "tunnels": bridges,
            "unicast": {name: {} for name in links},
            "flooding": {name: [] for name in links},
            "neighbours": {bridge: {} for bridge in bridges.values() if bridge},
        }
        for entry in self._listed("bridge", "-j", "fdb", "show"):
            name, mac = entry["ifname"], entry["mac"]
            if name in links and "dst" in entry and entry["state"] == "permanent":
                if mac == FLOODING[0]:
                    state["flooding"][name] = sorted([*state["flooding"][name], entry["dst"]])
                else:
                    state["unicast"][name][mac] = entry["dst"]
        for entry in self._listed("ip", "-j", "neighbour", "show", "nud", "permanent"):
            if entry["dev"] in state["neighbours"]:
                state["neighbours"][entry["dev"]][entry["dst"]] = entry["lladdr"]
        for key in ("port", "ttl"):
            state[key] = {
                name: entry["linkinfo"]["info_data"][key] for name, entry in links.items()
            }
        return state

    def _listed(self, *command: str) -> list[dict[str, Any]]:
        return [entry for entry in json.loads(self.host.exec(*command) or "[]") if entry]

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
        name, other = self.choice.choice(names), self.choice.choice(names)
        bridge, far = link(self.host, name)["master"], link(self.host, other)["master"]
        mac, _ = self.pair()
        entry = f"bridge fdb replace {mac} dev {name} dst 10.200.0.99 self"
        return self.choice.choice(
            [
                [f"ip link delete {name}"],
                [f"ip link set {name} down"],
                [f"ip link set {name} nomaster"],
                [f"ip link set {name} master {far}"],
                [f"ip link set {name} down", f"ip link set {name} name other"],
                [f"ip link set {name} mtu 1200"],
                [f"ip link set {name} type vxlan ttl 9"],
                [f"ip link set dev {name} alias ovs-l2pop"],
                [f"ip link set {bridge} down"],
                [f"ip link set {bridge} address 02:00:00:00:00:99"],
                [f"bridge fdb flush dev {name} self"],
                [f"bridge fdb flush dev {name} master"],
                [f"bridge fdb append 00:00:00:00:00:00 dev {name} dst 10.200.0.99"],
                [f"{entry} extern_learn permanent"],
                [f"bridge link set dev {name} neigh_suppress off"],
                [f"ip neighbour flush dev {bridge} nud permanent"],
                [f"tc qdisc delete dev {name} clsact"],
                ["ip link set phy0 down", "ip link set phy0 up"],
            ]
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_the_kernel_holds_what_the_table_says(make_lab: Callable[..., Lab], seed: int) -> None:
    (host,) = make_lab(1, linuxbridge=[1]).hosts
    host.exec("ip", "link", "add", "br-op", "type", "bridge")
    world = World(host, seed)
    agent = host.start_agent()
    for step in range(STEPS):
        told = []
        for _ in range(world.choice.randrange(1, 25)):
            message = world.message()
            # One bridge for one network: what is refused is another test's.
            if not message.get("bridge") or message["network_id"] == NETS[0].id:
                told.append(message)
                world.hear(message)
        world.tell(agent, told)
        kind = world.choice.random()
        if kind < 0.15:
            agent.stop(world.choice.choice([signal.SIGTERM, signal.SIGKILL]))
            world.other_settings()
            agent = host.start_agent(config=host.agent_config(vxlan=world.options))
        elif kind < 0.5 and (commands := world.damage()):
            for command in commands:
                host.exec(*command.split(), check=False)
            assert repair(agent) == [], commands
        assert drift(agent) == [], f"step {step}"
        assert world.there() == world.wanted(), f"step {step}"
    world.tell(agent, [net.detach() for net in NETS])
    assert devices(host) == {"br-op"}

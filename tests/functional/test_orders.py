"""Messages late, twice, in the wrong order: the switch ends up as if all had gone well.

One host without machines; VTEPs are addresses that nobody has to have.
"""

import random
from collections.abc import Callable, Iterator

import pytest
from feed_helpers import FLOODING, Net, Pair, send, wait_until
from switch_helpers import (
    ARP_RESPONDER,
    FLOOD_TO_TUN,
    ND_RESPONDER,
    UCAST_TO_TUN,
    FlowMonitor,
    Switch,
    flows,
    ports,
    table,
)

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.core.wire import Message

A, B, C = (f"10.200.0.{number}" for number in (11, 12, 13))
NET = Net(1, 77)
MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
IP1, IP2 = "10.0.0.1", "10.0.0.2"
SIX1 = "fd00::1"


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1).hosts[0]


@pytest.fixture(scope="module")
def running(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent()
    yield agent
    assert agent.stop() == 0


@pytest.fixture
def agent(running: AgentProcess, host: Host) -> Iterator[AgentProcess]:
    """An agent with NET attached and nothing else, and the same again after the test."""
    send(running, NET.attach(5))
    bare = Switch.of(host)
    yield running
    pairs = [FLOODING] + [[mac, ip] for mac in (MAC1, MAC2) for ip in (IP1, IP2, SIX1)]
    send(running, NET.remove(dict.fromkeys((A, B, C), pairs)))
    assert Switch.of(host) == bare


def unicast(host: Host) -> dict[str, str]:
    """MAC → tunnel port."""
    found = {}
    for flow in table(host, UCAST_TO_TUN):
        mac = flow.split("dl_dst=")[1].split()[0].split(",")[0]
        found[mac] = flow.rsplit('output:"', 1)[1].rstrip('"')
    return found


def answers(host: Host) -> dict[str, str]:
    """IP → MAC that is answered."""
    found = {}
    for number, field in ((ARP_RESPONDER, "arp_tpa="), (ND_RESPONDER, "nd_target=")):
        for flow in table(host, number):
            if field in flow:
                ip = flow.split(field)[1].split(",")[0].split()[0]
                found[ip] = flow.split("set_field:")[1].split("->")[0]
    return found


def flood(host: Host) -> list[str]:
    """Tunnel ports to flood to."""
    (found,) = table(host, FLOOD_TO_TUN) or [""]
    return sorted(part.split('"')[1] for part in found.split(",") if "output:" in part)


TO_A, TO_B, TO_C = "vxlan-0ac8000b", "vxlan-0ac8000c", "vxlan-0ac8000d"


def machine(vtep: str, mac: str, *addresses: str) -> dict[str, list[Pair]]:
    return {vtep: [[mac, ip] for ip in addresses]}


# -- migrations and reused addresses -----------------------------------------------------------


@pytest.mark.parametrize("new_first", [True, False], ids=["add, remove", "remove, add"])
@pytest.mark.parametrize("at_once", [True, False], ids=["one batch", "one by one"])
def test_migration(agent: AgentProcess, host: Host, new_first: bool, at_once: bool) -> None:
    """A17, S7: MAC and IP go from A to B, in both orders."""
    where = (MAC1, IP1, SIX1)
    send(agent, NET.add(machine(A, *where)))
    assert unicast(host) == {MAC1: TO_A}
    messages = [NET.add(machine(B, *where)), NET.remove(machine(A, *where))]
    if not new_first:
        messages.reverse()
    for batch in [messages] if at_once else [[message] for message in messages]:
        send(agent, *batch)
    assert unicast(host) == {MAC1: TO_B}
    assert answers(host) == {IP1: MAC1, SIX1: MAC1}
    assert ports(host) == {"patch-int", TO_B}


def test_migration_is_one_step(agent: AgentProcess, host: Host) -> None:
    """No moment without a flow to the machine: it is changed in place."""
    send(agent, NET.add(machine(A, MAC1, IP1)))
    with FlowMonitor(host) as monitor:
        send(agent, NET.add(machine(B, MAC1, IP1)))
        send(agent, NET.remove(machine(A, MAC1, IP1)))
        events = [event for event in monitor.events() if MAC1 in event]
    # An added flow takes the place of one with the same match; one that went would be told.
    assert [event.split()[0] for event in events if "table=20" in event] == ["ADDED"]
    assert [event for event in events if "table=21" in event] == []


def test_late_down_from_the_old_host(agent: AgentProcess, host: Host) -> None:
    """S8: what upstream casts when the old host reports the port down, long after the migration."""
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]], B: [FLOODING]}))
    send(agent, NET.remove(machine(A, MAC1, IP1)), NET.add(machine(B, MAC1, IP1)))
    before = Switch.of(host)
    send(agent, NET.remove({A: [[MAC1, IP1]]}))
    assert Switch.of(host) == before
    # Here the old host has lost its last port, too: its tunnel goes, the machine stays.
    send(agent, NET.remove({A: [FLOODING, [MAC1, IP1]]}))
    assert (unicast(host), answers(host)) == ({MAC1: TO_B}, {IP1: MAC1})
    assert flood(host) == [TO_B]
    assert ports(host) == {"patch-int", TO_B}


@pytest.mark.parametrize("new_first", [True, False], ids=["add, remove", "remove, add"])
@pytest.mark.parametrize("vtep", [A, B], ids=["same VTEP", "other VTEP"])
def test_address_given_to_a_new_machine(
    agent: AgentProcess, host: Host, new_first: bool, vtep: str
) -> None:
    """A18: the IP goes from MAC1 to MAC2."""
    send(agent, NET.add(machine(A, MAC1, IP1, SIX1)))
    messages = [NET.add(machine(vtep, MAC2, IP1, SIX1)), NET.remove(machine(A, MAC1, IP1, SIX1))]
    for message in messages if new_first else reversed(messages):
        send(agent, message)
    assert answers(host) == {IP1: MAC2, SIX1: MAC2}
    assert unicast(host) == {MAC2: TO_A if vtep == A else TO_B}


def test_who_waits_takes_over(agent: AgentProcess, host: Host) -> None:
    """Two claim one MAC; the newest wins, and with it gone the other is served again."""
    send(agent, NET.add(machine(A, MAC1, IP1)))
    send(agent, NET.add(machine(B, MAC1, IP1)))
    assert unicast(host) == {MAC1: TO_B}
    send(agent, NET.remove(machine(B, MAC1, IP1)))
    assert unicast(host) == {MAC1: TO_A}
    send(agent, NET.add(machine(B, MAC2, IP1)))
    assert answers(host) == {IP1: MAC2}
    send(agent, NET.remove(machine(B, MAC2, IP1)))
    assert answers(host) == {IP1: MAC1}


# -- removals ----------------------------------------------------------------------------------


def test_every_removal_twice(agent: AgentProcess, host: Host) -> None:
    """A2."""
    everything = {A: [FLOODING, [MAC1, IP1], [MAC1, SIX1]], B: [FLOODING, [MAC2, IP2]]}
    bare = Switch.of(host)
    send(agent, NET.add(everything))
    for removal in (
        NET.remove(machine(A, MAC1, SIX1)),
        NET.remove({A: [FLOODING]}),
        NET.remove(everything),
    ):
        send(agent, removal)
        once = Switch.of(host)
        send(agent, removal)
        send(agent, removal, removal)
        assert Switch.of(host) == once
    assert once == bare


def test_removal_of_what_is_unknown(agent: AgentProcess, host: Host) -> None:
    """A3: network, VTEP, MAC, IP, flooding entry."""
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]]}))
    before = Switch.of(host)
    send(
        agent,
        Net(50, 500).remove({A: [FLOODING, [MAC1, IP1]]}),
        NET.remove({B: [FLOODING, [MAC1, IP1]]}),
        NET.remove(machine(A, MAC2, IP1)),
        NET.remove(machine(A, MAC1, IP2)),
        NET.remove({A: []}),
        NET.remove({}),
        NET.chg_ip(B, [[MAC1, IP1]], []),
        Net(50, 500).detach(),
    )
    assert Switch.of(host) == before


# -- attachments -------------------------------------------------------------------------------


def test_entries_before_the_attachment(agent: AgentProcess, host: Host) -> None:
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]]}), NET.add(machine(B, MAC2, IP2, SIX1)))
    before = Switch.of(host)
    send(agent, NET.detach())
    assert ports(host) == {"patch-int"}
    assert not [flow for flow in flows(host) if "dl_vlan=5" in flow or "tun_id=" in flow]
    # What is told meanwhile is kept in mind.
    send(agent, NET.add({C: [FLOODING]}), NET.remove(machine(B, MAC2, SIX1)))
    assert ports(host) == {"patch-int"}
    send(agent, NET.attach(5))
    assert flood(host) == [TO_A, TO_C]
    assert answers(host) == {IP1: MAC1, IP2: MAC2}
    send(agent, NET.remove({C: [FLOODING]}), NET.add(machine(B, MAC2, SIX1)))
    assert Switch.of(host) == before


def test_attachment_moves_to_another_vlan_or_segment(agent: AgentProcess, host: Host) -> None:
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]]}))
    before = Switch.of(host)
    send(agent, NET.attach(9))
    moved = Switch.of(host)
    assert [f.replace("dl_vlan=9", "dl_vlan=5").replace("4105", "4101") for f in moved.flows] == (
        before.flows
    )
    # The entry was told for VNI 77: from another segment its VTEP can't be reached.
    send(agent, Net(1, 99).attach(5))
    assert unicast(host) == {}
    assert ports(host) == {"patch-int"}
    send(agent, NET.attach(5))
    assert Switch.of(host) == before


def test_attach_and_detach_twice(agent: AgentProcess, host: Host) -> None:
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]]}))
    before = Switch.of(host)
    with FlowMonitor(host) as monitor:
        send(agent, NET.attach(5), NET.attach(5))
        send(agent, NET.detach(), NET.attach(5))
        assert monitor.events() == []
        send(agent, NET.detach(), NET.detach())
        send(agent, NET.detach())
    assert unicast(host) == {}
    send(agent, NET.attach(5))
    assert Switch.of(host) == before


# -- changes of addresses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        ([[MAC1, IP1]], [[MAC1, IP2]], {IP2: MAC1}),
        ([[MAC1, IP1]], [[MAC1, SIX1]], {SIX1: MAC1}),
        ([], [[MAC1, IP2]], {IP1: MAC1, IP2: MAC1}),
        (None, [[MAC1, IP2]], {IP1: MAC1, IP2: MAC1}),
        ([[MAC1, IP2]], [[MAC1, SIX1]], {IP1: MAC1, SIX1: MAC1}),
        ([[MAC1, IP1]], [[MAC1, IP1]], {IP1: MAC1}),
        ([[MAC1, IP1]], [], {}),
        ([[MAC1, IP1]], None, {}),
    ],
)
def test_change_of_addresses(
    agent: AgentProcess,
    host: Host,
    before: list[Pair] | None,
    after: list[Pair] | None,
    known: dict[str, str],
) -> None:
    send(agent, NET.add({A: [FLOODING, [MAC1, IP1]]}))
    send(agent, NET.chg_ip(A, before, after))
    assert answers(host) == known
    assert unicast(host) == ({MAC1: TO_A} if known else {})
    send(agent, NET.chg_ip(A, before, after))
    assert answers(host) == known


def test_change_of_addresses_before_anything_else(agent: AgentProcess, host: Host) -> None:
    """The message carries no segment; the machine is served in the one that the host has."""
    send(agent, NET.chg_ip(A, [[MAC1, IP1]], [[MAC1, IP2]]))
    assert (answers(host), unicast(host)) == ({IP2: MAC1}, {MAC1: TO_A})
    assert flood(host) == []


# -- a large table -------------------------------------------------------------------------------


def test_one_flood_flow_mod_for_a_table_of_300_vteps(agent: AgentProcess, host: Host) -> None:
    """A32: upstream sends 300, each longer than the one before."""
    vteps = [f"10.201.{number // 200}.{number % 200 + 1}" for number in range(300)]
    with FlowMonitor(host) as monitor:
        send(agent, NET.add({vtep: [FLOODING] for vtep in vteps}))
        events = [event for event in monitor.events() if "table=22" in event]
        assert [event.split()[0] for event in events] == ["ADDED"]
        assert events[0].count("output:") == 300
        # Also where they come as 300 messages that wait together.
        send(agent, *(NET.remove({vtep: [FLOODING]}) for vtep in vteps[:150]))
        events = [event for event in monitor.events() if "table=22" in event]
        assert [event.split()[0] for event in events] == ["ADDED", "ADDED"]
        send(agent, NET.remove({vtep: [FLOODING] for vtep in vteps}))
        events = [event for event in monitor.events() if "table=22" in event]
        assert [event.split()[0] for event in events] == ["ADDED", "ADDED", "DELETED"]
    assert ports(host) == {"patch-int"}


# -- any order -----------------------------------------------------------------------------------


class Model:
    """The final state of a sequence of messages, kept as simply as can be: lists of claims."""

    def __init__(self) -> None:
        self.attached: dict[Net, int] = {}
        self.flooding: dict[tuple[Net, str], None] = {}
        self.entries: dict[tuple[Net, str, str, str], None] = {}

    def in_one_go(self) -> Iterator[Message]:
        """Messages that tell the final state, each thing once."""
        for net, vlan in self.attached.items():
            yield net.attach(vlan)
        for net, vtep in self.flooding:
            yield net.add({vtep: [FLOODING]})
        for net, mac, ip, vtep in self.entries:
            yield net.add({vtep: [[mac, ip]]})

    def step(self, chance: random.Random, nets: list[Net]) -> Message:
        """A random message, its effect noted."""
        net, vtep = chance.choice(nets), chance.choice((A, B, C))
        pairs = [
            [f"fa:16:3e:00:00:{chance.randrange(6):02x}", self._address(chance)]
            for _ in range(chance.randrange(1, 4))
        ]
        floods = [FLOODING] if chance.random() < 0.4 else []
        kind = chance.choices(("add", "remove", "change", "attach", "detach"), (6, 6, 2, 1, 1))[0]
        if kind == "add":
            self._add(net, vtep, pairs, floods)
            return net.add({vtep: [*floods, *pairs]})
        if kind == "remove":
            if self.entries and chance.random() < 0.7:
                net, mac, ip, vtep = chance.choice(list(self.entries))
                pairs = [[mac, ip]]
            self._remove(net, vtep, pairs, floods)
            return net.remove({vtep: [*floods, *pairs]})
        if kind == "change":
            # To a VTEP that has told its segment: this message has none.
            after = [[pair[0], self._address(chance)] for pair in pairs]
            self._remove(net, vtep, pairs, [])
            self._add(net, vtep, after, [])
            return net.chg_ip(vtep, pairs, after)
        if kind == "attach":
            vlan = 10 + nets.index(net) + 10 * chance.randrange(2)
            self.attached.pop(net, None)
            self.attached[net] = vlan
            return net.attach(vlan)
        self.attached.pop(net, None)
        return net.detach()

    @staticmethod
    def _address(chance: random.Random) -> str:
        return chance.choice(("10.0.0.", "fd00::")) + str(chance.randrange(1, 6))

    def _add(self, net: Net, vtep: str, pairs: list[Pair], floods: list[Pair]) -> None:
        if floods:
            self.flooding[net, vtep] = None
        for mac, ip in pairs:
            # Said again is claimed anew.
            self.entries.pop((net, mac, ip, vtep), None)
            self.entries[net, mac, ip, vtep] = None

    def _remove(self, net: Net, vtep: str, pairs: list[Pair], floods: list[Pair]) -> None:
        if floods:
            self.flooding.pop((net, vtep), None)
        for mac, ip in pairs:
            self.entries.pop((net, mac, ip, vtep), None)


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_equals_its_outcome(make_lab: Callable[..., Lab], seed: int) -> None:
    """300 random messages, one by one and in batches; a fresh agent is told the outcome alone."""
    chance = random.Random(seed)
    nets = [Net(1, 77), Net(2, 78), Net(3, 79)]
    lab = make_lab(2)
    tried, fresh = lab.hosts
    agents = [host.start_agent(wait=False) for host in (tried, fresh)]
    for agent in agents:
        agent.wait_ready()
    model, batch = Model(), list[Message]()
    for _ in range(300):
        batch.append(model.step(chance, nets))
        if chance.random() < 0.5:
            if chance.random() < 0.2:
                batch.append(batch[-1])  # delivered twice
            send(agents[0], *batch)
            batch = []
    for net in nets[:2]:  # not an empty comparison
        batch.append(net.attach(10 + nets.index(net)))
        model.attached[net] = 10 + nets.index(net)
    send(agents[0], *batch)
    send(agents[1], *model.in_one_go())
    outcome = Switch.of(tried)
    assert outcome == Switch.of(fresh)
    assert len(outcome.flows) > 110
    wait_until(lambda: all(agent.cli("check").returncode == 0 for agent in agents), "no drift")
    for agent in agents:
        assert agent.stop() == 0

"""Broadcast in a network of 900 VTEPs reaches every one of them, which one flow can't do.

The VTEPs are addresses behind h2, which drops what it gets; copies are counted on the underlay.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

import pytest
from feed_helpers import FLOODING, Net, drift, send, wait_until
from frame_helpers import BROADCAST, arp, plain, solicitation
from switch_helpers import FLOOD_SHARD, FLOOD_TO_TUN, FlowMonitor, copies, groups, table

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine

MAC1 = "fa:16:3e:00:00:01"
NET, OTHER = Net(1, 77), Net(2, 78)
VTEPS = [f"10.201.{number // 250}.{number % 250 + 1}" for number in range(900)]


def of_floods(host: Host) -> list[str]:
    """Groups of large floods: not the one that every bridge has, which starts one packet anew."""
    return [group for group in groups(host) if "resubmit(,22)" not in group]


@pytest.fixture(scope="module")
def host(lab2: Lab) -> Host:
    one, two = lab2.hosts
    one.appctl("ovs/route/add", "10.201.0.0/16", "br-phy", two.vtep)
    one.add_machine("vm1", MAC1, tag=5)
    two.stop_vswitchd()
    return one


@pytest.fixture(scope="module")
def agent(host: Host) -> AgentProcess:
    agent = host.start_agent()
    send(agent, NET.attach(5), OTHER.attach(6))
    return agent


@pytest.fixture(scope="module")
def vm1(host: Host, agent: AgentProcess) -> Machine:
    assert agent.pid
    return host.machines["vm1"]


def reached(lab: Lab, machine: Machine, frame: bytes, count: int) -> Counter[str]:
    """VTEP → copies of *frame*, which the machine sends and which come in *count* copies."""
    needle = frame.rstrip(b"\0")
    with lab.capture_underlay() as underlay:
        machine.send(frame)
        underlay.wait_for(lambda data: needle in data, count=count, timeout=20)
    found = [t for t in copies(underlay.frames) if t.inner.source == MAC1]
    assert {(tunnel.vni, tunnel.inner.vlans) for tunnel in found} == {(NET.segment, ())}
    return Counter(tunnel.destination for tunnel in found)


@pytest.mark.parametrize("size", [400, 401, 900])
def test_every_vtep_gets_one_copy(
    lab2: Lab, host: Host, agent: AgentProcess, vm1: Machine, size: int
) -> None:
    everywhere = {vtep: [FLOODING] for vtep in VTEPS[:size]}
    send(agent, NET.add(everywhere))
    (flood,) = [flow for flow in table(host, FLOOD_TO_TUN) if "dl_vlan=5" in flow]
    shards = [flow for flow in table(host, FLOOD_SHARD) if "dl_vlan=5" in flow]
    if size <= 400:
        assert (flood.count("output:"), shards, of_floods(host)) == (size, [], [])
    else:
        assert flood.endswith(f"group:{0x6C320000 + len(shards)}")
        counts = [shard.count("output:") for shard in shards]
        if host.tunnel_ports == "flow":  # by their addresses
            assert len(shards) == (4 if size == 401 else 8)
            assert sum(counts) == size
            assert max(counts) < 200
        else:
            assert counts == ([400, 1] if size == 401 else [400, 400, 100])
    expected = dict.fromkeys(everywhere, 1)
    for frame in (
        plain(BROADCAST, MAC1, f"broadcast to {size}"),
        plain("01:00:5e:00:00:01", MAC1, f"multicast to {size}"),
        plain("fa:16:3e:00:00:99", MAC1, f"unknown unicast to {size}"),
        arp(MAC1, "10.0.0.1", "10.0.0.99"),
        arp(MAC1, "10.0.0.1", "10.0.0.1"),
        solicitation(MAC1, "fd00::1", "fd00::99", sll=MAC1),
    ):
        assert reached(lab2, vm1, frame, size) == expected
    assert drift(agent) == []


def test_two_large_networks_share_their_groups(
    lab2: Lab, host: Host, agent: AgentProcess, vm1: Machine
) -> None:
    everywhere = {vtep: [FLOODING] for vtep in VTEPS}
    send(agent, NET.add(everywhere), OTHER.add(everywhere))
    assert len(of_floods(host)) == 2
    send(agent, OTHER.remove(everywhere))
    assert len(of_floods(host)) == 2
    frame = plain(BROADCAST, MAC1, "the other one has gone")
    assert reached(lab2, vm1, frame, 900) == dict.fromkeys(VTEPS, 1)
    assert drift(agent) == []


def test_shrinking_back(lab2: Lab, host: Host, agent: AgentProcess, vm1: Machine) -> None:
    send(agent, NET.add({vtep: [FLOODING] for vtep in VTEPS}))
    for size in (700, 400, 2):
        send(agent, NET.remove({vtep: [FLOODING] for vtep in VTEPS[size:]}))
        # Where ports go with their VTEPs, that takes longer than what the switch has cached.
        host.appctl("revalidator/wait")
        frame = plain(BROADCAST, MAC1, f"{size} left")
        assert reached(lab2, vm1, frame, size) == dict.fromkeys(VTEPS[:size], 1)
        assert drift(agent) == []
    # Packets on their way may need them for a moment.
    wait_until(lambda: of_floods(host) == table(host, FLOOD_SHARD) == [], "nothing is left of it")


def test_a_change_in_a_large_network_writes_little(host: Host, agent: AgentProcess) -> None:
    """One VTEP more, one less: its shard is written, no other and no group."""
    send(agent, NET.add({vtep: [FLOODING] for vtep in VTEPS[:850]}))
    before = of_floods(host)
    for change in (NET.add, NET.remove):
        with FlowMonitor(host) as monitor:
            send(agent, change({"10.201.250.250": [FLOODING]}))
            # But for its ways in.
            events = [e for e in monitor.events() if not re.search(r"table=[04] ", e)]
        assert len(events) == 1
        assert all(event.startswith(f"ADDED table={FLOOD_SHARD} ") for event in events)
        assert of_floods(host) == before


def _flood_while(
    lab: Lab, machine: Machine, frames: int, stays: Sequence[str], changes: Callable[[], None]
) -> Counter[tuple[int, str]]:
    """(number of the frame, VTEP) → copies, but for the expected ones, while *changes* go on."""
    worker = threading.Thread(target=changes)
    numbered = re.compile(rb"frame (\d+)\.")
    with lab.capture_underlay() as underlay:
        worker.start()
        for number in range(frames):
            machine.send(plain(BROADCAST, MAC1, f"frame {number}."))
            time.sleep(0.02)
        worker.join()
        machine.send(plain(BROADCAST, MAC1, "the end"))
        underlay.wait_for(lambda data: b"the end" in data, count=len(stays), timeout=20)
    found: Counter[tuple[int, str]] = Counter()
    for data in underlay.data:
        if match := numbered.search(data):
            found[int(match[1]), str(IPv4Address(data[30:34]))] += 1
    staying = set(stays)
    counts = Counter({key: n for key, n in found.items() if key[1] in staying})
    wrong = {key: n for key, n in found.items() if n > 1}
    wrong |= {
        (number, vtep): 0 for number in range(frames) for vtep in stays if not counts[number, vtep]
    }
    return Counter(wrong)


@pytest.mark.parametrize(
    ("stay", "come"),
    [(400, 1), (395, 10), (800, 1), (2, 450)],
    ids=["over 400", "ten over 400", "over 800", "from 2 to 452"],
)
def test_no_copy_is_lost_while_members_come_and_go(
    lab2: Lab, host: Host, agent: AgentProcess, vm1: Machine, stay: int, come: int
) -> None:
    """The flood's width changes all the time; who stays gets each frame once, nobody gets two."""
    stays, others = VTEPS[:stay], {vtep: [FLOODING] for vtep in VTEPS[stay : stay + come]}
    send(agent, NET.remove({vtep: [FLOODING] for vtep in VTEPS[stay:]}))
    # Their tunnels stay: it is about flows.
    send(agent, NET.add({vtep: [FLOODING] for vtep in stays}), OTHER.add(others))
    for _ in range(2):  # the switch forwards by its caches for a moment more
        host.appctl("revalidator/wait")
    frames = 150

    def changes() -> None:
        for pause in (0.03, 0.03, 0.1, 0.03, 0.2, 0.5, 0.03, 0.03, 0.6, 0.1):
            for change in (NET.add, NET.remove):
                send(agent, change(others))
                time.sleep(pause)

    wrong = _flood_while(lab2, vm1, frames, stays, changes)
    lost = len({number for (number, _), count in wrong.items() if not count})
    twice = len({number for (number, _), count in wrong.items() if count})
    assert (lost, twice) == (0, 0), f"{len(wrong)} copies of {frames} frames"
    send(agent, OTHER.remove(others))
    assert drift(agent) == []


@pytest.mark.expected_warnings(r"resubmits yielded over 64 kB of actions", r"over \d+ k?B")
def test_why_one_flow_would_not_do(host: Host, agent: AgentProcess) -> None:
    """Open vSwitch takes the flow and then drops the frame, or part of its copies."""
    send(agent, NET.add({vtep: [FLOODING] for vtep in VTEPS}))
    shards = host.ofctl("dump-flows", "br-tun", f"table={FLOOD_SHARD}")
    each = re.findall(r"(?:set_field:[0-9.]+->tun_dst,)?output:\d+", shards)
    assert len(each) == 900
    flow = "table=22,priority=100,dl_vlan=5,actions=strip_vlan,set_field:77->tun_id"
    host.ofctl("add-flow", "br-tun", ",".join([flow, *each]))
    try:
        trace = host.trace(
            "br-int", f"in_port={host.ofport('tap-vm1')},dl_src={MAC1},dl_dst={BROADCAST}"
        )
        assert "over 64 kB of actions" in trace
    finally:
        host.ofctl("--strict", "del-flows", "br-tun", "table=22,priority=100,dl_vlan=5")
    assert drift(agent) == []

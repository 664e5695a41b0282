"""Agent, switch and database end and come back, in good order or by SIGKILL.

h1            h2
vm1 ─ br-int  vm2     one network; a ping runs from vm1 to vm2
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, pairs_of, send, wait_until
from switch_helpers import OURS, UCAST_TO_TUN, FlowMonitor, Switch, flows, table

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.core.wire import Message

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
A, B = "10.200.0.11", "10.200.0.12"
NET = Net(1, 77)
MANY = Net(2, 78)

# What a switch logs when its database goes away.
LOST_DATABASE = (
    r"db\.sock: (receive|send|connection|database connection).*(error|failed|attempt|dropped)",
    r"connection attempt failed",
    r"receive error: Connection reset by peer",
)


def build(lab: Lab) -> Site:
    one, two = lab.hosts
    vm1 = one.add_machine("vm1", MAC1, ["10.0.0.1", "fd00::1"], tag=5, dad=False)
    vm2 = two.add_machine("vm2", MAC2, ["10.0.0.2", "fd00::2"], tag=6, dad=False)
    site = Site.start(lab)
    site.populate(NET, [vm1, vm2])
    send(site.agent(one), MANY.attach(9), *many(2000), NET.add({A: [FLOODING]}))
    assert vm1.ping("10.0.0.2").lost == 0
    return site


def many(count: int) -> Iterator[Message]:
    """Messages of 500 entries each, behind ten VTEPs."""
    for start in range(0, count, 500):
        ports: dict[str, list[list[str]]] = {}
        for number in range(start, start + 500):
            pair = [f"fa:16:3f:00:{number // 256:02x}:{number % 256:02x}", ip(number)]
            ports.setdefault(f"10.200.1.{number % 10 + 1}", [FLOODING]).append(pair)
        yield MANY.add(ports)


def ip(number: int) -> str:
    return f"10.{number // 62500 + 1}.{number // 250 % 250}.{number % 250 + 1}"


@pytest.fixture(scope="module")
def site(lab2: Lab) -> Site:
    return build(lab2)


@pytest.fixture
def own_site(make_lab: Callable[..., Lab]) -> Site:
    """A site for tests that break the switch."""
    return build(make_lab(2))


def restart(site: Site, host: Host, number: int = signal.SIGTERM) -> AgentProcess:
    status = site.agent(host).stop(number)
    assert status == (0 if number == signal.SIGTERM else -number)
    site.agents[host.name] = host.start_agent()
    return site.agent(host)


def ovsdb_rows(host: Host) -> list[str]:
    """Everything about ports in the database but what the switch itself keeps there."""
    rows = host.vsctl(
        *("--columns=_uuid,name,ofport,ofport_request,options,type", "list", "Interface"),
        *("--", "--columns=_uuid,name,interfaces,external_ids,tag", "list", "Port"),
        *("--", "--columns=_uuid,name,ports,fail_mode,protocols,other_config", "list", "Bridge"),
    )
    return sorted(rows.splitlines())


# -- the agent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_agent_loses_and_writes_nothing(site: Site, number: int) -> None:
    """A6, A9, A12: no packet, no flow, no group, no port."""
    one, _ = site.lab.hosts
    before, rows = Switch.of(one), ovsdb_rows(one)
    with FlowMonitor(one) as monitor:
        with one.machines["vm1"].ping_forever("10.0.0.2") as running:
            restart(site, one, number)
            assert drift(site.agent(one)) == []
        assert monitor.events() == []
        # The monitor would have seen it.
        send(site.agent(one), NET.add({A: [[MAC1, "10.0.0.66"]]}))
        send(site.agent(one), NET.remove({A: [[MAC1, "10.0.0.66"]]}))
        # Unicast and ARP, and that vm1 is here.
        assert len(monitor.events()) == 6
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.sent > 5
    assert (Switch.of(one), ovsdb_rows(one)) == (before, rows)


def test_the_table_survives_with_the_order_of_claims(site: Site) -> None:
    one, _ = site.lab.hosts
    agent = site.agent(one)
    mac = "fa:16:3e:00:00:50"
    send(agent, NET.add({A: [[mac, "10.0.0.50"]]}))
    send(agent, NET.add({B: [[mac, "10.0.0.50"]]}))
    before = json.loads(agent.cli("show", "entries", "-f", "json").stdout)
    agent = restart(site, one, signal.SIGKILL)
    assert json.loads(agent.cli("show", "entries", "-f", "json").stdout) == before
    send(agent, NET.remove({B: [[mac, "10.0.0.50"]]}))
    assert [f for f in table(one, UCAST_TO_TUN) if mac in f and "vxlan-0ac8000b" in f]
    send(agent, NET.remove({A: [[mac, "10.0.0.50"]]}))


def test_what_changed_while_the_agent_was_away_is_put_right(site: Site) -> None:
    one, _ = site.lab.hosts
    before = Switch.of(one)
    site.agent(one).kill()
    one.ofctl("del-flows", "br-tun", f"{OURS},table=21")
    one.ofctl("mod-flows", "br-tun", f"table=20,dl_dst={MAC2},actions=drop")
    one.ofctl(
        "add-flow", "br-tun", "cookie=0x6c32706f70,table=20,priority=10,dl_vlan=99,actions=drop"
    )
    one.vsctl("del-port", "vxlan-0ac8000b")
    site.agents[one.name] = one.start_agent()
    assert drift(site.agent(one)) == []
    assert Switch.of(one) == before


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("a torn line", b'{"method":"add_fdb_entries","fdb_ent'),
        ("binary garbage", bytes(range(256)) * 40),
        (
            "whole lines of garbage",
            b'\xff\xfe{{{]\n{"method":"add_fdb_entries","fdb_entries":[1,2]}\n[]\n17\nnull\n',
        ),
    ],
)
def test_damage_in_the_state_file(site: Site, name: str, tail: bytes) -> None:
    one, _ = site.lab.hosts
    before = Switch.of(one)
    site.agent(one).kill()
    path = one.directory / "state" / "table.jsonl"
    with path.open("ab") as file:
        file.write(tail)
    agent = site.agents[one.name] = one.start_agent()
    assert Switch.of(one) == before, name
    # What is sent next is kept, and not behind the damage.
    send(agent, NET.add({A: [[MAC1, "10.0.0.67"]]}))
    changed = Switch.of(one)
    restart(site, one, signal.SIGKILL)
    assert Switch.of(one) == changed
    send(site.agent(one), NET.remove({A: [[MAC1, "10.0.0.67"]]}))
    assert Switch.of(one) == before


def test_a_second_agent_is_turned_away(site: Site) -> None:
    one, _ = site.lab.hosts
    before = Switch.of(one)
    second = one.start_agent(wait=False)
    assert second.process.wait(20) == 1
    assert "in use by another agent" in second.log()
    assert "Traceback" not in second.log()
    assert Switch.of(one) == before
    assert drift(site.agent(one)) == []


@pytest.mark.expected_warnings(r"br-tun<->unix#\d+: (connection dropped|receive error|send error)")
def test_killed_in_the_middle_of_a_large_send(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Restart and send again: all is there once, at whatever moment it was killed."""
    host = make_lab(1).hosts[0]
    agent = host.start_agent()
    count = 10000
    path = tmp_path / "messages.jsonl"
    path.write_text(lines([MANY.attach(9), *many(count)]))
    bare = len(flows(host, OURS))
    seen = []
    for part in (0, 0.05, 0.5):
        done: list[int] = []
        victim = agent

        def run(victim: AgentProcess = victim, done: list[int] = done) -> None:
            done.append(victim.cli("send", str(path)).returncode)

        sender = threading.Thread(target=run)
        sender.start()
        wait_until(lambda part=part: number_of_flows(host) >= part * 2 * count, "it has begun")  # type: ignore[misc]
        seen.append(number_of_flows(host))
        agent.kill()
        sender.join()
        assert done[0] in (0, 1)  # 0: it was faster than the kill
        agent = host.start_agent()
        assert drift(agent) == []
    answer = agent.cli("send", str(path))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert agent.cli("check").returncode == 0
    # Unicast and ARP for each, flood, the way in and strangers' way out, ten tunnels and members.
    assert number_of_flows(host) - bare == 2 * count + 4 + 20
    assert agent.stop() == 0


def number_of_flows(host: Host) -> int:
    text = host.ofctl("dump-aggregate", "br-tun", OURS)
    return int(text.rsplit("flow_count=", 1)[1].split()[0])


# -- the switch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.expected_warnings(*LOST_DATABASE)
def test_the_switch_restarts(own_site: Site, number: int) -> None:
    """A7, A8: flows and ports are back by themselves, with no server to ask."""
    one, _ = own_site.lab.hosts
    before = Switch.of(one)
    one.stop_vswitchd(number)
    one.start_vswitchd()
    wait_until(lambda: Switch.of(one) == before, "all is back")
    assert one.machines["vm1"].ping("10.0.0.2").lost == 0
    assert drift(own_site.agent(one)) == []


@pytest.mark.expected_warnings(*LOST_DATABASE)
def test_messages_while_the_switch_is_down(own_site: Site) -> None:
    one, _ = own_site.lab.hosts
    agent = own_site.agent(one)
    before = Switch.of(one)
    one.stop_vswitchd(signal.SIGKILL)
    news = NET.add({B: [FLOODING, [MAC1, "10.0.0.66"]]})
    done = agent.cli("send", input=lines([news]))
    assert done.returncode == 1
    assert "kept, and written as soon as it can be" in done.stderr
    # Also over a restart of the agent.
    agent = restart(own_site, one, signal.SIGKILL)
    assert agent.cli("check").returncode == 2
    one.start_vswitchd()
    wait_until(lambda: agent.cli("check").returncode == 0, "no drift")
    assert [flow for flow in flows(one, OURS) if "arp_tpa=10.0.0.66" in flow]
    send(agent, NET.remove({B: [FLOODING, [MAC1, "10.0.0.66"]]}))
    assert Switch.of(one) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.expected_warnings(*LOST_DATABASE)
def test_the_database_restarts(own_site: Site, number: int) -> None:
    """Flows stay; ports can be made and taken away afterwards."""
    one, _ = own_site.lab.hosts
    agent = own_site.agent(one)
    before = Switch.of(one)
    one.stop_ovsdb_server(number)
    one.start_ovsdb_server()
    assert Switch.of(one) == before
    agent_accepts(agent, NET.add({B: [FLOODING]}))
    assert "vxlan-0ac8000c" in Switch.of(one).ports
    agent_accepts(agent, NET.remove({B: [FLOODING]}))
    assert Switch.of(one) == before
    assert drift(agent) == []


def agent_accepts(agent: AgentProcess, message: Message) -> None:
    """Send a message, which may be written only after the connection is back."""
    answer = answer_to(agent, lines([message]).encode())
    assert answer["refused"] == []
    wait_until(lambda: agent.cli("check").returncode == 0, "it is written")


@pytest.mark.expected_warnings(*LOST_DATABASE)
def test_messages_while_the_database_is_down(own_site: Site) -> None:
    one, _ = own_site.lab.hosts
    agent = own_site.agent(one)
    one.stop_ovsdb_server(signal.SIGKILL)
    sent: list[dict[str, object]] = []
    sender = threading.Thread(
        target=lambda: sent.append(answer_to(agent, lines([NET.add({B: [FLOODING]})]).encode()))
    )
    sender.start()
    sender.join(2)
    one.start_ovsdb_server()
    sender.join(60)
    assert sent
    assert sent[0]["refused"] == []
    wait_until(lambda: "vxlan-0ac8000c" in Switch.of(one).ports, "the tunnel is there", 40)
    wait_until(lambda: agent.cli("check").returncode == 0, "no drift", 40)


@pytest.mark.expected_warnings(*LOST_DATABASE)
def test_switch_and_database_restart(own_site: Site) -> None:
    one, _ = own_site.lab.hosts
    before = Switch.of(one)
    one.stop_vswitchd(signal.SIGKILL)
    one.stop_ovsdb_server(signal.SIGKILL)
    one.start_ovsdb_server()
    one.start_vswitchd()
    wait_until(lambda: Switch.of(one) == before, "all is back")
    assert one.machines["vm1"].ping("10.0.0.2").lost == 0
    agent_accepts(own_site.agent(one), NET.add({B: [FLOODING]}))


def test_the_agent_is_there_before_open_vswitch(make_lab: Callable[..., Lab]) -> None:
    host = make_lab(1).hosts[0]
    vm1 = host.add_machine("vm1", MAC1, ["10.0.0.1"], tag=5)
    host.stop_vswitchd()
    host.stop_ovsdb_server()
    agent = host.start_agent()
    assert agent.cli("check").returncode == 2
    answer = answer_to(agent, lines([NET.attach(5), NET.add({A: pairs_of(vm1)})]).encode())
    assert answer["refused"] == []
    assert answer["pending"]
    assert agent.cli("show", "networks", "-f", "json").returncode == 0
    host.start_ovsdb_server()
    host.start_vswitchd()
    wait_until(lambda: agent.cli("check").returncode == 0, "no drift", 40)
    assert [flow for flow in table(host, UCAST_TO_TUN) if MAC1 in flow]
    # And it ends at once, whatever it was waiting for.
    host.stop_vswitchd()
    assert agent.stop() == 0

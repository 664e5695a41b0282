"""Behind the agent's back: what ``check`` finds, ``diff`` foretells and ``repair`` writes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from damages import DAMAGES, GROUP_DAMAGES, LARGE, MAC1, MANY, NET, TO_A, A, Damage, told
from feed_helpers import FLOODING, drift, send
from switch_helpers import FlowMonitor, Switch, flows, groups

from l2pop_lab.topology import AgentProcess, Host, Lab

#: A tunnel port whose options were cleared.
pytestmark = pytest.mark.expected_warnings(r"requires valid .remote_ip.", r"could not set config")


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent()
    told(agent)
    yield agent
    assert agent.stop() == 0


@pytest.fixture(autouse=True)
def _sound(agent: AgentProcess) -> Iterator[None]:
    """A test that fails shall not fail those behind it."""
    yield
    agent.cli("repair")


@pytest.fixture
def large(agent: AgentProcess) -> Iterator[None]:
    """A network large enough to have groups."""
    send(agent, LARGE.attach(6), LARGE.add(MANY))
    yield
    send(agent, LARGE.detach(), LARGE.remove(MANY))


def listing(agent: AgentProcess, *command: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and rows of a listing in JSON; nothing but errors goes to stderr."""
    done = agent.cli(*command, "-f", "json")
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert isinstance(rows, list)
    return done.returncode, rows


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damage(agent: AgentProcess, host: Host, name: str) -> None:
    inflict(agent, host, *DAMAGES[name])


def test_damage_to_bridges(agent: AgentProcess, host: Host) -> None:
    """A bridge that would forward by itself; the way to br-int cut, and its number lost with it."""
    before = Switch.of(host)
    host.vsctl("set", "Bridge", "br-tun", "fail_mode=standalone")  # takes all flows away, too
    code, found = listing(agent, "check")
    assert code == 1
    assert ("br-tun", "fail mode secure") in {(row["place"], row["what"]) for row in found}
    assert listing(agent, "repair")[0] == 0
    assert host.vsctl("get", "Bridge", "br-tun", "fail_mode").strip() == "secure"
    assert "NORMAL" not in str(flows(host))
    assert Switch.of(host) == before
    assert drift(agent) == []
    for port in ("patch-int", "patch-tun"):
        host.vsctl("del-port", port)
        code, found = listing(agent, "check")
        assert code == 1
        assert port in {row["what"] for row in found}
        assert listing(agent, "repair")[0] == 0
        assert Switch.of(host) == before
        assert drift(agent) == []


def test_damage_to_groups(agent: AgentProcess, host: Host, large: None) -> None:
    for damage, expected in GROUP_DAMAGES.values():
        inflict(agent, host, damage, expected)


def inflict(
    agent: AgentProcess, host: Host, damage: Damage, expected: list[tuple[str, str]]
) -> None:
    """``check`` names it, ``diff`` says what would be written, ``repair`` writes that alone."""
    before = Switch.of(host)
    damage(host)
    damaged = Switch.of(host)
    code, found = listing(agent, "check")
    assert code == 1
    assert [row["drift"] for row in found] == [state for state, _ in expected]
    for row, (_, words) in zip(found, expected, strict=True):
        text = " ".join(str(value) for value in row.values())
        assert [word for word in words.split() if word not in text] == [], text
    code, planned = listing(agent, "diff")
    assert code == 0
    verbs = {"missing": "add", "surplus": "delete"}
    assert [{"write": verbs[row["drift"]], **without(row, "drift")} for row in found] == planned
    assert Switch.of(host) == damaged, "check and diff change nothing"
    with FlowMonitor(host) as monitor:
        assert listing(agent, "repair") == (0, planned)
        written = monitor.events()
    changes = [row["write"] for row in planned if row["kind"] == "flow"]
    # A changed flow is written over: one event for the two rows of the drift.
    assert len(written) == len(changes) - ("add" in changes and "delete" in changes)
    assert Switch.of(host) == before
    assert drift(agent) == []


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def test_everything_at_once(agent: AgentProcess, host: Host, large: None) -> None:
    before = Switch.of(host)
    host.ofctl("del-flows", "br-tun")
    host.ofctl("del-groups", "br-tun")
    host.vsctl("del-port", TO_A, "--", "del-port", "vxlan-0ac8000c")
    code, found = listing(agent, "check")
    assert code == 1
    assert len(found) == len(before.flows) + len(before.groups) + 2
    assert listing(agent, "repair")[0] == 0
    assert Switch.of(host) == before
    assert listing(agent, "check") == (0, [])
    assert listing(agent, "diff") == (0, [])


def test_foreign_flows_are_no_drift(agent: AgentProcess, host: Host) -> None:
    host.ofctl("add-flow", "br-tun", "cookie=0x99,table=22,priority=1,dl_vlan=5,actions=drop")
    host.ofctl("add-group", "br-tun", "group_id=7,type=all,bucket=actions=drop")
    try:
        assert listing(agent, "check") == (0, [])
        assert listing(agent, "repair") == (0, [])
        assert flows(host, "cookie=0x99/-1")
        assert [group for group in groups(host) if "group_id=7," in group]
    finally:
        host.ofctl("del-flows", "br-tun", "cookie=0x99/-1")
        host.ofctl("del-groups", "br-tun", "group_id=7")


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        (
            ("show", "networks"),
            {"network_id", "network_type", "segment_id", "local_vlan", "vteps", "entries", "state"},
        ),
        (("show", "vteps"), {"vtep", "networks", "flooding_networks", "entries", "local"}),
        (("show", "entries"), {"network_id", "mac", "ip", "vtep", "state"}),
        (("show", "tunnels"), {"name", "networks", "state"}),
        (("pipeline",), {"table", "id", "priority", "flow", "match", "does", "why"}),
    ],
)
def test_listings_in_json(agent: AgentProcess, command: tuple[str, ...], columns: set[str]) -> None:
    code, rows = listing(agent, *command)
    assert code == 0
    assert rows
    assert columns <= set(rows[0])


def test_what_the_listings_say(agent: AgentProcess, host: Host) -> None:
    _, networks = listing(agent, "show", "networks")
    assert {
        "network_id": NET.id,
        "network_type": "vxlan",
        "segment_id": 77,
        "local_vlan": 5,
        "vteps": 2,
        "entries": 2,
        "state": "attached",
    } in networks
    _, entries = listing(agent, "show", "entries")
    assert {(row["mac"], row["ip"], row["vtep"], row["state"]) for row in entries} == {
        (MAC1, "10.0.0.1", A, "active"),
        (MAC1, "fd00::1", A, "active"),
    }
    wanted = ("--mac", MAC1.upper(), "--ip", "fd00:0::1", "--vtep", A, "--network", NET.id[:8])
    _, some = listing(agent, "show", "entries", *wanted)
    assert [row["ip"] for row in some] == ["fd00::1"]
    cut = agent.cli("show", "entries", "--limit", "1", "-f", "value", "-c", "ip")
    assert (cut.stdout, cut.stderr) == ("10.0.0.1\n", "ovs-l2pop: 1 more\n")
    assert agent.cli("show", "entries", "--ip", "10.0.0").returncode == 2
    _, tunnels = listing(agent, "show", "tunnels")
    assert len(tunnels) == 2
    assert {row["state"] for row in tunnels} == {"installed"}
    _, vteps = listing(agent, "show", "vteps")
    assert {row["vtep"]: row["entries"] for row in vteps}[A] == 2
    assert host.vtep not in {row["vtep"] for row in vteps}


def test_exit_2_where_it_cannot_be_told(make_lab: Callable[..., Lab]) -> None:
    host = make_lab(1).hosts[0]
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    assert agent.cli("check").returncode == 0
    host.stop_vswitchd()
    done = agent.cli("check", "-f", "json", timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "br-tun.mgmt" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert agent.cli("diff", timeout=30).returncode == 2
    assert agent.cli("repair", timeout=30).returncode != 0
    agent.kill()
    done = agent.cli("check")
    assert done.returncode == 2
    assert "no agent answers at" in done.stderr
    assert agent.cli("show", "networks").returncode == 1

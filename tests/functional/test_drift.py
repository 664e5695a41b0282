"""Behind the agent's back, and nobody says ``repair``: the agent notices and mends it."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest
from damages import DAMAGES, GROUP_DAMAGES, LARGE, MANY, TO_A, Damage, told
from feed_helpers import drift, send
from switch_helpers import Switch

from l2pop_lab.topology import AgentProcess, Host, Lab, LabError

#: Longer than any test takes: what is mended was noticed by what the switch told.
FAR = 600
#: Seconds until what was noticed is mended.
SOON = 8


#: A tunnel port whose options were cleared.
pytestmark = pytest.mark.expected_warnings(r"requires valid .remote_ip.", r"could not set config")


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"drift_interval": FAR}))
    told(agent)
    yield agent
    assert agent.stop() == 0


def same(host: Host, before: Switch) -> bool:
    try:
        return Switch.of(host) == before
    except LabError:  # there is no bridge
        return False


def mended(agent: AgentProcess, host: Host, damage: Damage, within: float = SOON) -> str:
    """Inflict the damage and wait until the switch is as before; what the agent logged of it."""
    before, logged = Switch.of(host), len(agent.log())
    damage(host)
    deadline = time.monotonic() + within
    while not (told := agent.log()[logged:]) or not same(host, before):
        assert time.monotonic() < deadline, f"not mended, and logged: {told}"
        time.sleep(0.2)
    assert drift(agent) == []
    return agent.log()[logged:]


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damage(agent: AgentProcess, host: Host, name: str) -> None:
    damage, expected = DAMAGES[name]
    told = mended(agent, host, damage)
    for state, words in expected:
        assert f"somebody changed the dataplane: {state} {words.split()[0]}" in told


@pytest.mark.expected_warnings(
    r"br-tun<->unix#\d+: connection dropped", r"patch-tun: arguments provided to device that is not"
)
def test_damage_to_bridges(agent: AgentProcess, host: Host) -> None:
    for damage in (
        lambda h: h.vsctl("set", "Bridge", "br-tun", "fail_mode=standalone"),
        lambda h: h.vsctl("set", "Interface", "patch-tun", "type=internal"),
        lambda h: h.vsctl("del-port", "patch-int"),
        lambda h: h.vsctl("del-port", "patch-tun"),
        lambda h: h.vsctl("del-br", "br-tun"),
    ):
        mended(agent, host, damage, within=2 * SOON)


def test_everything_at_once(agent: AgentProcess, host: Host) -> None:
    def everything(host: Host) -> None:
        host.ofctl("del-flows", "br-tun")
        host.vsctl("del-port", TO_A)

    mended(agent, host, everything)


def test_groups_and_what_nobody_tells_of(make_lab: Callable[..., Lab]) -> None:
    """Open vSwitch tells of no group: those are read back every so often."""
    host = make_lab(1).hosts[0]
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"drift_interval": 2}))
    told(agent)
    send(agent, LARGE.attach(6), LARGE.add(MANY))
    for damage, _ in GROUP_DAMAGES.values():
        mended(agent, host, damage)


def test_our_own_writes_are_no_hint(agent: AgentProcess, host: Host) -> None:
    """Nor are flows of others: none of that has the switch read back."""
    send(agent, LARGE.attach(6), LARGE.add(MANY))
    send(agent, LARGE.detach(), LARGE.remove(MANY))
    host.vsctl("add-port", "br-int", "other", "--", "set", "Interface", "other", "type=internal")
    before = host.appctl("coverage/read-counter", "ofproto_recv_openflow")
    time.sleep(4)
    assert host.appctl("coverage/read-counter", "ofproto_recv_openflow") == before


def test_health_tells_of_it(agent: AgentProcess, host: Host) -> None:
    mended(agent, host, DAMAGES["ARP flow deleted"][0])
    done = agent.cli("show", "health", "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    health = {row["what"]: (row["state"], row["detail"]) for row in rows}
    assert {state for state, _ in health.values()} == {"ok"}
    assert re.search(r"mended so far: .*\b[1-9][0-9]* missing flow", health["drift"][1])

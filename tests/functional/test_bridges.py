"""The two bridges and what joins them: made where missing, kept where there, never a loop."""

import json
import signal
import time
from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, send, wait_until
from frame_helpers import BROADCAST, plain
from switch_helpers import Switch, copies, flows, ports

from l2pop_lab.topology import AgentProcess, Host, Lab

A = "10.200.0.11"
MAC1 = "fa:16:3e:00:00:01"
NET = Net(1, 77)


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1).hosts[0]


def column(host: Host, table: str, name: str, key: str) -> str:
    return host.vsctl("get", table, name, key).strip()


def works(agent: AgentProcess, host: Host) -> bool:
    """Whether a network can be had, and all is in the switch."""
    answer = answer_to(agent, lines([NET.attach(5), NET.add({A: [FLOODING]})]).encode())
    return answer["pending"] is None and "vxlan-0ac8000b" in ports(host) and drift(agent) == []


# -- made --------------------------------------------------------------------------------------


def test_missing_bridges_are_made(host: Host) -> None:
    host.vsctl("del-br", "br-int")
    agent = host.start_agent()
    assert {"br-int", "br-tun"} <= set(host.vsctl("list-br").split())
    assert column(host, "Bridge", "br-tun", "fail_mode") == "secure"
    for bridge, port, peer in (
        ("br-int", "patch-tun", "patch-int"),
        ("br-tun", "patch-int", "patch-tun"),
    ):
        assert column(host, "Bridge", bridge, "datapath_type") == "netdev"
        # A15: hidden in-band flows of a controller connection would let frames through.
        assert "disable-in-band" in column(host, "Bridge", bridge, "other_config")
        assert host.vsctl("port-to-br", port).strip() == bridge
        assert column(host, "Interface", port, "options") == f"{{peer={peer}}}"
    assert works(agent, host)


def test_bridges_of_other_names(host: Host) -> None:
    names = {"integration_bridge": "br-machines", "tunnel_bridge": "br-tunnels"}
    agent = host.start_agent(config=host.agent_config(openvswitch=names))
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    assert host.vsctl("port-to-br", "vxlan-0ac8000b").strip() == "br-tunnels"
    assert drift(agent) == []
    assert "br-tun" not in host.vsctl("list-br").split()


def test_fail_mode_secure_comes_with_the_bridge(host: Host) -> None:
    """A14: there is no transaction after which the bridge is there and would forward by itself."""
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    log = host.exec("ovsdb-tool", "-mm", "show-log", str(host.rundir / "conf.db"))
    records = log.split("record ")
    births = [at for at, text in enumerate(records) if "name=br-tun" in text and "insert" in text]
    secure = [at for at, text in enumerate(records) if "fail_mode=secure" in text]
    tunnels = [at for at, text in enumerate(records) if "name=vxlan-0ac8000b" in text]
    assert births
    assert secure
    assert secure[0] == births[0] < tunnels[0]


def test_no_frame_goes_from_tunnel_to_tunnel_while_a_host_comes_up(lab3: Lab) -> None:
    """A13, A14: broadcasts all the while; the host that comes up sends none of them on."""
    one, two, three = lab3.hosts
    for number, machine_host in enumerate(lab3.hosts, 1):
        machine_host.add_machine(f"vm{number}", f"fa:16:3e:00:00:0{number}", tag=5)
    site = Site.start(lab3)
    everywhere = {other.vtep: [FLOODING] for other in lab3.hosts}
    for other in lab3.hosts:
        send(site.agent(other), NET.attach(5), NET.add(everywhere))
    frame = plain(BROADCAST, "fa:16:3e:00:00:02", "from h2")
    vm2 = two.machines["vm2"]
    with lab3.capture_underlay() as underlay:
        for step in (
            lambda: one.stop_vswitchd(signal.SIGKILL),
            one.start_vswitchd,
            site.agent(one).kill,
            lambda: one.vsctl("del-br", "br-tun"),
            one.start_agent,
        ):
            for _ in range(20):
                vm2.send(frame)
            step()
            for _ in range(20):
                vm2.send(frame)
        time.sleep(0.3)
    sent = [t for t in copies(underlay.frames) if t.inner.source == "fa:16:3e:00:00:02"]
    assert {tunnel.source for tunnel in sent} == {two.vtep}
    assert {tunnel.destination for tunnel in sent} == {one.vtep, three.vtep}
    # And it is a member again.
    wait_until(lambda: "vxlan-0ac80002" in ports(one), "tunnels are back")
    with one.machines["vm1"].capture() as there:
        vm2.send(plain(BROADCAST, "fa:16:3e:00:00:02", "welcome"))
        there.wait_for(lambda data: b"welcome" in data)


# -- kept --------------------------------------------------------------------------------------


def test_existing_bridges_are_kept(host: Host) -> None:
    host.vsctl(
        *("add-br", "br-tun", "--", "set", "Bridge", "br-tun", "datapath_type=netdev"),
        *("fail_mode=secure", "other_config:hwaddr=02:00:00:00:00:77"),
        *("protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15",),
        *("--", "add-port", "br-tun", "patch-int"),
        *("--", "set", "Interface", "patch-int", "type=patch", "options:peer=patch-tun"),
        *("--", "add-port", "br-int", "patch-tun"),
        *("--", "set", "Interface", "patch-tun", "type=patch", "options:peer=patch-int"),
    )

    def rows() -> list[object]:
        return [
            json.loads(host.vsctl("-f", "json", f"--columns={columns}", "list", table))["data"]
            for table, columns in (
                ("Bridge", "_uuid,name,ports,fail_mode,protocols,datapath_type"),
                ("Interface", "_uuid,name,type,options,ofport"),
            )
        ]

    before = rows()
    agent = host.start_agent()
    assert rows() == before
    # A15: the one thing that is added.
    config = column(host, "Bridge", "br-tun", "other_config")
    assert config == '{disable-in-band="true", hwaddr="02:00:00:00:00:77"}'
    assert works(agent, host)


def test_a_bridge_that_forwards_by_itself_is_stopped(host: Host) -> None:
    host.vsctl("add-br", "br-tun", "--", "set", "Bridge", "br-tun", "datapath_type=netdev")
    for name, remote in (("theirs1", "10.200.0.98"), ("theirs2", "10.200.0.99")):
        host.vsctl(
            *("add-port", "br-tun", name, "--", "set", "Interface", name, "type=vxlan"),
            f"options:remote_ip={remote}",
        )
    incoming = f"in_port={host.ofport('theirs1')},dl_dst={BROADCAST}"
    assert "NORMAL" in str(flows(host))
    agent = host.start_agent()
    assert column(host, "Bridge", "br-tun", "fail_mode") == "secure"
    assert "NORMAL" not in str(flows(host))
    assert "Datapath actions: drop" in host.trace("br-tun", incoming)
    assert {"theirs1", "theirs2"} <= ports(host)
    assert works(agent, host)


@pytest.mark.parametrize("protocols", ["OpenFlow10", "OpenFlow10,OpenFlow14,OpenFlow15"])
@pytest.mark.expected_warnings(
    r"version negotiation failed", r"br-tun<->unix#\d+: connection dropped"
)
def test_openflow_13_is_added(host: Host, protocols: str) -> None:
    host.vsctl(
        *("add-br", "br-tun", "--", "set", "Bridge", "br-tun", "datapath_type=netdev"),
        f"protocols={protocols}",
    )
    agent = host.start_agent()
    wait_until(lambda: works(agent, host), "the agent serves")
    found = column(host, "Bridge", "br-tun", "protocols")
    assert all(version in found for version in [*protocols.split(","), "OpenFlow13"])


# -- in the way ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bridge", "name", "options", "words"),
    [
        ("br-phy", "patch-tun", "type=internal", "patch-tun another br-int"),
        ("br-phy", "patch-int", "type=internal", "patch-int another br-tun"),
        ("br-phy", "br-tun", "type=internal", "br-tun another"),
        ("br-int", "patch-tun", "type=internal", "patch-tun br-int internal"),
        ("br-int", "patch-tun", "type=patch options:peer=elsewhere", "patch-tun br-int elsewhere"),
    ],
)
@pytest.mark.expected_warnings(r"elsewhere")
def test_a_name_in_use_is_told(
    host: Host, bridge: str, name: str, options: str, words: str
) -> None:
    """The agent waits with a message that says what is in its way, and goes on when it is gone."""
    host.vsctl("add-port", bridge, name, "--", "set", "Interface", name, *options.split())
    agent = host.start_agent()
    done = agent.cli("check")
    assert done.returncode == 2
    assert [word for word in words.split() if word not in done.stderr] == [], done.stderr
    assert done.stderr.split(": ", 1)[1].strip() in agent.log()
    assert "Traceback" not in agent.log()
    assert host.vsctl("port-to-br", name).strip() == bridge  # it isn't ours to take away
    host.vsctl("del-port", bridge, name)
    wait_until(lambda: agent.cli("check").returncode == 0, "the agent goes on")
    assert works(agent, host)


def test_a_bridge_deleted_under_the_agent_is_made_anew(host: Host) -> None:
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    before = Switch.of(host)
    host.vsctl("del-br", "br-tun")
    wait_until(lambda: agent.cli("check").returncode == 0, "the agent goes on")
    assert Switch.of(host) == before
    assert column(host, "Bridge", "br-tun", "fail_mode") == "secure"

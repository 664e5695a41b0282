"""One tunnel port for all VTEPs (``tunnel_ports = flow``): where to is the flows' to say.

That frames go as they do with a port for each is what the other modules show, run with
``--tunnel-ports flow``; here is what is different.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, send, wait_until
from frame_helpers import BROADCAST, plain
from switch_helpers import FLOOD_TO_TUN, LOCAL_SWITCHING, FlowMonitor, copies, ports, table, traced

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine

MACS = [f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3)]
NET = Net(1, 77)
STRANGER = "10.200.0.9"


def machines(lab: Lab) -> list[Machine]:
    return [
        host.add_machine(f"vm{n}", MACS[n - 1], f"10.0.0.{n}", tag=5)
        for n, host in enumerate(lab.hosts, 1)
    ]


def shown(agent: AgentProcess, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(agent.cli("show", what, "-f", "json").stdout)
    return found


def restarted(site: Site, host: Host, tunnel_ports: str) -> None:
    """The host's agent, with the other kind of ports."""
    site.agent(host).stop()
    config = host.agent_config(openvswitch={"tunnel_ports": tunnel_ports})
    site.agents[host.name] = host.start_agent(config=config)


def test_one_more_vtep_is_flows_alone(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, tunnel_ports="flow")
    (host,) = lab.hosts
    site = Site.start(lab)
    agent = site.agent(host)
    send(agent, NET.attach(5), NET.add({"10.200.0.2": [FLOODING, [MACS[1], "10.0.0.2"]]}))
    assert ports(host) == {"patch-int", "vxlan-flow"}
    before = set(table(host, LOCAL_SWITCHING))
    with FlowMonitor(host) as monitor:
        send(agent, NET.add({"10.200.0.3": [FLOODING, [MACS[2], "10.0.0.3"]]}))
        told = monitor.events()
    assert ports(host) == {"patch-int", "vxlan-flow"}
    assert set(table(host, LOCAL_SWITCHING)) == before
    # Its flood, who may send, the machine, and its address.
    assert sorted(event.split("table=")[1].split()[0].rstrip(",") for event in told) == [
        *("20", "21", str(FLOOD_TO_TUN), "4")
    ]
    listed = {row["vtep"]: row["name"] for row in shown(agent, "tunnels")}
    assert listed == {"10.200.0.2": "vxlan-flow", "10.200.0.3": "vxlan-flow"}
    # The port goes with the last VTEP.
    send(
        agent,
        NET.remove({f"10.200.0.{n}": [FLOODING, [MACS[n - 1], f"10.0.0.{n}"]] for n in (2, 3)}),
    )
    assert ports(host) == {"patch-int"}
    assert drift(agent) == []


# What it has cached is of ports that have gone: its revalidators say so.
@pytest.mark.expected_warnings(r"revalidator.*receive tunnel port not found")
@pytest.mark.parametrize("to", ["flow", "per_vtep"])
def test_a_running_host_takes_the_other_kind(make_lab: Callable[..., Lab], to: str) -> None:
    """Its peers keep theirs: on the wire there is no difference. A ping may get lost."""
    lab = make_lab(3, tunnel_ports={"flow": "per_vtep", "per_vtep": "flow"}[to])
    site = Site.start(lab)
    vm1, vm2, vm3 = machines(lab)
    site.populate(NET, [vm1, vm2, vm3])
    with vm1.ping_forever("10.0.0.2", 0.02) as out, vm3.ping_forever("10.0.0.1", 0.02) as back:
        restarted(site, lab.hosts[0], to)
        expected = {"vxlan-flow"} if to == "flow" else {"vxlan-0ac80002", "vxlan-0ac80003"}
        wait_until(lambda: ports(lab.hosts[0]) == expected | {"patch-int"}, "the ports are others")
    assert out.stop().lost <= 1
    assert back.stop().lost <= 1
    with lab.capture_underlay() as underlay:
        vm1.send(plain(BROADCAST, MACS[0], "to all"))
        underlay.wait_for(lambda data: b"to all" in data, count=2)
    reached = {t.destination for t in copies(underlay.frames) if t.inner.destination == BROADCAST}
    assert reached == {host.vtep for host in lab.hosts[1:]}
    assert drift(site.agent(lab.hosts[0])) == []


def test_only_members_may_send(make_lab: Callable[..., Lab]) -> None:
    """A port for all lets in whoever sends; the network is told by the outer source."""
    lab = make_lab(3, tunnel_ports="flow")
    one, _, three = lab.hosts
    site = Site.start(lab)
    vm1, vm2, vm3 = machines(lab)
    site.populate(NET, [vm1, vm2, vm3])
    send(site.agent(one), NET.remove({three.vtep: [FLOODING, [MACS[2], "10.0.0.3"]]}))
    with vm1.capture() as heard:
        vm3.send(plain(MACS[0], MACS[2], "from no member"))
        vm2.send(plain(MACS[0], MACS[1], "from a member"))
        heard.wait_for(lambda data: b"from a member" in data)
        wait_until(
            lambda: "1 frames dropped" in str(shown(site.agent(one), "health")),
            "the stranger is counted",
        )
    assert not [frame for frame in heard.frames if b"from no member" in frame.data]


@pytest.mark.expected_warnings(r"receive tunnel port not found")  # while it is damaged
def test_the_port_is_mended(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2, tunnel_ports="flow")
    one, two = lab.hosts
    site = Site.start(lab, ovs_l2pop={"drift_interval": 1})
    site.populate(NET, machines(lab))
    probe = f"dl_src={MACS[0]},dl_dst={MACS[1]}"
    assert traced(one, "tap-vm1", probe) == [two.vtep]
    for damage in (
        ("set", "Interface", "vxlan-flow", "options:remote_ip=10.200.0.2"),
        ("set", "Interface", "vxlan-flow", "options:dst_port=4790"),
        ("del-port", "br-tun", "vxlan-flow"),
    ):
        one.vsctl(*damage)
        wait_until(lambda: one.machines["vm1"].ping("10.0.0.2").lost == 0, f"mended: {damage}")
    wait_until(lambda: drift(site.agent(one)) == [], "all is as it was")


def test_somebody_elses_port_of_the_name(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, tunnel_ports="flow")
    (host,) = lab.hosts
    host.vsctl(
        *("add-port", "br-int", "vxlan-flow", "--", "set", "Interface", "vxlan-flow"),
        "type=internal",
    )
    site = Site.start(lab)
    agent = site.agent(host)
    send(agent, NET.attach(5))
    answer = answer_to(agent, lines([NET.add({"10.200.0.2": [FLOODING]})]).encode())
    assert answer["refused_count"] == 1
    assert "a port vxlan-flow of br-int exists that is not ours" in answer["refused"][0]
    host.vsctl("del-port", "br-int", "vxlan-flow")
    agent.cli("repair")
    assert ports(host) == {"patch-int", "vxlan-flow"}
    assert drift(agent) == []

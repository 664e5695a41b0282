"""Tunnel ports: made with the options that are configured, gone with their last use, and never
anybody else's."""

import json
from collections.abc import Callable, Mapping

import pytest
from feed_helpers import FLOODING, Net, Site, answer_to, drift, lines, send, wait_until
from frame_helpers import plain
from switch_helpers import LOCAL_SWITCHING, OURS, Switch, copies, flows, groups, ports, table

from l2pop_lab.topology import AgentProcess, Host, Lab
from l2pop_lab.topology.frames import decode

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
A, B = "10.200.0.11", "10.200.0.12"
TO_A, TO_B = "vxlan-0ac8000b", "vxlan-0ac8000c"
NET, OTHER = Net(1, 77), Net(2, 78)


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1).hosts[0]


def interface(host: Host, name: str) -> dict[str, object]:
    """A row of OVSDB's table Interface."""
    text = host.vsctl("-f", "json", "list", "Interface", name)
    content = json.loads(text)
    row = dict(zip(content["headings"], content["data"][0], strict=True))
    row["options"] = dict(row["options"][1])
    return row


def only(mapping: Mapping[str, object], *without: str) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if key not in without}


# -- kinds and options ---------------------------------------------------------------------------


@pytest.mark.parametrize("tunnel_ports", ["per_vtep", "flow"])
@pytest.mark.parametrize(
    ("kind", "family"), [("vxlan", 4), ("vxlan", 6), ("gre", 4), ("gre", 6), ("geneve", 6)]
)
def test_machines_reach_each_other(
    make_lab: Callable[..., Lab], kind: str, family: int, tunnel_ports: str
) -> None:
    lab = make_lab(2, family=family, tunnel_ports=tunnel_ports)
    one, two = lab.hosts
    net = Net(1, 0x123456, kind)
    vm1 = one.add_machine("vm1", MAC1, ["10.0.0.1", "fd00::1"], tag=5, dad=False)
    vm2 = two.add_machine("vm2", MAC2, ["10.0.0.2", "fd00::2"], tag=6, dad=False)
    site = Site.start(lab, ovs_l2pop={"tunnel_types": kind})
    site.populate(net, [vm1, vm2])
    with lab.capture_underlay() as underlay:
        for address in ("10.0.0.2", "fd00::2"):
            assert vm1.ping(address).lost == 0
        vm1.send(plain("ff:ff:ff:ff:ff:ff", MAC1, "broadcast"))
        underlay.wait_for(lambda data: b"broadcast" in data)
    found = copies(underlay.frames)
    assert {(t.kind, t.vni, t.inner.vlans) for t in found} == {(kind, 0x123456, ())}
    assert not [tunnel for tunnel in found if tunnel.inner.arp]
    for host in lab.hosts:
        (name,) = ports(host) - {"patch-int"}
        assert len(name) <= 15
        assert name.startswith(f"{kind}-")
        assert drift(site.agent(host)) == []


@pytest.mark.expected_warnings(r"receive tunnel port not found")  # h1 takes another UDP port
def test_options_reach_the_switch_and_the_wire(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    one, two = lab.hosts
    vm1 = one.add_machine("vm1", MAC1, "10.0.0.1", tag=5)
    vm2 = two.add_machine("vm2", MAC2, "10.0.0.2", tag=5)
    options = {"vxlan_udp_port": 8472, "tunnel_csum": True, "dont_fragment": False, "tos": "0x28"}
    site = Site.start(lab, openvswitch=options)
    site.populate(NET, [vm1, vm2])
    row = interface(one, "vxlan-0ac80002")
    assert row["options"] == {
        "remote_ip": two.vtep,
        "local_ip": one.vtep,
        "in_key": "flow",
        "out_key": "flow",
        "dst_port": "8472",
        "csum": "true",
        "df_default": "false",
        "tos": "0x28",
        "egress_pkt_mark": "0",
    }
    with lab.capture_underlay() as underlay:
        assert vm1.ping("10.0.0.2").lost == 0
    for data in underlay.data:
        ip = decode(data).ip
        assert ip is not None
        assert ip.payload[2:4] == (8472).to_bytes(2, "big")
        assert ip.payload[6:8] != b"\0\0"  # the UDP checksum
        assert data[15] & 0xFC == 0x28
        assert not data[20] & 0x40  # don't fragment

    # Other options after a restart: the ports are changed in place, frames go on.
    ofport = row["ofport"]
    site.agent(one).stop()
    agent = one.start_agent(config=one.agent_config(openvswitch={"tunnel_csum": True}))
    row = interface(one, "vxlan-0ac80002")
    assert isinstance(row["options"], dict)
    assert only(row["options"], "remote_ip", "local_ip", "in_key", "out_key") == {
        "dst_port": "4789",
        "csum": "true",
        "df_default": "true",
        "egress_pkt_mark": "0",
    }
    assert row["ofport"] == ofport
    assert drift(agent) == []


def test_a_kind_that_is_not_configured_is_refused(host: Host) -> None:
    agent = host.start_agent()
    answer = answer_to(
        agent, lines([Net(1, 77, "gre").attach(5), NET.add({A: [FLOODING]})]).encode()
    )
    assert answer["refused_count"] == 1
    assert "gre is not among tunnel_types (vxlan)" in answer["refused"][0]
    assert ports(host) == {"patch-int"}


# -- from the first use to the last ------------------------------------------------------------


def test_a_tunnel_goes_with_its_last_use(host: Host) -> None:
    """A1: with its flow in table 0, and not before."""
    agent = host.start_agent()
    send(agent, NET.attach(5), OTHER.attach(6))
    bare = Switch.of(host)
    send(agent, NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}), OTHER.add({A: [FLOODING]}))
    incoming = f'cookie=0x6c32706f70, priority=10,in_port="{TO_A}" actions=goto_table:4'
    steps = [
        NET.remove({A: [FLOODING]}),
        OTHER.remove({A: [FLOODING]}),
        NET.add({B: [FLOODING]}),
        NET.remove({B: [FLOODING]}),
    ]
    for step in steps:
        send(agent, step)
        assert TO_A in ports(host)
        assert incoming in table(host, LOCAL_SWITCHING)
    assert TO_B not in ports(host)
    send(agent, NET.remove({A: [[MAC1, "10.0.0.1"]]}))
    assert Switch.of(host) == bare
    assert interface_names(host) == {"br-tun", "patch-int"}


def interface_names(host: Host) -> set[str]:
    text = host.vsctl("--bare", "--columns=name", "list", "Interface")
    others = {"br-int", "patch-tun", "br-phy", "phy0"}
    return set(text.split()) - others


def test_the_own_vtep_gets_no_tunnel(host: Host) -> None:
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({host.vtep: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert ports(host) == {"patch-int"}
    of_it = [flow for flow in flows(host, OURS) if MAC1 in flow or "arp_tpa=10" in flow]
    assert sum(f"dl_src={MAC1} actions=drop" in flow for flow in of_it) == 1
    assert sum("set_field:00:00:00:00:00:00->eth_dst" in flow for flow in of_it) == 1
    assert len(of_it) == 2, "it comes by no tunnel, and nobody elsewhere is asked for it"


def test_hundreds_come_and_go(host: Host) -> None:
    agent = host.start_agent()
    send(agent, NET.attach(5))
    bare = Switch.of(host)
    # More than go in one transaction.
    vteps = [f"10.201.{number // 200}.{number % 200 + 1}" for number in range(600)]
    for _ in range(2):
        send(agent, NET.add({vtep: [FLOODING] for vtep in vteps}))
        assert len(ports(host)) == 601
        numbers = host.vsctl(
            "--bare", "--columns=ofport", "find", "Interface", "type=vxlan"
        ).split()
        assert len(set(numbers)) == 600
        send(agent, NET.remove({vtep: [FLOODING] for vtep in vteps}))
        assert Switch.of(host) == bare


# -- at start ----------------------------------------------------------------------------------


def test_orphans_of_ours_are_taken_away_at_start(host: Host) -> None:
    """A22: the agent was ended while a VTEP went, or lost its state and is to keep nothing."""
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING]}))
    agent.stop()
    (host.directory / "state" / "table.jsonl").unlink()
    host.vsctl(
        *("add-port", "br-tun", "vxlan-deadbeef"),
        *("--", "set", "Interface", "vxlan-deadbeef", "type=vxlan"),
        *("options:remote_ip=222.173.190.239", "options:key=flow"),
        *("--", "set", "Port", "vxlan-deadbeef", "external_ids:ovs-l2pop=tunnel"),
    )
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"orphan_time": 0}))
    assert ports(host) == {"patch-int"}
    assert not [flow for flow in flows(host) if "tun_id" in flow or "vxlan" in flow]
    assert drift(agent) == []


@pytest.mark.expected_warnings(r"requires valid .remote_ip.", r"unknown gre", r"could not set conf")
def test_a_port_that_was_damaged_meanwhile_is_mended_at_start(host: Host) -> None:
    """It has our mark and our name, and so is ours, whatever its options say."""
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING]}))
    before = Switch.of(host)
    agent.stop()
    host.vsctl(
        *("clear", "Interface", TO_A, "options", "--", "set", "Port", TO_A, "tag=7"),
        *("--", "set", "Interface", TO_B, "type=gre", f"options:remote_ip={A}"),
    )
    agent = host.start_agent()
    assert drift(agent) == []
    assert Switch.of(host) == before
    assert interface(host, TO_A)["type"] == interface(host, TO_B)["type"] == "vxlan"


# -- other people's ------------------------------------------------------------------------------


def foreign_tunnel(host: Host, name: str, remote: str, *more: str) -> None:
    host.vsctl(
        *("add-port", "br-tun", name, "--", "set", "Interface", name, "type=vxlan"),
        *(f"options:remote_ip={remote}", "options:key=flow", *more),
    )


def test_foreign_ports_flows_and_groups_are_left_alone(host: Host) -> None:
    agent = host.start_agent()
    bare = Switch.of(host)
    foreign_tunnel(host, "vxlan-theirs", "10.200.0.99", "options:local_ip=10.200.0.1")
    host.ofctl("add-group", "br-tun", "group_id=5,type=all,bucket=actions=drop")
    theirs = [
        "cookie=0x99,table=0,priority=5,in_port=1,dl_vlan=4000 actions=drop",
        "cookie=0x99,table=22,priority=1,dl_vlan=5 actions=drop",  # where Neutron has its flood
        "cookie=0x99,table=20,priority=2,dl_vlan=5,dl_dst=fa:16:3e:00:00:01 actions=drop",
        "cookie=0x99,table=100,priority=1 actions=group:5",
        "cookie=0,table=24,priority=30,arp actions=drop",
    ]
    for flow in theirs:
        host.ofctl("add-flow", "br-tun", flow.replace(" ", ","))
    before = [flow for flow in flows(host) if "cookie=0x6c32706f70" not in flow]
    assert len(before) == len(theirs)

    def left_alone() -> bool:
        return (
            [flow for flow in flows(host) if "cookie=0x6c32706f70" not in flow] == before
            and "vxlan-theirs" in ports(host)
            and any("group_id=5" in group for group in groups(host))
        )

    many = {f"10.201.{number // 200}.{number % 200 + 1}": [FLOODING] for number in range(401)}
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, NET.add(many))
    assert len(groups(host)) == 4, "that which every bridge has, and three of the flood"
    assert left_alone()
    assert drift(agent) == []
    send(agent, NET.remove({A: [FLOODING, [MAC1, "10.0.0.1"]]}), NET.remove(many), NET.detach())
    assert left_alone()
    agent.stop()
    agent = host.start_agent()
    agent.cli("repair")
    assert left_alone()
    own = Switch.of(host)
    assert (own.flows, own.ports - {"vxlan-theirs"}) == (bare.flows, bare.ports)


def test_a_foreign_port_has_the_number_that_we_want(host: Host) -> None:
    agent = host.start_agent()
    # Plugged in while the agent runs, so it can't know.
    foreign_tunnel(host, "theirs", "10.200.0.99", "ofport_request=1000")
    assert host.ofport("theirs") == 1000
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert host.ofport("theirs") == 1000
    assert host.ofport(TO_A) not in (-1, 1000)
    assert drift(agent) == []
    assert [f for f in flows(host, OURS, "table=20") if MAC1 in f and f'output:"{TO_A}"' in f]
    assert "output:theirs" not in str(flows(host, OURS))
    # The next one, and a restart.
    send(agent, NET.add({B: [FLOODING]}))
    before = Switch.of(host)
    agent.stop()
    agent = host.start_agent()
    assert drift(agent) == []
    assert Switch.of(host) == before


@pytest.mark.parametrize("bridge", ["br-tun", "br-int"])
def test_a_foreign_port_has_the_name_that_we_want(host: Host, bridge: str) -> None:
    agent = host.start_agent()
    host.vsctl(
        *("add-port", bridge, TO_A, "--", "set", "Interface", TO_A, "type=vxlan"),
        *("options:remote_ip=10.200.0.99", "options:key=5"),
    )
    before = interface(host, TO_A)
    messages = [NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING]})]
    answer = answer_to(agent, lines(messages).encode())
    assert answer["pending"] is None
    assert answer["refused_count"] == 1
    assert TO_A in answer["refused"][0]
    assert "not ours" in answer["refused"][0]
    # Everything else is there, and theirs is as it was.
    assert TO_B in ports(host)
    after = interface(host, TO_A)
    assert only(after, "statistics", "status") == only(before, "statistics", "status")
    checked = agent.cli("check")
    assert checked.returncode == 1
    assert TO_A in checked.stdout
    # They move away; the next repair makes ours.
    host.vsctl("del-port", bridge, TO_A)
    assert agent.cli("repair").returncode == 0
    assert TO_A in ports(host)
    assert drift(agent) == []


def test_a_port_that_a_neutron_agent_left_is_taken_over(host: Host) -> None:
    """It has our name and leads where we want to: it would be in the way."""
    agent = host.start_agent()
    host.vsctl(
        *("add-port", "br-tun", TO_A, "--", "set", "Interface", TO_A, "type=vxlan"),
        *(f"options:remote_ip={A}", f"options:local_ip={host.vtep}", "options:df_default=true"),
        *("options:in_key=flow", "options:out_key=flow", "options:egress_pkt_mark=0"),
    )
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    assert drift(agent) == []
    send(agent, NET.detach())
    assert TO_A not in ports(host), "ours from now on"


@pytest.mark.expected_warnings(r"same config as port", r"could not add .*File exists")
def test_a_foreign_tunnel_to_the_same_vtep(host: Host) -> None:
    """Open vSwitch has one port for a pair of addresses and a key: ours can't be made."""
    agent = host.start_agent()
    local = f"options:local_ip={host.vtep}"
    foreign_tunnel(host, "theirs", A, local, "options:dst_port=4789")
    answer = answer_to(
        agent, lines([NET.attach(5), NET.add({A: [FLOODING], B: [FLOODING]})]).encode()
    )
    assert answer["refused_count"] == 1
    assert TO_A in answer["refused"][0]
    assert f"port theirs of br-tun is a tunnel to {A} already" in answer["refused"][0]
    assert TO_B in ports(host)
    assert "theirs" in ports(host)
    # Nothing of the failed port stays when it isn't wanted any more.
    send(agent, NET.remove({A: [FLOODING]}))
    assert ports(host) == {"patch-int", "theirs", TO_B}
    assert drift(agent) == []


# -- behind the agent's back -----------------------------------------------------------------------


def repaired(agent: AgentProcess, host: Host, before: Switch) -> None:
    assert agent.cli("check").returncode == 1
    assert agent.cli("repair").returncode == 0
    assert agent.cli("check").returncode == 0
    assert Switch.of(host) == before


def test_tunnel_ports_changed_by_others(host: Host) -> None:
    """A31: renumbered, deleted, pointed elsewhere, deleted and made anew."""
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING]}))
    before = Switch.of(host)
    host.vsctl("set", "Interface", TO_A, "ofport_request=2000")
    assert host.ofport(TO_A) == 2000
    repaired(agent, host, before)
    host.vsctl("del-port", "br-tun", TO_A)
    repaired(agent, host, before)
    host.vsctl("set", "Interface", TO_A, "options:remote_ip=10.200.0.99", "options:csum=true")
    repaired(agent, host, before)
    host.vsctl(
        *("del-port", TO_A, "--", "add-port", "br-tun", TO_A),
        *("--", "set", "Interface", TO_A, "type=vxlan", f"options:remote_ip={A}"),
        *("options:in_key=flow", "options:out_key=flow", f"options:local_ip={host.vtep}"),
        *("--", "set", "Port", TO_A, "external_ids:ovs-l2pop=tunnel"),
    )
    repaired(agent, host, before)


def test_a_stolen_number(host: Host) -> None:
    """Our port deleted and its number given to somebody else's."""
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    before = Switch.of(host)
    host.vsctl("del-port", "br-tun", TO_A)
    foreign_tunnel(host, "theirs", "10.200.0.99", "ofport_request=1000")
    assert host.ofport("theirs") == 1000
    assert "output:theirs" in str(flows(host, OURS))  # until the repair
    assert agent.cli("repair").returncode == 0
    assert "output:theirs" not in str(flows(host, OURS))
    assert host.ofport("theirs") == 1000
    after = Switch.of(host)
    assert (after.flows, after.ports) == (before.flows, before.ports | {"theirs"})
    wait_until(lambda: agent.cli("check").returncode == 0, "no drift")

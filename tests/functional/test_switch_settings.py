"""What our ports depend on in the switch's own settings: read from there, and followed."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from feed_helpers import FLOODING, Net, Site, drift, send, wait_until
from scapy.contrib.igmp import IGMP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from switch_helpers import ports

from l2pop_lab.topology import AgentProcess, Host, Lab, Machine

A = "10.200.0.11"
TO_A = "vxlan-0ac8000b"
NET = Net(1, 77)
GROUP, GROUP_MAC = "239.1.2.3", "01:00:5e:01:02:03"


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1).hosts[0]


@pytest.fixture
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"drift_interval": 600}))
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    yield agent
    assert "Traceback" not in agent.log()
    assert agent.stop() == 0


def options(host: Host) -> str:
    return host.vsctl("get", "Interface", TO_A, "options")


def trouble(agent: AgentProcess) -> dict[str, str]:
    rows = json.loads(agent.cli("show", "health", "-f", "json").stdout)
    return {row["what"]: row["detail"] for row in rows if row["state"] == "trouble"}


@pytest.mark.expected_warnings(r"offload")
def test_no_packet_mark_where_flows_are_offloaded(agent: AgentProcess, host: Host) -> None:
    """A29: hardware sets none, and a flow that would is not offloaded."""
    assert "egress_pkt_mark" in options(host)
    number = host.ofport(TO_A)
    host.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true")
    wait_until(lambda: "egress_pkt_mark" not in options(host), "the option goes")
    wait_until(lambda: drift(agent) == [], "all is in line")
    agent.stop()
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"drift_interval": 600}))
    assert "egress_pkt_mark" not in options(host)
    host.vsctl("remove", "Open_vSwitch", ".", "other_config", "hw-offload")
    wait_until(lambda: "egress_pkt_mark" in options(host), "the option is back")
    wait_until(lambda: drift(agent) == [], "all is in line")
    assert host.ofport(TO_A) == number
    agent.stop()


def test_the_patch_ports_number_is_followed(agent: AgentProcess, host: Host) -> None:
    host.vsctl("set", "Interface", "patch-int", "ofport_request=50")
    assert host.ofport("patch-int") == 50
    wait_until(lambda: "in_port=50" in host.ofctl("dump-flows", "br-tun", "table=0"), "followed")
    wait_until(lambda: drift(agent) == [], "all is in line")


@pytest.mark.expected_warnings(r"unknown (datapath )?type", r"failed to create bridge", r"dropped")
def test_the_integration_bridges_datapath_type_is_taken(host: Host) -> None:
    """Whatever the option says: no patch port leads from one type to another."""
    config = host.agent_config(openvswitch={"datapath_type": "system"})
    agent = host.start_agent(config=config)
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    assert host.vsctl("get", "Bridge", "br-tun", "datapath_type").strip() == "netdev"
    assert TO_A in ports(host)
    host.vsctl("--no-wait", "set", "Bridge", "br-int", "datapath_type=system")
    text = "bridge br-int: this Open vSwitch has no datapath type system"
    wait_until(lambda: text in trouble(agent).get("dataplane", ""), "it is told")
    host.vsctl("--no-wait", "set", "Bridge", "br-int", "datapath_type=netdev")
    wait_until(lambda: trouble(agent) == {}, "all is well again")
    assert drift(agent) == []


@pytest.mark.expected_warnings(r"tcp:127.0.0.1")
def test_anothers_controller_is_told(agent: AgentProcess, host: Host) -> None:
    host.vsctl("set-controller", "br-tun", "tcp:127.0.0.1:16633")
    wait_until(lambda: "controller" in trouble(agent), "it is told")
    assert "br-tun has a controller (tcp:127.0.0.1:16633)" in trouble(agent)["controller"]
    host.vsctl("del-controller", "br-tun")
    wait_until(lambda: trouble(agent) == {}, "all is well")


# -- multicast -------------------------------------------------------------------------------------


def joins(machine: Machine) -> bytes:
    """An IGMPv2 report (RFC 2236)."""
    head = Ether(src=machine.mac, dst=GROUP_MAC) / IP(src=machine.ip, dst=GROUP, ttl=1)
    return bytes(head / IGMP(type=0x16, gaddr=GROUP))


def datagram(machine: Machine, text: str) -> bytes:
    head = Ether(src=machine.mac, dst=GROUP_MAC) / IP(src=machine.ip, dst=GROUP, ttl=8)
    return bytes(head / UDP(sport=5000, dport=5000) / text.encode())


def test_members_on_other_hosts_get_their_group(make_lab: Callable[..., Lab]) -> None:
    """A35: with members on both hosts, snooping switched on and off again; nothing unregistered is
    flooded, as Neutron sets it."""
    lab = make_lab(2)
    one, two = lab.hosts
    vm1 = one.add_machine("vm1", "fa:16:3e:00:00:01", "10.0.0.1", tag=5)
    vm2 = two.add_machine("vm2", "fa:16:3e:00:00:02", "10.0.0.2", tag=5)
    vm3 = one.add_machine("vm3", "fa:16:3e:00:00:03", "10.0.0.3", tag=5)
    site = Site.start(lab)
    site.populate(NET, [vm1, vm2, vm3])

    def contains(text: bytes, data: bytes) -> bool:
        return text in data

    def knows(host: Host) -> bool:
        return GROUP in host.appctl("mdb/show", "br-int")

    def arrives(text: str) -> None:
        with vm2.capture() as far, vm3.capture() as near:
            vm1.send(datagram(vm1, text))
            for capture in (far, near):
                capture.wait_for(partial(contains, text.encode()))
            time.sleep(0.2)  # for a second copy
            assert sum(text.encode() in data for data in far.data) == 1

    for snooping in ("false", "true", "false", "true"):
        for host in lab.hosts:
            host.vsctl(
                *("set", "Bridge", "br-int", f"mcast_snooping_enable={snooping}"),
                "other_config:mcast-snooping-disable-flood-unregistered=true",
            )
        vm2.send(joins(vm2))
        vm3.send(joins(vm3))
        if snooping == "true":
            for host in lab.hosts:
                wait_until(partial(knows, host), f"{host.name} knows a member")
        arrives(f"snooping {snooping}")
    # Its membership is forgotten here; there it is a member still.
    one.appctl("mdb/flush", "br-int")
    vm3.send(joins(vm3))
    with vm2.capture() as far:
        vm1.send(datagram(vm1, "after the flush"))
        far.wait_for(lambda data: b"after the flush" in data)

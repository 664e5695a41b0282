"""Agents that route on their hosts (DVR) have tables of their own in br-tun, beside ours."""

import re

import pytest
from neutronlab import OURS_DRIVERS, AgentKind, Cloud, Instance
from neutronlab.fixtures import MakeCloud
from neutronlab.reach import reach_each_other, wait_until_reachable

from ovs_l2pop.backends.openvswitch.render import tunnel_name

DVR = {"agent": {"enable_distributed_routing": True}}
AGENTS = [
    AgentKind("stock", options=DVR),
    AgentKind("ours", extensions=("ovs_l2pop",), options=DVR),
    AgentKind("ours", extensions=("ovs_l2pop",), options=DVR),
]
DVR_NOT_LEARN, STRANGERS = 9, 27
TABLE = re.compile(r" *\d+\. ")


@pytest.fixture(scope="module")
def cloud(make_module_cloud: MakeCloud) -> Cloud:
    """A stock host and two of ours."""
    return make_module_cloud(AGENTS, OURS_DRIVERS)


def test_everybody_reaches_everybody(cloud: Cloud, instances: list[Instance]) -> None:
    reach_each_other(instances)
    for instance in instances:
        into = [flow for flow in instance.node.flows() if flow.table == 4 and flow.match]
        # A stock host lets everybody in, ours members and leads strangers out.
        ours = instance.node.kind.extensions
        ways = {DVR_NOT_LEARN, STRANGERS} if ours else {DVR_NOT_LEARN}
        assert {int(flow.actions.rpartition(":")[2]) for flow in into} == ways


def test_restart_of_an_agent_loses_nothing(cloud: Cloud, instances: list[Instance]) -> None:
    _, one, two = instances
    with one.machine.ping_forever(two.ip) as running:
        cloud.restart_agent(two.node)
        cloud.wait_consistent()
    assert running.stop().lost == 0
    reach_each_other(instances)


def test_restart_of_openvswitch(cloud: Cloud, instances: list[Instance]) -> None:
    _, one, two = instances
    two.node.restart_openvswitch()
    wait_until_reachable(one, two)
    cloud.wait_consistent()
    reach_each_other(instances)


def test_what_routers_send_is_not_learned(cloud: Cloud, instances: list[Instance]) -> None:
    """A router is on every host; the MAC address that its frames leave a host with, on one.

    After the restarts: agents that start at the same time may miss each other's address.
    """
    _, one, two = instances
    rows = cloud.control.database.query("SELECT host, mac_address FROM dvr_host_macs")
    routers = {host: mac.replace("-", ":").lower() for host, mac in rows}
    host = two.node.host
    tunnel = host.ofport(tunnel_name("vxlan", one.node.vtep))
    packet = f"in_port={tunnel},tun_id={one.network.segment},dl_dst={two.mac},dl_src="

    def tables(source: str) -> list[int]:
        trace = host.trace("br-tun", packet + source)
        return [int(line.split(".")[0]) for line in trace.splitlines() if TABLE.match(line)]

    assert tables(one.mac)[:4] == [0, 4, 9, 10]
    assert tables(routers[one.node.name])[:3] == [0, 4, 9]
    assert 10 not in tables(routers[one.node.name])

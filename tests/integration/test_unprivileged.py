"""The extension under agents that run as distributions run them: as a user without rights.

Such an agent comes by root's rights through rootwrap, one command at a time or as a daemon, and may
not open Open vSwitch's sockets: OVSDB is reached by TCP, and flows travel over the agent's own
OpenFlow connection.
"""

import signal

import pytest
from neutronlab import OURS_DRIVERS, AgentKind, Cloud, Instance, Network
from neutronlab.fixtures import MakeCloud
from neutronlab.reach import reach_each_other, wait_until_reachable

AGENTS = [
    AgentKind("rootwrap", extensions=("ovs_l2pop",), user="neutron"),
    AgentKind("daemon", extensions=("ovs_l2pop",), user="neutron", rootwrap_daemon=True),
]


@pytest.fixture(scope="module")
def cloud(make_module_cloud: MakeCloud) -> Cloud:
    """A host of each kind."""
    return make_module_cloud(AGENTS, OURS_DRIVERS)


def test_flows_come_and_go(cloud: Cloud, network: Network, instances: list[Instance]) -> None:
    reach_each_other(instances)
    for node in cloud.nodes:
        extra = cloud.boot(network, node)
        cloud.wait_consistent()
        reach_each_other([extra, *instances])
        cloud.delete(extra)
        cloud.wait_consistent()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_of_an_agent_loses_nothing(
    cloud: Cloud, instances: list[Instance], number: int
) -> None:
    one, two = instances
    with one.machine.ping_forever(two.ip) as running:
        cloud.restart_agent(two.node, number)
        cloud.wait_consistent()
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)


def test_restart_of_openvswitch(cloud: Cloud, instances: list[Instance]) -> None:
    one, two = instances
    for instance in instances:
        instance.node.restart_openvswitch()
        wait_until_reachable(one, two)
        cloud.wait_consistent()
    reach_each_other(instances)

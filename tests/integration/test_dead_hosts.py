"""S41 in a real cloud: the agent of h3 dies, and later comes back; its machines live on.

h1 and h2 are ours, h3 is stock.
"""

import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from neutronlab import OURS, OURS_DRIVERS, STOCK, Cloud, forwarding, wait_until
from neutronlab.node import Node
from neutronlab.reach import reach_each_other

LIMIT = 8
REPORTS = {"AGENT": {"report_interval": 2}}
AGENTS = [
    replace(OURS, options=REPORTS | {"ovs_l2pop": {"sync_interval": 2}}),
    replace(OURS, options=REPORTS | {"ovs_l2pop": {"sync_interval": 2}}),
    replace(STOCK, options=REPORTS),
]


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    options = {"ovs_l2pop": {"dead_host_time": LIMIT}}
    return make_cloud(AGENTS, OURS_DRIVERS, options=options)


def flooded(node: Node) -> set[str]:
    """The VTEPs that a host floods to."""
    return {vtep for known in forwarding.read(node.host).values() for vtep in known.flood}


def test_broadcast_leaves_out_a_host_whose_agent_is_dead(cloud: Cloud) -> None:
    network = cloud.create_network("10.0.0.0/24")
    instances = [cloud.boot(network, node) for node in cloud.nodes]
    cloud.wait_consistent()
    h1, h2, h3 = cloud.nodes
    h3.stop_agent(signal.SIGKILL)
    for node, other in ((h1, h2), (h2, h1)):
        wait_until(
            lambda node=node, other=other: flooded(node) == {other.vtep},  # type: ignore[misc]
            f"{node.name} floods to {other.name} alone",
            timeout=60,
        )
    reach_each_other(instances)  # by unicast, and ARP is answered on the hosts
    h3.start_agent()
    for node, other in ((h1, h2), (h2, h1)):
        wait_until(
            lambda node=node, other=other: flooded(node) == {other.vtep, h3.vtep},  # type: ignore[misc]
            f"{node.name} floods to both again",
            timeout=60,
        )
    cloud.wait_consistent()
    reach_each_other(instances)

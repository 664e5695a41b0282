"""A cloud moves from upstream's l2population to ours host by host, and back."""

import signal
import sys

import pytest
from neutronlab import OURS, OURS_DRIVERS, STOCK, UPSTREAM, Cloud, Instance, Network, Node
from neutronlab.fixtures import MakeCloud
from neutronlab.reach import reach_each_other

from l2pop_lab.topology.place import run

COOKIE = 0x6C32706F70  # of flows/tables.yaml


@pytest.fixture(scope="module")
def cloud(make_module_cloud: MakeCloud) -> Cloud:
    """Upstream's own, to begin with."""
    return make_module_cloud([STOCK, STOCK], UPSTREAM)


def ours_on(node: Node) -> list[str]:
    """Everything on a host's br-tun that only we make."""
    groups = node.host.ofctl("dump-groups", "br-tun").splitlines()
    return [
        *(f"{flow}" for flow in node.flows() if flow.cookie == COOKIE),
        *(line for line in groups if "group_id=" in line),
    ]


def test_the_server_first(cloud: Cloud, network: Network, instances: list[Instance]) -> None:
    one, two = instances
    with one.machine.ping_forever(two.ip) as running:
        cloud.control.stop_servers()
        cloud.control.mechanism_drivers = OURS_DRIVERS
        cloud.control.start_servers()
    assert running.stop().lost == 0
    extra = cloud.boot(network, two.node, wait=False)
    # Agents that asked a server in vain are slow for a minute or two.
    cloud.wait_active(extra.port.id, timeout=120)
    cloud.wait_consistent()
    reach_each_other([extra, *instances])
    cloud.delete(extra)
    cloud.wait_consistent()


@pytest.mark.parametrize("host", [0, 1])
def test_then_each_host(
    cloud: Cloud, network: Network, instances: list[Instance], host: int
) -> None:
    one, two = instances
    node = cloud.nodes[host]
    with one.machine.ping_forever(two.ip) as running:
        cloud.restart_agent(node, signal.SIGTERM, OURS)
        cloud.wait_consistent()
        assert ours_on(node)
    assert running.stop().lost == 0
    extra = cloud.boot(network, node)
    cloud.wait_consistent()
    reach_each_other([extra, *instances])
    cloud.delete(extra)
    cloud.wait_consistent()


@pytest.mark.parametrize("host", [1, 0])
def test_back_again(cloud: Cloud, network: Network, instances: list[Instance], host: int) -> None:
    node = cloud.nodes[host]
    cloud.restart_agent(node, signal.SIGTERM, STOCK)
    # In its first round with a new port the stock agent deletes what is not its own in its tables.
    extra = cloud.boot(network, node)
    cloud.wait_consistent()
    reach_each_other([extra, *instances])
    config = node.host.agent_config(ovs_l2pop={"local_ip": None})
    run(
        [
            sys.executable,
            "-m",
            "ovs_l2pop",
            "clean",
            "--yes",
            "--keep-tunnels",
            f"--config-file={config}",
        ]
    )
    assert ours_on(node) == []
    reach_each_other([extra, *instances])
    cloud.delete(extra)
    cloud.wait_consistent()
    assert len(node.tunnels()) == 1

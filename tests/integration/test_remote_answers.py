"""What a server says of a host stands for as long as it is true, and no longer.

h1 is stock, h2 and h3 are ours.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from neutronlab import OURS, OURS_DRIVERS, STOCK, Cloud, Instance, Network, wait_until
from neutronlab.fixtures import MakeCloud
from neutronlab.forwarding import Forwarding
from neutronlab.node import Node
from neutronlab.reach import reach_each_other, wait_until_reachable

REPORTS = {"AGENT": {"report_interval": 5}}
FOLLOWING = replace(OURS, options=REPORTS | {"ovs_l2pop": {"sync_interval": 2}})


@pytest.fixture(scope="module")
def cloud(make_module_cloud: MakeCloud) -> Cloud:
    return make_module_cloud([replace(STOCK, options=REPORTS), FOLLOWING, FOLLOWING], OURS_DRIVERS)


@pytest.fixture
def network(cloud: Cloud) -> Iterator[Network]:
    yield cloud.create_network("10.0.0.0/24")
    cloud.clean()


def at(node: Node, instance: Instance) -> Forwarding:
    """What a host does with an instance's network."""
    vlan = node.local_vlans().get(instance.port.id)
    return node.forwarding().get(vlan, Forwarding()) if vlan else Forwarding()


@pytest.mark.parametrize("name", ["h2", "h3"])
def test_a_network_lives_on_after_its_only_port_was_rebound(
    cloud: Cloud, network: Network, name: str
) -> None:
    """The old tap stays plugged in; then another port of the network comes to the host."""
    node, stock = cloud.node(name), cloud.node("h1")
    far, left = cloud.boot(network, stock), cloud.boot(network, node)
    cloud.wait_consistent()
    vlan = node.local_vlans()[left.port.id]
    cloud.api.update("ports", left.port.id, **{"binding:host_id": stock.name})
    wait_until(
        lambda: node.forwarding().get(vlan, Forwarding()) == Forwarding(),
        f"the server knows no port of {name} in the network, and {name} knows that",
    )
    new = cloud.boot(network, node)
    wait_until(
        lambda: (
            at(node, new).unicast.get(far.mac) == stock.vtep
            and at(node, new).arp.get(far.ip) == far.mac
            and stock.vtep in at(node, new).flood
        ),
        f"{name} has the network again",
    )
    wait_until_reachable(new, far)
    # And the one that was away comes back.
    cloud.api.update("ports", left.port.id, **{"binding:host_id": node.name})
    cloud.wait_active(left.port.id)
    cloud.wait_consistent()
    reach_each_other([far, left, new])


@pytest.mark.parametrize("name", ["h1", "h2"])
def test_the_row_of_a_living_agent_is_deleted(cloud: Cloud, network: Network, name: str) -> None:
    instances = [cloud.boot(network, node) for node in cloud.nodes]
    cloud.wait_consistent()
    deleted = cloud.node(name)
    target = next(one for one in instances if one.node is deleted)
    others = [one for one in instances if one is not target]
    (row,) = cloud.api.list("agents", host=name, agent_type="Open vSwitch agent")
    with others[0].machine.ping_forever(target.ip) as first:
        with others[1].machine.ping_forever(target.ip) as second:
            cloud.api.request("DELETE", f"/agents/{row['id']}")
            cloud.wait_agents([deleted])
            cloud.wait_consistent()
        assert second.stop().lost == 0
    assert first.stop().lost == 0


# The last one: agents that asked a server in vain are slow for a minute or two.
def test_a_database_that_goes_back_in_time(cloud: Cloud, network: Network) -> None:
    _, one, two = cloud.nodes
    far, near, other = (cloud.boot(network, node) for node in (one, two, two))
    cloud.wait_consistent()
    dump = cloud.control.database.dump()
    for number in (201, 202, 203):
        fixed = [{"subnet_id": next(iter(network.subnets)), "ip_address": f"10.0.0.{number}"}]
        cloud.api.update("ports", far.port.id, fixed_ips=fixed)
    cloud.delete(other)
    cloud.wait_consistent()
    assert "10.0.0.203" in at(two, near).arp
    cloud.control.stop_servers()
    cloud.control.database.restore(dump)
    cloud.control.start_servers()
    wait_until(
        lambda: far.ip in at(two, near).arp and "10.0.0.203" not in at(two, near).arp,
        "the host knows what the database says",
    )
    # What comes next is told at once, though revisions are lower than they have been.
    fixed = [{"subnet_id": next(iter(network.subnets)), "ip_address": "10.0.0.204"}]
    cloud.api.update("ports", far.port.id, fixed_ips=fixed)
    wait_until(lambda: "10.0.0.204" in at(two, near).arp, "an update is told", timeout=10)

"""What a cloud with our driver must do, with our extension on all hosts or on some.

Each test leaves the cloud as it found it: two instances on the first two hosts, or as many as the
cloud has hosts, that reach each other.
"""

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from neutronlab import OURS, OURS_DRIVERS, STOCK, Cloud, Instance, Network, wait_until
from neutronlab.fixtures import MakeCloud
from neutronlab.messages import UPSTREAM_TOPIC
from neutronlab.reach import reach_each_other, wait_until_reachable

from l2pop_lab.topology.frames import ArpOperation, decode

#: One tunnel port for all VTEPs.
FLOW = replace(OURS, options={"ovs_l2pop": {"tunnel_ports": "flow"}})
CLOUDS = {
    "ours": ([OURS, FLOW, OURS], OURS_DRIVERS),
    "mixed": ([STOCK, OURS], OURS_DRIVERS),
}
OURS_IN_LOGS = re.compile(r" (?:WARNING|ERROR|CRITICAL) .*ovs_l2pop")
# What the tests here do to the switch and to the server.
EXPECTED = re.compile(
    "the dataplane can't be written, will try again|no sync with the server"
    "|rows of networks that nobody has spoken for are kept"
)
STEPS = 25
TOPICS = {"stock": UPSTREAM_TOPIC, "ours": "q-agent-notifier-ovs_l2pop-update"}


@pytest.fixture(scope="module", params=CLOUDS)
def cloud(request: pytest.FixtureRequest, make_module_cloud: MakeCloud) -> Iterator[Cloud]:
    """A cloud of each kind."""
    kinds, drivers = CLOUDS[request.param]
    cloud = make_module_cloud(kinds, drivers)
    yield cloud
    logs = cloud.control.logs() | {node.name: node.agent_log() for node in cloud.nodes}
    assert [
        line
        for log in logs.values()
        for line in log.splitlines()
        if OURS_IN_LOGS.search(line) and not EXPECTED.search(line)
    ] == []


@pytest.fixture(autouse=True)
def _clean(cloud: Cloud, instances: list[Instance]) -> Iterator[None]:
    """One test's failure is not to be the next one's."""
    yield
    cloud.clean(keep=instances)


def test_everybody_reaches_everybody(instances: list[Instance]) -> None:
    reach_each_other(instances)


def test_arp_is_answered_on_the_host(cloud: Cloud, instances: list[Instance]) -> None:
    one, two = instances[:2]
    for source, target in ((one, two), (two, one)):
        source.machine.forget_neighbours()
        target.machine.forget_neighbours()
        with cloud.lab.capture_underlay() as underlay:
            assert source.machine.ping(target.ip, count=2).lost == 0
        requests = [
            frame
            for frame in underlay.data
            if (arp := decode(frame).innermost.arp) and arp.operation == ArpOperation.REQUEST
        ]
        assert requests == []


def test_a_new_port_and_its_deletion(
    cloud: Cloud, network: Network, instances: list[Instance]
) -> None:
    for node in cloud.nodes:
        extra = cloud.boot(network, node)
        cloud.wait_consistent()
        reach_each_other([extra, *instances])
        cloud.delete(extra)
        cloud.wait_consistent()


def test_one_message_a_change(cloud: Cloud, network: Network, instances: list[Instance]) -> None:
    """To each other host that has the network, in its language; none to all. To the port's own
    host if that is ours: where its machines are is for the server to say."""

    def told(mark: int) -> list[tuple[str | None, str]]:
        for topic in {topic for _, topic in wanted}:
            cloud.messages.settled(mark, topic)
        return sorted(
            (message.host, message.topic)
            for topic in TOPICS.values()
            for message in cloud.messages.since(mark, topic=topic)
        )

    for source in cloud.nodes:
        told_to = [n for n in cloud.nodes if n is not source or n.kind.name == "ours"]
        wanted = sorted((n.name, TOPICS[n.kind.name]) for n in told_to)
        mark = cloud.messages.mark()
        extra = cloud.boot(network, source)
        assert told(mark) == wanted, "a port came up"
        mark = cloud.messages.mark()
        fixed_ips = cloud.api.get("ports", extra.port.id)["fixed_ips"]
        for fixed in fixed_ips:
            if ":" not in fixed["ip_address"]:
                fixed["ip_address"] = "10.0.0.251"
        cloud.api.update("ports", extra.port.id, fixed_ips=fixed_ips)
        assert told(mark) == wanted, "its address changed"
        mark = cloud.messages.mark()
        cloud.delete(extra)
        # Its agent may report it down at the same time, and the two servers don't know of each
        # other: then it is said twice that it is gone.
        assert told(mark) in (wanted, sorted(2 * wanted)), "it was deleted"


def test_first_and_last_port_of_a_network(cloud: Cloud) -> None:
    network = cloud.create_network("10.0.9.0/24")
    one = cloud.boot(network, cloud.nodes[0])
    cloud.wait_consistent()
    two = cloud.boot(network, cloud.nodes[1])
    cloud.wait_consistent()
    reach_each_other([one, two])
    cloud.delete(one)
    cloud.wait_consistent()
    cloud.delete(two)
    cloud.wait_consistent()
    cloud.api.delete("networks", network.id)


def test_change_of_address(cloud: Cloud, network: Network, instances: list[Instance]) -> None:
    two = instances[1]
    changing = cloud.boot(network, cloud.nodes[0])
    fixed_ips = cloud.api.get("ports", changing.port.id)["fixed_ips"]
    for fixed in fixed_ips:
        if ":" not in fixed["ip_address"]:
            fixed["ip_address"] = "10.0.0.250"
    cloud.api.update("ports", changing.port.id, fixed_ips=fixed_ips)
    changing.port = cloud.port(changing.port.id)
    changing.machine.exec("ip", "-4", "address", "flush", "dev", "eth0")
    changing.machine.exec("ip", "address", "add", "10.0.0.250/24", "dev", "eth0")
    cloud.wait_consistent()
    # The stock agent lets a machine send ARP with its own addresses only: the new one included.
    changing.machine.forget_neighbours()
    wait_until_reachable(changing, two)
    reach_each_other([changing, *instances])


def test_migration_there_and_back(
    cloud: Cloud, network: Network, instances: list[Instance]
) -> None:
    moving = cloud.boot(network, cloud.nodes[0])
    for target in (cloud.nodes[1], cloud.nodes[0]):
        moving = cloud.migrate(moving, target)
        cloud.wait_consistent()
        reach_each_other([moving, *instances])
    moving = cloud.move(moving, cloud.nodes[-1])
    cloud.wait_consistent()
    reach_each_other([moving, *instances])
    cloud.delete(moving)
    cloud.wait_consistent()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_of_an_agent_loses_nothing(
    cloud: Cloud, instances: list[Instance], number: int
) -> None:
    one = instances[0]
    # Ours: the last host in either cloud.
    two = instances[-1]
    with one.machine.ping_forever(two.ip) as running:
        cloud.restart_agent(two.node, number)
        cloud.wait_consistent()
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)


def test_an_agent_that_lost_its_table_loses_nothing(
    cloud: Cloud, instances: list[Instance]
) -> None:
    """A container without a volume: nothing is deleted before the server has spoken."""
    one, two = instances[0], instances[-1]
    with one.machine.ping_forever(two.ip) as running:
        two.node.stop_agent(signal.SIGKILL)
        shutil.rmtree(two.node.host.directory / "neutron" / "ovs-l2pop")
        cloud.restart_agent(two.node)
        cloud.wait_consistent()
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert "rows of networks that nobody has spoken for are kept" in two.node.agent_log()


def test_restart_of_openvswitch(cloud: Cloud, instances: list[Instance]) -> None:
    for instance in instances:
        instance.node.restart_openvswitch()
        cloud.wait_consistent()
        wait_until_reachable(instance, next(one for one in instances if one is not instance))
        reach_each_other(instances)


def test_random_life(cloud: Cloud, network: Network, instances: list[Instance]) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    living: list[Instance] = []
    for _ in range(STEPS):
        # Most steps don't wait for the one before to be carried out.
        action = chance.choice(["boot", "boot", "boot", "delete", "move", "migrate"])
        if action == "boot" or not living:
            living.append(cloud.boot(network, chance.choice(cloud.nodes), wait=False))
            continue
        instance = living.pop(chance.randrange(len(living)))
        if action == "delete":
            cloud.delete(instance)
            continue
        target = chance.choice([node for node in cloud.nodes if node is not instance.node])
        if action == "migrate":
            cloud.wait_active(instance.port.id)
            living.append(cloud.migrate(instance, target))
        else:
            living.append(cloud.move(instance, target))
    cloud.wait_active(*(instance.port.id for instance in living))
    cloud.wait_consistent(60)
    reach_each_other([*instances, *living][:5])
    for instance in living:
        cloud.delete(instance)
    cloud.wait_consistent(60)


# The last one: agents that asked a server in vain are slow for a minute or two.
def test_restarts_without_a_server(cloud: Cloud, instances: list[Instance]) -> None:
    one, two = instances[0], instances[-1]
    cloud.control.stop_servers()
    try:
        two.node.restart_openvswitch()
        wait_until_reachable(two, one)
        with one.machine.ping_forever(two.ip) as running:
            two.node.stop_agent(signal.SIGKILL)
            two.node.start_agent()
            # It then asks the server, before it looks at its ports.
            wait_until(lambda: "connected;" in two.node.agent_log(), "the extension has begun")
            time.sleep(5)
        assert running.stop().lost == 0
    finally:
        cloud.control.start_servers()
    cloud.wait_consistent(90)
    reach_each_other(instances)

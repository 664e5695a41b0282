"""How long a change holds a server's worker, by how many hosts hear it: a real RabbitMQ."""

import json
import os
import sys
from collections.abc import Iterator

import pytest
from neutronlab.broker import Broker

from l2pop_lab.topology import Lab
from l2pop_lab.topology.place import Place

# Queues as agents have them: one by the host's name, one of its own for what goes to all.
WORKER = """
import json, sys, time
import amqp, oslo_messaging
from oslo_config import cfg
from ovs_l2pop.core.messages import Segment
from ovs_l2pop.sync import protocol

url, topic = sys.argv[1], protocol.AGENT_TOPIC
oslo_messaging.set_transport_defaults("neutron")
cfg.CONF([], project="neutron")
client = oslo_messaging.get_rpc_client(
    oslo_messaging.get_rpc_transport(cfg.CONF, url=url),
    oslo_messaging.Target(topic=topic, version="1.0"),
)
host, port = url.rpartition("@")[2].rstrip("/").split(":")
channel = amqp.Connection(f"{host}:{port}")
channel.connect()
channel = channel.channel()
channel.exchange_declare("neutron", "topic", durable=False, auto_delete=False)
channel.exchange_declare(f"{topic}_fanout", "fanout", durable=False, auto_delete=True)
state = protocol.PortState("7a1c4bd0-95a3-4e0e-9d51-3c2a7c3c9b10", 7, "192.0.2.1",
                           (("fa:16:3e:00:00:01", "10.0.0.1"),))
(update,) = protocol.updates(
    "7a1c4bd0-95a3-4e0e-9d51-3c2a7c3c9b11", Segment("vxlan", 1001), [state])
body = update.to_wire()
known = 0

def tell(how):
    began = time.perf_counter(), time.process_time()
    for one in how:
        client.prepare(**one).cast({"is_admin": True}, "update_ports", **body)
    return time.perf_counter() - began[0], time.process_time() - began[1]

tell([{"fanout": True}])  # connects
for hosts in json.loads(sys.argv[2]):
    for number in range(known, hosts):
        for name, exchange in (("", "neutron"), ("_fanout", f"{topic}_fanout")):
            queue = f"{topic}{name}.host{number}"
            channel.queue_declare(queue, auto_delete=False, arguments={"x-max-length": 10})
            channel.queue_bind(queue, exchange, routing_key=queue if not name else "")
    known = hosts
    each = min(tell([{"server": f"host{n}"} for n in range(hosts)]) for _ in range(2))
    once = min(tell([{"fanout": True}]) for _ in range(5))
    print(json.dumps([hosts, each, once]), flush=True)
# Nothing was lost on the way.
for number in (0, hosts - 1):
    queue = channel.queue_declare(f"{topic}_fanout.host{number}", passive=True)
    assert queue.message_count >= 5, queue
"""


@pytest.fixture
def place() -> Iterator[Place]:
    with Lab(hosts=1) as lab:
        yield lab.add_place("broker")


def test_a_worker_is_not_held_by_the_number_of_hosts(place: Place) -> None:
    place.exec("ip", "link", "set", "dev", "lo", "up")
    broker = Broker(place, "127.0.0.1")
    broker.start()
    try:
        broker.wait_ready()
        sizes = json.loads(os.environ.get("OVS_L2POP_SIZES", "[10, 300]"))
        text = place.exec(
            sys.executable, "-W", "ignore", "-c", WORKER, broker.url, json.dumps(sizes)
        )
    finally:
        broker.kill()
    print("", "hosts, by name and by one fanout: [seconds, seconds of CPU]", text, sep="\n")
    (_, few_each, few_once), *_, (_, many_each, many_once) = map(json.loads, text.splitlines())
    assert many_each[1] > 5 * few_each[1]  # so it would be
    assert many_once[1] < 3 * few_once[1]  # the worker's CPU, which others don't lengthen
    assert many_once[0] < many_each[0] / 10

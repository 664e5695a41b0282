"""OpenFlow over the connection of an os-ken controller, as inside a Neutron agent."""

import json
import subprocess
import sys

from l2pop_lab.topology import Lab

# Runs in the host's namespace: a controller that the bridge connects to, and our channel over it.
CONTROLLER = """
import json, sys, threading, time
from os_ken import cfg
from os_ken.base.app_manager import AppManager
from os_ken.controller import ofp_handler
from os_ken.ofproto import ofproto_protocol
ofproto_protocol.set_app_supported_versions([4])
cfg.CONF(["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", "6653"], project="os_ken")
from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline, rows
from ovs_l2pop.backends.openvswitch.channel import Channel
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.datapath import DatapathTransport
from ovs_l2pop.backends.openvswitch.stamps import Stamps, encode
from ovs_l2pop.core.errors import BackendError

manager = AppManager.get_instance()
manager.load_apps(["os_ken.controller.ofp_handler", "os_ken.app.ofctl.service"])
manager.instantiate_apps(**manager.create_contexts())
service = manager.applications["ofctl_service"]
print("listening", flush=True)
while not (found := [switch.datapath for switch in service._switches.values()]):
    time.sleep(0.05)
loaded = pipeline.load(resources.flows())
stamps = Stamps(loaded, Codec(loaded))
channel = Channel(DatapathTransport(found[0]))
stamp = stamps.flows["unicast"].bind(vlan=encode("vlan", 5), segment=encode("segment", 7))
flows = [
    stamp(mac=n.to_bytes(6, "big"), port=encode("port", 9)) for n in range(2, 25_002)
]
start = time.monotonic()
refused = channel.write(rows.add_flows(flows, loaded.cookie))
wrote = time.monotonic() - start
read = set()
for body in channel.flows(loaded.cookie):
    read.update(rows.flows_in(body))
bad = rows.add_flows([flows[0], b"\\xff" + flows[1][1:], flows[2]], loaded.cookie)
named = [(refusal.place, refusal.reason) for refusal in channel.write(bad)]
groups = [group for body in channel.groups() for group in rows.groups_in(body)]
meters = [rows.meter(number, 10 * number) for number in (1, 2)]
channel.write([rows.add_meter(row, False) for row in meters])
read_meters = {row for body in channel.meters() for row in rows.meters_in(body)}
told = dict(p for body in channel.meter_statistics() for p in rows.metered_in(body))
metered = [channel.most_meters() > 0, read_meters == set(meters), told == {1: 0, 2: 0}]
print(json.dumps({"refused": refused, "same": read == set(flows), "wrote": wrote,
                  "named": named, "groups": len(groups), "metered": metered}), flush=True)
sys.stdin.readline()
try:
    while True:
        channel.poll()
        time.sleep(0.05)
except BackendError as error:
    print(error, flush=True)
import os
os._exit(0)
"""


def test_channel_over_an_os_ken_connection(lab2: Lab) -> None:
    host = lab2.hosts[0]
    host.vsctl("add-br", "br-t", "--", "set", "bridge", "br-t", "datapath_type=netdev")
    host.vsctl("set-fail-mode", "br-t", "secure")
    host.vsctl("set", "bridge", "br-t", "other_config:disable-in-band=true")
    process = host.popen(
        ["timeout", "60", sys.executable, "-W", "ignore", "-c", CONTROLLER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # os-ken tells of every error that it doesn't know
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        host.vsctl("set-controller", "br-t", "tcp:127.0.0.1:6653")
        seen = json.loads(process.stdout.readline())
        assert seen["refused"] == []
        assert seen["metered"] == [True, True, True]
        assert seen["same"]
        assert [place for place, _ in seen["named"]] == [1]
        assert seen["groups"] == 0
        assert host.ofctl("dump-aggregate", "br-t").split()[-1] == "flow_count=25000"
        process.stdin.write(b"\n")
        process.stdin.flush()
        host.vsctl("del-controller", "br-t")
        assert b"closed the connection" in process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
        host.vsctl("del-br", "br-t")

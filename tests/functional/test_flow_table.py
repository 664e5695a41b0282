"""The flow table in software says of each frame what the switch says (``ofproto/trace``)."""

import random
import re
from collections.abc import Iterator

import pytest
from feed_helpers import FLOODING, Net, Site, send

from l2pop_lab.flowtable import FlowTable, frame
from l2pop_lab.topology import Host, Lab, craft
from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline, rows
from ovs_l2pop.backends.openvswitch.channel import Channel
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_BASE
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket

HERE, FAR, THIRD = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "fa:16:3e:00:00:03"
MACS = [HERE, FAR, THIRD, "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:ff:00:00:02"]
IP4S = ["0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.9"]
IP6S = ["::", "fd00::1", "fd00::2", "fd00::9"]
SMALL, LARGE = Net(1, 77), Net(2, 78)
FRAMES = 200

#: A flow on the way (table, priority), and where the frame leaves.
_FLOW = re.compile(r"^ *(\d+)\. .*?priority (\d+)|^ *(\d+)\. No match", re.M)
_BRIDGE = re.compile(r" *bridge\(\"(.*?)\"\)")
_OUTPUT = re.compile(r"^ +(?:output:(\d+)|(IN_PORT))$(?!\n +>> skipping)", re.M)


@pytest.fixture(scope="module")
def host(lab2: Lab) -> Host:
    """A host with a network of two remote VTEPs, and one with more than a flow can copy to."""
    one, two = lab2.hosts
    far = [FLOODING, [FAR, "10.0.0.2"], [FAR, "fd00::2"]]
    crowd = {f"10.201.{n // 250}.{n % 250 + 1}": [FLOODING] for n in range(401)}
    send(
        Site.start(lab2).agent(one),
        *(SMALL.attach(5), LARGE.attach(6)),
        SMALL.add({two.vtep: far, "10.200.0.77": [FLOODING], one.vtep: [[HERE, "10.0.0.1"]]}),
        LARGE.add({two.vtep: far, **crowd}),
    )
    return one


def installed(host: Host, cookie: int) -> Iterator[object]:
    """What the switch says that it has."""
    channel = Channel(ManagementSocket(str(host.rundir / "br-tun.mgmt")))
    try:
        for body in channel.flows(cookie):
            yield from rows.flows_in(body)
        for body in channel.groups():
            yield from (g for g in rows.groups_in(body) if g.group_id & 0xFFFF0000 == GROUP_BASE)
    finally:
        channel.close()


def anything(rng: random.Random) -> bytes:
    """A frame, mostly one that a responder looks at."""
    source = rng.choice(MACS[:3])
    match rng.choice(["arp", "arp", "nd", "nd", "advertisement", "text"]):
        case "arp":
            sent = bytearray(craft.arp_request(source, rng.choice(IP4S), rng.choice(IP4S)))
            sent[21] = rng.choice([0, 1, 1, 1, 2, 3])
            return bytes(sent)
        case "nd":
            return craft.solicitation(source, rng.choice(IP6S), rng.choice(IP6S))
        case "advertisement":
            return craft.advertisement(source, rng.choice(IP6S[1:]))
    return craft.text(rng.choice(MACS), source, "hello")


def traced(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    """The flows that a trace names on the tunnel bridge, and where it leaves."""
    # A trace tells what becomes of a longer packet too, and that first.
    before, longer, after = text.partition("check_pkt_larger")
    if longer:
        text = before + after.split("resubmit(,34)")[-1]
    # What another bridge does stands in between, further in.
    inside: list[tuple[int, str]] = [(-1, "")]
    lines = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip("- ") and indent <= inside[-1][0] and not line[0].isdigit():
            inside = inside[:-1]
        if bridge := _BRIDGE.match(line):
            inside = [*(place for place in inside if place[0] < indent), (indent, bridge[1])]
        elif inside[-1][1] == "br-tun":
            lines.append(line)
    here = "\n".join(lines)
    flows = [(int(t or missed), int(p or -1)) for t, p, missed in _FLOW.findall(here)]
    return flows, [port or "IN_PORT" for port, _ in _OUTPUT.findall(here)]


def test_both_say_the_same(host: Host) -> None:
    loaded = pipeline.load(resources.flows())
    shards = loaded.tables["FLOOD_SHARD"].id
    table = FlowTable(Codec(loaded), installed(host, loaded.cookie))
    patch = host.ofport("patch-int")
    tunnels = [host.ofport(name) for name in ("vxlan-0ac80002", "vxlan-0ac8004d")]
    rng = random.Random(20)
    seen = set()
    for _ in range(FRAMES):
        data = anything(rng)
        if rng.random() < 0.6:
            data, port, key = craft.tagged(data, rng.choice([5, 5, 5, 6, 7])), patch, 0
        else:
            port, key = rng.choice(tunnels), rng.choice([77, 77, 78, 4711])
        way = table.send(frame(data, in_port=port, tunnel_id=key))
        # Without a destination Open vSwitch takes a packet for one that came by no tunnel.
        flow = f"in_port={port}" + (f",tun_id={key},tun_dst={host.vtep}" if key else "")
        text = host.trace("br-tun", flow, data)
        flows, outputs = traced(text)
        ours = ["IN_PORT" if out == port else str(out) for out in way.ports]
        if "recirc(" in text.rpartition(",le(")[2]:  # a trace ends where the frame is started anew
            way.flows, ours = [at for at in way.flows if at[0] != shards], []
        assert (way.flows, sorted(ours)) == (flows, sorted(outputs)), f"{data.hex()}\n{text}"
        seen.update(flows)
    assert len(seen) > 20, "most of the pipeline was met"

"""What comes by a tunnel leaves by none, whatever it looks like: there is no loop between hosts.

Frames of every kind are traced through the tables (``ofproto/trace``), from each tunnel port.
"""

import random
import re

import pytest
from feed_helpers import FLOODING, Net, Site, send
from frame_helpers import BROADCAST

from l2pop_lab.topology import Host, Lab

HERE, FAR = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
NET = Net(1, 77)
FRAMES = 150

MACS = [HERE, FAR, "fa:16:3e:00:00:99", BROADCAST, "01:00:5e:00:00:01", "33:33:ff:00:00:02"]
IP4S = ["0.0.0.0", "0.0.0.5", "127.0.0.1", "10.0.0.1", "10.0.0.2", "224.0.0.1", "255.255.255.255"]
IP6S = ["::", "::1", "fd00::1", "fd00::2", "ff02::1:ff00:2"]


def frame(rng: random.Random) -> str:
    """A frame as ``ovs-fields(7)`` has it, mostly ARP or ND."""
    source, to = rng.choice(MACS[:3]), rng.choice(MACS)
    head = f"dl_src={source},dl_dst={to}"
    kind = rng.choice(["arp", "arp", "nd", "nd", "ip", "other"])
    if kind == "arp":
        return (
            f"arp,{head},arp_op={rng.choice([0, 1, 1, 2, 3, 4, 9])},arp_spa={rng.choice(IP4S)}"
            f",arp_tpa={rng.choice(IP4S)},arp_sha={rng.choice(MACS)},arp_tha={rng.choice(MACS)}"
        )
    if kind == "nd":
        number, field = rng.choice([(135, "nd_sll"), (135, "nd_sll"), (136, "nd_tll")])
        option = rng.choice(["", f",{field}={rng.choice(MACS)}"])
        return (
            f"icmp6,{head},icmpv6_type={number},icmpv6_code=0"
            f",ipv6_src={rng.choice(IP6S)},ipv6_dst={rng.choice(IP6S)}"
            f",nd_target={rng.choice(IP6S)}{option},nw_ttl={rng.choice([255, 64])}"
        )
    if kind == "ip":
        return f"ip,{head},nw_src={rng.choice(IP4S)},nw_dst={rng.choice(IP4S)}"
    return f"{head},dl_type={rng.choice([0x0800, 0x0806, 0x86DD, 0x8847, 0x88B5]):#06x}"


@pytest.fixture(scope="module")
def host(lab2: Lab) -> Host:
    """A host with a local VLAN of two remote VTEPs, one of which has a machine."""
    one, two = lab2.hosts
    one.add_machine("vm1", HERE, tag=5)
    everywhere = {
        one.vtep: [FLOODING, [HERE, "10.0.0.1"], [HERE, "fd00::1"]],
        two.vtep: [FLOODING, [FAR, "10.0.0.2"], [FAR, "fd00::2"]],
        "10.200.0.77": [FLOODING],
    }
    send(Site.start(lab2).agent(one), NET.attach(5), NET.add(everywhere))
    return one


@pytest.mark.parametrize("vni", [NET.segment, 4711], ids=["the network's", "nobody's"])
def test_what_came_by_a_tunnel_leaves_by_none(host: Host, vni: int) -> None:
    rng = random.Random(vni)
    leaves = re.compile(r"tunneling to|output to native tunnel")
    # What leaves is recognised.
    assert leaves.search(
        host.trace("br-tun", f"in_port={host.ofport('patch-int')},dl_vlan=5,dl_dst={BROADCAST}")
    )
    ports = [host.ofport("vxlan-0ac80002"), host.ofport("vxlan-0ac8004d")]
    for _ in range(FRAMES):
        port, fields = rng.choice(ports), frame(rng)
        text = host.trace("br-tun", f"in_port={port},tun_id={vni},{fields}")
        assert not leaves.search(text), f"{fields}\n{text}"

"""What somebody does to a switch behind the agent's back, and what ``check`` says of it."""

from collections.abc import Callable

from feed_helpers import FLOODING, Net, Pair, send

from l2pop_lab.topology import AgentProcess, Host

A, B = "10.200.0.11", "10.200.0.12"
TO_A = "vxlan-0ac8000b"
MAC1 = "fa:16:3e:00:00:01"
NET, LARGE = Net(1, 77), Net(2, 78)

MINE = "cookie=0x6c32706f70"

#: VTEPs enough for groups.
MANY = {f"10.201.{number // 250}.{number % 250 + 1}": [FLOODING] for number in range(401)}


def told(agent: AgentProcess) -> None:
    """What :data:`DAMAGES` needs."""
    pairs: list[Pair] = [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"]]
    send(agent, NET.attach(5), NET.add({A: pairs, B: [FLOODING]}))


Damage = Callable[[Host], object]

#: What is done to the switch; and for each row of the drift: missing or surplus, and words that
#: tell a reader which.
DAMAGES: dict[str, tuple[Damage, list[tuple[str, str]]]] = {
    "unicast flow deleted": (
        lambda h: h.ofctl("del-flows", "br-tun", f"table=20,dl_vlan=5,dl_dst={MAC1}"),
        [("missing", f"flow UCAST_TO_TUN 10 eth_dst={MAC1} vlan_vid=5")],
    ),
    "unicast flow sent elsewhere": (
        lambda h: h.ofctl("mod-flows", "br-tun", f"table=20,dl_dst={MAC1},actions=drop"),
        [
            ("missing", f"flow UCAST_TO_TUN 10 eth_dst={MAC1}"),
            ("surplus", f"flow UCAST_TO_TUN 10 eth_dst={MAC1} vlan_vid=5 drop"),
        ],
    ),
    "ARP flow deleted": (
        lambda h: h.ofctl("del-flows", "br-tun", "arp,table=21,dl_vlan=5,arp_tpa=10.0.0.1"),
        [("missing", "flow ARP_RESPONDER 10 arp_tpa=10.0.0.1")],
    ),
    "ND flow deleted": (
        lambda h: h.ofctl("del-flows", "br-tun", "icmp6,table=23,dl_vlan=5"),
        [("missing", "flow ND_RESPONDER 10 fd00::1")],
    ),
    "flood flow changed": (
        lambda h: h.ofctl("mod-flows", "br-tun", "table=22,dl_vlan=5,actions=drop"),
        [
            ("missing", "flow FLOOD_TO_TUN 11 vlan_vid=5 output"),
            ("surplus", "flow FLOOD_TO_TUN 11 vlan_vid=5 drop"),
        ],
    ),
    "flow of a tunnel in table 0 deleted": (
        lambda h: h.ofctl("del-flows", "br-tun", f"table=0,in_port={h.ofport(TO_A)}"),
        [("missing", "flow LOCAL_SWITCHING 10 in_port= goto:VXLAN_TUN_TO_LV")],
    ),
    "flow from br-int deleted": (
        lambda h: h.ofctl("del-flows", "br-tun", f"table=0,in_port={h.ofport('patch-int')}"),
        [("missing", "flow LOCAL_SWITCHING 1 in_port= goto:PATCH_LV_TO_TUN")],
    ),
    "miss flow deleted": (
        lambda h: h.ofctl("--strict", "del-flows", "br-tun", "table=20,priority=0"),
        [("missing", "flow UCAST_TO_TUN 0 any goto:FLOOD_TO_TUN")],
    ),
    "clause of a conjunction deleted": (
        lambda h: h.ofctl(
            *("--strict", "del-flows", "br-tun"),
            "arp,table=24,priority=20,arp_spa=64.0.0.0/2,arp_tpa=64.0.0.0/2",
        ),
        [("missing", "flow ARP_REPLY 20 arp_spa=64.0.0.0 conjunction")],
    ),
    "flow with our cookie added": (
        lambda h: h.ofctl("add-flow", "br-tun", f"{MINE},table=20,dl_vlan=77,actions=drop"),
        [("surplus", "flow UCAST_TO_TUN 32768 vlan_vid=77 drop")],
    ),
    "flow that no library reads, with our cookie": (
        lambda h: h.ofctl(
            "add-flow",
            "br-tun",
            f"{MINE},table=77,ip,ct_state=+trk,actions=ct(commit,nat(src=1.2.3.4))",
        ),
        [("surplus", "flow 77 32768")],
    ),
    "tunnel port deleted": (
        lambda h: h.vsctl("del-port", TO_A),
        [("missing", f"tunnel {TO_A} vxlan to {A}")],
    ),
    "tunnel port pointed elsewhere": (
        lambda h: h.vsctl("set", "Interface", TO_A, "options:remote_ip=10.200.0.99"),
        [
            ("missing", f"tunnel {TO_A} vxlan to {A}"),
            ("surplus", f"tunnel {TO_A} vxlan to 10.200.0.99"),
        ],
    ),
    "tunnel port given an option": (
        lambda h: h.vsctl("set", "Interface", TO_A, "options:ttl=3"),
        [("missing", f"tunnel {TO_A}"), ("surplus", f"tunnel {TO_A} ttl=3")],
    ),
    "tunnel port robbed of our mark": (
        lambda h: h.vsctl("remove", "Port", TO_A, "external_ids", "ovs-l2pop"),
        [("missing", f"tunnel {TO_A} vxlan to {A}")],
    ),
    "tunnel port whose options were cleared": (
        lambda h: h.vsctl("clear", "Interface", TO_A, "options"),
        [("missing", f"tunnel {TO_A} vxlan to {A}"), ("surplus", f"tunnel {TO_A} vxlan to")],
    ),
    "tunnel port in one VLAN": (
        lambda h: h.vsctl("set", "Port", TO_A, "tag=7"),
        [("missing", f"tunnel {TO_A}"), ("surplus", f"tunnel {TO_A} tag=7")],
    ),
    "tunnel port made deaf": (
        lambda h: h.ofctl("mod-port", "br-tun", TO_A, "no-receive"),
        [("surplus", f"port flags br-tun {TO_A} no-receive")],
    ),
    "patch port that floods nothing": (
        lambda h: h.ofctl("mod-port", "br-int", "patch-tun", "no-flood", version="OpenFlow10"),
        [("surplus", "port flags br-int patch-tun no-flood")],
    ),
    "patch port led elsewhere": (
        lambda h: h.vsctl("set", "Interface", "patch-int", "options:peer=nowhere"),
        [
            ("missing", "wiring br-tun patch-int"),
            ("surplus", "wiring br-tun patch-int interface=patch peer=nowhere"),
        ],
    ),
    "patch port in one VLAN": (
        lambda h: h.vsctl("set", "Port", "patch-tun", "tag=7"),
        [("missing", "wiring br-int patch-tun"), ("surplus", "wiring br-int patch-tun tag=7")],
    ),
    "spanning tree on our bridge": (
        lambda h: h.vsctl("set", "Bridge", "br-tun", "stp_enable=true"),
        [("missing", "wiring br-tun bridge"), ("surplus", "wiring br-tun bridge stp_enable=true")],
    ),
    "tunnel port with our mark added": (
        lambda h: h.vsctl(
            *("add-port", "br-tun", "vxlan-deadbeef"),
            *("--", "set", "Interface", "vxlan-deadbeef", "type=vxlan"),
            *("options:remote_ip=222.173.190.239", "options:key=flow"),
            *("--", "set", "Port", "vxlan-deadbeef", "external_ids:ovs-l2pop=tunnel"),
        ),
        [("surplus", "tunnel vxlan-deadbeef vxlan to 222.173.190.239")],
    ),
}

GROUP_DAMAGES: dict[str, tuple[Damage, list[tuple[str, str]]]] = {
    "group deleted, and with it its flow": (
        lambda h: h.ofctl("del-groups", "br-tun", f"group_id={0x6C320002}"),
        [
            ("missing", "flow FLOOD_TO_TUN 11 vlan_vid=6 group:0x6c320002"),
            ("missing", "group br-tun 0x6c320002 all"),
        ],
    ),
    "group changed": (
        lambda h: h.ofctl(
            "mod-group", "br-tun", f"group_id={0x6C320002},type=all,bucket=actions=drop"
        ),
        [("missing", "group br-tun 0x6c320002 all"), ("surplus", "group br-tun 0x6c320002 all")],
    ),
    "recirculation group without weight": (
        lambda h: h.ofctl(
            *("mod-group", "br-tun"),
            f"group_id={0x6C320000},type=select,bucket=weight:0,actions=resubmit(,26)",
        ),
        [
            ("missing", "group br-tun 0x6c320000 select"),
            ("surplus", "group br-tun 0x6c320000 select"),
        ],
    ),
    "group of ours too many": (
        lambda h: h.ofctl(
            "add-group", "br-tun", f"group_id={0x6C320009},type=all,bucket=actions=drop"
        ),
        [("surplus", "group br-tun 0x6c320009 all")],
    ),
}

"""br-tun under a Neutron agent: what is the agent's stays, and its tunnels are taken over."""

import itertools
from pathlib import Path

import pytest
from column_damages import INTERFACE, PORT
from conftest import MakeLab
from feed_helpers import wait_until
from switch_helpers import ports

from l2pop_lab.topology import Host
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.backends.openvswitch.backend import OpenvswitchBackend
from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
from ovs_l2pop.backends.openvswitch.render import tunnel_name
from ovs_l2pop.backends.openvswitch.rows import Bridges
from ovs_l2pop.core.messages import Parser, read

NETWORK = "7a1c4bd0-95a3-4e0e-9d51-3c2a7c3c9b10"
HERE = "2001:db8::1"
NEAR, FAR, OTHER = "2001:db8::2", "2001:db8::3", "2001:db8::4"
MESSAGES = [
    f'{{"method": "attach_network", "network_id": "{NETWORK}", "network_type": "vxlan",'
    ' "segment_id": 1001, "local_vlan": 5}',
    f'{{"method": "add_fdb_entries", "fdb_entries": {{"{NETWORK}": {{"network_type": "vxlan",'
    f' "segment_id": 1001, "ports": {{"{NEAR}": [["00:00:00:00:00:00", "0.0.0.0"]],'
    f' "{FAR}": [["00:00:00:00:00:00", "0.0.0.0"]]}}}}}}}}',
]
TOLD = read([message.encode() for message in MESSAGES], Parser(HERE))


def backend(host: Host) -> OpenvswitchBackend:
    """As the extension makes it."""
    return OpenvswitchBackend(
        OpenvswitchSettings(
            local_ip=HERE,
            tunnel_types=("vxlan",),
            arp_responder=True,
            ovsdb_connection=host.ovsdb,
            rundir=host.rundir,
            bridges=Bridges("br-int", "br-tun", "netdev"),
            vxlan_udp_port=4789,
            tunnel_csum=False,
            dont_fragment=True,
            tos=None,
            openflow_library="os_ken",
            shared=True,
        )
    )


def stock_tunnel(host: Host, name: str, remote: str) -> int:
    """A tunnel as the stock agent makes it, in fewer options; its number."""
    host.vsctl(
        *("add-port", "br-tun", name, "--", "set", "Interface", name, "type=vxlan"),
        *("options:in_key=flow", "options:out_key=flow", "options:local_ip=" + f'"{HERE}"'),
        *("options:remote_ip=" + f'"{remote}"',),
    )
    return host.ofport(name)


def test_tunnels_of_the_agent_are_taken_over(make_lab: MakeLab, tmp_path: Path) -> None:
    host = make_lab(1).hosts[0]
    host.vsctl("add-br", "br-tun", "--", "set", "Bridge", "br-tun", "datapath_type=netdev")
    host.ofctl("add-flow", "br-tun", "cookie=0x77,table=20,priority=2,dl_vlan=5,actions=drop")
    same = stock_tunnel(host, tunnel_name("vxlan", NEAR), NEAR)
    # Releases before 2025.1 made the name from another hash.
    renamed = stock_tunnel(host, "vxlan-abcdefghi", FAR)
    stock_tunnel(host, tunnel_name("vxlan", OTHER), OTHER)
    host.vsctl("add-port", "br-tun", "mine", "--", "set", "Interface", "mine", "type=internal")

    agent = Worker(HERE, backend(host), Store(tmp_path))
    agent.start().result()
    try:
        outcome = agent.submit(*TOLD).result()
        assert (outcome.refusals, outcome.pending) == ([], None)
        assert agent.call(agent.drift).result() == ([], [])
        names = {tunnel_name("vxlan", NEAR), "vxlan-abcdefghi"}
        assert ports(host, "br-tun") == {"mine", tunnel_name("vxlan", OTHER), *names}
        numbers = {host.ofport(name) for name in names}
        assert numbers == {same, renamed}
        flood = host.ofctl("dump-flows", "br-tun", "table=22")
        assert all(f"output:{number}" in flood for number in numbers)
        assert "cookie=0x77" in host.ofctl("dump-flows", "br-tun", "table=20")
    finally:
        agent.stop()


@pytest.mark.expected_warnings(
    r"\|(bridge|netdev|netdev_vport|ofproto|bond|lacp|tunnel|cfm|bfd)\|",
    r"socket_util\|ERR\|.nobody. is not a valid IP address",
)
def test_a_tunnel_that_was_taken_over_is_ours(make_lab: MakeLab, tmp_path: Path) -> None:
    """Every column of it comes back; of the bridges and patch ports none is touched."""
    host = make_lab(1).hosts[0]
    host.vsctl(
        *("add-br", "br-tun", "--", "set", "Bridge", "br-tun", "datapath_type=netdev"),
        *("stp_enable=true", "fail_mode=standalone"),
        *("--", "add-port", "br-tun", "patch-int", "tag=7"),
        *("--", "set", "Interface", "patch-int", "type=patch", "options:peer=patch-tun"),
    )
    name = tunnel_name("vxlan", NEAR)
    number = stock_tunnel(host, name, NEAR)

    def everything() -> list[str]:
        tables = (("Port", "tag,other_config,external_ids"), ("Bridge", "stp_enable,fail_mode"))
        return [host.vsctl(f"--columns=name,{shown}", "list", table) for table, shown in tables]

    theirs = host.vsctl("--columns=tag,other_config,external_ids", "list", "Port", "patch-int")
    agent = Worker(HERE, backend(host), Store(tmp_path), drift_interval=0)
    agent.start().result()
    try:
        agent.submit(*TOLD).result()
        before = everything()
        interface = ("--columns=type,options,ofport,bfd,mac", "list", "Interface", name)
        own = host.vsctl(*interface)
        for template in itertools.chain(*PORT.values(), *INTERFACE.values()):
            if template in ("clear Port {} other_config", "remove Interface {} options peer"):
                continue  # it has none
            host.vsctl("--no-wait", *template.replace("{}", name).split())
            wait_until(lambda: agent.call(agent.drift).result() != ([], []), template)
            _, refused = agent.call(agent.repair).result()
            assert refused == {}, template
            assert (host.vsctl(*interface), everything()) == (own, before), template
        assert host.ofport(name) == number
        shown = host.vsctl("--columns=tag,other_config,external_ids", "list", "Port", "patch-int")
        assert shown == theirs
    finally:
        agent.stop()

"""``ovs-l2pop doctor`` on running networks of both backends, sound and broken."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, Site, configured, pairs_of, send, wait_until
from linuxbridge_helpers import announce, attach, plug

from l2pop_lab.topology import Host, Lab, Machine, namespaces

NET, OTHER = Net(1, 1001), Net(2, 1002)
VLAN = 5
MACS = ("fa:16:3e:00:00:01", "fa:16:3e:00:00:02")
IPS = ("10.0.0.1", "10.0.0.2")
BACKENDS = ("openvswitch", "linuxbridge")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two hosts with a machine each, in one network."""

    site: Site
    backend: str
    machines: tuple[Machine, Machine]

    @property
    def hosts(self) -> tuple[Host, Host]:
        one, two = self.site.lab.hosts
        return one, two

    @property
    def underlay(self) -> str:
        """The device that has a VTEP's address."""
        return "br-phy" if self.backend == "openvswitch" else "phy0"


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest, make_lab: Callable[..., Lab]) -> Iterator[Pair]:
    yield from _pair(make_lab, request.param)


@pytest.fixture
def ovs(make_lab: Callable[..., Lab]) -> Iterator[Pair]:
    yield from _pair(make_lab, "openvswitch")


def _pair(make_lab: Callable[..., Lab], backend: str) -> Iterator[Pair]:
    linux = backend == "linuxbridge"
    lab = make_lab(2, linuxbridge=(1, 2) if linux else ())
    site = Site.start(lab)
    if linux:
        for host in lab.hosts:
            send(site.agent(host), attach(NET))
        one, two = (
            plug(host, f"vm{at}", MACS[at], NET, IPS[at]) for at, host in enumerate(lab.hosts)
        )
        announce(site, NET, [one, two])
    else:
        one, two = (
            host.add_machine(f"vm{at}", MACS[at], IPS[at], tag=VLAN)
            for at, host in enumerate(lab.hosts)
        )
        site.populate(NET, [one, two])
    wait_until(lambda: one.ping(IPS[1]).lost == 0, "the machines reach each other")
    yield Pair(site, backend, (one, two))
    for agent in site.agents.values():
        assert "Traceback" not in agent.log()
        agent.stop()


@dataclass(frozen=True, slots=True)
class Said:
    """What doctor said."""

    code: int
    rows: list[dict[str, Any]]

    def one(self, *words: str) -> dict[str, Any]:
        """The only finding with all of these words."""
        found = [row for row in self.rows if all(word in str(row) for word in words)]
        assert len(found) == 1, f"{words}: {self.rows}"
        assert found[0]["evidence"], found[0]["remedy"]
        assert (self.code, found[0]["kind"]) == (1, "finding")
        return found[0]


def doctor(host: Host, *, user: int | None = None) -> Said:
    argv = configured(host, "doctor", "-f", "json")
    as_user = [] if user is None else ["setpriv", "--reuid", str(user), "--clear-groups"]
    done = subprocess.run(
        namespaces.command(host.namespace, [*as_user, *argv]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"OVS_RUNDIR": str(host.rundir)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return Said(done.returncode, json.loads(done.stdout))


def sound(host: Host) -> None:
    said = doctor(host)
    assert (said.code, said.rows) == (0, []), json.dumps(said.rows, indent=1)


# -- nothing is wrong ------------------------------------------------------------------------------


def test_a_sound_network_has_no_findings(pair: Pair) -> None:
    """Idle, under load, after a restart of the agent."""
    one, _ = pair.hosts
    for host in pair.hosts:
        sound(host)
    with pair.machines[0].ping_forever(IPS[1], interval=0.002):
        sound(one)
    agent = pair.site.agent(one)
    assert agent.stop() == 0
    pair.site.agents[one.name] = one.start_agent(config=one.directory / "agent.conf")
    sound(one)


# -- the underlay ----------------------------------------------------------------------------------


def test_an_mtu_too_small_is_told_with_device_and_by_how_much(pair: Pair) -> None:
    one, two = pair.hosts
    need = 50 + max(
        link["mtu"] for link in json.loads(one.exec("ip", "-j", "link", "show", "tap-vm0"))
    )
    one.exec("ip", "link", "set", pair.underlay, "mtu", str(need - 7))
    doctor(one).one(f"on the way to VTEP {two.vtep}, {need - 7} by {pair.underlay}", "by 7")


def test_a_smaller_mtu_on_the_way_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    namespaces.ip_batch([f"link set {two.name} mtu 1400"], pair.site.lab.underlay)
    doctor(one).one(f"to VTEP {two.vtep} are lost on the way", "small ones are not")


def test_a_vtep_without_a_route_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    send(pair.site.agent(one), NET.add({"10.99.0.9": [FLOODING]}))
    doctor(one).one("no route to VTEP 10.99.0.9")


def test_a_vtep_that_nobody_has_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    send(pair.site.agent(one), NET.add({"10.200.0.77": [FLOODING]}))
    doctor(one).one("VTEP 10.200.0.77 doesn't answer ARP", pair.underlay)


def test_a_peer_whose_link_is_down_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    namespaces.ip_batch([f"link set {two.name} down"], pair.site.lab.underlay)
    doctor(one).one(f"VTEP {two.vtep} doesn't answer")


@pytest.mark.expected_warnings(r"receive tunnel port not found")
def test_another_udp_port_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    pair.site.agent(two).stop()
    section, option = ("openvswitch", "vxlan_udp_port")
    if pair.backend == "linuxbridge":
        section, option = ("vxlan", "udp_dstport")
    config = two.agent_config(**{section: {option: 8472}})
    agent = pair.site.agents[two.name] = two.start_agent(config=config)
    assert agent.cli("check").returncode == 0
    doctor(one).one(f"{two.vtep} doesn't listen on UDP port 4789", "it doesn't refuse 8472")
    doctor(two).one(f"{one.vtep} doesn't listen on UDP port 8472", "it doesn't refuse 4789")


def test_a_local_ip_that_went_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    one.exec("ip", "address", "flush", "dev", pair.underlay)
    doctor(one).one(f"local_ip {one.vtep} is on no device")


@pytest.mark.expected_warnings(r"receive tunnel port not found")
def test_a_local_ip_of_two_hosts_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    two.exec("ip", "address", "add", f"{one.vtep}/32", "dev", pair.underlay)
    doctor(one).one(f"another host has local_ip {one.vtep} too", two.mac)


# -- networks and ports ----------------------------------------------------------------------------


@pytest.mark.expected_warnings(r"receive tunnel port not found")
def test_another_vni_than_peers_announce_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    wrong = Net(NET.number, OTHER.segment)
    anew = attach(wrong) if pair.backend == "linuxbridge" else wrong.attach(VLAN)
    send(pair.site.agent(one), NET.detach(), anew)
    doctor(one).one("peers announce vxlan 1001", "here it is vxlan 1002", two.vtep)


def test_a_tag_of_no_network_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.vsctl("set", "Port", "tap-vm0", "tag=6")
    said = doctor(one)
    said.one("tap-vm0 has tag 6, and no network here has it")
    said.one(f"network {NET.id} is attached, and no machine is plugged into it")


def test_a_network_without_a_machine_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    anew = attach(OTHER) if pair.backend == "linuxbridge" else OTHER.attach(7)
    send(pair.site.agent(one), anew)
    doctor(one).one(f"network {OTHER.id} is attached, and no machine")


@pytest.mark.expected_warnings(r"Network is down")
def test_a_port_that_is_down_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    one.exec("ip", "link", "set", "tap-vm0", "down")
    wait_until(
        lambda: any("tap-vm0: it is down" in row["what"] for row in doctor(one).rows), "it is told"
    )
    doctor(one).one("tap-vm0: it is down")


def test_an_isolated_port_is_told(make_lab: Callable[..., Lab]) -> None:
    for pair in _pair(make_lab, "linuxbridge"):
        one, _ = pair.hosts
        one.exec("bridge", "link", "set", "dev", "tap-vm0", "isolated", "on")
        doctor(one).one("tap-vm0: isolated")


@pytest.mark.parametrize("flag", ["flood", "bcast_flood", "mcast_flood"])
def test_a_port_that_is_kept_out_is_told(make_lab: Callable[..., Lab], flag: str) -> None:
    for pair in _pair(make_lab, "linuxbridge"):
        one, _ = pair.hosts
        one.exec("bridge", "link", "set", "dev", "tap-vm0", flag, "off")
        doctor(one).one(f"tap-vm0: {flag} is off")


@pytest.mark.parametrize("flag", ["receive", "forward", "flood"])
def test_what_openflow_has_set_on_a_port_is_told(ovs: Pair, flag: str) -> None:
    one, _ = ovs.hosts
    one.ofctl("mod-port", "br-int", "tap-vm0", f"no-{flag}", version="OpenFlow10")
    doctor(one).one("tap-vm0: ", f"(OpenFlow's no-{flag})")


def test_a_protected_port_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.vsctl("set", "Port", "tap-vm0", "protected=true")
    doctor(one).one("tap-vm0: it is protected")


@pytest.mark.expected_warnings(r"stp")
def test_a_port_that_spanning_tree_holds_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.vsctl("set", "Bridge", "br-int", "stp_enable=true")
    doctor(one).one("tap-vm0: spanning tree has it in the state listen")


def test_an_integration_bridge_without_flows_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.vsctl("set-fail-mode", "br-int", "secure")
    one.ofctl("del-flows", "br-int")
    doctor(one).one("br-int has no flows and drops all frames")


# -- what is announced -----------------------------------------------------------------------------


def test_two_claims_of_a_mac_are_told(pair: Pair) -> None:
    one, two = pair.hosts
    send(pair.site.agent(one), NET.add({"10.200.0.77": [FLOODING, [MACS[1], "10.0.0.9"]]}))
    doctor(one).one(f"MAC {MACS[1]} is claimed behind {two.vtep} and 10.200.0.77")


def test_two_claims_of_an_ip_are_told(pair: Pair) -> None:
    one, two = pair.hosts
    third = "fa:16:3e:00:00:03"
    send(pair.site.agent(one), NET.add({two.vtep: [[third, IPS[1]]]}))
    doctor(one).one(f"IP {IPS[1]} is claimed by {MACS[1]} and {third}")


def test_a_machine_here_that_is_announced_elsewhere_is_told(ovs: Pair) -> None:
    one, two = ovs.hosts
    agent = ovs.site.agent(one)
    send(agent, NET.remove({one.vtep: pairs_of(ovs.machines[0])}))
    send(agent, NET.add({two.vtep: [[MACS[0], IPS[0]]]}))
    doctor(one).one(f"{MACS[0]} is plugged in here at tap-vm0 and announced behind {two.vtep}")


def test_machines_without_a_flooding_entry_are_told(pair: Pair) -> None:
    one, two = pair.hosts
    send(pair.site.agent(one), NET.remove({two.vtep: [FLOODING]}))
    doctor(one).one(f"{two.vtep} announced machines and no flooding entry")


# -- the switch ------------------------------------------------------------------------------------


def test_foreign_flows_on_either_bridge_are_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.ofctl("add-flow", "br-tun", "cookie=0xbad,table=0,priority=999,ip,actions=drop")
    answer = "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],in_port"
    one.ofctl("add-flow", "br-int", f"cookie=0xbee,priority=77,arp,arp_op=1,actions={answer}")
    said = doctor(one)
    said.one("a foreign flow on br-tun does drop", "cookie 0xbad", "priority 999")
    said.one("a foreign flow on br-int answers ARP in our place", "cookie 0xbee", "priority 77")


def test_a_row_that_is_missing_is_told(pair: Pair) -> None:
    one, two = pair.hosts
    if pair.backend == "openvswitch":
        one.ofctl("del-flows", "br-tun", f"table=20,dl_dst={MACS[1]}")
        doctor(one).one("flow missing", MACS[1])
    else:
        one.exec("bridge", "fdb", "del", MACS[1], "dev", "vxlan-1001", "dst", two.vtep, "self")
        doctor(one).one("unicast missing", MACS[1])


@pytest.mark.expected_warnings(r"tcp:127.0.0.1")
def test_a_controller_of_somebody_else_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.vsctl("set-controller", "br-tun", "tcp:127.0.0.1:16633")
    wait_until(lambda: doctor(one).code == 1, "it is told")
    doctor(one).one("br-tun has a controller (tcp:127.0.0.1:16633)")


def test_a_switch_that_is_down_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    one.stop_vswitchd()
    wait_until(lambda: any(r["offender"] == "dataplane" for r in doctor(one).rows), "it is told")
    said = doctor(one)
    said.one("dataplane: ")
    assert any(row["offender"] == "flows" for row in said.rows if row["kind"] == "can't tell")


@pytest.mark.expected_warnings(r"Broken pipe", r"Unreasonably long", r"context switches", r"faults")
def test_a_switch_that_hangs_is_told(ovs: Pair) -> None:
    one, _ = ovs.hosts
    with one.frozen("ovs-vswitchd"):
        said = doctor(one)
        assert [r["offender"] for r in said.rows if r["kind"] == "can't tell"][-1] == "flows"
        wait_until(lambda: doctor(one).code == 1, "the agent has noticed", timeout=60)
        doctor(one).one("dataplane: ")


# -- what can't be looked at -----------------------------------------------------------------------


def test_without_an_agent_the_rest_is_told(pair: Pair) -> None:
    one, _ = pair.hosts
    pair.site.agent(one).kill()
    said = doctor(one)
    assert said.code == 2
    assert [row["offender"] for row in said.rows] == ["agent"]
    assert "no agent answers" in said.rows[0]["what"]
    one.exec("ip", "address", "flush", "dev", pair.underlay)
    doctor(one).one(f"local_ip {one.vtep} is on no device")


def test_who_is_not_root_is_told_what_is_not_seen(pair: Pair) -> None:
    one, _ = pair.hosts
    for path in (pair.site.lab.directory, one.directory):
        path.chmod(0o755)
    said = doctor(one, user=65534)
    assert said.code == 2
    assert {"agent", "local_ip elsewhere"} <= {row["offender"] for row in said.rows}
    assert {row["remedy"] for row in said.rows} == {"run it as root"}

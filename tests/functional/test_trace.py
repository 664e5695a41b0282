"""``trace``: how a frame is said to end, and what happened to the same frame when it was sent."""

import json
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import pytest
from feed_helpers import FLOODING, Net, Site, configured, send
from frame_helpers import BROADCAST, plain
from linuxbridge_helpers import announce, attach, plug
from switch_helpers import OURS, UCAST_TO_TUN, copies

from l2pop_lab.topology import Host, Lab, Machine, namespaces

MACS = [f"fa:16:3e:00:00:0{number}" for number in range(4)]
IPS = [f"10.0.0.{number + 1}" for number in range(4)]
UNKNOWN = "fa:16:3e:00:00:99"
NET = Net(1, 77)


class Traced(NamedTuple):
    """What trace said."""

    code: int
    rows: list[dict[str, str]]
    error: str

    @property
    def end(self) -> str:
        assert self.rows[-1]["where"] == "end"
        return self.rows[-1]["does"]


class Place(NamedTuple):
    """Two machines on the first host, one on each other; all are announced."""

    site: Site
    backend: str
    machines: list[Machine]

    @property
    def hosts(self) -> list[Host]:
        return self.site.lab.hosts

    def trace(self, *argv: str) -> Traced:
        """On the first host."""
        host = self.hosts[0]
        done = subprocess.run(
            namespaces.command(host.namespace, configured(host, "trace", "-f", "json", *argv)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Traced(done.returncode, json.loads(done.stdout or "[]"), done.stderr)

    def seen(self, frame: bytes) -> set[str]:
        """VTEPs to which a frame of the first machine is copied."""
        needle = frame.rstrip(b"\0")
        with self.site.lab.capture_underlay() as underlay:
            self.machines[0].send(frame)
            underlay.wait_for(lambda data: needle in data)
        found = copies(underlay.frames)
        return {tunnel.destination for tunnel in found if tunnel.inner.source == MACS[0]}


@pytest.fixture(scope="module", params=["openvswitch", "flow", "linuxbridge"])
def place(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Place:
    linux = request.param == "linuxbridge"
    tunnel_ports = "flow" if request.param == "flow" else "per_vtep"
    lab = make_module_lab(3, linuxbridge=(1, 2, 3) if linux else (), tunnel_ports=tunnel_ports)
    site = Site.start(lab)
    where = [lab.hosts[0], lab.hosts[0], *lab.hosts[1:]]
    if linux:
        for host in lab.hosts:
            send(site.agent(host), attach(NET))
        machines = [plug(host, f"vm{n}", MACS[n], NET, IPS[n]) for n, host in enumerate(where)]
        announce(site, NET, machines)
    else:
        machines = [
            host.add_machine(f"vm{n}", MACS[n], IPS[n], tag=5) for n, host in enumerate(where)
        ]
        site.populate(NET, machines)
    assert machines[0].ping(IPS[1]).lost == 0  # and so the switch has learned them
    return Place(site, "linuxbridge" if linux else "openvswitch", machines)


@pytest.mark.parametrize("who", ["tap-vm0", MACS[0], IPS[0]])
@pytest.mark.parametrize("to", [MACS[2], IPS[2]])
def test_to_a_machine_elsewhere(place: Place, who: str, to: str) -> None:
    if place.backend == "linuxbridge" and who == IPS[0]:
        who = MACS[0]  # the bridge knows it by that
    vtep = place.hosts[1].vtep
    said = place.trace(who, to)
    assert (said.code, said.end) == (0, f"leaves to VTEP {vtep}")
    (route,) = (row for row in said.rows if row["where"] == "underlay")
    assert route["does"] == f"by {'phy0' if place.backend == 'linuxbridge' else 'br-phy'}"
    assert place.seen(plain(MACS[2], MACS[0], "to a machine")) == {vtep}


def test_to_one_on_this_host(place: Place) -> None:
    said = place.trace("tap-vm0", IPS[1])
    assert (said.code, said.end) == (0, "arrives at tap-vm1 on this host")


def test_to_all(place: Place) -> None:
    said = place.trace("tap-vm0", "broadcast")
    vteps = [host.vtep for host in place.hosts[1:]]
    assert (said.code, said.end) == (
        0,
        f"leaves to VTEPs {', '.join(vteps)}, and at tap-vm1 here",
    )
    assert place.seen(plain(BROADCAST, MACS[0], "to all")) == set(vteps)


def test_to_an_unknown_mac(place: Place) -> None:
    said = place.trace("tap-vm0", UNKNOWN)
    assert said.code == 0
    assert said.end.startswith("unknown here, and flooded: leaves to VTEPs ")


@pytest.mark.parametrize("kind", ["arp", "nd"])
def test_a_question(place: Place, kind: str) -> None:
    if place.backend == "linuxbridge":
        said = place.trace("tap-vm0", IPS[2], "--kind", kind)
        assert said.code == 2
        assert {"arp": "a program's to say", "nd": "an IPv6 address"}[kind] in said.error
        return
    address = {"arp": IPS[2], "nd": "fd00::3"}[kind]
    for host in place.hosts:
        pair = {place.hosts[1].vtep: [[MACS[2], address]]}
        send(place.site.agent(host), NET.add(pair))
    known = place.trace("tap-vm0", address, "--kind", kind)
    assert (known.code, known.end) == (0, "answered on this host, to tap-vm0")
    unknown = {"arp": "10.0.0.99", "nd": "fd00::99"}[kind]
    asked = place.trace("tap-vm0", unknown, "--kind", kind)
    assert asked.code == 0
    assert asked.end.startswith("leaves to VTEPs ")


@pytest.mark.parametrize(
    ("who", "to", "why"),
    [
        ("tap-none", IPS[2], "tap-none: no port here has this name"),
        ("tap-vm0", "10.0.0.99", "10.0.0.99: nobody claims it"),
        ("tap-vm0", "nonsense", "nonsense: nobody claims it"),
    ],
)
def test_who_is_not_known(place: Place, who: str, to: str, why: str) -> None:
    said = place.trace(who, to)
    assert (said.code, said.rows) == (2, [])
    assert why in said.error


def test_where_it_is_lost(place: Place) -> None:
    """There is no route; and no flow that would lead there."""
    one = place.hosts[0]
    agent = place.site.agent(one)
    send(agent, NET.add({"192.0.2.1": [FLOODING, [UNKNOWN, "10.0.0.9"]]}))
    try:
        said = place.trace("tap-vm0", UNKNOWN)
        assert said.code == 1
        assert "192.0.2.1" in said.end or "lost in" in said.end
    finally:
        send(agent, NET.remove({"192.0.2.1": [FLOODING, [UNKNOWN, "10.0.0.9"]]}))
    if place.backend == "openvswitch":
        one.ofctl("del-flows", "br-tun", f"{OURS},table={UCAST_TO_TUN}")
        try:
            said = place.trace("tap-vm0", MACS[2])
            assert said.code == 1
            assert said.end.startswith("lost in br-tun, UCAST_TO_TUN: no flow")
        finally:
            assert agent.cli("repair").returncode == 0

"""No frame that came from a tunnel leaves by one, and none is copied twice, whatever it looks like.

h1                        h2               h3
vm1, near1 ─ … ─ tunnels     vm2, near2       vm3, near3

A guest can send what it likes. Each frame makes at most one copy for each other VTEP, from its own
host's VTEP; each other guest gets it at most once, and its sender never. What a VTEP sends makes
none at all. Guests have no addresses: nothing else is on the underlay.

Of frames there are many: they go in bursts, known again by their source address. ``make functional
OVS_L2POP_SCALE=20`` sends twenty times as many.
"""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from feed_helpers import FLOODING, Net, Site, drift, send
from frame_helpers import BROADCAST, advertisement, arp, mac_bytes, plain
from guest_frames import MACS, frames
from hypothesis import HealthCheck, Phase, given, settings
from linuxbridge_helpers import SCALE, Kernel, bridge_of, plug, tunnel_of

from l2pop_lab.topology import Host, Lab, LinuxBridgeHost, Machine, namespaces
from l2pop_lab.topology.frames import decode
from ovs_l2pop.backends.linuxbridge import links
from ovs_l2pop.netlink.socket import Netlink

NET = Net(1, 77)
#: Frames in a burst.
BURST = 100
#: Source addresses by which frames are known.
SOURCES = [f"fa:16:3e:f0:{number >> 8:02x}:{number & 255:02x}" for number in range(2000)]

KINDS = {"Linux bridge": [1, 2, 3], "both": [1, 2], "Open vSwitch": []}


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Site:
    return build(make_module_lab(3, linuxbridge=KINDS[request.param]))


def build(lab: Lab) -> Site:
    site = Site.start(lab)
    for host in site.lab.hosts:  # the machine is shared, and the fuse blows late
        limit = ("rate", "4mbit", "burst", "64kb", "limit", "64kb")
        run_in = namespaces.command(site.lab.underlay, ["tc", "qdisc", "add", "dev", host.name])
        subprocess.run([*run_in, "root", "tbf", *limit], check=True)
    everybody = {
        host.vtep: [FLOODING, [mac, f"10.0.0.{number}"], [mac, f"fd00::{number}"]]
        for number, (host, mac) in enumerate(zip(site.lab.hosts, MACS, strict=True), 1)
    }
    for number, (host, mac) in enumerate(zip(site.lab.hosts, MACS, strict=True), 1):
        send(site.agent(host), NET.attach(5), NET.add(everybody))
        for name, address in ((f"vm{number}", mac), (f"near{number}", f"fa:16:3e:00:01:0{number}")):
            if isinstance(host, LinuxBridgeHost):
                plug(host, name, address, NET)
            else:
                host.add_machine(name, address, tag=5)
    return site


# -- what is sent --------------------------------------------------------------------------------


def marked(burst: Sequence[bytes]) -> list[bytes]:
    return [
        frame[:6] + mac_bytes(source) + frame[12:]
        for frame, source in zip(burst, SOURCES, strict=False)
    ]


# -- sending, and what came of it ----------------------------------------------------------------

MARK = "that was all"
# linux/if_packet.h; Python's socket lacks them.
_SOL_PACKET, _STATISTICS, _IGNORE_OUTGOING, _ALL = 263, 6, 23, 3


class Fuse:
    """Cuts the underlay when more is on it than there can be: the machine is shared."""

    def __init__(self, lab: Lab, limit: int) -> None:
        self._limit = limit
        self._names = [host.name for host in lab.hosts]
        self._counters: list[socket.socket] = []
        self._count = 0
        namespaces.call(lab.underlay, self._open)

    def check(self) -> None:
        """Must be called every few milliseconds."""
        for counter in self._counters:
            since = counter.getsockopt(_SOL_PACKET, _STATISTICS, 8)
            self._count += struct.unpack("=II", since)[0]
        if self._count > self._limit:
            self._netlink.write(map(links.set_down, self._ports))
            raise AssertionError(f"{self._count} frames on the underlay, and it was cut")

    def close(self) -> None:
        if self._count > self._limit:
            time.sleep(0.5)  # what is under way ends
            self._netlink.write(map(links.set_up, self._ports))
        for counter in self._counters:
            counter.close()
        self._netlink.close()

    def _open(self) -> None:
        self._netlink = Netlink()
        self._ports = [socket.if_nametoindex(name) for name in self._names]
        for name in self._names:
            counter = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            counter.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            counter.bind((name, _ALL))
            self._counters.append(counter)


class Seen(NamedTuple):
    """What came of a burst; its frames by their source address."""

    copies: Counter[tuple[str, str, str]]  #: (source address, from VTEP, to VTEP)
    odd: list[bytes]  #: whatever else was in tunnels
    got: dict[str, dict[str, list[bytes]]]  #: by machine


@contextmanager
def watched(site: Site, frames: int) -> Iterator[Callable[[], Seen]]:
    """While so many frames are sent; afterwards a call ends it and tells what was seen."""
    fuse = Fuse(site.lab, 8 * max(frames, BURST))
    with ExitStack() as stack:
        stack.callback(fuse.close)
        underlay = stack.enter_context(site.lab.capture_underlay())
        captures = {m.name: stack.enter_context(m.capture()) for m in machines(site)}

        def pass_on(text: str, sender: Machine) -> None:
            deadline = time.monotonic() + 10
            waiting = [capture for name, capture in captures.items() if name != sender.name]
            while waiting:
                assert time.monotonic() < deadline, f"lost: {text}"
                send_all(sender, [plain(BROADCAST, sender.mac, text)])
                again = time.monotonic() + 0.5
                while waiting and time.monotonic() < again:
                    fuse.check()
                    time.sleep(0.002)
                    waiting = [c for c in waiting if not any(text.encode() in d for d in c.data)]

        def seen() -> Seen:
            # What one port sends arrives in order; so what was sent before is there, and, when the
            # others have sent as well, what they made of it.
            for number, host in enumerate(site.lab.hosts * 2):
                pass_on(f"{MARK} {number}", vm(host))
            fuse.check()
            counted: Counter[tuple[str, str, str]] = Counter()
            odd, known = [], frozenset(SOURCES)
            for data in (frame.data for frame in underlay.stop()):
                tunnel = decode(data).tunnel
                if tunnel and tunnel.inner.source in known:
                    counted[tunnel.inner.source, tunnel.source, tunnel.destination] += 1
                elif tunnel and MARK.encode() not in data:
                    odd.append(data)
            got: dict[str, dict[str, list[bytes]]] = {}
            for name, capture in captures.items():
                got[name] = defaultdict(list)
                for frame in capture.stop():
                    got[name][decode(frame.data).source].append(frame.data)
            return Seen(counted, odd, got)

        yield seen


def machines(site: Site) -> list[Machine]:
    return [machine for host in site.lab.hosts for machine in host.machines.values()]


def vm(host: Host) -> Machine:
    return host.machines[f"vm{host.name[1:]}"]


def near(host: Host) -> Machine:
    return host.machines[f"near{host.name[1:]}"]


def send_all(machine: Machine, burst: Sequence[bytes]) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for frame in burst:
                try:
                    raw.send(frame)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # the machine is busy: it was dropped
                        raise
                    time.sleep(0.01)
                    raw.send(frame)

    namespaces.call(machine.namespace, send)


def check_sent(site: Site, sender: Host, unmarked: Sequence[bytes]) -> None:
    """Send frames from a guest and see how often they arrive where."""
    burst = marked(unmarked)
    with watched(site, len(burst)) as seen:
        send_all(vm(sender), burst)
        check(site, sender, burst, seen())


def check(site: Site, sender: Host, burst: Sequence[bytes], seen: Seen) -> None:
    copies, odd, got = seen
    assert odd == []
    others = [host for host in site.lab.hosts if host is not sender]
    for frame, source in zip(burst, SOURCES, strict=False):
        ways = Counter({way: n for way, n in copies.items() if way[0] == source})
        once = Counter((source, sender.vtep, host.vtep) for host in others)
        shown = f"{frame.hex()} went {ways}"
        assert ways <= once, shown
        counts = {name: len(frames[source]) for name, frames in got.items()}
        assert counts[vm(sender).name] == 0, shown
        assert max(counts.values()) <= 1, shown
        # What the kernel drops (with br_netfilter, IPv6 of a wrong version) nobody gets.
        heard = got[near(sender).name][source]
        if isinstance(sender, LinuxBridgeHost) and heard and announces(heard[0]):
            assert ways == once, shown
            # An access port of Open vSwitch takes nothing that is tagged.
            kinds = Host if announces(heard[0], tagged=False) else LinuxBridgeHost
            reached = {m.name for m in machines(site) if isinstance(m.host, kinds)}
            assert {name for name in reached if not counts[name]} == {vm(sender).name}, shown


def announces(frame: bytes, tagged: bool = True) -> bool:
    """Whether it must reach everybody: announcements and probes to a group, *tagged* ones too."""
    # The kernel looks behind one tag.
    tag = 4 if tagged and frame[12:14] in (b"\x81\0", b"\x88\xa8") else 0
    kind, body = frame[12 + tag : 14 + tag], frame[14 + tag :]
    if not frame[0] & 1 or frame[:5] == b"\x01\x80\xc2\0\0":
        return False
    if kind == b"\x08\x06" and len(body) >= 28 and body[2:6] == b"\x08\0\6\4":
        sender, target = body[14:18], body[24:28]
        fits = target[0] != 127 and target[0] >> 4 != 14 and body[6:8] not in (b"\0\3", b"\0\4")
        return fits and sender in (bytes(4), target)
    if kind == b"\x86\xdd" and len(body) >= 64 and body[6] == 58 and not body[41]:
        unsolicited = body[40] == 136 and not body[44] & 0x40
        return unsolicited or (body[40] == 135 and body[8:24] in (bytes(16), body[24:40]))
    return False


# -- tests ---------------------------------------------------------------------------------------

FORMS = {
    "0.x asks": arp(MACS[0], "0.0.0.5", "10.0.0.99"),
    "0.x asks for a known address": arp(MACS[0], "0.0.0.5", "10.0.0.2"),
    "127.0.0.1 is announced": arp(MACS[0], "127.0.0.1", "127.0.0.1"),
    "a group is announced": arp(MACS[0], "224.0.0.1", "224.0.0.1"),
    "another code": advertisement(MACS[0], "fd00::1", "33:33:00:00:00:01", "fd00::1", 1, code=1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [0, 2])
def test_one_frame(site: Site, form: str, number: int) -> None:
    """Each of these went round for ever between hosts that announced what they had been told."""
    check_sent(site, site.lab.hosts[number], [FORMS[form]])


@cache
def bursts() -> list[list[bytes]]:
    """The same for all kinds of hosts: to think them up takes longer than to send them."""
    found: list[bytes] = []

    @settings(
        max_examples=6 * BURST * SCALE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(frames())
    def collect(frame: bytes) -> None:
        found.append(frame)

    collect()
    return [found[start : start + BURST] for start in range(0, len(found), BURST)]


@pytest.mark.expected_warnings("dropping VLAN .* tagged packet")
def test_frames_of_guests(site: Site) -> None:
    for number, burst in enumerate(bursts()):
        check_sent(site, site.lab.hosts[number % 3], burst)


def test_frames_out_of_tunnels(site: Site) -> None:
    """Another VTEP sends: guests get it at most once, and no host sends anything."""
    for number, unmarked in enumerate(bursts()):
        host, peer = site.lab.hosts[number % 3], site.lab.hosts[(number + 1 + number // 3 % 2) % 3]
        burst = marked(unmarked)
        with watched(site, len(burst)) as seen:
            send_through(peer, host, burst)
            copies, odd, got = seen()
        assert odd == []
        assert set(copies) <= {(source, peer.vtep, host.vtep) for source in SOURCES[:BURST]}
        assert max(copies.values()) == 1
        for machine in machines(site):
            most = 1 if machine.host is host else 0
            assert all(len(got[machine.name][source]) <= most for source in SOURCES[:BURST])


def send_through(peer: Host, host: Host, burst: Sequence[bytes]) -> None:
    """Send frames as *peer*'s VTEP does."""
    head = struct.pack("!II", 1 << 27, NET.segment << 8)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for frame in burst:
                udp.sendto(head + frame, (host.vtep, 4789))

    namespaces.call(peer.namespace, send)


def test_and_nothing_drifts(site: Site) -> None:
    for agent in site.agents.values():
        assert drift(agent) == []


ANNOUNCED = [
    arp(MACS[0], "10.0.0.50", "10.0.0.50"),
    arp(MACS[0], "0.0.0.0", "10.0.0.2"),
    advertisement(MACS[0], "fd00::50", "33:33:00:00:00:01", "fd00::50", 1),
]


def test_it_holds_without_agents(site: Site) -> None:
    """And announcements go out: all of it is in the kernel, or in the switch. The bridge may even
    be told to send back what came in."""
    for host in site.lab.hosts:
        agent = site.agent(host)
        opened = [os.readlink(path) for path in Path(f"/proc/{agent.pid}/fd").iterdir()]
        agent.stop(signal.SIGKILL)
        if isinstance(host, LinuxBridgeHost):
            assert sum("bpf-prog" in name for name in opened) == 3
            host.exec("bridge", "link", "set", "dev", tunnel_of(NET), "hairpin", "on")
    for host in site.lab.hosts:
        check_sent(site, host, [*FORMS.values(), *ANNOUNCED])


# -- other agents --------------------------------------------------------------------------------


@pytest.fixture
def three(make_lab: Callable[..., Lab]) -> Site:
    return build(make_lab(3, linuxbridge=[1, 2, 3]))


#: Classic BPF: how releases before knew announcements, to send them round the bridge.
BEFORE = (
    "30,48 0 0 0,69 0 27 1,40 0 0 12,21 16 0 2054,21 0 24 34525,48 0 0 20,21 0 22 58,48 0 0 54,"
    "21 9 0 136,21 0 19 135,32 0 0 22,21 0 17 0,32 0 0 26,21 0 15 0,32 0 0 30,21 0 13 0,32 0 0 34,"
    "21 10 11 0,48 0 0 58,69 9 8 64,40 0 0 20,21 1 0 1,21 0 6 2,32 0 0 28,69 0 3 4278190080,"
    "7 0 0 0,32 0 0 38,29 0 1 0,6 0 0 4294967295,6 0 0 0,"
)


def test_an_upgrade(three: Site) -> None:
    """Filters of a release before, beside which the bridge itself answered, are exchanged while
    announcements pass: none comes twice."""
    bridge, tunnel = bridge_of(NET), tunnel_of(NET)
    before = {}
    for host in three.lab.hosts:
        three.agent(host).stop()
        before[host] = Kernel.of(host)
        host.exec("tc", "qdisc", "del", "dev", tunnel, "clsact")
        host.exec("bridge", "link", "set", "dev", tunnel, "neigh_suppress", "on")
        for device, target, how in ((bridge, tunnel, "mirror"), (tunnel, bridge, "redirect")):
            host.exec("tc", "qdisc", "add", "dev", device, "clsact")
            place = ("dev", device, "ingress", "pref", "27698", "handle", "1", "protocol", "all")
            action = ("action", "mirred", "egress", how, "dev", target)
            host.exec("tc", "filter", "add", *place, "bpf", "bytecode", BEFORE, *action)
    sender = three.lab.hosts[0]
    burst = marked(ANNOUNCED[:1] * 2000)
    with watched(three, len(burst)) as seen:
        starting = [host.start_agent(wait=False) for host in three.lab.hosts]
        sent = 0
        while not all((host.directory / "agent.sock").exists() for host in three.lab.hosts):
            send_all(vm(sender), burst[sent : sent + 1])
            sent += 1
            time.sleep(0.01)
        for agent in starting:
            agent.wait_ready()
        send_all(vm(sender), burst[sent : sent + 50])
        copies, odd, got = seen()
    assert odd == []
    assert set(copies.values()) == {1}
    assert {way[1] for way in copies} == {sender.vtep}
    others = [frames for name, frames in got.items() if name != vm(sender).name]
    assert all(len(frames[source]) <= 1 for frames in others for source in SOURCES)
    lost = 2 * (sent + 50) - len(copies)
    assert lost <= 6, f"of {sent + 50} announcements {lost} copies weren't sent"
    for host in three.lab.hosts:
        assert Kernel.of(host) == before[host]
    check_sent(three, sender, [*FORMS.values(), *ANNOUNCED])


@pytest.mark.parametrize("responder", [True, False])
def test_without_ebpf(three: Site, responder: bool) -> None:
    """The bridges answer for known addresses; they keep announcements, so nothing comes back."""
    one = three.lab.hosts[0]
    python = one.directory / "python"
    python.write_text(
        f'#!/bin/sh\nexec setpriv --bounding-set=-bpf,-sys_admin,-perfmon {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    for host in three.lab.hosts:
        three.agent(host).stop()
        config = host.agent_config(vxlan={"arp_responder": responder})
        three.agents[host.name] = host.start_agent(config=config, python=str(python))
        text = "because this kernel lacks eBPF programs for traffic control"
        assert (text in three.agent(host).log()) == responder
        assert drift(three.agent(host)) == []
        for device in (bridge_of(NET), tunnel_of(NET)):
            for way in ("ingress", "egress"):
                assert host.exec("tc", "filter", "show", "dev", device, way) == ""
    burst = marked([*FORMS.values(), *ANNOUNCED, arp(MACS[0], "10.0.0.1", "10.0.0.2")])
    with watched(three, len(burst)) as seen:
        send_all(vm(one), burst)
        copies, odd, got = seen()
    assert odd == []
    assert all(way[1] == one.vtep and count == 1 for way, count in copies.items())
    announced = [SOURCES[len(FORMS) + number] for number in range(len(ANNOUNCED))]
    assert {way[0] for way in copies} & {*announced} == (set() if responder else {*announced})
    answers = [data for data in got["vm1"][MACS[1]] if decode(data).arp]
    assert len(answers) == (2 if responder else 0)  # one of the forms asks too

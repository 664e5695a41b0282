"""The Linux bridge backend: bulk writes against ``bridge -batch``, one change, networks, ARP."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Report, announce, attach, detach, network_id, one_more, spread, write_lines

from l2pop_lab.topology import AgentProcess, Host, Lab, LinuxBridgeHost, namespaces
from l2pop_lab.topology.frames import decode
from ovs_l2pop.agent.client import ask
from ovs_l2pop.backends.linuxbridge.backend import LinuxBridgeBackend
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings
from ovs_l2pop.backends.linuxbridge.rows import Tunnel
from ovs_l2pop.core import wire
from ovs_l2pop.core.backend import Batch
from ovs_l2pop.core.messages import Parser, Segment
from ovs_l2pop.core.table import ForwardingTable

PAIRS = 5
CHANGES = 300
FLOODING = "00:00:00:00:00:00"


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def send(agent: AgentProcess, path: Path) -> None:
    result = agent.cli("send", str(path), timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("responder", [True, False], ids=["responder", "no responder"])
def test_what_writing_alone_takes(responder: bool, tmp_path: Path, report: Report) -> None:
    """The backend's part of it: rows that are rendered, written and read back."""
    entries = 20_000
    message = json.loads(announce(1, entries, 100))
    fdb, neighbours = tmp_path / "fdb", tmp_path / "neighbours"
    ours: list[float] = []
    peers: list[float] = []
    ratios: list[float] = []
    with Lab(1, linuxbridge=[1]) as lab:
        (host,) = lab.hosts

        def work() -> None:
            settings = LinuxBridgeSettings(host.vtep, ("vxlan",), True, responder, 4789, 0, 0, ())
            backend = LinuxBridgeBackend(settings)
            backend.connect()
            table = ForwardingTable(host.vtep)
            parser = Parser(host.vtep)
            for text in (json.loads(attach(1)), message):
                for change in parser.parse(text)[0]:
                    table.apply(change)
            facts = [fact for _, fact in table.facts(table.keys()) if fact is not None]
            rows = list(dict.fromkeys(row for fact in facts for row in backend.render(fact)))
            devices = [row for row in rows if isinstance(row, Tunnel)]
            others = [row for row in rows if not isinstance(row, Tunnel)]
            assert backend.write([Batch(list(devices), [])]) == {}
            ours.append(timed(lambda: backend.write([Batch(list(others), [])])))
            if not peers:
                record(host, fdb, neighbours)
            assert backend.write([Batch([], list(rows))]) == {}
            backend.close()

        for _ in range(PAIRS):
            namespaces.call(host.namespace, work)
            peers.append(sum(iproute2(host, fdb, neighbours)))
            ratios.append(ours[-1] / peers[-1])
    report(
        f"{entries} entries, responder {'on' if responder else 'off'}, to write and read back:"
        f" {spread(ours)} s; bridge -batch and ip -batch {spread(peers)} s, ratio {spread(ratios)}"
    )


def iproute2(host: Host, fdb: Path, neighbours: Path) -> tuple[float, float]:
    """Seconds of ``bridge -batch`` and ``ip -batch`` on devices made for it."""
    for command in (
        "ip link add br9 type bridge",
        f"ip link add vxlan-9 type vxlan id 9 local {host.vtep} dstport 4789",
        "ip link set vxlan-9 master br9 up",
        "ip link set br9 up",
    ):
        host.exec(*command.split())
    bridge = timed(lambda: host.exec("bridge", "-batch", str(fdb)))
    ip = timed(lambda: host.exec("ip", "-batch", str(neighbours)))
    host.exec("ip", "link", "delete", "vxlan-9")
    host.exec("ip", "link", "delete", "br9")
    return bridge, ip


@pytest.mark.parametrize("responder", [True, False], ids=["responder", "no responder"])
def test_one_send_against_bridge_batch(responder: bool, tmp_path: Path, report: Report) -> None:
    """The same entries, by ``bridge -batch`` and, for neighbours, ``ip -batch``."""
    entries = 20_000
    full = write_lines(tmp_path / "full", [attach(1), announce(1, entries, 100)])
    empty = write_lines(tmp_path / "empty", [detach(1)])
    fdb, neighbours = tmp_path / "fdb", tmp_path / "neighbours"
    ours, bridge, ip, ratios, whole, removals = [], [], [], [], [], []
    with Lab(1, linuxbridge=[1]) as lab:
        (host,) = lab.hosts
        agent = host.start_agent(config=host.agent_config(vxlan={"arp_responder": responder}))
        send(agent, full)
        record(host, fdb, neighbours)
        for _ in range(PAIRS):
            removals.append(timed(lambda: send(agent, empty)))
            ours.append(timed(lambda: send(agent, full)))
            by_bridge, by_ip = iproute2(host, fdb, neighbours)
            bridge.append(by_bridge)
            ip.append(by_ip)
            ratios.append(ours[-1] / bridge[-1])
            whole.append(ours[-1] / (bridge[-1] + ip[-1]))
        assert agent.cli("check").returncode == 0
    report(
        f"{entries} entries, responder {'on' if responder else 'off'}: ovs-l2pop send"
        f" {spread(ours)} s; bridge -batch {spread(bridge)} s, ratio {spread(ratios)};"
        f" with ip -batch for neighbours {spread(ip)} s, ratio {spread(whole)};"
        f" detach {spread(removals)} s"
    )


def record(host: Host, fdb: Path, neighbours: Path) -> None:
    """What the agent has written, as lines for iproute2, for another device."""
    lines = []
    for entry in json.loads(host.exec("bridge", "-j", "fdb", "show", "dev", "vxlan-1")):
        if "dst" in entry:
            verb = "append" if entry["mac"] == FLOODING else "replace"
            lines.append(f"fdb {verb} {entry['mac']} dev vxlan-9 dst {entry['dst']}\n")
    fdb.write_text("".join(lines))
    known = json.loads(host.exec("ip", "-j", "neigh", "show", "nud", "permanent") or "[]")
    neighbours.write_text(
        "".join(
            f"neigh replace {entry['dst']} lladdr {entry['lladdr']} dev br9 nud permanent\n"
            for entry in known
            if entry and entry["dev"].startswith("brq")
        )
    )


@pytest.mark.parametrize("entries", [100, 20_000])
def test_one_change(entries: int, tmp_path: Path, report: Report) -> None:
    stream = write_lines(tmp_path / "stream", [attach(1), announce(1, entries, 100)])
    with Lab(1, linuxbridge=[1]) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()
        send(agent, stream)
        times = []
        for number in range(CHANGES):
            data = one_more(number)
            start = time.perf_counter()
            answer = ask(agent.control_socket, {"command": "send"}, [data])
            times.append(1000 * (time.perf_counter() - start))
            assert answer["refused_count"] == 0
        check = timed(lambda: agent.cli("check"))
        agent.kill()
        restart = timed(host.start_agent)
    quantiles = statistics.quantiles(times, n=100)
    report(
        f"{entries} there: one change p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms;"
        f" check {check:.2f} s; restart to ready {restart:.2f} s"
    )


def test_a_thousand_networks(tmp_path: Path, report: Report) -> None:
    """Made, checked, found at a restart, changed in place, replaced, taken away."""
    count = 1000
    lines = [line for n in range(1, count + 1) for line in (attach(n), announce(n, 1, 1))]
    full = write_lines(tmp_path / "full", lines)
    empty = write_lines(tmp_path / "empty", [detach(n) for n in range(1, count + 1)])
    with Lab(1, linuxbridge=[1]) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()
        figures = {"made": timed(lambda: send(agent, full))}
        figures["check"] = timed(lambda: agent.cli("check"))
        for name, options in (
            ("restart", {}),
            ("another TTL", {"ttl": 9}),
            ("another port", {"udp_dstport": 8472}),
        ):
            agent.stop()
            start = time.perf_counter()
            agent = host.start_agent(config=host.agent_config(vxlan=options), wait=False)
            agent.wait_ready(120)
            figures[name] = time.perf_counter() - start
        figures["taken away"] = timed(lambda: send(agent, empty))
    report(f"{count} networks: " + ", ".join(f"{k} {v:.1f} s" for k, v in figures.items()))


def test_a_flood_of_400_vteps(tmp_path: Path, report: Report) -> None:
    """One VTEP more, in a network that copies to 400."""
    with Lab(1, linuxbridge=[1]) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()
        send(agent, write_lines(tmp_path / "full", [attach(1), announce(1, 400, 400)]))
        times = []
        for number in range(100):
            line = announce(1, 1, 1).replace("10.201.0.1", f"10.250.0.{number + 1}").encode()
            start = time.perf_counter()
            assert ask(agent.control_socket, {"command": "send"}, [line])["refused_count"] == 0
            times.append(1000 * (time.perf_counter() - start))
    report(f"one VTEP more beside 400: p50 {statistics.median(times):.1f} ms")


def test_how_fast_arp_and_nd_are_answered(report: Report) -> None:
    """From the request on the machine's port to the answer on it, by the kernel's clock."""
    with Lab(2, linuxbridge=[1, 2]) as lab:
        for host in lab.hosts:
            populate(lab, host, responder=True)
        report("Linux bridge, our programs: " + answer_times(lab))
        for host in lab.hosts:
            host.exec("tc", "qdisc", "del", "dev", "vxlan-1", "clsact")
            host.exec("bridge", "link", "set", "dev", "vxlan-1", "neigh_suppress", "on")
        report("Linux bridge, its own neigh_suppress: " + answer_times(lab))
        for host in lab.hosts:
            proxy_instead(lab, host)
        report("Linux bridge, proxy of the vxlan device: " + answer_times(lab))
    for kind, numbers in (("Linux bridge", [1, 2]), ("Open vSwitch", [])):
        for responder in (False,) if numbers else (True, False):
            with Lab(2, linuxbridge=numbers) as lab:
                for host in lab.hosts:
                    populate(lab, host, responder)
                who = "flows answer" if responder else "the machine answers"
                report(f"{kind}, {who}: {answer_times(lab)}")


def mac(number: int) -> str:
    return f"fa:16:3e:00:00:0{number}"


def addresses(number: int) -> list[str]:
    return [f"10.0.0.{number}", f"fd00::{number}"]


def populate(lab: Lab, host: Host, responder: bool) -> None:
    """An agent that knows one machine on each host, and the host's machine."""
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"arp_responder": responder}))
    ports = {
        other.vtep: [[FLOODING, "0.0.0.0"], *([mac(n), ip] for ip in addresses(n))]
        for n, other in enumerate(lab.hosts, 1)
    }
    message = wire.add(network_id(1), Segment("vxlan", 1), ports)
    data = f"{attach(1)}\n{json.dumps(message)}".encode()
    assert ask(agent.control_socket, {"command": "send"}, [data])["refused_count"] == 0
    linux = isinstance(host, LinuxBridgeHost)
    number = lab.hosts.index(host) + 1
    host.add_machine(
        "vm",
        mac(number),
        addresses(number),
        tag=None if linux else 1,
        bridge="brq00000000-00" if linux else "br-int",
        dad=False,
    )


def proxy_instead(lab: Lab, host: Host) -> None:
    """The network's device as Neutron's agent made it."""
    device = f"vxlan-1 type vxlan id 1 local {host.vtep} dev phy0 dstport 4789 proxy"
    commands = ["ip link delete vxlan-1", f"ip link add {device}"]
    commands += ["ip link set vxlan-1 master brq00000000-00 up"]
    commands += ["sysctl -qw net.ipv6.conf.vxlan-1.disable_ipv6=0"]
    for number, other in enumerate(lab.hosts, 1):
        if other is not host:
            commands += [f"bridge fdb add {mac(number)} dev vxlan-1 dst {other.vtep}"]
            for ip in addresses(number):
                commands += [f"ip neigh add {ip} lladdr {mac(number)} dev vxlan-1 nud permanent"]
    for command in commands:
        host.exec(*command.split())


def answer_times(lab: Lab) -> str:
    vm = lab.hosts[0].machines["vm"]
    times: dict[str, list[float]] = {"ARP": [], "ND": []}
    asked: dict[str, float] = {}
    for ip in addresses(2):
        assert vm.ping(ip).lost == 0
    with vm.capture("both") as seen:
        for _ in range(200):
            for ip in addresses(2):
                vm.forget_neighbours()
                assert vm.ping(ip, count=1).lost == 0
    for frame in sorted(seen.frames, key=lambda frame: frame.time):
        decoded = decode(frame.data)
        name = "ARP" if decoded.arp else "ND" if decoded.neighbour else ""
        if name and frame.outgoing and decoded.is_flooded:
            asked[name] = frame.time
        elif name and not frame.outgoing and name in asked:
            times[name].append(1e6 * (frame.time - asked.pop(name)))
    return ", ".join(
        f"{name} p50 {statistics.median(values):.0f} µs,"
        f" p99 {statistics.quantiles(values, n=100)[98]:.0f} µs"
        for name, values in times.items()
    )

"""One more VTEP beside many: what it takes, against `ovs-vsctl add-port` there, in the same run."""

import statistics
import time
from pathlib import Path

import psutil
import pytest
from conftest import Report, announce, attach, write_lines

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.agent.client import ask

CHANGES = 10


def of(prefix: str, number: int) -> bytes:
    """One VTEP and its machine."""
    line = announce(1, 1, 1)
    return line.replace("10.201.0.1", f"{prefix}.{number >> 8}.{number & 255}").encode()


def tell(agent: AgentProcess, data: bytes) -> tuple[float, float]:
    """Seconds, and CPU seconds of the agent."""
    process = psutil.Process(agent.pid)
    before, start = sum(process.cpu_times()[:2]), time.perf_counter()
    assert ask(agent.control_socket, {"command": "send"}, [data])["refused_count"] == 0
    took = time.perf_counter() - start
    time.sleep(1.5)  # what follows by itself counts too
    return took, sum(process.cpu_times()[:2]) - before


def add_port(host: Host, number: int) -> float:
    start = time.perf_counter()
    host.vsctl(
        *("add-port", "br-tun", f"other{number}", "--", "set", "Interface", f"other{number}"),
        *("type=vxlan", f"options:remote_ip=10.99.0.{number}", "options:key=flow"),
        f"options:local_ip={host.vtep}",
    )
    return time.perf_counter() - start


@pytest.mark.parametrize("tunnel_ports", ["per_vtep", "flow"])
@pytest.mark.parametrize("there", [100, 1000, 2000])
def test_one_vtep_more(there: int, tunnel_ports: str, tmp_path: Path, report: Report) -> None:
    with Lab(1, tunnel_ports=tunnel_ports) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()
        start = time.perf_counter()
        full = write_lines(tmp_path / "full", [attach(1), announce(1, there, there)])
        assert agent.cli("send", str(full), timeout=300).returncode == 0
        all_at_once = time.perf_counter() - start
        time.sleep(3)
        told = [tell(agent, of("10.250", number)) for number in range(1, CHANGES + 1)]
        others = [add_port(host, number) for number in range(1, CHANGES + 1)]
    times, cpu = zip(*told, strict=True)
    report(
        f"one VTEP more beside {there}, {tunnel_ports}: {1000 * statistics.median(times):.1f} ms,"
        f" agent's CPU"
        f" {1000 * statistics.mean(cpu):.0f} ms; ovs-vsctl add-port"
        f" {1000 * statistics.median(others):.0f} ms; {there} at once {all_at_once:.1f} s"
    )

"""What one change, a check and a restart cost, with nothing there and with much there."""

import json
import statistics
import time
from pathlib import Path

import pytest
from conftest import Report, announce, attach, network_id, write_lines

from l2pop_lab.topology import Lab
from ovs_l2pop.agent.client import ask

CHANGES = 300


@pytest.mark.parametrize("entries", [100, 50_000])
def test_one_change(entries: int, tmp_path: Path, report: Report) -> None:
    stream = write_lines(tmp_path / "stream", [attach(1), announce(1, entries, 100)])
    with Lab(1) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()
        assert agent.cli("send", str(stream), timeout=120).returncode == 0
        times = []
        for number in range(CHANGES):
            pair = [f"fa:16:3f:00:{number >> 8:02x}:{number & 255:02x}", f"10.128.{number >> 8}.9"]
            body = {"segment_id": 1, "network_type": "vxlan", "ports": {"10.201.0.1": [pair]}}
            message = {"method": "add_fdb_entries", "fdb_entries": {network_id(1): body}}
            start = time.perf_counter()
            answer = ask(agent.control_socket, {"command": "send"}, [json.dumps(message).encode()])
            times.append(1000 * (time.perf_counter() - start))
            assert answer["refused_count"] == 0
        start = time.perf_counter()
        assert agent.cli("check").returncode == 0
        check = time.perf_counter() - start
        status = Path(f"/proc/{agent.pid}/status").read_text()
        memory = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
        agent.kill()
        start = time.perf_counter()
        agent = host.start_agent()
        restart = time.perf_counter() - start
    quantiles = statistics.quantiles(times, n=100)
    report(
        f"{entries} there: one change p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms;"
        f" check {check:.2f} s; restart to ready {restart:.2f} s; agent {int(memory) // 1024} MiB"
    )

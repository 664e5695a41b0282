"""What one change, a check and a restart cost, with nothing there and with much there."""

import statistics
import time
from pathlib import Path

import pytest
from conftest import Report, announce, attach, one_more, write_lines

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
            message = one_more(number)
            start = time.perf_counter()
            answer = ask(agent.control_socket, {"command": "send"}, [message])
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


def test_one_change_beside_looks(tmp_path: Path, report: Report) -> None:
    """Somebody deletes a flow every second, so that the agent reads 100,000 back as often as it
    ever does."""
    stream = write_lines(tmp_path / "stream", [attach(1), announce(1, 50_000, 100)])
    with Lab(1) as lab:
        (host,) = lab.hosts
        config = host.agent_config(ovs_l2pop={"drift_interval": 1})
        agent = host.start_agent(config=config)
        assert agent.cli("send", str(stream), timeout=120).returncode == 0
        times, number = [], 0
        end, disturb = time.monotonic() + 25, 0.0
        while (now := time.monotonic()) < end:
            if now >= disturb:
                host.ofctl("del-flows", "br-tun", "table=23")
                disturb = now + 1
            message = one_more(number % CHANGES)
            number += 1
            start = time.perf_counter()
            assert ask(agent.control_socket, {"command": "send"}, [message])["refused_count"] == 0
            times.append(1000 * (time.perf_counter() - start))
        rows = ask(agent.control_socket, {"command": "show", "what": "health"})["rows"]
        mended = next(row[2] for row in rows if row[0] == "drift")
    quantiles = statistics.quantiles(times, n=1000)
    report(
        f"50,000 there, looks all the time: one change p50 {quantiles[499]:.1f} ms,"
        f" p99 {quantiles[989]:.1f} ms, p99.9 {quantiles[998]:.1f} ms, most {max(times):.0f} ms;"
        f" {mended}"
    )

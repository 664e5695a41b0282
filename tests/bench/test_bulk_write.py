"""What writing costs, as a ratio against ``ovs-ofctl --bundle`` with the same flows, same run."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Report, announce, attach, detach, spread, write_lines

from l2pop_lab.topology import Lab

PAIRS = 5


@pytest.mark.parametrize("entries", [5_000, 50_000])
def test_one_send_against_ovs_ofctl(entries: int, tmp_path: Path, report: Report) -> None:
    full = write_lines(tmp_path / "full", [attach(1), announce(1, entries, 100)])
    empty = write_lines(tmp_path / "empty", [detach(1)])
    flows = tmp_path / "flows"
    ours, peers, ratios, removals = [], [], [], []
    with Lab(1) as lab:
        (host,) = lab.hosts
        agent = host.start_agent()

        def send(path: Path) -> float:
            start = time.perf_counter()
            result = agent.cli("send", str(path), timeout=120)
            assert result.returncode == 0, result.stderr
            return time.perf_counter() - start

        send(full)
        dump = host.ofctl("dump-flows", "--no-stats", "br-tun").splitlines()
        flows.write_text("".join(line.strip() + "\n" for line in dump if "table=" in line))
        assert len(dump) > 2 * entries
        for _ in range(PAIRS):
            removals.append(send(empty))
            ours.append(send(full))
            host.vsctl("add-br", "peer", "--", "set", "bridge", "peer", "datapath_type=netdev")
            start = time.perf_counter()
            subprocess.run(
                ["ovs-ofctl", "-O", "OpenFlow14", "--bundle", "add-flows", "peer", str(flows)],
                env={**os.environ, "OVS_RUNDIR": str(host.rundir)},
                check=True,
            )
            peers.append(time.perf_counter() - start)
            host.vsctl("del-br", "peer")
            ratios.append(ours[-1] / peers[-1])
        assert agent.cli("check").returncode == 0
    report(
        f"{entries} entries, {2 * entries} flows: ovs-l2pop send {spread(ours)} s,"
        f" ovs-ofctl --bundle {spread(peers)} s, ratio {spread(ratios)};"
        f" detach {spread(removals)} s"
    )


def test_growth(tmp_path: Path, report: Report) -> None:
    """20,000 entries over more and more VTEPs, and over more and more networks."""
    for networks, vteps in ((1, 10), (1, 100), (1, 1000), (10, 100), (100, 100), (1000, 100)):
        each = 20_000 // networks
        lines = [
            line for n in range(1, networks + 1) for line in (attach(n), announce(n, each, vteps))
        ]
        path = write_lines(tmp_path / "stream", lines)
        with Lab(1) as lab:
            (host,) = lab.hosts
            agent = host.start_agent()
            start = time.perf_counter()
            result = agent.cli("send", str(path), timeout=300)
            took = time.perf_counter() - start
            assert result.returncode == 0, result.stderr
        report(f"20000 entries, {networks:4} networks, {vteps:4} VTEPs: {took:.2f} s, tunnels made")

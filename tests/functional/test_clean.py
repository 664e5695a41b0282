"""``ovs-l2pop clean``: a host is given up, or goes back to Neutron's own agent."""

import json
import subprocess
import sys
from typing import Any

from conftest import MakeLab
from feed_helpers import FLOODING, Net, send
from switch_helpers import OURS, flows, groups, ports

from l2pop_lab.topology import Host

NET = Net(1, 77)
VTEPS = {f"10.201.{number // 250}.{number % 250 + 1}": [FLOODING] for number in range(401)}


def clean(host: Host, *args: str, how: str = "--yes") -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, what was removed, and what stderr says."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ovs_l2pop", "clean", "-f", "json", *how.split(), *args),
            *("--config-file", str(host.agent_config(ovs_l2pop={"local_ip": None}))),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, json.loads(done.stdout or "[]"), done.stderr


def test_clean(make_lab: MakeLab) -> None:
    host = make_lab(1).hosts[0]
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add(VTEPS))
    host.ofctl("add-flow", "br-tun", "cookie=0x77,table=20,priority=2,actions=drop")
    host.vsctl("add-port", "br-tun", "mine", "--", "set", "Interface", "mine", "type=internal")
    code, _, errors = clean(host)
    assert code == 1
    assert "another agent programs br-tun" in errors
    assert agent.stop() == 0

    before, installed = ports(host), flows(host, OURS)
    code, would, errors = clean(host, how="--dry-run")
    assert (code, errors) == (0, "")
    assert {row["kind"] for row in would} == {"flow", "group", "tunnel"}
    code, _, errors = clean(host, how="")  # nobody to ask
    assert code == 1
    assert f"{len(VTEPS)} tunnel: take --yes" in errors
    assert (flows(host, OURS), ports(host)) == (installed, before)

    code, removed, errors = clean(host, "--keep-tunnels")
    assert (code, errors) == (0, "")
    assert {row["removed"] for row in removed} == {"flow", "group"}
    assert (flows(host, OURS), groups(host), ports(host)) == ([], [], before)

    code, removed, errors = clean(host)
    assert (code, errors) == (0, "")
    assert {row["removed"] for row in removed} == {"tunnel"}
    assert len(removed) == len(VTEPS)
    assert ports(host) == {"mine", "patch-int"}
    assert len(flows(host, "table=20")) == 1
    assert clean(host) == (0, [], "")

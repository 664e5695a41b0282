"""The daemon answers Prometheus on its host's loopback, about a real dataplane."""

import sys
from collections.abc import Callable

import pytest
from feed_helpers import FLOODING, Net, send
from switch_helpers import OURS, flows

from l2pop_lab.topology import Host, Lab

NET = Net(1, 77)
MACHINE = ["fa:16:3e:00:00:01", "10.0.0.1"]
PORT = 9477


def scraped(host: Host) -> dict[str, float]:
    """Series → value."""
    url = f"http://127.0.0.1:{PORT}/metrics"
    program = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
    text = host.exec(sys.executable, "-c", program)
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize("backend", ["openvswitch", "linuxbridge"])
def test_a_real_host(make_lab: Callable[..., Lab], backend: str) -> None:
    (host,) = make_lab(1, linuxbridge=[1] if backend == "linuxbridge" else []).hosts
    agent = host.start_agent(config=host.agent_config(ovs_l2pop={"metrics_port": PORT}))
    send(agent, NET.attach(5), NET.add({"10.200.0.2": [FLOODING, MACHINE]}))
    found = scraped(host)
    assert found["ovs_l2pop_dataplane_up"] == found["ovs_l2pop_entries"] == 1
    assert found['ovs_l2pop_messages_total{result="applied",source="socket"}'] == 2
    assert not [series for series in found if "missing" in series or "surplus" in series]
    if backend == "openvswitch":
        installed = found['ovs_l2pop_rows{kind="flow",state="installed"}']
        assert installed == len(flows(host, OURS))
        assert found['ovs_l2pop_rows{kind="tunnel",state="installed"}'] == 1
        host.ofctl("del-flows", "br-tun", OURS)
        assert agent.cli("repair").returncode == 0
        found = scraped(host)
        assert found['ovs_l2pop_rows{kind="flow",state="installed"}'] == installed
    assert agent.stop() == 0

"""A switch that takes no more flows in one table: an operator gave that a limit."""

from collections.abc import Callable

from feed_helpers import FLOODING, Net, answer_to, drift, lines, send, wait_healthy
from switch_helpers import ARP_RESPONDER, UCAST_TO_TUN, table

from l2pop_lab.topology import Lab

NET = Net(1, 77)
A = "10.200.0.11"


def test_a_full_table(make_lab: Callable[..., Lab]) -> None:
    """All that has room is there, the rest is told of and comes when there is room."""
    host = make_lab(1).hosts[0]
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING]}))
    host.vsctl(
        *("--", "--id=@t", "create", "Flow_Table", "flow_limit=10", "overflow_policy=refuse"),
        *("--", "set", "Bridge", "br-tun", f"flow_tables:{UCAST_TO_TUN}=@t"),
    )
    pairs = [[f"fa:16:3e:00:00:{n:02x}", f"10.0.0.{n}"] for n in range(1, 31)]
    answer = answer_to(agent, lines([NET.add({A: pairs})]).encode())
    there = len(table(host, UCAST_TO_TUN))
    assert 0 < there < 10
    assert answer["refused_count"] == 30 - there
    assert all("table full" in text for text in answer["refused"])
    assert sum("arp_tpa=" in flow for flow in table(host, ARP_RESPONDER)) == 30
    health = agent.cli("show", "health")
    assert health.returncode == 1
    assert "table full" in health.stdout
    host.vsctl("clear", "Bridge", "br-tun", "flow_tables")
    wait_healthy(agent, 30)
    assert drift(agent) == []
    assert len(table(host, UCAST_TO_TUN)) == 30

"""A switch or a database that takes connections and data, and then does nothing: SIGSTOP."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, answer_to, drift, lines, send, wait_healthy, wait_until
from switch_helpers import UCAST_TO_TUN, ports, table

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.backends.openvswitch.render import tunnel_name
from ovs_l2pop.core.wire import Message

NET = Net(1, 77)
A = "10.200.0.11"

#: What a switch logs of an agent, and a database of a switch, that went away meanwhile.
pytestmark = pytest.mark.expected_warnings(
    r"br-tun<->unix#\d+: (connection dropped|receive error|send error)",
    r"Unreasonably long \d+ms poll interval",
    r"blocked \d+ ms waiting for \w+ to quiesce",
)


def mac(number: int) -> str:
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def machines(first: int, count: int, vtep: str) -> Message:
    pairs = [[mac(n), f"10.0.{n >> 8}.{n & 255}"] for n in range(first, first + count)]
    return NET.add({vtep: [FLOODING, *pairs]})


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1).hosts[0]


@pytest.fixture
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent()
    send(agent, NET.attach(5), machines(1, 1, A))
    yield agent
    agent.stop()


def within(seconds: float, work: Callable[[], Any]) -> Any:
    start = time.monotonic()
    result = work()
    assert time.monotonic() - start < seconds
    return result


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_a_frozen_switch_is_told_of_and_caught_up_with(
    program: str, host: Host, agent: AgentProcess
) -> None:

    def tell(number: int) -> dict[str, Any]:
        message = machines(number, 1, f"10.200.0.{number + 10}")
        return answer_to(agent, lines([message]).encode())

    with host.frozen(program):
        # A VTEP that is new needs both of them.
        answer = within(25, partial(tell, 2))
        assert answer["pending"]
        assert answer["refused_count"] == 0
        # Now it is known, and nobody waits for it any more than it takes to try again.
        for number in (3, 4):
            assert within(12, partial(tell, number))["pending"]
        for _ in range(6):
            shown = within(5, partial(agent.cli, "show", "health"))
            assert shown.returncode == 1
            assert "trouble" in shown.stdout, shown.stdout
            time.sleep(0.7)
    wait_healthy(agent, 40)
    assert drift(agent) == []
    assert sum(mac(n) in flow for n in range(1, 5) for flow in table(host, UCAST_TO_TUN)) == 4
    assert "Traceback" not in agent.log()


def test_frozen_in_the_middle_of_a_large_write(host: Host, agent: AgentProcess) -> None:
    """A bundle of 10,000 is there as a whole or not at all; the agent looks when it can."""
    count = 60_000
    parts = [machines(1000 + 200 * n, 200, f"10.200.1.{n % 250}") for n in range(count // 200)]
    answers: list[dict[str, Any]] = []
    for delay in (0.1, 0.0, 0.3, 0.6):
        sender = threading.Thread(
            target=lambda: answers.append(answer_to(agent, lines([NET.attach(5), *parts]).encode()))
        )
        sender.start()
        # The last tunnel is made before the first flow.
        wait_until(lambda: tunnel_name("vxlan", "10.200.1.249") in ports(host), "tunnels")
        time.sleep(delay)
        with host.frozen("ovs-vswitchd"):
            time.sleep(12)
        sender.join(60)
        wait_healthy(agent, 60)
        if "will try again: " in agent.log():
            break
        send(agent, NET.detach())  # it was done, or not begun
    assert "will try again: " in agent.log()
    assert [answer["refused_count"] for answer in answers] == [0] * len(answers)
    assert drift(agent) == []
    assert sum("fa:16:3e" in flow for flow in table(host, UCAST_TO_TUN)) == count + 1
    assert "Traceback" not in agent.log()

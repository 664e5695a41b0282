"""An agent's beginning and end, and what it must not do to another's work."""

import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import MakeLab
from feed_helpers import FLOODING, Net, lines, send

from l2pop_lab.topology import Lab
from ovs_l2pop.agent.client import ask

NET = Net(10, 1001)
REMOTE = "10.200.0.9"


def test_second_agent_with_another_state_does_not_touch_the_bridge(lab2: Lab) -> None:
    host = lab2.hosts[0]
    agent = host.start_agent()
    entry = ["fa:16:3e:00:00:09", "10.0.0.9"]
    send(agent, NET.attach(5), NET.add({REMOTE: [FLOODING, entry]}))
    before = host.ofctl("dump-flows", "--no-stats", "br-tun")
    config = host.agent_config(ovs_l2pop={"state_path": str(host.directory / "other")})

    # On the same socket it fails at once.
    second = host.start_agent(config=config, wait=False)
    assert second.process.wait(timeout=20) == 1
    assert "another agent" in second.log()

    # On a socket of its own it says why it waits.
    other = str(host.directory / "other.sock")
    second = host.start_agent("--socket", other, config=config, wait=False)
    deadline = time.monotonic() + 20
    while "another agent programs br-tun" not in second.log():
        assert time.monotonic() < deadline, second.log()
        time.sleep(0.1)
    second.kill()

    assert host.ofctl("dump-flows", "--no-stats", "br-tun") == before
    assert agent.cli("check").returncode == 0
    agent.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_right_after_the_start_ends_the_agent(lab2: Lab, number: int) -> None:
    for pause in (0, 0.001, 0.002, 0.004):
        agent = lab2.hosts[0].start_agent()
        time.sleep(pause)
        assert agent.stop(number, timeout=10) == 0


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (("del-port", "br-tun", "patch-int"), "patch-int"),
        (("del-port", "br-int", "patch-tun"), "patch-tun"),
        (("del-fail-mode", "br-tun"), "fail mode secure"),
    ],
)
def test_check_sees_what_the_bridges_lack_and_repair_mends_it(
    lab2: Lab, damage: tuple[str, ...], named: str
) -> None:
    here, there = lab2.hosts
    agents = [host.start_agent() for host in lab2.hosts]
    machines = [
        host.add_machine(f"m{n}", f"fa:16:3e:00:01:0{n}", f"10.0.1.{n}/24", tag=5)
        for n, host in enumerate(lab2.hosts, 1)
    ]
    ports = {
        host.vtep: [FLOODING, [m.mac, m.ip]] for host, m in zip(lab2.hosts, machines, strict=True)
    }
    for agent in agents:
        send(agent, NET.attach(5), NET.add(ports))
    assert machines[0].ping(machines[1].ip).lost == 0

    here.vsctl(*damage)
    checked = agents[0].cli("check")
    assert checked.returncode == 1
    assert named in checked.stdout
    assert agents[0].cli("repair").returncode == 0
    assert agents[0].cli("check").returncode == 0
    assert machines[0].ping(machines[1].ip).lost == 0
    assert there.unexpected_warnings() == []
    for machine in machines:
        machine.remove()
    for agent in agents:
        agent.stop()


def test_own_vtep_in_another_notation_is_still_our_own(make_lab: MakeLab) -> None:
    lab = make_lab(1, family=6)
    (host,) = lab.hosts
    config = host.agent_config(ovs_l2pop={"local_ip": "FD00:0200:0:0:0:0:0:1"})
    agent = host.start_agent(config=config)
    message = NET.add({"fd00:200::1": [["fa:16:3e:00:00:01", "10.0.0.1"]]})
    assert agent.cli("send", input=lines([NET.attach(5), message])).returncode == 0
    assert "local" in agent.cli("show", "entries").stdout
    assert "vxlan" not in agent.cli("show", "tunnels").stdout
    agent.stop()


def test_signals_that_mean_nothing_to_it(lab2: Lab) -> None:
    """A closed terminal, a log rotation."""
    agent = lab2.hosts[0].start_agent()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTOU, signal.SIGPIPE):
        agent.process.send_signal(number)
    assert agent.cli("check").returncode == 0
    assert agent.process.poll() is None
    assert agent.stop() == 0


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "asleep"])
def test_who_reads_the_log_and_stops(lab2: Lab, gone: bool) -> None:
    host = lab2.hosts[0]
    config = host.agent_config()
    command = [sys.executable, "-m", "ovs_l2pop", "agent", "--debug", "--config-file", str(config)]
    process = host.popen(command, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        while b"ready" not in process.stderr.readline():
            continue
        if gone:
            process.stderr.close()
        socket = host.directory / "agent.sock"
        # Each is refused for another reason, and so logged.
        for number in range(1500):
            bad = json.dumps({"method": "table_format", "format": number}) + "\n"
            ask(socket, {"command": "send"}, [bad.encode(), f"{'x' * 50}{number}\n".encode()])
        send_to = NET.attach(5)
        answer = ask(socket, {"command": "send"}, [lines([send_to]).encode()])
        assert (answer["refused"], answer["pending"]) == ([], None)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0

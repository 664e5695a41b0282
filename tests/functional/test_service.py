"""The systemd units: what they forbid is not needed, and what they wait for is told."""

import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feed_helpers import FLOODING, Net, drift, send, wait_until
from frame_helpers import arp
from limited import DYNAMIC_USER, settings
from linuxbridge_helpers import plug

from l2pop_lab.topology import AgentProcess, Lab, LinuxBridgeHost

ETC = Path(__file__).resolve().parents[2] / "etc"
UNITS = {"Open vSwitch": "ovs-l2pop-agent", "Linux bridge": "ovs-l2pop-linuxbridge"}
NET, LATER = Net(1, 77), Net(2, 78)
MACS = [f"fa:16:3e:00:00:0{number}" for number in (1, 2)]


class Manager:
    """What a service manager hears."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)

    def hear(self) -> str:
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module", params=UNITS)
def unit(request: pytest.FixtureRequest) -> Path:
    return ETC / f"{UNITS[request.param]}.service"


@pytest.fixture(scope="module")
def lab(unit: Path, make_module_lab: Callable[..., Lab]) -> Lab:
    return make_module_lab(2, linuxbridge=[1, 2] if "linuxbridge" in unit.name else [])


@pytest.fixture
def folder(unit: Path) -> Iterator[Path]:
    """For what the service keeps, in folders of its user."""
    owner = DYNAMIC_USER if settings(unit, "DynamicUser") else 0
    with tempfile.TemporaryDirectory(prefix="l2pop-limits-") as name:
        os.chmod(name, 0o755)
        for place in ("state", "run"):
            (Path(name) / place).mkdir(0o700)
            os.chown(Path(name) / place, owner, owner)
        yield Path(name)


def everybodys(path: Path) -> bool:
    """Whether every user gets there."""
    return all(place.stat().st_mode & 1 for place in path.resolve().parents)


def interpreter() -> str:
    """One that every user may run, with the libraries of this one."""
    if everybodys(Path(sys.executable)):
        return sys.executable
    of_the_system = Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
    if not (of_the_system.exists() and everybodys(Path(sysconfig.get_path("purelib")))):
        pytest.skip("no other user may run this Python")
    return f'env PYTHONPATH="$PYTHONPATH:{sysconfig.get_path("purelib")}" {of_the_system}'


def limited(unit: Path, folder: Path, **environment: object) -> str:
    """An interpreter that runs under the unit's limits."""
    python = interpreter() if settings(unit, "DynamicUser") else sys.executable
    script = folder / "python"
    exports = "".join(f"export {name}={value}\n" for name, value in environment.items())
    limits = f"{sys.executable} {Path(__file__).with_name('limited.py')} {unit}"
    script.write_text(f'#!/bin/sh\n{exports}exec {limits} {python} "$@"\n')
    script.chmod(0o755)
    return str(script)


def status(agent: AgentProcess) -> dict[str, str]:
    text = Path(f"/proc/{agent.pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def test_an_agent_works_under_the_limits(unit: Path, lab: Lab, folder: Path) -> None:
    manager = Manager(folder / "notify")
    (folder / "notify").chmod(0o777)
    one, two = lab.hosts
    places = {"state_path": folder / "state", "control_socket": folder / "run" / "agent.sock"}
    config = folder / "agent.conf"
    config.write_text(one.agent_config(ovs_l2pop=places).read_text())
    try:
        python = limited(unit, folder, NOTIFY_SOCKET=folder / "notify", WATCHDOG_USEC=400_000)
        agents = [one.start_agent(python=python, config=config), two.start_agent()]
        assert manager.hear() == f"READY=1\nSTATUS=ready: VTEP {one.vtep}"
        # Two: what the worker had begun before is not all that it ever did.
        assert [manager.hear(), manager.hear()] == ["WATCHDOG=1"] * 2
        told = status(agents[0])
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
        assert told["CapEff"] == told["CapBnd"] != status(agents[1])["CapBnd"]
        assert ("0" in told["Uid"].split()) == ("linuxbridge" not in unit.name)
        everybody = {
            host.vtep: [FLOODING, [mac, f"10.0.0.{number}"]]
            for number, (host, mac) in enumerate(zip(lab.hosts, MACS, strict=True), 1)
        }
        machines = []
        for number, (host, mac) in enumerate(zip(lab.hosts, MACS, strict=True), 1):
            send(agents[number - 1], NET.attach(5), NET.add(everybody))
            if isinstance(host, LinuxBridgeHost):
                machines.append(plug(host, f"vm{number}", mac, NET))
            else:
                machines.append(host.add_machine(f"vm{number}", mac, f"10.0.0.{number}", tag=5))
        if isinstance(one, LinuxBridgeHost):
            with machines[0].capture() as answers:
                machines[0].send(arp(MACS[0], "10.0.0.1", "10.0.0.2"))
                answers.wait_for(lambda data: data[20:22] == b"\0\2")
        else:
            machines[0].exec("ping", "-c", "1", "-W", "5", "10.0.0.2")
        send(agents[0], LATER.attach(6), LATER.add({two.vtep: [FLOODING]}), LATER.detach())
        assert drift(agents[0]) == []
        health = agents[0].cli("show", "health")
        assert "trouble" not in health.stdout, health.stdout
        # What is undone behind its back, it mends under these limits too.
        send(agents[0], NET.remove(everybody), NET.add(everybody))
        agents[0].stop()
        assert manager.hear() in ("STOPPING=1", "WATCHDOG=1")
        again = one.start_agent(python=python, config=config)
        wait_until(lambda: drift(again) == [], "all is as it was")
        again.stop()
        agents[1].stop()
    finally:
        manager.close()


def test_units_are_sound(unit: Path, tmp_path: Path) -> None:
    """As systemd reads them, with the command where the unit has it."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/ovs-l2pop/bin/ovs-l2pop", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", copy],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout.splitlines()[-1:]

"""``ovs-l2pop demo`` from the outside: what it shows, what it leaves, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l2pop_lab.topology import destroy, left_behind
from l2pop_lab.topology.namespaces import NAMESPACE_DIRECTORY, processes_in

TIMEOUT = 60
Start = Callable[..., subprocess.Popen[str]]


def namespaces_of(demo: subprocess.Popen[str]) -> list[str]:
    """The namespaces of a demo: their names tell its process id."""
    return sorted(path.name for path in NAMESPACE_DIRECTORY.glob(f"l2p{demo.pid}-*"))


def directories_of(demo: subprocess.Popen[str]) -> list[Path]:
    found = []
    for path in Path("/tmp").glob("l2p-*/lab.json"):
        try:
            owner = json.loads(path.read_text())["owner"]
        except (OSError, ValueError):
            continue
        if owner and owner[0] == demo.pid:
            found.append(path)
    return found


@pytest.fixture(name="start")
def _start() -> Iterator[Start]:
    """Return a function that starts a demo; what it leaves is removed after the test."""
    demos: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        demo = subprocess.Popen(
            [sys.executable, "-m", "ovs_l2pop", "demo", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        demos.append(demo)
        return demo

    yield start
    for demo in demos:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        for path in directories_of(demo):
            destroy(path)


def wait_for_progress(demo: subprocess.Popen[str], text: str) -> str:
    """Read the progress up to the line with *text*."""
    assert demo.stderr
    lines = []
    for line in demo.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail(f"no {text!r} in " + "".join(lines))


def assert_nothing_left(demo: subprocess.Popen[str]) -> None:
    assert namespaces_of(demo) == []
    assert directories_of(demo) == []


def assert_shown(content: dict[str, Any]) -> None:
    """Hold the JSON to the figures of three hosts, whatever the demo itself says."""
    assert content["passed"] is True
    assert [promise["text"] for promise in content["promises"] if not promise["kept"]] == []
    l2pop, flood = content["summary"]["l2pop"], content["summary"]["flood_and_learn"]
    assert (l2pop["pings"], flood["pings"]) == (24, 24)
    # Both ends of each ping ask: 24 × 2. Who floods learns from the question; one end asks.
    assert l2pop["questions"] == l2pop["questions_answered_by_switch"] == 48
    assert flood["questions_answered_by_switch"] == 0
    assert l2pop["arp_on_underlay"] == l2pop["nd_on_underlay"] == 0
    # Of each question two copies and of each answer one.
    assert flood["arp_on_underlay"] == flood["nd_on_underlay"] == 3 * 12
    assert l2pop["echo_on_underlay"] == flood["echo_on_underlay"] == 24 * 2 * 2
    assert (l2pop["useless_on_underlay"], flood["useless_on_underlay"]) == (0, 24)
    # Between the two hosts with Open vSwitch and the one with Linux bridges, both ways, in two
    # networks, IPv4 and IPv6; each end of a ping asks.
    across = content["summary"]["across_kinds"]
    assert (across["pings"], across["pings_answered"]) == (16, 16)
    switch, bridge = across["Open vSwitch"], across["Linux bridge"]
    assert (switch["questions"], switch["questions_answered_by_switch"]) == (32, 32)
    assert (bridge["questions"], bridge["questions_answered_by_switch"]) == (16, 16)
    for kind in (switch, bridge):
        assert kind["broadcasts"] > 0
        assert kind["copies"] == 2 * kind["broadcasts"]
    # Of each network two VTEPs, two machines and their four addresses; flooding: the VTEPs, and
    # what was learned.
    assert l2pop["entries"] == 2 * 2 * (1 + 1 + 4)
    assert flood["entries"] == 2 * 2 * (1 + 1)
    assert l2pop["tunnels"] == flood["tunnels"] == content["summary"]["full_mesh_tunnels"] == 6
    assert content["measured"]["warnings"] == []


def test_three_hosts(start: Start) -> None:
    begin = time.monotonic()
    demo = start("-f", "json")
    output, progress = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, progress
    assert time.monotonic() - begin < 30
    assert_shown(json.loads(output))
    assert len(progress.splitlines()) >= 5
    assert_nothing_left(demo)


def test_four_hosts_kept_and_removed(start: Start) -> None:
    demo = start("--hosts", "4", "--keep")
    output, progress = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, progress
    assert "tunnels to other hosts, of all hosts (full mesh: 12)                 10" in output
    assert "also between Open vSwitch and Linux bridge hosts, both ways: 8 of these" in output
    assert "h4 has Linux bridges" in output
    assert "FAIL" not in output
    assert len(namespaces_of(demo)) == 4 + 6 + 1
    commands = [line.strip() for line in output.partition("To look around:")[2].splitlines()]
    commands = [line for line in commands if line and not line.startswith("#")]
    *looks, remove = commands
    # This one needs a program that nothing else here does, and doesn't end by itself.
    shown = {
        command: subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
        for command in looks
        if "tcpdump" not in command
    }
    for command, done in shown.items():
        assert done.returncode == 0, f"{command}: {done.stderr}"
    everything = "".join(done.stdout + done.stderr for done in shown.values())
    for trace in (
        "3 received",
        "10.0.0.2",
        "no drift",
        "cookie=0x6c32706f70",
        "patch-tun",
        "extern_learn",
    ):
        assert trace in everything
    done = subprocess.run(remove, shell=True, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_nothing_left(demo)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("moment", ["network namespaces", "an agent on each", "pings across"])
def test_signal(start: Start, number: int, code: int, moment: str) -> None:
    demo = start()
    wait_for_progress(demo, moment)
    os.killpg(demo.pid, number)  # a terminal's Ctrl-C reaches its children, too
    output, rest = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == code
    assert (output, rest) == ("", "ovs-l2pop: interrupted; everything made was removed\n")
    assert_nothing_left(demo)


def test_failure_of_an_agent(start: Start) -> None:
    demo = start("-f", "json")
    wait_for_progress(demo, "pings across")
    for pid in processes_in(namespaces_of(demo)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"h2/agent.conf" in command:
            os.kill(pid, signal.SIGKILL)
    output, rest = demo.communicate(timeout=TIMEOUT)
    assert (demo.returncode, output) == (1, "")
    assert "h2/agent.sock" in rest
    assert "Traceback" not in rest
    assert_nothing_left(demo)


def test_killed_demo_can_be_removed(start: Start) -> None:
    demo = start("--hosts", "2")
    wait_for_progress(demo, "messages to the agents")
    demo.kill()
    demo.wait()
    (manifest,) = directories_of(demo)
    assert manifest in left_behind()
    listed = start("--remove")
    assert str(manifest) in listed.communicate(timeout=TIMEOUT)[0]
    removal = start("--remove", str(manifest))
    assert removal.communicate(timeout=TIMEOUT) == ("", "")
    assert removal.returncode == 0
    assert_nothing_left(demo)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--hosts", "1"), "ovs-l2pop: --hosts 1: must be 2 to 20\n"),
        (("--hosts", "21"), "ovs-l2pop: --hosts 21: must be 2 to 20\n"),
        (("--remove", "/nowhere"), "ovs-l2pop: no laboratory at /nowhere\n"),
    ],
)
def test_wrong_arguments(start: Start, args: tuple[str, ...], message: str) -> None:
    demo = start(*args)
    assert demo.communicate(timeout=TIMEOUT) == ("", message)
    assert demo.returncode == 1


def test_needs_root() -> None:
    # Root that has given its identity up: it can still read this interpreter.
    script = (
        "import os, sys; os.geteuid = lambda: 1000; from ovs_l2pop.cli.main import main;"
        "sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ovs-l2pop: the demo needs root")


def test_needs_open_vswitch(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "ovs_l2pop", "demo"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "ovs-vswitchd" in done.stderr
    assert "install openvswitch-switch" in done.stderr

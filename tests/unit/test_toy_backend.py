"""A backend is a package and an entry point: a third one, run by a real agent."""

import json
import os
import subprocess
import sys
from pathlib import Path

from builders import FLOODING, IP1, MAC1, N, add, attach
from waiting import eventually

from ovs_l2pop.agent.client import ask
from ovs_l2pop.core.errors import ControlError

#: No address of this machine, of which the agent asks.
A = "198.51.100.77"
TOY = Path(__file__).resolve().parents[1] / "toy_backend"


def answers(path: Path) -> bool:
    try:
        return bool(ask(path, {"command": "show", "what": "health"}))
    except ControlError:
        return False


def test_a_backend_of_somebody_elses(tmp_path: Path) -> None:
    dataplane, socket, config = (tmp_path / name for name in ("dataplane", "socket", "conf"))
    config.write_text(
        "[ovs_l2pop]\nbackend = toy\nlocal_ip = 192.0.2.1\n"
        f"control_socket = {socket}\nstate_path = {tmp_path}\n[toy]\npath = {dataplane}\n"
    )
    argv = [sys.executable, "-m", "ovs_l2pop", "agent", "--config-file", str(config)]
    with subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": str(TOY)}) as agent:
        try:
            eventually(lambda: answers(socket))
            messages = [attach(N), add(N, A, FLOODING, [MAC1, IP1])]
            lines = [json.dumps(message).encode() + b"\n" for message in messages]
            answer = ask(socket, {"command": "send"}, lines)
            assert (answer["refused"], answer["pending"]) == ([], None)
            assert dataplane.read_text().splitlines() == sorted(
                [
                    f"1001 {IP1} {MAC1}",
                    f"1001 {MAC1} {A}",
                    f"1001 everybody {A}",
                    f"1001 network {N}",
                    f"tunnel {A} up",
                ]
            )
            health = ask(socket, {"command": "show", "what": "health"})["rows"]
            assert ["toy", "ok", f"5 lines in {dataplane}"] in health
            dataplane.write_text("")
            assert len(ask(socket, {"command": "check"})["rows"]) == 5
        finally:
            agent.terminate()
            assert agent.wait(15) == 0

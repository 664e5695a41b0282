"""``why`` and ``history``: asked of a running agent, about a real dataplane."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, Site, send, wait_until

from l2pop_lab.topology import AgentProcess, Host, Lab

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
A, B = "10.200.0.11", "10.200.0.12"
NET, OTHER = Net(1, 77), Net(2, 78)


@pytest.fixture(scope="module", params=["openvswitch", "linuxbridge"])
def host(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1, linuxbridge=[1] if request.param == "linuxbridge" else []).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> AgentProcess:
    agent = host.start_agent()
    send(agent, NET.attach(5))
    send(agent, NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]], host.vtep: [[MAC2, "10.0.0.2"]]}))
    send(agent, NET.add({B: [[MAC1, "10.0.0.1"]]}))
    send(agent, OTHER.add({A: [[MAC1, "10.0.0.1"]]}))
    return agent


def asked(agent: AgentProcess, *argv: str, code: int = 0) -> list[dict[str, Any]]:
    done = agent.cli(*argv, "-f", "json")
    assert done.returncode == code, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("address", [MAC1, MAC1.upper(), "10.0.0.1"])
def test_who_wins_and_what_follows(agent: AgentProcess, address: str) -> None:
    first, second, elsewhere = asked(agent, "why", address)
    assert [claim["vtep"] for claim in (first, second, elsewhere)] == [A, B, A]
    assert (first["mac wins"], first["ip wins"], first["rows"]) == ("no", "no", "")
    assert (second["mac wins"], second["ip wins"]) == ("yes", "yes")
    assert second["rows"].count("installed") == len(second["rows"].splitlines()) > 0
    assert MAC1 in second["rows"]
    assert elsewhere["mac wins"] == "not attached"
    assert first["told"] < second["told"] < elsewhere["told"]
    assert {claim["by"] for claim in (first, second, elsewhere)} == {"socket"}


def test_what_is_here(agent: AgentProcess) -> None:
    (claim,) = asked(agent, "why", MAC2)
    assert (claim["mac wins"], claim["ip wins"]) == ("yes, here", "yes, here")


def test_nobody(agent: AgentProcess) -> None:
    assert asked(agent, "why", "10.0.0.99", code=1) == []
    assert "nobody claims 10.0.0.99" in agent.cli("why", "10.0.0.99").stderr


def test_history_of_this_and_that(agent: AgentProcess) -> None:
    everything = [(row["what"], row["vtep"], row["mac"]) for row in asked(agent, "history")]
    assert everything[0] == ("attach", "", "")
    assert everything[-2:] == [("add", B, MAC1), ("add", A, MAC1)]
    assert [row["vtep"] for row in asked(agent, "history", MAC1)] == [A, B, A]
    assert [row["mac"] for row in asked(agent, "history", B)] == [MAC1]
    assert [row["mac"] for row in asked(agent, "history", OTHER.id[:20], "--limit", "1")]
    assert len(asked(agent, "history", OTHER.id)) == 1
    assert asked(agent, "history", "10.0.0.99") == []


def test_how_often_it_is_used(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    vm1, vm2 = (
        host.add_machine(f"vm{n}", mac, f"10.0.0.{n}", tag=5)
        for n, (host, mac) in enumerate(zip(lab.hosts, (MAC1, MAC2), strict=True), 1)
    )
    site = Site.start(lab)
    site.populate(NET, [vm1, vm2])

    def packets() -> list[int]:
        (claim,) = asked(site.agent(lab.hosts[0]), "why", MAC2)
        return [int(count) for count in re.findall(r"\((\d+) packets\)", claim["rows"])]

    assert packets() == [0, 0]
    assert vm1.ping("10.0.0.2", count=3).lost == 0
    # The switch counts twice a second what its cached flows have passed.
    wait_until(lambda: packets() == [3, 1], "three frames and a question")


def test_live(make_lab: Callable[..., Lab]) -> None:
    (host,) = make_lab(1).hosts
    agent = host.start_agent()
    argv = [sys.executable, "-m", "ovs_l2pop", "--socket", str(agent.control_socket), "watch", A]
    watching = host.popen(argv, stdout=subprocess.PIPE)
    output = watching.stdout
    assert output is not None
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.extend(iter(output.readline, b"")))
    reader.start()

    def told() -> bool:
        send(agent, NET.add({A: [[MAC1, "10.0.0.1"]], B: [[MAC2, "10.0.0.2"]]}))
        return bool(found)

    wait_until(told, "it watches")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 0
    reader.join(10)
    expected = f"socket add {NET.id} {A} {MAC1} 10.0.0.1\n".encode()
    assert {line.split(b" ", 2)[2] for line in found} == {expected}


def test_across_a_restart(make_lab: Callable[..., Lab]) -> None:
    (host,) = make_lab(1).hosts
    agent = host.start_agent()
    send(agent, NET.attach(5), NET.add({A: [FLOODING, [MAC1, "10.0.0.1"]]}))
    send(agent, NET.add({A: [[MAC2, "fd00::7"]]}))
    (six,) = asked(agent, "why", "FD00:0:0::7")
    assert (six["mac"], len(asked(agent, "history", "FD00:0::7"))) == (MAC2, 1)
    (before,) = asked(agent, "why", MAC1)
    agent.stop()
    agent = host.start_agent()
    assert asked(agent, "why", MAC1) == [before]
    # What is older than the file is still claimed.
    (host.directory / "state" / "history").unlink()
    (claim,) = asked(agent, "why", MAC1)
    assert (claim["told"], claim["mac wins"]) == ("before the history", "yes")

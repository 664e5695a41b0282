"""What a service manager is told, where there is one."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_l2pop.cli.service import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What NOTIFY_SOCKET says, and the socket."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(5)
        yield address, listening


def test_it_hears_and_the_environment_is_empty(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "HOME": "/"}
    told = ServiceManager(environment)
    told.tell("READY=1", "STATUS=all is well")
    assert listening.recv(100) == b"READY=1\nSTATUS=all is well"
    assert told.interval == 1.5
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "soon"},
        {
            "NOTIFY_SOCKET": "/nowhere/at/all",
            "WATCHDOG_USEC": "3000000",
            "WATCHDOG_PID": str(os.getpid() + 1),
        },
    ],
)
def test_nobody_waits_for_signs_of_life(environment: dict[str, str]) -> None:
    told = ServiceManager(environment)
    assert told.interval is None
    told.tell("READY=1")

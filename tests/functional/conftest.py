"""Laboratories for the functional tests.

A test asks for ``lab2`` or ``lab3``, which all tests of a module share, or makes one of its own by
``make_lab``. ``--tunnel-ports flow`` gives the agents of all of them that option.

After each test the logs of the switches must hold no warning that isn't explained:
``@pytest.mark.expected_warnings(r"pattern", …)`` is how a test explains one.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from l2pop_lab.topology import Lab

MakeLab = Callable[..., Lab]

_running: list[Lab] = []


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of this folder."""
    config.addinivalue_line(
        "markers",
        "expected_warnings(*patterns): lines (regular expressions) that the test makes "
        "ovs-vswitchd log at level WARN or worse",
    )
    # A shell that runs the tests in the background has them ignore Ctrl-C, and with them every
    # program that they start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _need_root() -> None:
    # Not skipped: a run that proves nothing must not look like one that passed.
    if os.geteuid() != 0:
        pytest.fail("functional tests make network namespaces: run them as root", pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option of this folder."""
    parser.addoption("--tunnel-ports", help="tunnel_ports of all agents with Open vSwitch")


def _labs(request: pytest.FixtureRequest) -> Iterator[MakeLab]:
    with ExitStack() as stack:

        def make(hosts: int = 2, **options: object) -> Lab:
            options.setdefault("tunnel_ports", request.config.getoption("--tunnel-ports"))
            lab = stack.enter_context(Lab(hosts, **options))  # type: ignore[arg-type]
            _running.append(lab)
            stack.callback(_running.remove, lab)
            return lab

        yield make


@pytest.fixture(name="make_lab")
def _make_lab(request: pytest.FixtureRequest) -> Iterator[MakeLab]:
    """Return a function with the parameters of ``Lab``; what it makes ends with the test."""
    yield from _labs(request)


@pytest.fixture(scope="module", name="make_module_lab")
def _make_module_lab(request: pytest.FixtureRequest) -> Iterator[MakeLab]:
    """Return a function like ``make_lab``; what it makes ends with the module."""
    yield from _labs(request)


@pytest.fixture(scope="module")
def lab2(make_module_lab: MakeLab) -> Lab:
    """Return a laboratory of two hosts, the same for all tests of the module."""
    return make_module_lab(2)


@pytest.fixture(scope="module")
def lab3(make_module_lab: MakeLab) -> Lab:
    """Return a laboratory of three hosts, the same for all tests of the module."""
    return make_module_lab(3)


@pytest.fixture(autouse=True)
def _no_unexpected_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in whose time a switch logged a warning that nobody has explained."""
    # make_lab takes its laboratories away after this fixture, since that was set up first.
    if "make_lab" in request.fixturenames:
        request.getfixturevalue("make_lab")
    before = {host: len(host.vswitchd_log()) for lab in _running for host in lab.hosts}
    yield
    mark = request.node.get_closest_marker("expected_warnings")
    ignore = mark.args if mark else ()
    complaints = [
        f"{host.name}: {line}"
        for lab in _running
        for host in lab.hosts
        for line in host.unexpected_warnings(ignore, before.get(host, 0))
    ]
    if complaints:
        pytest.fail("ovs-vswitchd logged:\n" + "\n".join(complaints), pytrace=False)

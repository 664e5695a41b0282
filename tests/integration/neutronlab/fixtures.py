"""Clouds for the tests.

A test module says what cloud it wants and all its tests share it::

    @pytest.fixture(scope="module")
    def cloud(make_module_cloud: MakeCloud) -> Cloud:
        return make_module_cloud([STOCK, OURS], OURS_DRIVERS)

A test that fails is reported with what Neutron's processes logged in its time.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from neutronlab.cloud import Cloud
from neutronlab.database import Template
from neutronlab.installation import Installation
from neutronlab.things import Instance, Network

MakeCloud = Callable[..., Cloud]

__all__ = [
    "_instances",
    "_make_cloud",
    "_make_module_cloud",
    "_network",
    "installation",
    "pytest_runtest_makereport",
    "template",
]

_running: list[Cloud] = []
_read: dict[str, int] = {}
_LOG_LINES = 60


@pytest.fixture(scope="session")
def installation() -> Installation:
    """Return where Neutron is installed."""
    # Not skipped: a run that proves nothing must not look like one that passed.
    if os.geteuid() != 0:
        pytest.fail("integration tests make network namespaces: run them as root", pytrace=False)
    return Installation.find()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Return the place of the database that every cloud begins with."""
    return Template(Path(tmp_path_factory.mktemp("database")) / "data")


def _clouds(installation: Installation, template: Template) -> Iterator[MakeCloud]:
    with ExitStack() as stack:

        def make(agents: Any, mechanism_drivers: Any, **options: Any) -> Cloud:
            cloud = Cloud(agents, mechanism_drivers, installation, template, **options)
            stack.enter_context(cloud)
            _running.append(cloud)
            stack.callback(_running.remove, cloud)
            return cloud

        yield make


@pytest.fixture(name="make_cloud")
def _make_cloud(installation: Installation, template: Template) -> Iterator[MakeCloud]:
    """Return a function with ``Cloud``'s first parameters; what it makes ends with the test."""
    yield from _clouds(installation, template)


@pytest.fixture(scope="module", name="make_module_cloud")
def _make_module_cloud(installation: Installation, template: Template) -> Iterator[MakeCloud]:
    """Return a function like ``make_cloud``; what it makes ends with the module."""
    yield from _clouds(installation, template)


@pytest.fixture(scope="module", name="network")
def _network(cloud: Cloud) -> Network:
    """A VXLAN network with both families, in the module's cloud."""
    return cloud.create_network("10.0.0.0/24", "fd00::/64")


@pytest.fixture(scope="module", name="instances")
def _instances(cloud: Cloud, network: Network) -> list[Instance]:
    """An instance on every host of the module's cloud."""
    instances = cloud.boot_many(network, cloud.nodes)
    cloud.wait_consistent()
    return instances


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what was logged since the end of the test before."""
    report = yield
    logs = _logs()
    if report.failed:
        for name, text in logs.items():
            lines = text[_read.get(name, 0) :].splitlines()[-_LOG_LINES:]
            if lines:
                report.sections.append((name, "\n".join(lines)))
    if call.when == "teardown":
        _read.update((name, len(text)) for name, text in logs.items())
    return report


def _logs() -> dict[str, str]:
    logs: dict[str, str] = {}
    for cloud in _running:
        prefix = cloud.lab.prefix
        logs.update((f"{prefix} {name}", text) for name, text in cloud.control.logs().items())
        logs.update((f"{prefix} agent of {node.name}", node.agent_log()) for node in cloud.nodes)
    return logs

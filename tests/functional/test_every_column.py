"""Every column of every row of ours in OVSDB comes back, set to another value or cleared."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from column_damages import DAMAGES, NOT_OURS
from damages import TO_A, told
from feed_helpers import drift, wait_until
from switch_helpers import Switch

from l2pop_lab.topology import AgentProcess, Host, Lab
from ovs_l2pop.agent.client import ask

PORTS = (TO_A, "patch-int", "patch-tun")
PATCHES = ("patch-int", "patch-tun")

#: What is not compared: with it comes back what is equal, not what is the same.
_UUIDS = {"_uuid", "ports", "interfaces"}

#: What the switch has to say to all that.
pytestmark = pytest.mark.expected_warnings(
    r"\|(bridge|netdev|netdev_vport|ofproto|ofproto_dpif|bond|lacp|tunnel|cfm|bfd|dpif)\|",
    r"\|socket_util\|ERR\|.nobody. is not a valid IP address",
    r"connection dropped|Dropped \d+ log messages|version negotiation failed",
)


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent()
    told(agent)
    yield agent
    assert "Traceback" not in agent.log()
    assert agent.stop() == 0


def records(table: str) -> tuple[str, ...]:
    return ("br-tun",) if table == "Bridge" else PORTS


def rows(host: Host) -> list[dict[str, Any]]:
    """Every row of ours in every column that is ours."""
    found = []
    for table, damages in DAMAGES.items():
        for record in records(table):
            shown = ",".join(sorted(damages.keys() - _UUIDS))
            command = ("--if-exists", f"--columns={shown}", "list", table, record)
            text = host.vsctl("-f", "json", *command)
            content = json.loads(text)
            found += [dict(zip(content["headings"], row, strict=True)) for row in content["data"]]
    return found


def test_no_column_is_forgotten(host: Host) -> None:
    schema = json.loads(host.exec("ovsdb-client", "get-schema", host.ovsdb, "Open_vSwitch"))
    for table, damages in DAMAGES.items():
        assert not damages.keys() & NOT_OURS[table].keys()
        known = damages.keys() | NOT_OURS[table].keys()
        assert set(schema["tables"][table]["columns"]) <= known, f"new in {table}"


def damage(host: Host, table: str, template: str) -> None:
    """Do it to all records that it is a damage to, in one go."""
    args: list[str] = []
    for record in records(table):
        # What is a tunnel's own, and what a patch port has anyway.
        if record in PATCHES and ("ofport_request" in template or template.endswith("type=patch")):
            continue
        text = template.replace("@", f"@{record}-").replace("{}", record)
        args += ["--", *text.split()]
    host.vsctl("--no-wait", *args)


CASES = [
    pytest.param(table, template, id=template.replace("{}", ""))
    for table, damages in DAMAGES.items()
    for templates in damages.values()
    for template in templates
]


@pytest.mark.parametrize(("table", "template"), CASES)
def test_it_comes_back(agent: AgentProcess, host: Host, table: str, template: str) -> None:
    before, switch = rows(host), Switch.of(host)
    damage(host, table, template)
    if "datapath_type" not in template:  # of a bridge that isn't there, nothing can be read
        wait_until(lambda: drift(agent) != [], "the agent sees it")
    assert ask(agent.control_socket, {"command": "repair"})["refused"] == []
    assert (rows(host), Switch.of(host)) == (before, switch)
    assert drift(agent) == []

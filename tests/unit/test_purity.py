"""What decides is free of I/O libraries: it can be read, tested and reused without them."""

import json
import subprocess
import sys

import pytest

OUTSIDE = {
    "asyncio",
    "cliff",
    "os_ken",
    "oslo_config",
    "oslo_log",
    "oslo_messaging",
    "ovs",
    "ovsdbapp",
    "pyroute2",
    "requests",
    "ryu",
    "scapy",
    "socketserver",
    "subprocess",
    "threading",
}
OPENVSWITCH = "ovs_l2pop.backends.openvswitch"

#: Module → what of WATCHED it may import all the same.
PURE = {
    "ovs_l2pop.core.messages": set[str](),
    "ovs_l2pop.core.table": set[str](),
    "ovs_l2pop.core.difference": set[str](),
    "ovs_l2pop.core.reconciler": set[str](),
    "ovs_l2pop.core.errors": set[str](),
    f"{OPENVSWITCH}.pipeline": {"yaml", "threading"},  # importlib.resources needs threading
    f"{OPENVSWITCH}.rows": set[str](),
    f"{OPENVSWITCH}.stamps": {"yaml", "threading", "logging"},
    f"{OPENVSWITCH}.render": {
        "yaml",
        "threading",
        "logging",
        "socket",
        "select",
    },  # for inet_pton()
}
WATCHED = OUTSIDE | {"logging", "select", "socket", "yaml"}

SCRIPT = """
import importlib, json, sys
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize("module", PURE)
def test_module_is_pure(module: str) -> None:
    run = [sys.executable, "-c", SCRIPT, module]
    loaded = json.loads(subprocess.run(run, check=True, capture_output=True).stdout)
    found = {name.partition(".")[0] for name in loaded} & WATCHED
    assert found <= PURE[module]


@pytest.mark.parametrize("module", ["messages", "table", "difference", "reconciler"])
def test_what_is_shared_knows_no_backend(module: str) -> None:
    run = [sys.executable, "-c", SCRIPT, f"ovs_l2pop.core.{module}"]
    loaded = json.loads(subprocess.run(run, check=True, capture_output=True).stdout)
    ours = {name for name in loaded if name.startswith("ovs_l2pop.")}
    assert not [name for name in ours if name.startswith((OPENVSWITCH, "ovs_l2pop.agent"))]

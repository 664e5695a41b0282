"""What decides is free of I/O libraries: it can be read, tested and reused without them.

The contract of imports (``[tool.importlinter]`` in ``pyproject.toml``) says who may import whom.
What is loaded on the way, by libraries too, only shows when it is tried.
"""

import json
import subprocess
import sys

import pytest

OPENVSWITCH, LINUXBRIDGE = "ovs_l2pop.backends.openvswitch", "ovs_l2pop.backends.linuxbridge"

#: Module → what of WATCHED comes with it all the same.
PURE = {
    "ovs_l2pop.core.messages": set[str](),
    "ovs_l2pop.core.wire": set[str](),
    "ovs_l2pop.core.table": set[str](),
    "ovs_l2pop.core.reconciler": set[str](),
    f"{OPENVSWITCH}.pipeline": {"yaml", "threading"},  # importlib.resources needs threading
    f"{OPENVSWITCH}.plan": {"yaml", "threading", "logging"},
    f"{OPENVSWITCH}.render": {"yaml", "threading", "logging", "socket", "select"},  # inet_pton()
    f"{LINUXBRIDGE}.plan": {"socket", "select"},  # as above
    "ovs_l2pop.sync.replica": set[str](),
}
WATCHED = {
    *("asyncio", "cliff", "logging", "os_ken", "oslo_config", "oslo_messaging", "ovsdbapp", "ryu"),
    *("select", "socket", "subprocess", "threading", "yaml"),
}

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
    assert {name.partition(".")[0] for name in loaded} & WATCHED <= PURE[module]

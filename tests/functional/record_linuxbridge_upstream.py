"""Records what Neutron's last Linux bridge agent (2024.2) leaves in the kernel for the stream of
``linuxbridge_stream.py``. As root::

    python3 -m venv /tmp/neutron25
    /tmp/neutron25/bin/pip install neutron==25.2.3 neutron-lib==3.15.0 pyroute2==0.7.12
    /tmp/neutron25/bin/python tests/functional/record_linuxbridge_upstream.py

Its own classes run, in a network namespace, called as its main loop and its RPC server call them.
Only privilege separation is left out: it is root already.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from linuxbridge_stream import (
    SCENARIOS,
    UNDERLAY,
    UNDERLAY_MTU,
    Net,
    Plug,
    Scenario,
    Unplug,
    state,
    told,
    underlay,
)

RECORD = Path(__file__).with_name("linuxbridge_upstream.json")
NAMESPACE = "record-upstream"


def run(*command: str) -> list[dict[str, Any]]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout or "[]"))


def make_underlay(scenario: Scenario) -> None:
    for line in (
        "link set lo up",
        f"link add {UNDERLAY} mtu {UNDERLAY_MTU} type veth peer name far mtu {UNDERLAY_MTU}",
        f"link set {UNDERLAY} up",
        "link set far up",
        *underlay(scenario),
    ):
        subprocess.run(["ip", *line.split()], check=True)


def agent(scenario: Scenario) -> tuple[Any, Any]:
    """Its manager and its RPC callbacks."""
    import neutron.privileged as privileged
    from neutron.conf.agent import common as agent_config
    from neutron.plugins.ml2.drivers.linuxbridge.agent import linuxbridge_neutron_agent as lb
    from oslo_config import cfg

    for name in ("default", "link_cmd", "namespace_cmd"):
        getattr(privileged, name).set_client_mode(False)
    agent_config.register_root_helper(cfg.CONF)
    cfg.CONF([], project="neutron", default_config_files=[])
    options = {"local_ip": scenario.vteps[0], "l2_population": True} | scenario.options
    for name, value in options.items():
        cfg.CONF.set_override(name, value, group="VXLAN")
    manager = lb.LinuxBridgeManager({}, {})
    loop = SimpleNamespace(mgr=manager, network_ports={})
    return manager, lb.LinuxBridgeRpcCallbacks(None, loop, None)


def record(scenario: Scenario) -> dict[str, Any]:
    """Run in the namespace: the state of each chapter's network, and what was raised."""
    from neutron.plugins.ml2.drivers.agent._agent_manager_base import NetworkSegment

    make_underlay(scenario)
    manager, callbacks = agent(scenario)
    raised: dict[str, list[str]] = {}
    for name, net, steps in scenario.chapters:
        for step in steps:
            try:
                if isinstance(step, Plug):
                    plug(manager, callbacks, net, NetworkSegment, step.mtu or scenario.mtu)
                elif isinstance(step, Unplug):
                    callbacks.network_delete(None, network_id=net.id)
                elif scenario.populates:  # else it doesn't listen to them
                    # Through JSON, as messages come.
                    message = json.loads(json.dumps(told(step, scenario)))
                    getattr(callbacks, message["method"])(None, message["fdb_entries"])
            except Exception as error:  # noqa: BLE001 (its RPC server logs it and goes on)
                raised.setdefault(name, []).append(type(error).__name__)
    found = {name: state(run, net) for name, net, _ in scenario.chapters}
    usual = found[scenario.chapters[0].name]["devices"]
    for chapter in found.values():
        if chapter["devices"] == usual:
            del chapter["devices"]
    return {"devices": usual, "chapters": found, "raised": raised}


def plug(manager: Any, callbacks: Any, net: Net, segment: Any, mtu: int) -> None:
    tap = f"tap{net.number}"
    if not Path(f"/sys/class/net/{tap}").exists():
        subprocess.run(["ip", "link", "add", tap, "type", "veth"], check=True)
    here = segment("vxlan", None, net.vni, mtu)
    callbacks.add_network(net.id, here)
    if not manager.plug_interface(net.id, here, tap, "network:dhcp"):
        raise RuntimeError(f"{tap} was not plugged")


def as_text(value: Any, depth: int = 4) -> str:
    """JSON with what lies deep on one line."""
    if not depth or not isinstance(value, dict) or not value:
        return json.dumps(value, sort_keys=True)
    pad = " " * (5 - depth)
    lines = [f"{pad}{json.dumps(key)}: {as_text(value[key], depth - 1)}" for key in value]
    return "{\n" + ",\n".join(lines) + "\n" + pad[1:] + "}"


def main() -> None:
    if len(sys.argv) > 1:
        (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == sys.argv[1])
        print(json.dumps(record(scenario)))
        return
    found = {}
    for scenario in SCENARIOS:
        subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
        try:
            command = ["ip", "netns", "exec", NAMESPACE, sys.executable, __file__, scenario.name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)
        found[scenario.name] = json.loads(done.stdout)
    kernel = ".".join(Path("/proc/sys/kernel/osrelease").read_text().split(".")[:2])
    content = {"neutron": version("neutron"), "kernel": kernel, "scenarios": found}
    RECORD.write_text(as_text(content) + "\n")
    print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()

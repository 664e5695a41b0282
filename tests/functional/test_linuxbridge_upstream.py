"""What the kernel holds after a stream of messages, beside what Neutron's last Linux bridge agent
(2024.2) leaves for the same: equal, but for the differences that are spelled out here.

``linuxbridge_stream.py`` has the stream, ``linuxbridge_upstream.json`` what that agent left,
recorded by ``record_linuxbridge_upstream.py``, which tells how to do it again.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feed_helpers import drift, send
from linuxbridge_stream import (
    SCENARIOS,
    UNDERLAY,
    Chapter,
    Net,
    Plug,
    Scenario,
    Unplug,
    state,
    told,
    underlay,
)

from l2pop_lab.topology import AgentProcess, Host, Lab
from l2pop_lab.topology.namespaces import ip_batch

State = dict[str, Any]

RECORD = json.loads(Path(__file__).with_name("linuxbridge_upstream.json").read_text())
MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))


# -- deliberate differences: each makes of what upstream left what is wanted ----------------------


def udp_port(found: State, scenario: Scenario) -> None:
    """The kernel's default, 8472, doesn't reach Open vSwitch hosts (L8)."""
    if "udp_dstport" not in scenario.options:
        found["tunnel"]["settings"]["port"] = 4789


def no_multicast_snooping(found: State, scenario: Scenario) -> None:
    """A bridge that snoops sends reports of its own into the network."""
    found["bridge"]["settings"]["mcast_snooping"] = 0


def never_proxy(found: State, scenario: Scenario) -> None:
    """``proxy`` drops questions for what isn't in the table, VIPs too (L4)."""
    found["tunnel"]["settings"].pop("proxy", None)


def not_bound_to_a_loopback(found: State, scenario: Scenario) -> None:
    """Packets of a device that is bound to ``lo`` never leave the host (L9)."""
    if found["tunnel"]["settings"].get("link") == "lo":
        del found["tunnel"]["settings"]["link"]


def source_address_always(found: State, scenario: Scenario) -> None:
    """Without, in multicast mode, the kernel takes any address of the underlay's device."""
    name = "local" if scenario.family == 4 else "local6"
    found["tunnel"]["settings"].setdefault(name, scenario.vteps[0])


def no_checksum_from_others(found: State, scenario: Scenario) -> None:
    """Open vSwitch hosts may send none over IPv6, and the kernel drops such packets (RFC 6935)."""
    if scenario.family == 6:
        found["tunnel"]["settings"]["udp_zero_csum6_rx"] = True


def unicast_mode_over_ipv6(found: State, scenario: Scenario) -> None:
    """It tries whether a device takes the VTEP 1.1.1.1, which an IPv6 one refuses: so it is in
    multicast mode there, whatever ``l2_population`` says."""
    if scenario.family == 6 and scenario.populates:
        del found["tunnel"]["settings"]["group6"]


def mtu_of_the_underlay(found: State, scenario: Scenario) -> None:
    """It takes the network's MTU from Neutron's server, and so has none that fits without. For the
    machines it is their own ports' that counts."""
    found["tunnel"]["mtu"] = scenario.mtu


DEVICES: list[Callable[[State, Scenario], None]] = [
    udp_port,
    no_multicast_snooping,
    never_proxy,
    not_bound_to_a_loopback,
    source_address_always,
    no_checksum_from_others,
    unicast_mode_over_ipv6,
    mtu_of_the_underlay,
]


def keeps_the_address(found: State) -> None:
    """It deletes the neighbour by its IP alone, also when that is already the new place's."""
    found["neighbours"]["10.0.0.1"] = MAC1


def keeps_the_mac(found: State) -> None:
    """It deletes the MAC's entry with the first of its addresses that goes."""
    found["unicast"][MAC1] = "b"


def keeps_the_first_address(found: State) -> None:
    """It adds what is in ``after`` and then deletes what is in ``before``, also what is in both."""
    found["neighbours"]["10.0.0.1"] = MAC1


def ipv6_addresses(found: State) -> None:
    """With its responder on, it fails at an IPv6 address, because its devices have no IPv6, and
    drops the rest of the message."""
    found["flooding"] = ["b", "c"]
    found["unicast"] = {MAC1: "b", MAC2: "b", MAC3: "c"}
    found["neighbours"] = {"10.0.0.1": MAC1, "fd00::1": MAC1, "10.0.0.2": MAC2, "10.0.0.3": MAC3}


def ipv6_only(found: State) -> None:
    """As above."""
    found["unicast"] = {MAC1: "b", MAC2: "b"}
    found["neighbours"] = {"fd00::1": MAC1, "fd00::2": MAC2}


def remembers(found: State) -> None:
    """It forgets what it is told of a network that isn't here yet."""
    found["flooding"] = ["b", "c"]
    found["unicast"] |= {MAC1: "b"}
    found["neighbours"] |= {"10.0.0.1": MAC1}


def takes_the_rest(found: State) -> None:
    """It drops a message at the first network in it that isn't here (L5)."""
    found["flooding"] = ["b"]
    found["unicast"] = {MAC1: "b"}
    found["neighbours"] = {"10.0.0.1": MAC1}


def is_here(found: State) -> None:
    """A machine that is on this host is not elsewhere, also before its removal there is told."""
    del found["unicast"][MAC1]
    found["neighbours"].pop("10.0.0.1", None)


def ignores_what_it_does_not_know(found: State) -> None:
    """It drops a message in which a pair has another element (W1)."""
    found["flooding"] = ["b", "c"]
    found["unicast"] = {MAC1: "b"}
    found["neighbours"] = {"10.0.0.1": MAC1}


def forgets_the_mac(found: State) -> None:
    """It keeps the MAC of a port that has no address any more, and no message will take that away:
    the removal of such a port names no MAC. In ours it is learned, and ages."""
    del found["unicast"][MAC1]


ENTRIES: dict[str, Callable[[State], None]] = {
    "a machine moves: added, removed": keeps_the_address,
    "a machine with two addresses loses one": keeps_the_mac,
    "one more address, told with all of them": keeps_the_first_address,
    "a machine with addresses of both families": ipv6_addresses,
    "IPv6 only": ipv6_only,
    "told before the network was here": remembers,
    "beside a network that isn't here": takes_the_rest,
    "no address any more": forgets_the_mac,
    "a machine comes here: added, not yet removed": is_here,
    "a pair with a third element": ignores_what_it_does_not_know,
}


# -- comparing -----------------------------------------------------------------------------------


def upstream(scenario: Scenario, chapter: Chapter) -> State:
    """What upstream's agent left of a chapter's network."""
    recorded = RECORD["scenarios"][scenario.name]
    return copy.deepcopy({"devices": recorded["devices"]} | recorded["chapters"][chapter.name])


def wanted(scenario: Scenario, chapter: Chapter) -> State:
    """That with what is to be different, in the same form."""
    found = upstream(scenario, chapter)
    if not (devices := found["devices"]):
        return found
    for difference in DEVICES:
        difference(devices, scenario)
    if not scenario.populates:
        return found
    source = scenario
    if scenario.family == 6:
        # As it never is in unicast mode there: what it writes over IPv4.
        (source,) = (other for other in SCENARIOS if other.name == "responder")
        found |= {name: upstream(source, chapter)[name] for name in ("flooding", "unicast")}
        found["neighbours"] = upstream(source, chapter)["neighbours"]
    letters = dict(zip(source.vteps, "abc", strict=True))
    plain = {
        "flooding": [letters[vtep] for vtep in found["flooding"]],
        "unicast": {mac: letters[vtep] for mac, vtep in found["unicast"].items()},
        "neighbours": found["neighbours"]["tunnel"],
    }
    if chapter.name in ENTRIES:
        ENTRIES[chapter.name](plain)
    vteps = dict(zip("abc", scenario.vteps, strict=True))
    responder = scenario.options["arp_responder"]
    return found | {
        "flooding": [vteps[letter] for letter in plain["flooding"]],
        "unicast": {mac: vteps[letter] for mac, letter in plain["unicast"].items()},
        # A bridge answers by its own neighbours, for MACs that it knows to be behind the tunnel.
        "neighbours": {"tunnel": {}, "bridge": plain["neighbours"] if responder else {}},
        # It also keeps them there.
        "known to the bridge": sorted(plain["unicast"]),
    }


def play(host: Host, agent: AgentProcess, scenario: Scenario, chapter: Chapter) -> None:
    """Tell our agent a chapter."""
    tap, net = f"tap{chapter.net.number}", chapter.net
    for step in chapter.steps:
        if isinstance(step, Plug):
            attachment = {"network_id": net.id, "network_type": "vxlan", "segment_id": net.vni}
            send(agent, {"method": "attach_network"} | attachment)
            # Others do that: Nova, the DHCP agent.
            mtu = step.mtu or scenario.mtu
            add = f"link add {tap} mtu {mtu} type veth peer name {tap}x mtu {mtu}"
            ip_batch([add, f"link set {tap} master brq{net.id[:11]}"], host.namespace)
        elif isinstance(step, Unplug):
            # Upstream's agent deletes it, with all else in the bridge.
            ip_batch([f"link delete {tap}"], host.namespace)
            send(agent, {"method": "detach_network", "network_id": net.id})
        else:
            send(agent, told(step, scenario))


def reader(host: Host) -> Callable[..., list[dict[str, Any]]]:
    def run(*command: str) -> list[dict[str, Any]]:
        return list(json.loads(host.exec(*command) or "[]"))

    return run


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_as_upstreams_but_for_the_differences(
    make_lab: Callable[..., Lab], scenario: Scenario
) -> None:
    lab = make_lab(1, linuxbridge=[1], family=scenario.family)
    (host,) = lab.hosts
    ip_batch([f"address flush dev {UNDERLAY}", *underlay(scenario)], host.namespace)
    agent = host.start_agent(config=host.agent_config(vxlan=scenario.options))
    for chapter in scenario.chapters:
        play(host, agent, scenario, chapter)
    run = reader(host)
    for chapter in scenario.chapters:
        assert state(run, chapter.net) == wanted(scenario, chapter), chapter.name
    assert drift(agent) == []


def test_every_difference_is_one() -> None:
    """None is left of what upstream's agent does as ours."""
    used = set()
    for scenario in SCENARIOS:
        for chapter in scenario.chapters:
            if devices := upstream(scenario, chapter)["devices"]:
                for difference in DEVICES:
                    before = copy.deepcopy(devices)
                    difference(devices, scenario)
                    used |= {difference} if devices != before else set()
    assert used == set(DEVICES)
    # As it is with the responder.
    left = RECORD["scenarios"]["responder"]["chapters"]
    for name, entries in ENTRIES.items():
        found = {key: left[name][key] for key in ("flooding", "unicast")}
        found["neighbours"] = left[name]["neighbours"]["tunnel"]
        before = copy.deepcopy(found)
        entries(found)
        assert found != before, name


def test_the_record_is_of_the_last_release() -> None:
    assert RECORD["neutron"].startswith("25.")
    assert {scenario.name for scenario in SCENARIOS} == set(RECORD["scenarios"])
    for scenario in SCENARIOS:
        recorded = RECORD["scenarios"][scenario.name]["chapters"]
        assert [chapter.name for chapter in scenario.chapters] == list(recorded)
    assert Net(1).id in {chapter.net.id for chapter in SCENARIOS[0].chapters}

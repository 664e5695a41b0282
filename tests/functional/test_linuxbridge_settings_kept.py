"""Every setting and attribute of what is ours, set to something else: noticed, and back in seconds.

One damage after the other is done behind an agent's back; what the kernel holds afterwards must be
what it held before, and ``check`` empty. :data:`NOT_OURS` argues what is left to others. Nearly all
of it is waiting, so several hosts, which know nothing of each other, are damaged at a time.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
from feed_helpers import FLOODING, Net, drift, send
from linuxbridge_helpers import attach, bridge_of, repair, tunnel_of

from l2pop_lab.topology import AgentProcess, Host, Lab, namespaces

A, B = "10.200.0.11", "10.200.0.12"
MAC1, MINE = "fa:16:3e:00:00:01", "fa:16:3e:00:00:09"
NET = Net(1, 77)
T, BR = tunnel_of(NET), bridge_of(NET)

#: Longer than any test takes: what is mended was noticed by itself.
FAR = 600
SOON = 15
HOSTS = 8

NOT_OURS = {
    "ip link: address": "any will do; when a bridge's changes, its neighbours go, and come back",
    "ip link: qlen, numtxqueues, gso_*, gro_*, tso_*, promiscuity": "no frame goes elsewhere",
    "bridge mtu": "a bridge forwards by its ports' MTUs",
    "bridge priority, hello_time, max_age; port cost, priority": "no spanning tree",
    "bridge mcast_*, port mcast_router": "no snooping",
    "bridge nf_call_*": "the operator's firewall",
    "bridge vlan_protocol, vlan_default_pvid": "no VLANs",
    "port fdb entries without our mark": "somebody else's, and told so in the documentation",
}


Place = tuple[Host, AgentProcess]


@pytest.fixture(scope="module")
def places(make_module_lab: Callable[..., Lab]) -> Iterator[list[Place]]:
    hosts = make_module_lab(HOSTS, linuxbridge=range(1, HOSTS + 1)).hosts
    config = {"drift_interval": FAR}
    started = [
        (host, host.start_agent(config=host.agent_config(ovs_l2pop=config), wait=False))
        for host in hosts
    ]
    for host, agent in started:
        agent.wait_ready()
        told = {
            A: [FLOODING, [MAC1, "10.0.0.1"], [MAC1, "fd00::1"]],
            B: [FLOODING],
            host.vtep: [FLOODING, [MINE, "10.0.0.9"]],
        }
        send(agent, attach(NET), NET.add(told))
    yield started
    assert [agent.stop() for _, agent in started] == [0] * HOSTS


@pytest.fixture(scope="module")
def outcomes(
    places: list[Place], request: pytest.FixtureRequest
) -> Iterator[dict[str, "Future[None]"]]:
    """What becomes of each damage that is to be tried, done on whichever host is free."""
    wanted = [
        str(item.callspec.params["command"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_it_comes_back
    ]
    free = SimpleQueue[Place]()
    for place in places:
        free.put(place)

    def run(command: str) -> None:
        place = free.get()
        try:
            damage(*place, command)
        finally:
            free.put(place)

    with ThreadPoolExecutor(HOSTS) as pool:
        yield {command: pool.submit(run, command) for command in wanted}
        pool.shutdown(cancel_futures=True)


def port(*settings: str) -> list[str]:
    return [f"bridge link set dev {T} {setting}" for setting in settings]


def remade(*options: str) -> list[str]:
    """Somebody makes the tunnel anew, with an option that can't be changed."""
    made = f"ip link add {T} type vxlan id 77 local VTEP dev phy0 dstport 4789"
    alias = f"ip link set {T} alias ovs-l2pop"
    return [f"ip link del {T}; {made} {option}; {alias}" for option in options]


def changed(what: str, *settings: str) -> list[str]:
    kind = "vxlan" if what == T else "bridge"
    return [f"ip link set {what} type {kind} {setting}" for setting in settings]


COMMANDS = [
    # The device as such.
    f"ip link set {T} down",
    f"ip link set {BR} down",
    f"ip link set {T} mtu 1400",
    f"ip link set {T} nomaster",
    f"ip link set {T} protodown on",
    f"ip link set {T} mode dormant",
    f"ip link set {T} group 7",
    f"ip link set {T} alias ''",
    f"ip link set {T} alias else",
    f"ip link set {BR} group 7",
    f"ip link set {BR} alias ''",
    f"ip link set {BR} alias ''; ip link set {T} alias ''",
    f"ip link set {BR} arp off",
    f"ip link set {BR} mode dormant",
    f"ip link set {BR} name else",
    f"ip link set {BR} alias ''; ip link set {BR} name else",
    f"ip link set {BR} address 02:00:00:00:00:99",
    # The tunnel.
    *changed(T, "ttl 7", "tos 8", "ageing 5", "nolearning", "df set"),
    *changed(T, "local 127.0.0.9", "dev lo"),
    *remade("l2miss", "l3miss", "rsc", "proxy", "noudpcsum", "udp6zerocsumtx", "udp6zerocsumrx"),
    *remade("remcsumtx", "remcsumrx", "gbp", "srcport 5000 5001", "maxaddress 3", "nolearning"),
    f"ip link del {T}; ip link add {T} type vxlan id 78 dev phy0 dstport 4789;"
    f" ip link set {T} alias ovs-l2pop",
    f"ip link del {T}; ip link add {T} type vxlan id 77 dev phy0 dstport 8472;"
    f" ip link set {T} alias ovs-l2pop",
    # The tunnel as a port.
    *port("learning off", "flood off", "mcast_flood off", "bcast_flood off", "isolated on"),
    *port("guard on", "root_block on", "fastleave on", "mcast_to_unicast on", "locked on"),
    *port("vlan_tunnel on", "state 0", "state 1", "neigh_suppress on", "hairpin on"),
    *port("neigh_vlan_suppress on", "mcast_max_groups 5", "backup_nhid 5", "learning on mab on"),
    f"bridge link set dev {T} locked on mab on",
    f"ip link set {T} type bridge_slave proxy_arp on",
    f"ip link set {T} type bridge_slave proxy_arp_wifi on",
    f"ip link set {T} type bridge_slave group_fwd_mask 8",
    # The bridge.
    *changed(BR, "stp_state 1", "forward_delay 1500", "vlan_filtering 1", "ageing_time 100"),
    *changed(BR, "mcast_snooping 1", "mcast_querier 1", "group_fwd_mask 8", "fdb_max_learned 1"),
    *changed(BR, "no_linklocal_learn 1", "mcast_vlan_snooping 1"),
    # What it is for the host.
    f"sysctl -qw net.ipv6.conf.{BR}.addr_gen_mode=0",
    f"sysctl -qw net.ipv6.conf.{BR}.accept_ra=1",
    f"sysctl -qw net.ipv6.conf.{BR}.forwarding=1",
    f"sysctl -qw net.ipv6.conf.{BR}.disable_ipv6=1",
    f"sysctl -qw net.ipv4.conf.{BR}.arp_ignore=0",
    f"sysctl -qw net.ipv6.conf.{T}.disable_ipv6=0",
    # Entries: VTEP, way, mark, state, halves.
    f"bridge fdb del {MAC1} dev {T} self",
    f"bridge fdb del {MAC1} dev {T} master",
    f"bridge fdb replace {MAC1} dev {T} dst {B} self permanent extern_learn",
    f"bridge fdb replace {MAC1} dev {T} dst {A} port 4790 self permanent extern_learn",
    f"bridge fdb replace {MAC1} dev {T} dst {A} vni 5 self permanent extern_learn",
    f"bridge fdb replace {MAC1} dev {T} dst {A} via lo self permanent extern_learn",
    f"bridge fdb replace {MAC1} dev {T} dst {A} self permanent",
    f"bridge fdb del {MAC1} dev {T} self; bridge fdb add {MAC1} dev {T} dst {A} self dynamic",
    f"bridge fdb del {MAC1} dev {T} self;"
    f" bridge fdb add {MAC1} dev {T} dst {A} self dynamic extern_learn",
    f"bridge fdb replace {MAC1} dev {T} master static",
    f"bridge fdb replace {MAC1} dev {T} master dynamic",
    f"bridge fdb replace {MAC1} dev {BR} master permanent",
    f"bridge fdb replace {MAC1} dev {BR} self permanent",
    f"bridge fdb del {MAC1} dev {T} master; bridge fdb add {MAC1} dev {T} master extern_learn",
    f"bridge fdb del {MINE} dev {T} self",
    f"bridge fdb replace {MINE} dev {T} dst {B} self permanent extern_learn",
    f"bridge fdb replace {MINE} dev {T} dst {B} self permanent",
    f"bridge fdb add fa:16:3e:00:00:55 dev {T} dst {A} self permanent extern_learn",
    f"bridge fdb add fa:16:3e:00:00:55 dev {T} master extern_learn",
    # Copies.
    f"bridge fdb del {FLOODING[0]} dev {T} dst {A} self",
    f"bridge fdb append {FLOODING[0]} dev {T} dst 10.200.0.99 self permanent",
    f"bridge fdb append {FLOODING[0]} dev {T} dst {A} port 4790 self permanent",
    f"bridge fdb append {FLOODING[0]} dev {T} dst {A} vni 5 self permanent",
    f"bridge fdb append {FLOODING[0]} dev {T} dst {A} via lo self permanent",
    f"bridge fdb append {FLOODING[0]} dev {T} dst {A} self dynamic",
    f"bridge fdb del {FLOODING[0]} dev {T} dst {A} self;"
    f" bridge fdb del {FLOODING[0]} dev {T} dst {B} self;"
    f" bridge fdb append {FLOODING[0]} dev {T} dst {A} self permanent extern_learn",
    # Neighbours.
    f"ip neigh del 10.0.0.1 dev {BR}",
    f"ip neigh replace 10.0.0.1 lladdr {MINE} dev {BR} nud permanent proto 108",
    f"ip neigh replace 10.0.0.1 lladdr {MAC1} dev {BR} nud stale proto 108",
    f"ip neigh replace 10.0.0.1 lladdr {MAC1} dev {BR} nud noarp proto 108",
    f"ip neigh replace 10.0.0.1 lladdr {MAC1} dev {BR} nud permanent proto 108 extern_learn",
    f"ip neigh replace fd00::1 lladdr {MAC1} dev {BR} nud permanent proto 108 router",
    f"ip neigh del fd00::1 dev {BR}; ip neigh add fd00::1 lladdr {MAC1} dev {BR} nud permanent",
    f"ip neigh add 10.0.0.55 lladdr {MAC1} dev {BR} nud permanent proto 108",
]


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        # Told as any machine that is learned is, and to look at each costs too much.
        ("unicast", f"bridge fdb replace {MAC1} dev {T} dst {A} self dynamic"),
        # Told to nobody.
        ("neighbour", f"ip neigh replace 10.0.0.1 lladdr {MAC1} dev {BR} nud permanent proto 5"),
    ],
)
def test_what_is_found_by_a_look(places: list[Place], kind: str, command: str) -> None:
    """The next regular look, or ``repair``, mends it."""
    host, agent = places[0]
    before = held(host)
    host.exec(*command.split())
    assert ["missing", kind] in [row[:2] for row in drift(agent)]
    repair(agent)
    assert (held(host), drift(agent)) == (before, [])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.replace(BR, "BRIDGE"))
def test_it_comes_back(outcomes: dict[str, "Future[None]"], command: str) -> None:
    outcomes[command].result()


def damage(host: Host, agent: AgentProcess, command: str) -> None:
    if drift(agent):  # of a test that failed
        repair(agent)
    before = held(host)
    assert drift(agent) == []
    for one in command.replace("VTEP", host.vtep).split(";"):
        argv = [word.strip("'") for word in one.split()]
        done = host.popen(argv, stdout=-1, stderr=-1)
        _, errors = done.communicate(timeout=10)
        if done.returncode:
            pytest.skip(f"this kernel or iproute2 has no such thing: {errors.decode().strip():.80}")
    damaged = held(host)
    deadline = time.monotonic() + SOON
    while (now := held(host)) != before:
        assert time.monotonic() < deadline, differences(before, now)
        time.sleep(0.5)
    assert damaged != before, "it was no damage, or mended at once"
    assert drift(agent) == []


def held(host: Host) -> dict[str, Any]:
    """All that the kernel tells of tunnel, bridge, entries and neighbours, but their numbers."""
    found: dict[str, Any] = {}
    for entry in json.loads(host.exec("ip", "-j", "-d", "link")):
        if entry and entry["ifname"] != "lo":
            name = entry["ifname"]
            for key in ("ifindex", "address", "promiscuity", "operstate", "qdisc", "link_index"):
                entry.pop(key, None)
            info = entry.get("linkinfo", {})
            text = json.dumps(entry if info.get("info_kind") in ("vxlan", "bridge") else name)
            # Timers, and what follows from the numbers of devices and their addresses.
            text = re.sub(
                r'"(\w*timer|\w*id|root_\w+|\w*bridge|no|designated\w*)": ("[^"]*"|[\d.]+)',
                "",
                text,
            )
            found[name] = text
    for kind in ("fdb", "neigh"):
        argv = {
            "fdb": ("bridge", "-j", "fdb", "show"),
            "neigh": ("ip", "-j", "neigh", "show", "nud", "all"),
        }[kind]
        found[kind] = sorted(
            json.dumps(entry, sort_keys=True)
            for entry in json.loads(host.exec(*argv) or "[]")
            if entry and about_ours(entry)
        )
    found["filters"] = [
        re.sub(r"index \d+ ref \d+ bind \d+", "", filters(host, device, way))
        for device in (T, BR)
        for way in ("ingress", "egress")
    ]
    found["sysctls"] = namespaces.call(host.namespace, sysctls)
    return found


def filters(host: Host, device: str, way: str) -> str:
    return host.exec("tc", "filter", "show", "dev", device, way, check=False)


def about_ours(entry: dict[str, Any]) -> bool:
    if entry.get("dev", entry.get("ifname")) not in (T, BR, "else"):
        return False
    if "dst" in entry and "mac" not in entry:
        return not str(entry["dst"]).startswith(("ff0", "224."))
    # The devices' own addresses are entries of theirs.
    return str(entry["mac"]).startswith(("fa:16", "00:00:00"))


def sysctls() -> list[str]:
    found = []
    for device, keys in {
        BR: ("ipv6/addr_gen_mode", "ipv6/accept_ra", "ipv6/forwarding", "ipv6/disable_ipv6"),
        T: ("ipv6/disable_ipv6",),
    }.items():
        for key in (*keys, "ipv4/arp_ignore"):
            family, name = key.split("/")
            try:
                with open(f"/proc/sys/net/{family}/conf/{device}/{name}") as file:
                    found.append(f"{device} {key} {file.read().strip()}")
            except OSError:
                found.append(f"{device} {key} is not there")
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    return "\n".join(
        f"{key}:\n  was {before.get(key)}\n  is  {now.get(key)}"
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
    )

"""Looks: at what the agent knows, at the switch or the kernel, and at the underlay.

What can't be looked at is noted and the rest is looked at all the same: a doctor is called when
things don't answer.
"""

import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ovs_l2pop.agent.client import ask
from ovs_l2pop.backends.linuxbridge.rows import bridge_names
from ovs_l2pop.core.declared import built
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.wire import Message
from ovs_l2pop.doctor import probes
from ovs_l2pop.doctor.evidence import Announced, Claim, Evidence, Flow, Network, Port, Way
from ovs_l2pop.doctor.findings import VXLAN_PORTS, needed_mtus
from ovs_l2pop.doctor.tools import PATIENCE, UnseenError, listed, run

T = TypeVar("T")
U = TypeVar("U")

#: VTEPs that are asked at the most, and how many at a time.
MOST_VTEPS, _AT_A_TIME = 64, 16
#: Cookies of flows of ours begin so (backends/openvswitch/pipeline.py).
_OUR_COOKIES = "0x6c32706f7"
_FLOW = re.compile(
    r"cookie=(?P<cookie>\w+).*? table=(?P<table>[^,]+), n_packets=(?P<packets>\d+).*?,"
    r" (?P<match>(?:\S+ ?)*?)actions=(?P<actions>.*)"
)
#: What ovs-ofctl writes among the fields of a match and is none.
_OF_FLOW = {
    *("n_bytes", "idle_timeout", "hard_timeout", "idle_age", "hard_age", "importance"),
    *("send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"),
}


@dataclass(frozen=True, slots=True)
class Where:
    """Where things are on this host, as configured."""

    backend: str
    local_ip: str | None
    udp_port: int
    control_socket: Path
    integration_bridge: str = "br-int"
    tunnel_bridge: str = "br-tun"
    rundir: str = ""
    ovsdb: str = ""

    def openflow(self, bridge: str) -> str:
        """A bridge, as ovs-ofctl takes it."""
        return f"unix:{self.rundir}/{bridge}.mgmt"


@dataclass(slots=True)
class _Looker:
    where: Where
    unseen: list[tuple[str, str]] = field(default_factory=list)

    def look(self, what: str, how: Callable[[], T], otherwise: U) -> T | U:
        """What *how* sees, or *otherwise*, and a note why."""
        try:
            return how()
        except L2popError as error:
            self.unseen.append((what, str(error)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self.unseen.append((what, f"an answer in another form: {error!r}"))
        return otherwise


def gather(where: Where) -> Evidence:
    """Look at everything; takes some seconds."""
    looker = _Looker(where)
    look = looker.look
    health = look("agent", lambda: _health(where), ())
    asked = not looker.unseen and not any(why.startswith("no answer for") for _, why in health)
    told: dict[str, Any] = {}
    if asked:
        told = look("table", lambda: _ask(where, command="dump"), told)
    elif not looker.unseen:
        looker.unseen.append(("table", "the agent waits for the dataplane"))
    networks = look("table", lambda: _networks(where, told.get("messages") or ()), ())
    trouble = any(what == "dataplane" for what, _ in health)
    claims = look("entries", lambda: _claims(where), ()) if asked else ()
    drift = look("rows", lambda: _drift(where), ()) if asked and not trouble else ()
    links = look("devices", lambda: listed("ip", "-j", "-d", "link", "show"), [])
    addresses = look("addresses", _addresses, {})
    if where.backend == "openvswitch":
        foreign = look("flows", lambda: _foreign_flows(where), None)
        flows, flags, empty = foreign or (), dict[str, list[str]](), False
        if foreign is not None:  # a switch that hangs is waited for once
            flags = look("port flags", lambda: _port_flags(where), flags)
            empty = look("integration bridge", lambda: _is_empty(where), False)
        ports = look("ports", lambda: _switch_ports(where, flags), ())
    else:
        ports, flows, empty = look("ports", lambda: _bridge_ports(links), ()), (), False
    seen = Evidence(
        where.backend,
        where.local_ip or told.get("local_ip"),
        where.udp_port,
        addresses=addresses,
        troubles=health,
        drift=drift,
        networks=networks,
        claims=claims,
        ports=ports,
        flows=flows,
        drops_all=where.integration_bridge if empty else None,
    )
    rivals = look("local_ip elsewhere", lambda: _rivals(seen, links), ())
    ways = look("underlay", lambda: _ways(seen, looker), ())
    return replace(seen, rivals=rivals, ways=ways, unseen=tuple(looker.unseen))


def machines(where: Where) -> Evidence:
    """What is plugged in here, and what is known of networks and entries.

    :raises L2popError: it can't be looked at.
    """
    told = _ask(where, command="dump")
    if where.backend == "openvswitch":
        ports = _switch_ports(where, {})
    else:
        ports = _bridge_ports(listed("ip", "-j", "-d", "link", "show"))
        learned = {
            entry["ifname"]: entry["mac"]
            for entry in listed("bridge", "-j", "fdb", "show")
            if "master" in entry and entry.get("state") != "permanent"
        }
        ports = tuple(replace(port, mac=learned.get(port.name)) for port in ports)
    return Evidence(
        where.backend,
        where.local_ip or told["local_ip"],
        where.udp_port,
        networks=_networks(where, told["messages"]),
        claims=_claims(where),
        ports=ports,
    )


# -- the agent -----------------------------------------------------------------------------------


def _ask(where: Where, **request: Any) -> dict[str, Any]:
    """The agent's answer. It may wait for a dataplane that hangs, and we don't wait with it."""
    answer: list[dict[str, Any] | L2popError] = []

    def wait() -> None:
        try:
            answer.append(ask(where.control_socket, request))
        except L2popError as error:
            answer.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answer:
        raise UnseenError(f"the agent gave no answer in {PATIENCE:g} s")
    if isinstance(answer[0], L2popError):
        raise answer[0]
    return answer[0]


def _health(where: Where) -> tuple[tuple[str, str], ...]:
    rows = _ask(where, command="show", what="health")["rows"]
    return tuple((what, detail) for what, state, detail in rows if state != "ok")


def _claims(where: Where) -> tuple[Claim, ...]:
    return tuple(Claim(*row) for row in _ask(where, command="show", what="entries")["rows"])


def _drift(where: Where) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in _ask(where, command="check")["rows"])


def _networks(where: Where, messages: Iterable[Message]) -> tuple[Network, ...]:
    """Those that are attached, from messages that build the agent's table."""
    state = built(messages)
    vteps: dict[str, dict[str, Announced]] = defaultdict(dict)
    for (network_id, vtep), port in state.ports.items():
        if vtep != where.local_ip and port.segment is not None:
            told = Announced(port.segment, port.flooding, len(port.entries))
            vteps[network_id][vtep] = told
    switch = where.backend == "openvswitch"
    return tuple(
        Network(
            network_id,
            attachment.segment,
            attachment.local_vlan if switch else None,
            where.integration_bridge
            if switch
            else attachment.bridge or bridge_names(network_id)[0],
            vteps[network_id],
        )
        for network_id, attachment in state.attachments.items()
    )


# -- the switch ----------------------------------------------------------------------------------


#: Configuration of a port by OpenFlow (ofp_port_config of 1.0), and what it does to its machine.
_FLAGS = {
    "NO_RECV": "what its machine sends is dropped (OpenFlow's no-receive)",
    "NO_FWD": "what is for its machine is dropped (OpenFlow's no-forward)",
    "NO_FLOOD": "no broadcast gets to its machine (OpenFlow's no-flood)",
}
_DESCRIBED = re.compile(
    r"^ \S+\((?P<name>[^)]+)\): addr.*?^ +config: +(?P<config>.*?)$", re.M | re.S
)


def _port_flags(where: Where) -> dict[str, list[str]]:
    """What is set by OpenFlow on ports of the integration bridge. Later versions of it than 1.0
    don't say no-flood."""
    target = where.openflow(where.integration_bridge)
    text = run("ovs-ofctl", "-O", "OpenFlow10", "dump-ports-desc", target)
    return {
        port["name"].strip('"'): [_FLAGS[flag] for flag in port["config"].split() if flag in _FLAGS]
        for port in _DESCRIBED.finditer(text)
    }


def _is_empty(where: Where) -> bool:
    """Whether the integration bridge forwards nothing at all."""
    bridge = where.integration_bridge
    mode = run("ovs-vsctl", f"--db={where.ovsdb}", "--timeout=3", "get-fail-mode", bridge).strip()
    flows = run("ovs-ofctl", "-O", "OpenFlow14", "dump-aggregate", where.openflow(bridge))
    return mode == "secure" and "flow_count=0" in flows


def _switch_ports(where: Where, flags: Mapping[str, list[str]]) -> tuple[Port, ...]:
    """Ports of both bridges, read from Open vSwitch's database.

    :param flags: what is wrong with ports of the integration bridge besides.
    """

    def table(name: str, *columns: str) -> list[dict[str, Any]]:
        text = run(
            *("ovs-vsctl", f"--db={where.ovsdb}", "--timeout=3", "--format=json"),
            *(f"--columns={','.join(columns)}", "list", name),
        )
        found = json.loads(text)
        return [dict(zip(found["headings"], row, strict=True)) for row in found["data"]]

    of_port = {
        uuid: bridge["name"]
        for bridge in table("Bridge", "name", "ports")
        for uuid in _set(bridge["ports"])
    }
    columns = ("_uuid", "name", "type", "mtu", "error", "admin_state", "external_ids")
    interfaces = {row["_uuid"][1]: row for row in table("Interface", *columns)}
    found = []
    columns = ("_uuid", "name", "tag", "trunks", "vlan_mode", "interfaces", "protected")
    for port in table("Port", *columns, "status", "rstp_status"):
        bridge = of_port.get(port["_uuid"][1], "")
        if bridge not in (where.integration_bridge, where.tunnel_bridge) or port["name"] == bridge:
            continue
        for uuid in _set(port["interfaces"]):
            interface = interfaces[uuid]
            kind = interface["type"]
            ids = dict(interface["external_ids"][1])
            wrong = [f"Open vSwitch can't use it: {error}" for error in _set(interface["error"])]
            if bridge == where.integration_bridge and kind != "patch":
                if _set(interface["admin_state"]) == ["down"]:
                    wrong.append("it is down")
                if port["protected"]:
                    wrong.append("it is protected, and reaches no other such port")
                wrong += _spanning_tree(port)
                wrong += flags.get(interface["name"], ())
            found.append(
                Port(
                    interface["name"],
                    bridge,
                    next(iter(_set(port["tag"])), None),
                    # A port without a tag carries all VLANs; ours to br-tun is one.
                    trunk=kind != "patch"
                    and bridge == where.integration_bridge
                    and (not _set(port["tag"]) or bool(_set(port["trunks"]))),
                    kind="" if kind in ("", "internal", "system", "dpdkvhostuserclient") else kind,
                    mtu=next(iter(_set(interface["mtu"])), None),
                    mac=ids.get("attached-mac"),
                    wrong=tuple(wrong),
                )
            )
    return tuple(found)


def _spanning_tree(port: Mapping[str, Any]) -> list[str]:
    """In which state it is that lets nothing through, if in any."""
    states = (
        dict(port["status"][1]).get("stp_state"),
        dict(port["rstp_status"][1]).get("rstp_port_state"),
    )
    good = (None, "forward", "Forwarding", "disable", "Disabled")
    return [f"spanning tree has it in the state {state}" for state in states if state not in good]


def _set(value: Any) -> list[Any]:
    """A set as OVSDB writes it (RFC 7047 §5.1): one value stands alone; names of rows bare."""
    values = value[1] if isinstance(value, list) and value[0] == "set" else [value]
    return [v[1] if isinstance(v, list) and v[0] == "uuid" else v for v in values]


def _foreign_flows(where: Where) -> tuple[Flow, ...]:
    found = []
    for bridge in (where.integration_bridge, where.tunnel_bridge):
        target = where.openflow(bridge)
        text = run("ovs-ofctl", "-O", "OpenFlow14", "--names", "dump-flows", target)
        for line in text.splitlines():
            flow = _FLOW.search(line)
            if flow is None or flow["cookie"].startswith(_OUR_COOKIES):
                continue
            words = (word.strip() for word in flow["match"].split(","))
            fields = [w for w in words if w and w.partition("=")[0] not in _OF_FLOW]
            priority = next((int(f[9:]) for f in fields if f.startswith("priority=")), 32768)
            match = ",".join(f for f in fields if not f.startswith("priority="))
            if not priority and not match:  # what a bridge does by itself
                continue
            found.append(
                Flow(
                    bridge,
                    flow["cookie"],
                    flow["table"],
                    priority,
                    match,
                    flow["actions"],
                    int(flow["packets"]),
                )
            )
    return tuple(found)


# -- the kernel ----------------------------------------------------------------------------------


def _addresses() -> dict[str, str]:
    return {
        info["local"]: device["ifname"]
        for device in listed("ip", "-j", "address", "show")
        for info in device.get("addr_info", ())
        if "local" in info
    }


#: Flags of a bridge's port that are on by default, and what it doesn't get without.
_KEPT_OUT = {
    "flood": "its machine gets nothing until it has spoken",
    "bcast_flood": "no broadcast gets to its machine",
    "mcast_flood": "no multicast gets to its machine",
}


def _bridge_ports(links: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
    found = []
    for link in links:
        info = link.get("linkinfo") or {}
        kind, data = info.get("info_kind", ""), info.get("info_slave_data") or {}
        if info.get("info_slave_kind") != "bridge":
            continue
        wrong = []
        if "UP" not in link["flags"]:
            wrong.append("it is down")
        elif (state := data.get("state", "forwarding")) not in ("forwarding", "disabled"):
            wrong.append(f"its bridge has it in the state {state}")
        if kind != "vxlan":  # of that the agent says so itself
            wrong += [flag for flag in ("isolated", "locked") if data.get(flag)]
            wrong += [
                f"{flag} is off: {why}" for flag, why in _KEPT_OUT.items() if data.get(flag, 1) == 0
            ]
        vxlan = kind == "vxlan"
        found.append(
            Port(
                link["ifname"],
                link["master"],
                kind="vxlan" if vxlan else "",
                mtu=link.get("mtu"),
                wrong=() if vxlan else tuple(wrong),
            )
        )
    return tuple(found)


# -- the underlay --------------------------------------------------------------------------------


def _rivals(seen: Evidence, links: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    if seen.local_ip is None or ":" in seen.local_ip:
        return ()
    device = seen.addresses.get(seen.local_ip)
    link = next((one for one in links if one["ifname"] == device), None)
    if device is None or link is None or "LOOPBACK" in link["flags"] or "NOARP" in link["flags"]:
        return ()
    return probes.rivals(device, link["address"], seen.local_ip)


def _ways(seen: Evidence, looker: _Looker) -> tuple[Way, ...]:
    if seen.local_ip is None or seen.local_ip not in seen.addresses:
        return ()
    needs = needed_mtus(seen)
    # Who floods in a network of VXLAN has a tunnel there.
    listens = {
        vtep
        for network in seen.networks
        for vtep, told in network.vteps.items()
        if told.floods and network.segment[0] == "vxlan"
    }
    vteps = sorted(needs)
    if len(vteps) > MOST_VTEPS:
        looker.unseen.append(("underlay", f"{MOST_VTEPS} of {len(vteps)} VTEPs were asked"))

    def way(vtep: str) -> Way | None:
        return looker.look(
            f"way to {vtep}",
            lambda: _way(seen, str(seen.local_ip), vtep, needs[vtep], vtep in listens),
            None,
        )

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return tuple(found for found in pool.map(way, vteps[:MOST_VTEPS]) if found)


def _way(seen: Evidence, local: str, vtep: str, need: int, listens: bool) -> Way:
    try:
        route = listed("ip", "-j", "route", "get", vtep, "from", local)[0]
    except UnseenError as error:
        if "RTNETLINK" not in str(error):
            raise
        return Way(vtep, None, why=str(error))
    device = route["dev"]
    mtu = listed("ip", "-j", "link", "show", "dev", device)[0]["mtu"]
    for metric in route.get("metrics", ()):
        mtu = min(mtu, metric.get("mtu", mtu))
    answers = probes.pings(local, vtep)
    fits = probes.pings(local, vtep, need) if answers and 0 < need <= mtu else None
    ports = (seen.udp_port, *(port for port in VXLAN_PORTS if port != seen.udp_port))
    refused = probes.refuses(local, vtep, ports) if listens else ()
    hop = route.get("gateway", vtep)
    known = listed("ip", "-j", "neighbour", "show", "to", hop, "dev", device)
    states = [state for entry in known for state in entry.get("state", ())]
    return Way(vtep, device, mtu, "", states[0] if states else "", answers, fits, need, refused)


def may_look() -> str | None:
    """Why not everything can be seen by this user, or None."""
    return None if os.geteuid() == 0 else "not everything can be seen without root's rights"

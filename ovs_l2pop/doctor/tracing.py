"""What becomes of one frame: from a machine's port to the tunnel and the route that it leaves by.

The switch says it (``ofproto/trace``, ovs-vswitchd(8)), or the kernel's bridge and VXLAN device do
by what they hold. Nothing is sent.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.appctl import Appctl
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.doctor.evidence import Claim, Network, Port
from ovs_l2pop.doctor.gather import Where
from ovs_l2pop.doctor.tools import PATIENCE, UnseenError, listed

BROADCAST = "ff:ff:ff:ff:ff:ff"
#: VTEPs whose route is looked up.
_MOST = 16

_BRIDGE = re.compile(r'^bridge\("(?P<name>[^"]+)"\)')
_STEP = re.compile(
    r"^\s*(?P<table>\d+)\. (?P<match>.*?)(?:, )?(?:priority (?P<priority>\d+).*|No match.*)$"
)
_TO_VTEP = re.compile(
    r"tunneling to (?P<native>[^ ]+) via"
    r"|set\(tunnel\((?:[^()]|\([^()]*\))*?\b(?:ipv6_)?dst=(?P<kernel>[^,)]+)"
)
#: What Open vSwitch shows instead of a flow where there is none (rules of its own table 254).
_MISS = ("reg0=0x1", "reg0=0x2")
_DATAPATH_PORT = re.compile(r"^\s+(?P<name>\S+) \d+/(?P<number>\d+):", re.M)


class Step(NamedTuple):
    """Where the frame was, and what was done with it there."""

    where: str  #: a bridge, a device, or "end"
    what: str  #: table and match, or an address
    does: str


class LostError(L2popError):
    """Who sends or who is sent to can't be told."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is traced."""

    port: Port
    network: Network
    source: str  #: MAC
    destination: str  #: MAC, of unicast
    source_ip: str = ""
    destination_ip: str = ""
    kind: str = "unicast"

    @property
    def flow(self) -> str:
        """As ovs-ofctl(8) writes it."""
        if self.kind == "arp":
            return (
                f"arp,dl_src={self.source},dl_dst={BROADCAST},arp_op=1,arp_sha={self.source},"
                f"arp_spa={self.source_ip},arp_tpa={self.destination_ip}"
            )
        if self.kind == "nd":
            target = IPv6Address(self.destination_ip)
            last = target.packed[-3:]
            group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int.from_bytes(last, "big"))
            mac = bytes((0x33, 0x33, 0xFF)) + last
            return (
                f"icmp6,dl_src={self.source},dl_dst={mac.hex(':')},ipv6_src={self.source_ip},"
                f"ipv6_dst={group},nw_ttl=255,icmpv6_type=135,icmpv6_code=0,nd_target={target},"
                f"nd_sll={self.source}"
            )
        return f"dl_src={self.source},dl_dst={self.destination}"


class End(NamedTuple):
    """How it ends."""

    arrives: bool
    text: str


def frame(
    networks: Iterable[Network],
    claims: Iterable[Claim],
    ports: Iterable[Port],
    who: str,
    to: str,
    kind: str,
) -> Frame:
    """What is to be traced.

    :param who: a port's name, a MAC or an IP of a machine here.
    :param to: a MAC, an IP, or "broadcast".
    :raises LostError: which of the two isn't known, and where it was looked for.
    """
    claims, ports, networks = list(claims), list(ports), list(networks)
    port = next((p for p in ports if p.name == who), None)
    local = [c for c in claims if c.state == "local"]
    if port is None:
        mac = next((c.mac for c in local if who in (c.mac, c.ip)), who)
        port = next((p for p in ports if p.mac == mac), None)
        if port is None:
            raise LostError(
                f"{who}: no port here has this name, and none is known to have this machine"
                " (external_ids:attached-mac); name its port"
            )
    network = next((n for n in networks if n.has(port)), None)
    if network is None:
        raise LostError(f"{port.name}: no network that is attached here has this port")
    here = [c for c in claims if c.network_id == network.id]
    mine = [c for c in here if c.state == "local" and port.mac in (None, c.mac)]
    source = port.mac or next((c.mac for c in mine), "02:00:00:00:00:01")
    version = 6 if kind == "nd" else 4
    own = [c.ip for c in mine if c.mac == source and ip_address(c.ip).version == version]
    source_ip = next(iter(own), "fe80::1" if version == 6 else "169.254.0.1")
    made = Frame(port, network, source, BROADCAST, source_ip, kind=kind)
    if to == "broadcast":
        return replace(made, kind="unicast")
    known = [c for c in here if to in (c.mac, c.ip) and c.state in ("active", "local")]
    if kind == "unicast":
        mac = known[0].mac if known else to
        if not re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
            raise LostError(f"{to}: nobody claims it in network {network.id}; name a MAC")
        return replace(made, destination=mac)
    fitting = [c.ip for c in known if ip_address(c.ip).version == version]
    try:
        address = fitting[0] if fitting else str(ip_address(to))
    except ValueError:
        raise LostError(f"{to}: no IPv{version} address of it is known") from None
    if ip_address(address).version != version:
        raise LostError(f"{to}: {kind} asks for an IPv{version} address")
    return replace(made, destination_ip=address)


def switch(where: Where, sent: Frame, ports: Iterable[Port]) -> tuple[list[Step], End]:
    """Through Open vSwitch.

    :param ports: of its bridges.
    :raises UnseenError: it can't be asked.
    """
    appctl = Appctl(Path(where.rundir))
    try:
        flow = f"in_port={sent.port.name},{sent.flow}"
        bridge = where.integration_bridge
        text = appctl.command("ofproto/trace", bridge, flow, timeout=PATIENCE)
        datapath = appctl.command("dpif/show", timeout=PATIENCE)
    except L2popError as error:
        raise UnseenError(f"ofproto/trace: {error}") from error
    finally:
        appctl.close()
    tables = pipeline.load(resources.flows())

    def name(bridge: str, table: str) -> str:
        return tables.table_name(int(table)) if bridge == where.tunnel_bridge else f"table {table}"

    steps = list(_steps(text, name))
    vteps = sorted({m["native"] or m["kernel"] for m in _TO_VTEP.finditer(text)})
    actions = next(
        (s.removeprefix("Datapath actions: ") for s in text.splitlines() if "Datapath act" in s), ""
    )
    names = {m["number"]: m["name"] for m in _DATAPATH_PORT.finditer(datapath)}
    plain = {a for a in re.sub(r"\([^()]*\)", "", actions).split(",") if a.isdigit()}
    machines = {p.name: p.mac for p in ports if p.bridge == bridge and not p.kind}
    plain_ports = {names.get(action, "") for action in plain} - {sent.port.name}
    local = sorted(machines.keys() & plain_ports)
    if any(s.where == where.tunnel_bridge and "IN_PORT" in s.does for s in steps) and not vteps:
        return steps, End(True, f"answered on this host, to {sent.port.name}")
    flooded = sent.kind == "unicast" and any("FLOOD" in step.what for step in steps)
    one = sent.kind == "unicast" and sent.destination != BROADCAST
    if one and not flooded:
        # br-int copies to all its ports whom it hasn't learned: that is no arrival.
        local = [
            p for p in local if machines[p] == sent.destination or "learned port" in steps[0].does
        ]
    failed = next((step for step in steps if "tunnel routing failed" in step.does), None)
    if failed is not None and not vteps:
        return steps, End(False, f"lost in {failed.where}, {failed.what}: no route to the VTEP")
    if vteps:
        return _leave(steps, vteps, local, one and flooded)
    if local and not (one and flooded):
        return steps, _arrives(local)
    # Behind it the copies for this host's other ports come.
    inside = [step for step in steps if step.where == where.tunnel_bridge] or steps
    last = inside[-1] if inside else Step(bridge, "", "")
    return steps, End(False, f"lost in {last.where}, {last.what}: {last.does or 'dropped'}")


def kernel(sent: Frame) -> tuple[list[Step], End]:
    """Through a Linux bridge and its VXLAN device, by what they hold.

    :raises UnseenError: they can't be looked at, or what is asked for can't be seen in them.
    """
    if sent.kind != "unicast":
        raise UnseenError("who answers for an address is a program's to say: see show entries")
    bridge = sent.port.bridge
    links = listed("ip", "-j", "-d", "link", "show", "master", bridge)
    tunnels = [
        link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") == "vxlan"
    ]
    ports = [link["ifname"] for link in links if link["ifname"] not in (*tunnels, sent.port.name)]
    known = listed("bridge", "-j", "fdb", "show", "br", bridge)
    at = [
        entry["ifname"]
        for entry in known
        if entry["mac"] == sent.destination and entry.get("master") == bridge
    ]
    if at and at[0] not in tunnels:
        step = Step(bridge, sent.destination, f"learned at {at[0]}")
        return [step], End(True, f"arrives at {at[0]} on this host")
    flooded = not at and sent.destination != BROADCAST
    steps = [Step(bridge, sent.destination, f"to {at[0]}" if at else "to all ports")]
    vteps: list[str] = []
    for tunnel in at or tunnels:
        entries = [entry for entry in known if entry["ifname"] == tunnel and "dst" in entry]
        exact = [entry["dst"] for entry in entries if entry["mac"] == sent.destination]
        floods = [entry["dst"] for entry in entries if entry["mac"] == "00:00:00:00:00:00"]
        found = exact or floods
        what = sent.destination if exact else "00:00:00:00:00:00"
        steps.append(Step(tunnel, what, f"to {_listed(sorted(found))}" if found else "dropped"))
        vteps += found
    local = [] if at else ports
    if vteps:
        return _leave(steps, sorted(set(vteps)), local, flooded)
    if local:
        return steps, _arrives(local)
    return steps, End(False, f"lost in {steps[-1].where}: it has no entry for {sent.destination}")


def _steps(text: str, name: Callable[[str, str], str]) -> Iterator[Step]:
    """The tables that a trace passes, each with what was done there."""
    bridge, step, does = "", "", list[str]()
    for line in text.splitlines():
        if line.startswith(("Final flow", "Megaflow")):
            break
        if entered := _BRIDGE.match(line):
            if step:
                yield Step(bridge, step, "; ".join(does))
            bridge, step, does = entered["name"], "", []
        elif at := _STEP.match(line):
            if step:
                yield Step(bridge, step, "; ".join(does))
            match = at["match"] or ("any frame" if at["priority"] is not None else "no flow")
            if match in _MISS:
                match = "no flow"
            step, does = f"{name(bridge, at['table'])}: {match}", []
        elif step and line.strip() and not set(line.strip()) <= {"-"} and " is now " not in line:
            does.append(line.strip())
    if step:
        yield Step(bridge, step, "; ".join(does))


def _arrives(ports: list[str]) -> End:
    return End(True, f"arrives at {', '.join(ports)} on this host")


def _leave(
    before: list[Step], vteps: list[str], local: list[str], flooded: bool
) -> tuple[list[Step], End]:
    """By their routes, behind these steps.

    :param local: ports of this host that it gets to as well.
    :param flooded: for want of knowing better.
    """
    steps, lost = [*before], []
    for vtep in vteps[:_MOST]:
        try:
            (route,) = listed("ip", "-j", "route", "get", vtep)
            gateway = f" via {route['gateway']}" if "gateway" in route else ""
            steps.append(Step("underlay", vtep, f"by {route['dev']}{gateway}"))
        except (UnseenError, KeyError, ValueError) as error:
            steps.append(Step("underlay", vtep, str(error)))
            lost.append(f"lost: no route to VTEP {vtep}")
    here = f", and at {', '.join(local)} here" if local else ""
    how = "unknown here, and flooded: leaves" if flooded else "leaves"
    return steps, End(not lost, "; ".join(lost) or f"{how} to {_listed(vteps)}{here}")


def _listed(vteps: list[str]) -> str:
    more = f" and {len(vteps) - _MOST} more" if len(vteps) > _MOST else ""
    return f"VTEP{'s' if len(vteps) > 1 else ''} {', '.join(vteps[:_MOST])}{more}"

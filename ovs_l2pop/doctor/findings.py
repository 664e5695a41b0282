"""What follows from the evidence. Pure.

A rule yields findings for what keeps frames from their way, or will. What may be so on a sound
host is none: an operator who was woken for nothing doesn't read the next one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ovs_l2pop.core.encapsulation import headers
from ovs_l2pop.doctor.evidence import Claim, Evidence, Way

#: Findings of one kind that are listed; a last one says how many there are besides.
MOST = 20
#: UDP ports that VXLAN is found on: IANA's, and what Linux takes by default.
VXLAN_PORTS = (4789, 8472)
#: Neutron's tag for ports that are not wired (yet).
_DEAD_VLAN = 4095


class Finding(NamedTuple):
    """Something that is wrong."""

    what: str  #: in plain words
    offender: str  #: the port, device, VTEP, network, flow …
    evidence: str
    remedy: str


def find(seen: Evidence) -> list[Finding]:
    """All that is wrong, what other things follow from first."""
    return [finding for rule in _RULES for finding in _bounded(list(rule(seen)))]


def needed_mtus(seen: Evidence) -> dict[str, int]:
    """The bytes that the underlay has to take on the way to each VTEP, for the largest packets of
    machines here; 0: none of them sends there."""
    needs: dict[str, int] = defaultdict(int)
    for network in seen.networks:
        sizes = [p.mtu for p in seen.ports if network.has(p) and p.mtu and not p.kind]
        over = headers(network.segment[0], 6 if ":" in (seen.local_ip or "") else 4)
        need = max(sizes) + over if sizes else 0
        for vtep in network.vteps:
            needs[vtep] = max(needs[vtep], need)
    return needs


def _bounded(found: list[Finding]) -> list[Finding]:
    if len(found) <= MOST:
        return found
    more = f"{len(found) - MOST} more of this kind"
    return [*found[:MOST], found[-1]._replace(what=more, offender="", evidence="")]


def _no_local_ip(seen: Evidence) -> Iterator[Finding]:
    if seen.local_ip and seen.addresses and seen.local_ip not in seen.addresses:
        yield Finding(
            f"local_ip {seen.local_ip} is on no device of this host: no packet comes out of a"
            " tunnel here",
            seen.local_ip,
            f"addresses here: {', '.join(sorted(seen.addresses))}",
            "give the address to the underlay's device, or set [ovs_l2pop] local_ip to one that is"
            " here",
        )


def _same_local_ip(seen: Evidence) -> Iterator[Finding]:
    for mac in seen.rivals:
        yield Finding(
            f"another host has local_ip {seen.local_ip} too: each gets some of the other's packets",
            f"{seen.local_ip} at {mac}",
            f"{mac} answered an ARP probe for it",
            "give one of the two hosts an address of its own",
        )


def _troubles(seen: Evidence) -> Iterator[Finding]:
    for what, why in seen.troubles:
        if f"local_ip {seen.local_ip} is on no device" in why and next(_no_local_ip(seen), None):
            continue  # told already
        yield Finding(f"{what}: {why}", what, "the agent says so (show health)", _mend(what))


def _mend(what: str) -> str:
    return {
        "dataplane": "start or mend the switch; the agent writes what is missing by itself",
        "controller": "ovs-vsctl del-controller, or keep it off the agent's bridges",
        "moving addresses": "find the two machines that have one address, or the message's sender",
        "VTEPs": "see what else is said of these VTEPs; ask at those hosts",
        "table on disk": "make room in state_path, or make it writable",
    }.get(what, "see the agent's log from that time")


def _other_segment(seen: Evidence) -> Iterator[Finding]:
    """A network of several segments has VTEPs that this one doesn't reach; with none that it does
    reach, the segment is the wrong one."""
    for network in seen.networks:
        told = {v: a.segment for v, a in network.vteps.items() if a.segment is not None}
        if told and network.segment not in told.values():
            theirs = ", ".join(sorted({f"{kind} {number}" for kind, number in told.values()}))
            ours = f"{network.segment[0]} {network.segment[1]}"
            yield Finding(
                f"peers announce {theirs} for network {network.id}, here it is {ours}",
                network.id,
                f"announced so by {', '.join(sorted(told))}",
                "attach the network here with the VNI that the others have",
            )


def _no_floods(seen: Evidence) -> Iterator[Finding]:
    for network in seen.networks:
        for vtep, told in sorted(network.vteps.items()):
            if told.entries and not told.floods and told.segment == network.segment:
                yield Finding(
                    f"{vtep} announced machines and no flooding entry: broadcasts from here (DHCP,"
                    " unanswered ARP) don't reach them",
                    f"{vtep} in network {network.id}",
                    f"{told.entries} entries, none of them 00:00:00:00:00:00",
                    f"announce the flooding entry of {vtep} again",
                )


def _tags(seen: Evidence) -> Iterator[Finding]:
    if seen.backend != "openvswitch" or not seen.networks:
        return
    bridge = seen.networks[0].bridge
    here = [port for port in seen.ports if port.bridge == bridge]
    # With another patch port there are networks that are none of ours, say Neutron's flat ones.
    alone = sum(port.kind == "patch" for port in here) < 2
    vlans = {network.local_vlan for network in seen.networks}
    for port in here if alone else ():
        if port.tag is not None and port.tag not in vlans and port.tag != _DEAD_VLAN:
            have = ", ".join(str(vlan) for vlan in sorted(v for v in vlans if v is not None))
            yield Finding(
                f"{port.name} has tag {port.tag}, and no network here has it",
                port.name,
                f"local VLANs of attached networks: {have}",
                f"give {port.name} its network's tag, or attach its network with local VLAN"
                f" {port.tag}",
            )


def _no_port(seen: Evidence) -> Iterator[Finding]:
    if any(port.trunk for port in seen.ports) or _not_seen(seen, "ports"):
        return  # machines may be behind a trunk
    for network in seen.networks:
        ports = [p for p in seen.ports if network.has(p)]
        if not any(port.kind not in ("vxlan", "patch") for port in ports):
            where = f"local VLAN {network.local_vlan} of {network.bridge}"
            where = where if network.local_vlan is not None else network.bridge
            yield Finding(
                f"network {network.id} is attached, and no machine is plugged into it",
                network.id,
                f"no port in {where}",
                "plug the machine's port in there, or detach the network",
            )


def _not_seen(seen: Evidence, what: str) -> bool:
    return any(name == what for name, _ in seen.unseen)


def _ports(seen: Evidence) -> Iterator[Finding]:
    for port in seen.ports:
        for wrong in port.wrong:
            yield Finding(
                f"{port.name}: {wrong}: no frames of its machine pass as they should",
                port.name,
                f"port of {port.bridge}",
                f"undo that at {port.name}",
            )


def _drops_all(seen: Evidence) -> Iterator[Finding]:
    if bridge := seen.drops_all:
        yield Finding(
            f"{bridge} has no flows and drops all frames of machines",
            bridge,
            "its fail mode is secure: without flows it forwards nothing",
            f"restart who programs it, or ovs-vsctl del-fail-mode {bridge}",
        )


def _drift(seen: Evidence) -> Iterator[Finding]:
    for state, kind, place, what, does in seen.drift:
        yield Finding(
            f"{kind} {state} in {place}: {what}",
            f"{place} {what}",
            f"{'should do' if state == 'missing' else 'does'}: {does}",
            "ovs-l2pop repair; if it comes back, find out who else writes there",
        )


def _conflicts(seen: Evidence) -> Iterator[Finding]:
    for kind in ("mac", "ip"):
        claims: dict[tuple[str, str], list[Claim]] = defaultdict(list)
        for claim in seen.claims:
            if claim.state in ("active", "waiting", "local"):
                claims[claim.network_id, getattr(claim, kind)].append(claim)
        for (network_id, address), rivals in claims.items():
            # One machine has several addresses; two VTEPs with one MAC, or two MACs with one IP.
            others = {claim.vtep if kind == "mac" else claim.mac for claim in rivals}
            if len(others) > 1:
                yield _conflict(kind, network_id, address, rivals)


def _conflict(kind: str, network_id: str, address: str, rivals: list[Claim]) -> Finding:
    told = ", ".join(f"{c.vtep} ({c.mac} {c.ip}, {c.state})" for c in rivals)
    if kind == "mac":
        what = f"MAC {address} is claimed behind {_and({c.vtep for c in rivals})}"
    else:
        what = f"IP {address} is claimed by {_and({c.mac for c in rivals})}"
    return Finding(
        what,
        f"{address} in network {network_id}",
        f"in the order of claims: {told}",
        "withdraw the claim of the machine that isn't there; during a migration it goes by itself",
    )


def _and(names: set[str]) -> str:
    return " and ".join(sorted(names))


def _elsewhere(seen: Evidence) -> Iterator[Finding]:
    """Machines that are here and announced behind others."""
    for port in seen.ports:
        network = next((n for n in seen.networks if n.has(port)), None)
        for claim in seen.claims if port.mac and network else ():
            here = network is not None and claim.network_id == network.id
            if here and claim.mac == port.mac and claim.state == "active":
                yield Finding(
                    f"{port.mac} is plugged in here at {port.name} and announced behind"
                    f" {claim.vtep}",
                    f"{claim.mac} {claim.ip} behind {claim.vtep}",
                    f"{port.name} has attached-mac {port.mac}; the entry is active",
                    f"withdraw the entry behind {claim.vtep}, or announce it here anew",
                )


def _foreign_flows(seen: Evidence) -> Iterator[Finding]:
    for flow in seen.flows:
        answers = "arp" in flow.match and "IN_PORT" in flow.actions.upper()
        effect = "answers ARP in our place" if answers else f"does {flow.actions}"
        yield Finding(
            f"a foreign flow on {flow.bridge} {effect}",
            f"cookie {flow.cookie}, table {flow.table}, priority {flow.priority}",
            f"{flow.match or 'any frame'} actions={flow.actions}, {flow.packets} packets so far",
            f"find out who writes flows with that cookie; ovs-ofctl del-flows {flow.bridge}"
            f" cookie={flow.cookie}/-1",
        )


def _underlay(seen: Evidence) -> Iterator[Finding]:
    needs = needed_mtus(seen)
    for way in seen.ways:
        found = _way(seen, way, needs[way.vtep])
        if found is not None:
            yield found


def _way(seen: Evidence, way: Way, need: int) -> Finding | None:
    """The first thing that is wrong on the way to a VTEP: others follow from it."""
    vtep = way.vtep
    if way.device is None:
        return Finding(
            f"no route to VTEP {vtep}", vtep, way.why, "add a route, or bring the device up"
        )
    if need > way.mtu:
        return Finding(
            f"the MTU on the way to VTEP {vtep}, {way.mtu} by {way.device}, is too small by"
            f" {need - way.mtu}",
            f"{way.device} to {vtep}",
            f"machines here send packets that take {need} bytes in a tunnel",
            f"set the MTU of {way.device} to {need}, or that of machines {need - way.mtu} lower",
        )
    if way.answers is False and way.neighbour in ("FAILED", "INCOMPLETE"):
        return Finding(
            f"VTEP {vtep} doesn't answer ARP or ND on {way.device}: the host, its link or a switch"
            " between is down",
            vtep,
            f"no answer to pings; neighbour {way.neighbour} on {way.device}",
            f"look at the host that has {vtep}, and at its link",
        )
    if seen.udp_port in way.refuses:
        others = [port for port in VXLAN_PORTS if port not in way.refuses]
        perhaps = f"; it doesn't refuse {others[0]}" if others else ""
        return Finding(
            f"VTEP {vtep} doesn't listen on UDP port {seen.udp_port}, where our tunnels send"
            f"{perhaps}",
            vtep,
            f"ICMP: port {seen.udp_port} unreachable",
            "set the same port on all hosts ([openvswitch] vxlan_udp_port, [vxlan] udp_dstport);"
            " or the switch or agent there is down",
        )
    if way.answers is False:
        return Finding(
            f"VTEP {vtep} doesn't answer pings: it is down, or unreachable, or something drops"
            " ICMP; which of these can't be told from here",
            vtep,
            f"3 pings by {way.device}, none answered; neighbour {way.neighbour or 'not known'}",
            f"look at the host that has {vtep}, and at filters between",
        )
    if way.fits is False:
        return Finding(
            f"packets of {way.asked} bytes to VTEP {vtep} are lost on the way, small ones are not:"
            " something between has a smaller MTU",
            vtep,
            f"a ping of {way.asked} bytes that may not be fragmented had no answer;"
            f" {way.device} takes {way.mtu}",
            f"make the underlay take {way.asked} bytes everywhere, or lower the MTU of machines",
        )
    return None


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _no_local_ip,
    _same_local_ip,
    _underlay,
    _other_segment,
    _tags,
    _no_port,
    _ports,
    _drops_all,
    _conflicts,
    _elsewhere,
    _foreign_flows,
    _troubles,
    _no_floods,
    _drift,
)

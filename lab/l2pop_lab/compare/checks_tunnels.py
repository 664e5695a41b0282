"""Which tunnels there are, and with whom: checks on one side."""

from l2pop_lab.compare import streams, traffic
from l2pop_lab.compare.checking import Places, count, listed, text_to, yes_if
from l2pop_lab.compare.results import Cell
from l2pop_lab.compare.streams import BLUE, GENEVE, GRE, Network
from l2pop_lab.compare.traffic import watch
from l2pop_lab.topology import Machine
from l2pop_lab.topology.frames import BROADCAST

GROUP = "ff05::4c32"
"""Multicast group of the site, for IPv6 VTEPs."""
MTU_IN_EXCESS = 9000


def six(places: Places) -> Cell:
    return _reached(places.pair.machine(1), places.pair.machine(2), "over IPv6 VTEPs")


def interoperates(places: Places) -> Cell:
    """A machine on either kind of host, one network, over IPv6 VTEPs."""
    here, there = places.pair.machine(1), places.other_pair.machine(2)
    return _reached(here, there, f"to and from a host of {places.other_pair.name}")


def _reached(one: Machine, other: Machine, way: str) -> Cell:
    lost = sent = 0
    for source, target in ((one, other), (other, one)):
        source.forget_neighbours()
        for interface in target.interfaces:
            result = source.ping(str(interface.ip), count=3)
            lost, sent = lost + result.lost, sent + result.sent
    return yes_if(not lost, f"{sent - lost} of {sent} pings {way}")


def _kind(places: Places, network: Network) -> Cell:
    pair = places.pair
    for host in pair.hosts:
        answer = pair.deliver(host, streams.encode([network.attach()]))
        if answer["refused_count"]:
            return Cell("no", f"refused: {answer['refused'][0]}")
    one, two = pair.populate(network, (1, 2))
    with pair.lab.capture_underlay() as underlay:
        cell = _reached(one, two, f"through {network.kind} tunnels")
    kinds = traffic.tunnel_kinds(underlay.data, network)
    return cell if kinds == {network.kind} else Cell("no", f"tunnels seen: {listed(sorted(kinds))}")


def gre(places: Places) -> Cell:
    return _kind(places, GRE)


def geneve(places: Places) -> Cell:
    return _kind(places, GENEVE)


def multicast(places: Places) -> Cell:
    """Without l2pop: one copy to the network's group, everything else learned."""
    pair = places.pair
    pair.restart_agents(vxlan={"l2_population": False, "vxlan_group": GROUP})
    sender = pair.machine(1)
    seen = watch(pair, sender, text_to(sender, BROADCAST))
    reached = _reached(sender, pair.machine(2), "").answer == "yes"
    to_group = [copy for copy in seen.copies if copy.startswith("ff")]
    if to_group and len(seen.copies) == 1 and reached:
        return Cell("yes", f"one copy of a broadcast, to {to_group[0]}; pings answered")
    return Cell(
        "no",
        f"with [vxlan] l2_population = false a broadcast still has"
        f" {count(len(seen.copies), 'copy', 'copies')}, {len(to_group)} of them to a group",
    )


def too_large(places: Places) -> Cell:
    """A port whose packets don't fit the tunnel is told of."""
    side = places.side
    host = side.hosts[1]
    large = side.plug(host, "large", "fa:16:3e:00:00:90", [], BLUE, mtu=MTU_IN_EXCESS)
    try:
        rows = [row for row in side.drift(host) if any(large.port in str(part) for part in row)]
    finally:
        large.remove()
    if rows:
        return Cell("yes", "check: " + " ".join(map(str, rows[0])))
    return Cell("no", f"check says nothing of a port with MTU {MTU_IN_EXCESS:,}")

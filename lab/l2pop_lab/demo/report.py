"""Results as text for people. Pure; no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l2pop_lab.demo.layout import LINUX_BRIDGE, OPEN_VSWITCH, Layout, Member, Network
from l2pop_lab.demo.observe import SWITCH, Question
from l2pop_lab.demo.results import Ping, Promise, Results, promises, summary

WIDEST_MATRIX = 8
"""Machines up to which a table of all against all fits a terminal of 100 columns."""
MOST_FAILURES = 10
"""Failures of one promise that are listed; ``-f json`` has them all."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A command to look around with."""

    purpose: str
    command: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where a laboratory that was kept has its parts."""

    program: str
    """What to type for ``ovs-l2pop``."""
    manifest: str
    underlay: str
    """The underlay's namespace."""
    machine: str
    """The namespace of the first machine."""
    peer: str
    """The address of another machine of its network."""
    control_socket: str
    """Of the first host, like the next two."""
    rundir: str
    bridge: str
    linuxbridge: str
    """The namespace of the host with Linux bridges."""
    tunnel: str
    """A vxlan device there."""


def report(results: Results) -> str:
    """Return the whole report."""
    sections = [
        _cast(results.layout),
        _pings(results),
        _questions(results),
        _comparison(results),
        _promises(promises(results)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def look_around(places: Places) -> list[Hint]:
    """Return commands to try in a laboratory that was kept."""
    ask = f"{places.program} --socket {places.control_socket}"
    return [
        Hint(
            "ping from one machine to another",
            f"ip netns exec {places.machine} ping -c 3 {places.peer}",
        ),
        Hint("what the agent of h1 knows, likewise vteps, tunnels", f"{ask} show entries"),
        Hint("wanted flows against installed ones", f"{ask} check"),
        Hint(
            "the flows themselves",
            f"OVS_RUNDIR={places.rundir} ovs-ofctl -O OpenFlow14 dump-flows {places.bridge}",
        ),
        Hint("ports of h1", f"ovs-vsctl --db=unix:{places.rundir}/db.sock show"),
        Hint(
            "entries of the Linux bridge host",
            f"bridge -n {places.linuxbridge} fdb show dev {places.tunnel}",
        ),
        Hint("the underlay", f"ip netns exec {places.underlay} tcpdump -n -i h1"),
        Hint("take it all away", f"{places.program} demo --remove {places.manifest}"),
    ]


def hints(found: Iterable[Hint]) -> str:
    """Return hints as text."""
    lines = ["Everything still runs. To look around:"]
    for hint in found:
        lines += [f"  # {hint.purpose}", f"  {hint.command}"]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    """Lay out rows in columns, the first *left* ones flush left, the others right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(
            value.ljust(width) if number < left else value.rjust(width)
            for number, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _cast(layout: Layout) -> list[str]:
    machines = len(layout.members)
    return [
        f"{layout.hosts} hosts, {len(layout.networks)} networks, {machines} machines:"
        f" h{layout.linuxbridge} has Linux bridges, the others {OPEN_VSWITCH}.",
        "All are fed by the same messages. Both networks use the same addresses:",
        *table(
            ("network", "VNI", "machines", "addresses", "hosts (local VLAN there)"),
            [_network(layout, network) for network in layout.networks],
            left=5,
        ),
    ]


def _network(layout: Layout, network: Network) -> tuple[object, ...]:
    members = layout.of_network(network.name)
    first, last = members[0], members[-1]
    addresses = ", ".join(
        f"{first.shared[version]}-{_tail(last.shared[version])}" for version in (4, 6)
    )
    if len(members) <= 4:
        hosts = " ".join(_place(layout, member) for member in members)
    else:
        hosts = f"{_place(layout, first)} … {_place(layout, last)}"
    return network.name, network.vni, f"{first.name}-{last.name}", addresses, hosts


def _place(layout: Layout, member: Member) -> str:
    # The kernel's bridges have no local VLANs.
    vlan = "-" if member.host == layout.linuxbridge else member.local_vlan
    return f"h{member.host} ({vlan})"


def _tail(address: str) -> str:
    return address.replace(":", ".").rpartition(".")[2]


def _pings(results: Results) -> list[str]:
    names = [member.name for member in results.layout.members]
    own = {(ping.source, ping.target): list[Ping]() for ping in results.l2pop.pings}
    for ping in results.l2pop.pings:
        own[ping.source, ping.target].append(ping)
    across = [*results.isolation.asking, *results.isolation.knowing]
    if len(names) > WIDEST_MATRIX:
        return _pings_by_network(results, own.values(), across)
    reached = {(ping.source, ping.target) for ping in across if ping.received or ping.repliers}

    def cell(source: str, target: str) -> str:
        if source == target:
            return "·"
        if (source, target) in own:
            return "/".join(_first(ping) for ping in own[source, target])
        return "REACHED" if (source, target) in reached else "none"

    return [
        "Pings: ms to the first reply from an empty neighbour table, IPv4/IPv6; across networks"
        " none",
        *table(
            ("from \\ to", *names),
            [(source, *(cell(source, target) for target in names)) for source in names],
        ),
    ]


def _pings_by_network(
    results: Results, own: Iterable[Sequence[Ping]], across: Sequence[Ping]
) -> list[str]:
    rows = []
    for network in results.layout.networks:
        members = {member.name for member in results.layout.of_network(network.name)}
        within = [ping for pings in own for ping in pings if ping.source in members]
        out = [ping for ping in across if ping.source in members]
        rows.append(
            (
                f"from {network.name}",
                f"{sum(ping.answered for ping in within)} of {len(within)}",
                max((ping.rtts[0] for ping in within if ping.rtts), default=None),
                f"{sum(bool(ping.received or ping.repliers) for ping in out)} of {len(out)}",
            )
        )
    return [
        "Pings:",
        *table(("", "answered within", "slowest first reply, ms", "answered across"), rows),
    ]


def _first(ping: Ping) -> str:
    return f"{ping.rtts[0]:.1f}" if ping.answered else "LOST"


def _questions(results: Results) -> list[str]:
    rows = []
    for member in results.layout.members:
        asked = [q for q in results.l2pop.questions if q.asker == member.name]
        kind = results.layout.kind(member.name)
        rows.append((member.name, f"h{member.host}", kind, *_answers(asked)))
    rows.append(("all", "", "", *_answers(results.l2pop.questions)))
    floods = results.isolation.broadcasts
    copies = sum(len(broadcast.hosts) for broadcast in floods)
    return [
        "Who answered each ARP request and each IPv6 neighbour solicitation:",
        *table(
            (
                "asker",
                "on",
                "",
                "ARP",
                "ND",
                "its own host",
                "a machine",
                "nobody",
                "came to others",
            ),
            rows,
            left=3,
        ),
        "  Not among these: questions for the other network's addresses, which nobody announced in"
        " the",
        f"  asker's. They go to all of its network, as they must: {len(floods)} questions,"
        f" {copies} copies on the underlay.",
    ]


def _answers(asked: Sequence[Question]) -> tuple[int, ...]:
    by = [question.answered_by for question in asked]
    switch, nobody = by.count(SWITCH), by.count(None)
    return (
        sum(question.protocol == "arp" for question in asked),
        sum(question.protocol == "nd" for question in asked),
        switch,
        len(by) - switch - nobody,
        nobody,
        sum(len(question.reached) for question in asked),
    )


_COMPARED = (
    ("pings within the networks (two requests each)", "pings"),
    ("first reply, from an empty neighbour table, median ms", "first_reply_median_ms"),
    ("second reply, median ms", "later_reply_median_ms"),
    ("ARP frames on the underlay", "arp_on_underlay"),
    ("neighbour discovery frames on the underlay", "nd_on_underlay"),
    ("echo requests and replies on the underlay", "echo_on_underlay"),
    ("of these frames: came to a host that has no use for them", "useless_on_underlay"),
    ("questions that came to a machine not asked for", "machines_asked_in_vain"),
)


def _comparison(results: Results) -> list[str]:
    l2pop, flood = summary(results.l2pop), summary(results.flood)
    rows: list[tuple[object, ...]] = [(text, l2pop[key], flood[key]) for text, key in _COMPARED]
    mesh = f"tunnels to other hosts, of all hosts (full mesh: {results.layout.full_mesh})"
    rows += [
        (mesh, l2pop["tunnels"], flood["tunnels"]),
        (f"flows, {OPEN_VSWITCH}", l2pop["flows"], flood["flows"]),
        (f"entries and neighbours, {LINUX_BRIDGE}", l2pop["entries"], flood["entries"]),
        ("of both learned from traffic", l2pop["learned"], flood["learned"]),
        ("messages to the agents", l2pop["messages"], flood["messages"]),
        ("first message to last flow and entry in place, ms", *map(_programming, (l2pop, flood))),
    ]
    return [
        "The same traffic with L2 population and with flood-and-learn:",
        *table(("", "L2 population", "flood-and-learn"), rows),
    ]


def _programming(column: dict[str, object]) -> str:
    return f"{column['programming_ms']:.0f}"


def _promises(judged: Sequence[Promise]) -> list[str]:
    lines = ["Promised and seen:"]
    for promise in judged:
        lines.append(f"  {'ok  ' if promise.kept else 'FAIL'}  {promise.text}")
        lines += [f"          {failure}" for failure in promise.failures[:MOST_FAILURES]]
        if more := len(promise.failures) - MOST_FAILURES:
            lines += [f"          and {more} more"] if more > 0 else []
    return lines

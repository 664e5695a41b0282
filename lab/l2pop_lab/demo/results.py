"""What was measured, and what of it was promised. Pure; no I/O."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from l2pop_lab.demo.layout import LINUX_BRIDGE, OPEN_VSWITCH, Layout
from l2pop_lab.demo.observe import SWITCH, Broadcast, Question, Underlay


@dataclass(frozen=True, slots=True)
class Ping:
    """One machine pinged an address of another."""

    source: str
    target: str
    address: str
    sent: int
    received: int
    duplicates: int
    rtts: tuple[float, ...]
    """Milliseconds. The first includes the question for the MAC, in both directions."""
    repliers: tuple[str, ...]
    """The machines from whose MAC the replies came."""

    def __str__(self) -> str:
        return f"{self.source} → {self.target} ({self.address})"

    @property
    def answered(self) -> bool:
        """Whether each request was answered once and by whom it was meant for."""
        whole = (self.received, self.duplicates) == (self.sent, 0)
        return whole and self.repliers == (self.target,)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Every machine has pinged every other of its network; what that took."""

    pings: tuple[Ping, ...]
    questions: tuple[Question, ...]
    underlay: Underlay
    foreign: int
    """Frames that came to a machine from one of the other network."""
    messages: int
    programming: float
    """Seconds from the first message until the last was in the switches."""
    tunnels: int
    """Tunnels on all hosts, each to one other host."""
    flows: int
    """Flows in br-tun on all hosts with Open vSwitch, after the traffic."""
    entries: int
    """Forwarding entries and neighbours on the host with Linux bridges."""
    learned: int
    """Of both those that switches and bridges have learned."""

    def first_replies(self) -> list[float]:
        """Times to the first reply in ms, from an empty neighbour table."""
        return [ping.rtts[0] for ping in self.pings if ping.rtts]

    def later_replies(self) -> list[float]:
        """Times to later replies in ms."""
        return [rtt for ping in self.pings for rtt in ping.rtts[1:]]


@dataclass(frozen=True, slots=True)
class Isolation:
    """Machines have tried to reach those of the other network."""

    controls: tuple[Ping, ...]
    """From the own network to the same addresses: they do answer."""
    asking: tuple[Ping, ...]
    """Across, asking for the MAC."""
    knowing: tuple[Ping, ...]
    """Across, with the right MAC in the neighbour table."""
    foreign: int
    stray: int
    """Frames on the underlay in a VNI that isn't their sender's."""
    broadcasts: tuple[Broadcast, ...]
    """What machines asked across: the addresses aren't known in the asker's network, so the
    question is copied to all of it."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What ``ovs-l2pop check`` said of a host."""

    host: str
    rows: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """All that the demonstration has measured."""

    layout: Layout
    l2pop: Traffic
    isolation: Isolation
    drift: tuple[Drift, ...]
    flood: Traffic
    """The same traffic with flood-and-learn."""
    warnings: tuple[str, ...]
    """Lines of the switches' logs of level WARN and worse."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that must have been seen."""

    text: str
    failures: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether it was seen."""
        return not self.failures


def promises(results: Results) -> list[Promise]:
    """Hold the results to what L2 population promises."""
    l2pop, flood, isolation = results.l2pop, results.flood, results.isolation
    pairs = len(list(results.layout.pairs()))
    crossings = len(list(results.layout.crossings()))
    between = _between_kinds(results)
    return [
        _promise(
            f"every machine reaches every other of its network: {len(l2pop.pings)} pings",
            [*_unanswered(l2pop.pings), *_count(len(l2pop.pings), 2 * pairs, "pings")],
        ),
        _promise(
            f"also between {OPEN_VSWITCH} and {LINUX_BRIDGE} hosts, both ways:"
            f" {len(between)} of these",
            [] if between else ["no ping between them"],
            (f"{ping}: not answered" for ping in between if not ping.answered),
        ),
        _promise(
            f"and none of the other network: {len(isolation.asking)} pings that ask for the MAC,"
            f" {len(isolation.knowing)} that know it",
            [
                *_reached([*isolation.asking, *isolation.knowing]),
                *_count(len(isolation.asking), 2 * crossings, "pings that ask"),
                *_count(len(isolation.knowing), 2 * crossings, "pings that know"),
                *_none(l2pop.foreign + isolation.foreign, "frames came from the other network"),
                *_none(l2pop.underlay.stray + isolation.stray, "frames in the other network's VNI"),
            ],
        ),
        _promise(
            f"where those addresses are of the own network they answer:"
            f" {len(isolation.controls)} pings",
            [
                *_unanswered(isolation.controls),
                *_count(len(isolation.controls), 2 * pairs, "pings"),
            ],
        ),
        _promise(
            "the asker's own host answers each ARP and ND question:"
            f" {_of_each_kind([q.asker for q in l2pop.questions], results.layout)}",
            _lacking([q.asker for q in l2pop.questions], results.layout),
            _not_from_switch(l2pop.questions),
        ),
        _promise(
            "any other goes once to each other host of its network:"
            f" {_of_each_kind([b.asker for b in isolation.broadcasts], results.layout)}",
            _lacking([b.asker for b in isolation.broadcasts], results.layout),
            _not_once_each(isolation.broadcasts, results.layout),
        ),
        _promise(
            "no ARP and no neighbour discovery on the underlay",
            _none(l2pop.underlay.arp, "ARP frames"),
            _none(l2pop.underlay.nd, "neighbour discovery frames"),
        ),
        _promise(
            "no frame to a host that has no use for it",
            _none(l2pop.underlay.useless, "frames"),
        ),
        _promise(
            f"tunnels only between hosts that share a network: {l2pop.tunnels} on all hosts,"
            f" full mesh {results.layout.full_mesh}",
            _count(l2pop.tunnels, results.layout.needed_tunnels, "tunnels"),
        ),
        _promise(
            "ovs-l2pop check finds no drift on any host",
            [f"{drift.host}: {len(drift.rows)} rows" for drift in results.drift if drift.rows],
            _count(
                len({drift.host for drift in results.drift}), results.layout.hosts, "hosts checked"
            ),
        ),
        # Without it the zeros above might be the capture's.
        _promise(
            "flood-and-learn carries the same pings, and its ARP and neighbour discovery are seen",
            _unanswered(flood.pings),
            _count(len(flood.pings), 2 * pairs, "pings"),
            [] if flood.underlay.arp and flood.underlay.nd else ["none seen"],
        ),
    ]


def as_json(results: Results, seconds: float) -> dict[str, Any]:
    """Return everything as values for JSON."""
    judged = promises(results)
    return {
        "passed": all(promise.kept for promise in judged),
        "seconds": round(seconds, 2),
        "promises": [{**asdict(promise), "kept": promise.kept} for promise in judged],
        "summary": {
            "l2pop": summary(results.l2pop),
            "flood_and_learn": summary(results.flood),
            "full_mesh_tunnels": results.layout.full_mesh,
            "across_kinds": across_kinds(results),
        },
        "measured": asdict(results),
    }


def summary(traffic: Traffic) -> dict[str, Any]:
    """Return the figures of a column of the comparison."""
    return {
        "pings": len(traffic.pings),
        "first_reply_median_ms": _median(traffic.first_replies()),
        "later_reply_median_ms": _median(traffic.later_replies()),
        "arp_on_underlay": traffic.underlay.arp,
        "nd_on_underlay": traffic.underlay.nd,
        "echo_on_underlay": traffic.underlay.echo,
        "useless_on_underlay": traffic.underlay.useless,
        "machines_asked_in_vain": asked_in_vain(traffic.questions),
        "questions": len(traffic.questions),
        "questions_answered_by_switch": by_switch(traffic.questions),
        "tunnels": traffic.tunnels,
        "flows": traffic.flows,
        "entries": traffic.entries,
        "learned": traffic.learned,
        "messages": traffic.messages,
        "programming_ms": round(1000 * traffic.programming, 1),
    }


def across_kinds(results: Results) -> dict[str, Any]:
    """Return how hosts of the two kinds did, and did together."""
    layout, l2pop = results.layout, results.l2pop
    between = _between_kinds(results)
    found: dict[str, Any] = {
        "pings": len(between),
        "pings_answered": sum(ping.answered for ping in between),
    }
    for kind in (OPEN_VSWITCH, LINUX_BRIDGE):
        asked = [question for question in l2pop.questions if layout.kind(question.asker) == kind]
        sent = [one for one in results.isolation.broadcasts if layout.kind(one.asker) == kind]
        found[kind] = {
            "questions": len(asked),
            "questions_answered_by_switch": by_switch(asked),
            "broadcasts": len(sent),
            "copies": sum(len(broadcast.hosts) for broadcast in sent),
        }
    return found


def by_switch(questions: Iterable[Question]) -> int:
    """Count the questions that the asker's own host answered."""
    return sum(question.answered_by == SWITCH for question in questions)


def asked_in_vain(questions: Iterable[Question]) -> int:
    """Count the arrivals of questions at machines other than the one that has the address."""
    return sum(name != question.answered_by for question in questions for name in question.reached)


def _median(values: Sequence[float]) -> float | None:
    return round(median(values), 3) if values else None


def _promise(text: str, *failures: Iterable[str]) -> Promise:
    return Promise(text, tuple(failure for group in failures for failure in group))


def _unanswered(pings: Iterable[Ping]) -> Iterator[str]:
    for ping in pings:
        if not ping.answered:
            repliers = ", ".join(ping.repliers) or "nobody"
            yield f"{ping}: {ping.received} of {ping.sent} answered, by {repliers}"


def _reached(pings: Iterable[Ping]) -> Iterator[str]:
    for ping in pings:
        if ping.received or ping.repliers:
            yield f"{ping}: answered"


def _not_from_switch(questions: Iterable[Question]) -> Iterator[str]:
    for question in questions:
        if question.answered_by != SWITCH or question.reached:
            yield (
                f"{question.asker} asked for {question.address}: answered by"
                f" {question.answered_by or 'nobody'}, came to"
                f" {', '.join(question.reached) or 'no machine'}"
            )


def _not_once_each(broadcasts: Iterable[Broadcast], layout: Layout) -> Iterator[str]:
    for broadcast in broadcasts:
        (asker,) = (member for member in layout.members if member.name == broadcast.asker)
        others = tuple(n for n in layout.network(asker.network).hosts if n != asker.host)
        if broadcast.hosts != others:
            reached = " ".join(f"h{number}" for number in broadcast.hosts) or "nobody"
            yield f"a question of {asker.name} was copied to {reached}"


def _between_kinds(results: Results) -> list[Ping]:
    kind = results.layout.kind
    return [ping for ping in results.l2pop.pings if kind(ping.source) != kind(ping.target)]


def _of_each_kind(askers: Sequence[str], layout: Layout) -> str:
    kinds = [layout.kind(asker) for asker in askers]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in (OPEN_VSWITCH, LINUX_BRIDGE))


def _lacking(askers: Sequence[str], layout: Layout) -> list[str]:
    kinds = {layout.kind(asker) for asker in askers}
    lacking = [kind for kind in (OPEN_VSWITCH, LINUX_BRIDGE) if kind not in kinds]
    return [f"no question was seen at {' and '.join(lacking)}"] if lacking else []


def _none(count: int, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []


def _count(count: int, wanted: int, what: str) -> list[str]:
    return [f"{count} {what}, not {wanted}"] if count != wanted else []

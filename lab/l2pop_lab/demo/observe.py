"""What captured frames tell: who answered whom, and which frames were in vain. Pure; no I/O."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

from l2pop_lab.demo.layout import Layout, Member
from l2pop_lab.topology.frames import (
    PROTOCOL_ICMPV6,
    ArpOperation,
    Frame,
    NeighbourType,
    Tunnel,
    decode,
)

PROTOCOL_ICMP = 1
ECHO_REQUESTS = {(PROTOCOL_ICMP, 8), (PROTOCOL_ICMPV6, 128)}
ECHO_REPLIES = {(PROTOCOL_ICMP, 0), (PROTOCOL_ICMPV6, 129)}
SWITCH = "switch"
"""Who answered, if no machine did: the switch or bridge of the asker's own host."""


class Seen(NamedTuple):
    """A frame at a machine's device."""

    time: float
    outgoing: bool
    """Whether the machine sent it."""
    frame: Frame


@dataclass(frozen=True, slots=True)
class Question:
    """An ARP request or a neighbour solicitation that a machine sent."""

    protocol: str
    """``arp`` or ``nd``."""
    asker: str
    address: str
    answered_by: str | None
    """``switch``, the name of a machine, or None."""
    reached: tuple[str, ...]
    """The other machines to which the question came."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """Frames that hosts sent to each other; each copy counts."""

    arp: int
    nd: int
    """Neighbour solicitations and advertisements."""
    echo: int
    """Echo requests and replies."""
    other: int
    """What else machines send on their own, such as reports of multicast listeners."""
    useless: int
    """Of ARP, ND and echo: those that came to a host that has no use for them."""
    stray: int
    """Frames in a VNI that isn't their sender's."""
    outer: int
    """Frames of the underlay itself: no tunnel."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A question that nobody on the asker's host could answer."""

    asker: str
    hosts: tuple[int, ...]
    """Where its copies on the underlay went."""


class _Ask(NamedTuple):
    """The part of ARP and ND messages that counts here."""

    protocol: str
    question: bool
    asker: str
    address: str


class _Event(NamedTuple):
    """An answer, or the arrival of a question, at a machine."""

    time: float
    outgoing: bool
    machine: str


class _Copy(NamedTuple):
    """A copy of a question on the underlay."""

    time: float
    host: int


E = TypeVar("E", _Event, _Copy)


def questions(seen: Mapping[str, Sequence[Seen]], layout: Layout) -> list[Question]:
    """Return all questions that machines asked, with what became of them.

    :param seen: what passed each machine's device, in order of time.
    """
    names = {member.mac: member.name for member in layout.members}
    asked: dict[_Ask, list[float]] = defaultdict(list)
    answers: dict[_Ask, list[_Event]] = defaultdict(list)
    arrivals: dict[_Ask, list[_Event]] = defaultdict(list)
    for name, frames in seen.items():
        for time, outgoing, frame in frames:
            ask = _ask(frame)
            if ask is None or ask.asker not in names:
                continue
            event = _Event(time, outgoing, name)
            if not ask.question:
                answers[ask._replace(question=True)].append(event)
            elif outgoing:
                asked[ask].append(time)
            else:
                arrivals[ask].append(event)
    return [
        Question(ask.protocol, names[ask.asker], ask.address, _answerer(told), _names(came))
        for ask, times in asked.items()
        for told, came in zip(
            _by_question(times, answers[ask]), _by_question(times, arrivals[ask]), strict=True
        )
    ]


def broadcasts(
    seen: Mapping[str, Sequence[Seen]],
    carried: Iterable[tuple[float, bytes]],
    layout: Layout,
    vteps: Mapping[int, str],
    until: float,
) -> list[Broadcast]:
    """Return all questions that machines asked before the time *until*, and where copies went.

    :param carried: what passed the underlay, and when.
    """
    hosts = {vtep: number for number, vtep in vteps.items()}
    names = {member.mac: member.name for member in layout.members}
    copies: dict[_Ask, list[_Copy]] = defaultdict(list)
    for time, data in carried:
        tunnel = decode(data).tunnel
        if tunnel and (ask := _ask(tunnel.inner)) and ask.question:
            copies[ask].append(_Copy(time, hosts[tunnel.destination]))
    asked: dict[_Ask, list[float]] = defaultdict(list)
    for frames in seen.values():
        for time, outgoing, frame in frames:
            if outgoing and (ask := _ask(frame)) and ask.question and ask.asker in names:
                asked[ask].append(time)
    return [
        Broadcast(names[ask.asker], tuple(sorted(copy.host for copy in share)))
        for ask, times in asked.items()
        for time, share in zip(times, _by_question(times, copies[ask]), strict=True)
        if time < until
    ]


def _by_question(times: Sequence[float], events: Iterable[E]) -> list[list[E]]:
    """Give each event to the last question before it."""
    shares: list[list[E]] = [[] for _ in times]
    for event in events:
        if number := bisect_right(times, event.time):
            shares[number - 1].append(event)
    return shares


def _answerer(answers: Sequence[_Event]) -> str | None:
    if not any(not answer.outgoing for answer in answers):
        return None
    # A machine that answered counts even if the switch did too: it must not have been asked.
    return next((answer.machine for answer in answers if answer.outgoing), SWITCH)


def _names(events: Iterable[_Event]) -> tuple[str, ...]:
    return tuple(sorted({event.machine for event in events}))


def echo_repliers(seen: Iterable[Seen]) -> dict[str, set[str]]:
    """Return for each address that answered pings the MACs from which its replies came."""
    repliers: dict[str, set[str]] = defaultdict(set)
    for _, outgoing, frame in seen:
        if not outgoing and frame.ip and _icmp(frame) in ECHO_REPLIES:
            repliers[frame.ip.source].add(frame.source)
    return dict(repliers)


def foreign(member: Member, seen: Iterable[Seen], layout: Layout) -> int:
    """Count the frames that came to a machine from a machine of another network."""
    others = {other.mac for other in layout.members if other.network != member.network}
    return sum(not outgoing and frame.source in others for _, outgoing, frame in seen)


def underlay(frames: Iterable[bytes], layout: Layout, vteps: Mapping[int, str]) -> Underlay:
    """Count what passed the underlay."""
    counts: dict[str, int] = defaultdict(int)
    at = {
        (vteps[member.host], layout.network(member.network).vni): member
        for member in layout.members
    }
    vnis = {member.mac: layout.network(member.network).vni for member in layout.members}
    for data in frames:
        tunnel = decode(data).tunnel
        if tunnel is None:
            counts["outer"] += 1
            continue
        kind = _kind(tunnel.inner)
        counts[kind] += 1
        counts["stray"] += vnis.get(tunnel.inner.source, tunnel.vni) != tunnel.vni
        if kind != "other":
            member = at.get((tunnel.destination, tunnel.vni or 0))
            counts["useless"] += member is None or not _of_use(tunnel, member)
    return Underlay(**{field.name: counts[field.name] for field in fields(Underlay)})


def _of_use(tunnel: Tunnel, member: Member) -> bool:
    ask = _ask(tunnel.inner)
    if ask is not None and ask.question:
        return ask.address in member.addresses
    return tunnel.inner.destination == member.mac


def _kind(frame: Frame) -> str:
    if frame.arp:
        return "arp"
    if frame.neighbour:
        return "nd"
    return "echo" if _icmp(frame) in ECHO_REQUESTS | ECHO_REPLIES else "other"


def _icmp(frame: Frame) -> tuple[int, int] | None:
    if frame.ip is None or not frame.ip.payload:
        return None
    return frame.ip.protocol, frame.ip.payload[0]


def _ask(frame: Frame) -> _Ask | None:
    if arp := frame.arp:
        if arp.operation == ArpOperation.REQUEST:
            return _Ask("arp", True, frame.source, arp.target_ip)
        return _Ask("arp", False, frame.destination, arp.sender_ip)
    if nd := frame.neighbour:
        if nd.type == NeighbourType.SOLICITATION:
            return _Ask("nd", True, frame.source, nd.target)
        return _Ask("nd", False, frame.destination, nd.target)
    return None

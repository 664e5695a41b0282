"""Traffic between the machines, with captures at all of them and on the underlay."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from l2pop_lab.demo import observe
from l2pop_lab.demo.feed import Delivery
from l2pop_lab.demo.layout import Layout, Member
from l2pop_lab.demo.observe import Seen
from l2pop_lab.demo.results import Isolation, Ping, Traffic
from l2pop_lab.demo.stage import Stage, in_parallel
from l2pop_lab.topology import CapturedFrame, Machine, PingResult
from l2pop_lab.topology.frames import decode
from l2pop_lab.topology.machine import DEVICE
from l2pop_lab.topology.namespaces import ip_batch

SETTLE = 0.1
"""Seconds after the last answer, in which frames that nobody waits for still arrive."""
SILENCE = 0.5
"""Seconds without an answer after which there will be none; answers take milliseconds."""
PATIENCE = 2.0
"""Seconds to wait for an answer that must come, on a busy machine."""
VOLLEY = 64
"""Pings at a time where nobody looks at how long they take."""


class _Shot(NamedTuple):
    source: Member
    target: Member
    address: str


@dataclass(slots=True)
class _Record:
    """What was captured."""

    layout: Layout
    vteps: dict[int, str]
    underlay_frames: list[CapturedFrame] = field(default_factory=list)
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    until: float = 0.0
    """Of what came before this time everything that followed was captured."""

    def ping(self, shot: _Shot, result: PingResult) -> Ping:
        names = {member.mac: member.name for member in self.layout.members}
        macs = observe.echo_repliers(self.seen[shot.source.name]).get(shot.address, set())
        return Ping(
            source=shot.source.name,
            target=shot.target.name,
            address=shot.address,
            sent=result.sent,
            received=result.received,
            duplicates=result.duplicates,
            rtts=tuple(result.rtts),
            repliers=tuple(sorted(names.get(mac, mac) for mac in macs)),
        )

    def foreign(self) -> int:
        return sum(
            observe.foreign(member, self.seen[member.name], self.layout)
            for member in self.layout.members
        )

    def underlay(self) -> observe.Underlay:
        frames = (frame.data for frame in self.underlay_frames)
        return observe.underlay(frames, self.layout, self.vteps)

    def broadcasts(self) -> list[observe.Broadcast]:
        carried = ((frame.time, frame.data) for frame in self.underlay_frames)
        return observe.broadcasts(self.seen, carried, self.layout, self.vteps, self.until)


@contextmanager
def _watch(stage: Stage) -> Iterator[_Record]:
    """Captures at every machine and on the underlay while the block runs; filled in at its end."""
    record = _Record(stage.layout, stage.vteps)
    with ExitStack() as stack:
        underlay = stack.enter_context(stage.lab.capture_underlay())
        captures = {
            name: stack.enter_context(machine.capture("both"))
            for name, machine in stage.machines.items()
        }
        yield record
        record.until = time.time()
        time.sleep(SETTLE)
    record.underlay_frames = underlay.frames
    record.seen = {
        name: [Seen(frame.time, frame.outgoing, decode(frame.data)) for frame in capture.frames]
        for name, capture in captures.items()
    }


def traffic(stage: Stage, batches: Iterable[list[Delivery]]) -> Traffic:
    """Feed the agents, have every machine ping every other of its network, and measure.

    One ping after the other, each from empty neighbour tables at both ends.
    """
    messages, programming = stage.feed(batches)
    shots = [
        _Shot(source, target, address)
        for address_family in (4, 6)
        for source, target in stage.layout.pairs()
        for address in [target.shared[address_family]]
    ]
    # A machine goes on asking for a few seconds after its ping has given up.
    in_parallel(Machine.forget_neighbours, stage.machines.values())
    with _watch(stage) as record:
        results = [_from_scratch(stage, shot) for shot in shots]
    flows, switched = stage.flows()
    entries, bridged = stage.entries()
    return Traffic(
        pings=tuple(map(record.ping, shots, results)),
        questions=tuple(observe.questions(record.seen, stage.layout)),
        underlay=record.underlay(),
        foreign=record.foreign(),
        messages=messages,
        programming=programming,
        tunnels=stage.tunnels(),
        flows=flows,
        entries=entries,
        learned=switched + bridged,
    )


def isolation(stage: Stage) -> Isolation:
    """Have every machine ping those of the other network, at addresses that only they have."""
    across = _own_addresses(stage.layout.crossings())
    controls = _own_addresses(stage.layout.pairs())
    answered, first = _volley(stage, controls, PATIENCE)
    asking, second = _volley(stage, across, SILENCE)
    for name, lines in _neighbours(across, "replace", "lladdr {} nud permanent").items():
        ip_batch(lines, stage.machines[name].namespace)
    knowing, third = _volley(stage, across, SILENCE)
    for name, lines in _neighbours(across, "delete", "").items():
        ip_batch(lines, stage.machines[name].namespace)
    records = (first, second, third)
    return Isolation(
        controls=answered,
        asking=asking,
        knowing=knowing,
        foreign=sum(record.foreign() for record in records),
        stray=sum(record.underlay().stray for record in records),
        broadcasts=tuple(second.broadcasts()),
    )


def _from_scratch(stage: Stage, shot: _Shot) -> PingResult:
    for member in (shot.source, shot.target):
        stage.machines[member.name].forget_neighbours()
    machine = stage.machines[shot.source.name]
    return machine.ping(shot.address, count=2, interval=0.01, timeout=PATIENCE)


def _volley(stage: Stage, shots: list[_Shot], timeout: float) -> tuple[tuple[Ping, ...], _Record]:
    def fire(shot: _Shot) -> PingResult:
        return stage.machines[shot.source.name].ping(shot.address, count=1, timeout=timeout)

    with _watch(stage) as record:
        results = in_parallel(fire, shots, VOLLEY)
    return tuple(map(record.ping, shots, results)), record


def _own_addresses(pairs: Iterable[tuple[Member, Member]]) -> list[_Shot]:
    return [
        _Shot(source, target, address)
        for source, target in pairs
        for address in target.own.values()
    ]


def _neighbours(shots: Iterable[_Shot], verb: str, state: str) -> dict[str, list[str]]:
    """Lines of ``ip`` by machine, one for each of its shots."""
    lines: dict[str, list[str]] = {}
    for shot in shots:
        line = f"neighbour {verb} {shot.address} dev {DEVICE} {state.format(shot.target.mac)}"
        lines.setdefault(shot.source.name, []).append(line)
    return lines

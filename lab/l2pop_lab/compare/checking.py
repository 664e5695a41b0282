"""What checks have in common."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from l2pop_lab.compare import traffic
from l2pop_lab.compare.results import Cell, Outcome
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.streams import BLUE
from l2pop_lab.compare.traffic import Seen, watch
from l2pop_lab.topology import Machine, craft
from ovs_l2pop.core.wire import Pairs

FOLLOWING = 3.0
"""Seconds in which frames must take a new way."""


@dataclass(slots=True)
class Places:
    """Where a check can work; all sides have the same networks and machines."""

    side: Side
    """Three hosts with the bulk."""
    pair: Side
    """Two hosts with IPv6 VTEPs."""
    other_pair: Side
    """The other backend's, on the same underlay."""
    outcomes: Mapping[str, Outcome]
    """The side's figures, for what was seen there already."""


def yes_if(condition: bool, seen: str) -> Cell:
    """Yes or no, and what was seen."""
    return Cell("yes" if condition else "no", seen)


@contextmanager
def announced_for_now(side: Side, ports: Mapping[str, Pairs]) -> Iterator[None]:
    """Announce machines in ``blue`` to all agents for the time of the block."""
    side.tell_all(BLUE.add(ports))
    try:
        yield
    finally:
        side.tell_all(BLUE.remove(ports))


def text_to(sender: Machine, destination: str) -> bytes:
    """A frame from a machine that no kernel answers."""
    return craft.text(destination, sender.mac, f"{sender.name} to {destination}")


def copied(side: Side, seen: Seen) -> str:
    """The hosts that a frame was copied to, for people."""
    return traffic.names_of(side, seen.copies) or "nobody"


def followed(side: Side, mac: str, number: int) -> Cell:
    """Tell whether what h1's machine sends to *mac* goes to that host alone, and from when on.

    Open vSwitch's cache of recent flows follows its tables a little later.
    """
    one, wanted = side.machine(1), side.hosts[number - 1]
    begin = time.monotonic()
    while True:
        now = time.monotonic() - begin
        seen = watch(side, one, text_to(one, mac))
        if seen.copies == (wanted.vtep,):
            when = f", from {now:.1f} s on" if now > 0.1 else ""
            return Cell("yes", f"one copy, to {wanted.name}{when}")
        if now > FOLLOWING:
            return Cell("no", f"after {now:.1f} s still to {copied(side, seen)}")


def listed(words: Iterable[str]) -> str:
    """Words with commas between."""
    return ", ".join(words)


def count(number: int, one: str, more: str = "") -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else more or one + 's'}"

"""The whole comparison, in order."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Protocol, TypeVar

from l2pop_lab.compare import environment, features, measurements
from l2pop_lab.compare.checking import Places
from l2pop_lab.compare.dataplanes import Dataplane, LinuxBridge, Openvswitch
from l2pop_lab.compare.features import Check
from l2pop_lab.compare.responders import RESPONDERS, Responder
from l2pop_lab.compare.results import Cell, Feature, Figure, Outcome, Results
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.steps import SECTIONS, Context, Step
from l2pop_lab.compare.streams import BLUE, Sizes, announced, machine_addresses, machine_mac
from l2pop_lab.topology import Lab
from ovs_l2pop.core.errors import L2popError

T = TypeVar("T")
HOSTS = 3
EXPECTED = (
    r"receive tunnel port not found",  # on its way to a host that has given the network up
    r"dropping VLAN \d+ tagged packet received on port tap-",  # a check sends it
)
"""What Open vSwitch may complain of."""


class Progress(Protocol):
    """Who is told what is being done."""

    def total(self, count: int) -> None:
        """So many things will be done."""

    def start(self, what: str) -> None:
        """The next one begins."""

    def detail(self, text: str) -> None:
        """How far it is."""


def run(sizes: Sizes, command: str, progress: Progress) -> Results:
    """Measure and check both backends; whatever happens, nothing is left of it.

    What fails is in the results; the rest goes on.

    :raises L2popError: if the hosts can't even be made, or root's rights are missing.
    """
    sizes.check()
    if os.geteuid() != 0:
        raise L2popError("compare needs root: it makes network namespaces and starts switches")
    begin = time.monotonic()
    where = environment.begin(command)
    steps = measurements.steps(sizes)
    progress.total(1 + len(steps) + len(features.CHECKS) + len(RESPONDERS))
    with ExitStack() as stack:
        progress.start("hosts, agents and machines of both backends")
        labs = [
            stack.enter_context(Lab(HOSTS, linuxbridge=range(1, HOSTS + 1) if linux else ()))
            for linux in (False, True)
        ]
        mixed = stack.enter_context(Lab(4, family=6, linuxbridge=(3, 4)))
        dataplanes: list[Dataplane] = [Openvswitch(), LinuxBridge()]
        sides = [Side(lab, lab.hosts, plane) for lab, plane in zip(labs, dataplanes, strict=True)]
        pairs = [
            Side(mixed, mixed.hosts[first : first + 2], plane)
            for first, plane in zip((0, 2), dataplanes, strict=True)
        ]
        for side in (*sides, *pairs):
            stack.callback(side.close)
            side.launch_agents()
        for side in (*sides, *pairs):
            side.wait_for_agents()
        for side in sides:
            side.populate_all()
        _populate_mixed(pairs)
        figures = _measure(steps, Context(sizes), sides, progress)
        found = _check(sides, pairs, figures, progress)
        warnings = tuple(
            f"{side.name}, {host.name}: {line}"
            for side in (*sides, *pairs)
            for host in side.hosts
            for line in host.unexpected_warnings(EXPECTED)
        )
        where = replace(where, load_after=environment.load())
        progress.detail("removing everything")
    beside = _others(progress)
    where = replace(where, seconds=time.monotonic() - begin)
    return Results(where, sizes, tuple(figures), tuple(found), warnings, tuple(beside))


def _populate_mixed(pairs: Sequence[Side]) -> None:
    """One network over four hosts of both kinds, a machine on each, all announced."""
    hosts = [(side, host) for side in pairs for host in side.hosts]
    numbers = {host.name: number for number, (_, host) in enumerate(hosts, 1)}
    told = announced({numbers[host.name]: host.vtep for _, host in hosts})
    for side, host in hosts:
        number = numbers[host.name]
        side.tell(host, BLUE.attach(), BLUE.add(told))
        # By its number on its side, as Side.machine() looks for it.
        name = f"{BLUE.name}{side.hosts.index(host) + 1}"
        side.plug(host, name, machine_mac(number), machine_addresses(number), BLUE)


def _measure(
    steps: Sequence[Step], context: Context, sides: Sequence[Side], progress: Progress
) -> list[Figure]:
    figures = []
    for step in steps:
        progress.start(step.title)
        values: dict[str, dict[str, list[float]]] = {side.name: {} for side in sides}
        absent: dict[str, dict[str, str]] = {side.name: {} for side in sides}
        errors: dict[str, str] = {}
        for number in range(step.rounds):
            # A B, B A, A B, …: what grows with time grows for both.
            for side in sides if number % 2 == 0 else reversed(sides):
                if side.name in errors:
                    continue
                if step.rounds > 1:
                    progress.detail(f"round {number + 1} of {step.rounds}, {side.name}")
                else:
                    progress.detail(side.name)
                found, error = _attempt(partial(step.take, context, side))
                if found is None:
                    errors[side.name] = error
                    _attempt(side.mend)
                    continue
                for key, reading in found.items():
                    if isinstance(reading, str):
                        absent[side.name][key] = reading
                    else:
                        values[side.name].setdefault(key, []).extend(reading)
        for key, kind in step.kinds.items():
            outcomes = {
                side.name: Outcome(
                    () if side.name in errors else tuple(values[side.name].get(key, ())),
                    step.rounds,
                    absent[side.name].get(key, ""),
                    errors.get(side.name, ""),
                )
                for side in sides
            }
            named = asdict(kind) | {"section": kind.section or step.section}
            figures.append(Figure(key=key, outcomes=outcomes, **named))
    return sorted(figures, key=lambda figure: SECTIONS.index(figure.section))


def _check(
    sides: Sequence[Side], pairs: Sequence[Side], figures: Sequence[Figure], progress: Progress
) -> list[Feature]:
    places = {
        side.name: Places(
            side, pair, other, {figure.key: figure.outcomes[side.name] for figure in figures}
        )
        for side, pair, other in zip(sides, pairs, reversed(pairs), strict=True)
    }
    found = []
    # Nothing is timed here: both sides at once.
    with ThreadPoolExecutor(len(places)) as pool:
        for check in features.CHECKS:
            progress.start(check.question)
            cells = pool.map(partial(_cell, check), places.values())
            found.append(
                Feature(
                    check.key,
                    check.section,
                    check.question,
                    check.meaning,
                    dict(zip(places, cells, strict=True)),
                )
            )
    return found


def _others(progress: Progress) -> list[Feature]:
    """The rows that frames decide, where others' responders answer."""
    columns = {}
    for kind in RESPONDERS:
        progress.start(f"another responder: {kind.title}")
        missing = kind.missing()
        found, error = (None, "") if missing else _attempt(partial(_column, kind))
        lacking = Cell("none", missing) if missing else Cell("failed", error)
        columns[kind.title] = found or dict.fromkeys((c.key for c in features.BY_FRAMES), lacking)
    return [
        Feature(
            check.key,
            check.section,
            check.question,
            check.meaning,
            {title: cells[check.key] for title, cells in columns.items()},
        )
        for check in features.BY_FRAMES
    ]


def _column(kind: type[Responder]) -> dict[str, Cell]:
    with Lab(HOSTS, linuxbridge=range(1, HOSTS + 1) if kind.linux else ()) as lab:
        side = kind(lab)
        side.populate(BLUE, range(1, HOSTS + 1))
        places = Places(side, side, side, {})
        try:
            return {check.key: _cell(check, places) for check in features.BY_FRAMES}
        finally:
            side.close()


def _cell(check: Check, places: Places) -> Cell:
    cell, error = _attempt(partial(check.run, places))
    if cell is None:
        _attempt(places.side.mend)
        _attempt(places.pair.mend)
    return cell or Cell("failed", error)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """Do it; what went wrong is text."""
    try:
        return work(), ""
    except L2popError as error:
        return None, str(error).strip()
    except Exception as error:  # noqa: BLE001 (one figure less, and the run goes on)
        return None, repr(error)

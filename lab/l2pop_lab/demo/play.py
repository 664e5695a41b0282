"""The whole demonstration, in order."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l2pop_lab.demo import feed, measure
from l2pop_lab.demo.layout import make_layout
from l2pop_lab.demo.report import Hint, Places, look_around
from l2pop_lab.demo.results import Drift, Results
from l2pop_lab.demo.stage import TUNNEL_BRIDGE, Mode, Stage, in_parallel
from l2pop_lab.topology import Lab
from ovs_l2pop.backends.linuxbridge.rows import tunnel_name
from ovs_l2pop.core.errors import L2popError

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Played:
    """How it went."""

    results: Results
    hints: tuple[Hint, ...]
    """How to look around in what was kept, if it was."""


def play(hosts: int, progress: Progress, *, keep: bool = False) -> Played:
    """Put the demonstration on.

    Whatever happens, nothing of it is left, unless it comes to its end and is to be kept.

    :raises L2popError: naming what is missing or failed.
    """
    layout = make_layout(hosts)
    if os.geteuid() != 0:
        raise L2popError("the demo needs root: it makes network namespaces and starts switches")
    progress(
        f"{hosts} hosts: network namespaces, each with its own Open vSwitch,"
        f" h{layout.linuxbridge} with Linux bridges"
    )
    hints: tuple[Hint, ...] = ()
    with Lab(hosts, linuxbridge=[layout.linuxbridge]) as lab:
        stage = Stage(layout, lab)
        results = _perform(stage, progress, keep)
        if keep:
            hints = tuple(look_around(_places(stage, lab.leave())))
        else:
            progress("removing everything")
    return Played(results, hints)


def _places(stage: Stage, manifest: Path) -> Places:
    first, second, *_ = stage.layout.members
    host = stage.host(first.host)
    return Places(
        program=_program(),
        manifest=str(manifest),
        underlay=stage.lab.underlay,
        machine=stage.machines[first.name].namespace,
        peer=second.shared[4],
        control_socket=str(stage.agents[first.host].control_socket),
        rundir=str(host.rundir),
        bridge=TUNNEL_BRIDGE,
        linuxbridge=stage.linuxbridge.namespace,
        tunnel=tunnel_name(stage.layout.network(stage.layout.members[-1].network).vni),
    )


def _program() -> str:
    """Return what to type for this program."""
    if shutil.which("ovs-l2pop"):
        return "ovs-l2pop"
    beside = os.path.join(os.path.dirname(sys.executable), "ovs-l2pop")
    return beside if os.path.exists(beside) else f"{sys.executable} -m ovs_l2pop"


def _perform(stage: Stage, progress: Progress, keep: bool) -> Results:
    layout = stage.layout
    progress(f"an agent on each; {len(layout.members)} machines in two networks")
    stage.launch_agents(Mode.L2POP)
    stage.plug_machines()
    stage.wait_for_agents()
    pairs = 2 * len(list(layout.pairs()))
    progress(f"messages to the agents, then {pairs} pings within the networks")
    l2pop = measure.traffic(stage, feed.announcements(layout, stage.vteps))
    progress(f"{4 * len(list(layout.crossings()))} pings across that must not arrive")
    isolation = measure.isolation(stage)
    progress("ovs-l2pop check on each host")
    drift = _drift(stage)
    progress("the same traffic with flood-and-learn: fresh tunnels, nobody announced")
    stage.replace_agents(Mode.FLOOD)
    flood = measure.traffic(stage, [feed.flooding_only(layout, stage.vteps)])
    if keep:
        progress("back to L2 population, from what the agents have kept on disk")
        stage.replace_agents(Mode.L2POP)
        drift += _drift(stage)
    return Results(layout, l2pop, isolation, drift, flood, _warnings(stage))


def _drift(stage: Stage) -> tuple[Drift, ...]:
    numbers = list(stage.vteps)
    found = in_parallel(stage.drift, numbers)
    return tuple(
        Drift(stage.host(number).name, tuple(rows))
        for number, rows in zip(numbers, found, strict=True)
    )


def _warnings(stage: Stage) -> tuple[str, ...]:
    return tuple(
        f"{host.name}: {line}" for host in stage.lab.hosts for line in host.unexpected_warnings()
    )

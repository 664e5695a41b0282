"""Results of a comparison that never took place."""

from dataclasses import replace

from l2pop_lab.compare.results import (
    Answer,
    Better,
    Cell,
    Environment,
    Feature,
    Figure,
    Outcome,
    Results,
)
from l2pop_lab.compare.streams import Sizes

ENVIRONMENT = Environment(
    date="2026-01-02T03:04:05+00:00",
    seconds=99.5,
    command="ovs-l2pop compare",
    version="0.1.0",
    python="3.11.7",
    kernel="Linux 6.18",
    system="Debian GNU/Linux 12",
    processor="a processor",
    cores=2,
    memory_mib=4096,
    load_before=0.1,
    load_after=1.2,
    openvswitch="ovs-vswitchd (Open vSwitch) 3.1.0",
    datapath="userspace (netdev)",
    iproute2="ip utility, iproute2-6.1.0",
)


def outcomes(one: Outcome, other: Outcome) -> dict[str, Outcome]:
    return {"openvswitch": one, "linuxbridge": other}


def taken(*values: float, rounds: int = 0) -> Outcome:
    """Values, by default one a round."""
    return Outcome(tuple(values), rounds or len(values) or 1)


def figure(
    key: str,
    one: Outcome,
    other: Outcome,
    *,
    unit: str = "s",
    better: Better = "less",
    group: str = "",
    size: float | None = None,
    once: bool = False,
    datapath: bool = False,
) -> Figure:
    return Figure(
        key=key,
        section="Programming",
        title=f"the {key}",
        unit=unit,
        how="as it is done",
        better=better,
        outcomes=outcomes(one, other),
        group=group,
        size=size,
        once=once,
        datapath=datapath,
    )


def feature(key: str, one: Answer, other: Answer, seen: str = "this was seen") -> Feature:
    cells = {"openvswitch": Cell(one, seen), "linuxbridge": Cell(other, seen)}
    return Feature(key, "Who answers", f"Does it {key}?", "for something", cells)


FIGURES = (
    figure("program-500", taken(0.3, 0.2, 0.25), taken(0.1, 0.12, 0.11), group="program", size=500),
    figure("program-1000", taken(0.6, 0.5, 0.7), taken(0.2, 0.3, 0.25), group="program", size=1000),
    figure(
        "change",
        taken(*(1 + n / 10 for n in range(60)), rounds=3),
        taken(*(1 + n / 10 for n in range(60)), rounds=3),
        unit="ms",
    ),
    figure("arp-known", taken(300, 310, 320), taken(25, 26, 27), unit="µs", datapath=True),
    figure(
        "throughput",
        taken(100, 110, 120),
        taken(900, 950, 1000),
        unit="Mbit/s",
        better="more",
        datapath=True,
    ),
    figure("copies-1", taken(1), taken(1), unit="copies", better="", group="copies", size=1),
    figure("copies-9", taken(9), taken(9), unit="copies", better="", group="copies", size=9),
    figure("term-lost", taken(0, 0), taken(0, 1), unit="packets"),
    figure("kill-lost", taken(0), taken(0), unit="packets"),
    figure("switch-out", taken(0.4), Outcome(absent="not applicable: the kernel")),
    figure("switch-whole", taken(0.9), Outcome(absent="not applicable: the kernel")),
    figure("memory-all", taken(100), taken(30), unit="MiB", once=True),
    figure("cpu-all", Outcome(error="it broke"), taken(1, 2, 3), unit="CPU s"),
)
FEATURES = (
    feature("answer", "yes", "yes"),
    feature("tunnel", "yes", "no"),
    feature("sing", "no", "partly"),
    feature("warn", "no", "yes"),
    feature("restart", "yes", "none"),
    feature("fail", "yes", "failed", "nothing came"),
)
BESIDE = (replace(FEATURES[0], cells={"Somebody's": Cell("partly", "said half of it")}),)
RESULTS = Results(ENVIRONMENT, Sizes(entries=1000), FIGURES, FEATURES, ("a warning",), BESIDE)


def busy(results: Results) -> Results:
    return replace(results, environment=replace(results.environment, load_before=3.0))

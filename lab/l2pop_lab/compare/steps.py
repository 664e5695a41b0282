"""Steps of a comparison and the kinds of their figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from l2pop_lab.compare.results import Better
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.streams import Sizes
from l2pop_lab.topology import Machine

SECTIONS = PROGRAMMING, TRAFFIC, RESTARTS, COST = (
    "Programming",
    "Answers and traffic",
    "Restarts",
    "Memory and processor",
)
"""The sections of the report, in order."""

Reading = Sequence[float] | str
"""Values of one figure, or why the side has none."""
Readings = Mapping[str, Reading]

NO_DAEMONS = "not applicable: no process but the agent. The kernel's memory can't be told apart"
KERNEL_TIME = "not applicable: the kernel works in the agent's system time"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a figure is called."""

    title: str
    unit: str
    how: str
    better: Better = "less"
    group: str = ""
    size: float | None = None
    once: bool = False
    datapath: bool = False
    section: str = ""
    """Empty: that of its step."""


@dataclass(slots=True)
class Context:
    """What measurements know besides their side."""

    sizes: Sizes
    probes: dict[str, Machine] = field(default_factory=dict)
    """A machine in the bulk's first network on h1, by side."""
    changed: dict[str, int] = field(default_factory=dict)
    """How many changes each side has had."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do on each side, by turns."""

    section: str
    title: str
    kinds: Mapping[str, Kind]
    take: Callable[[Context, Side], Readings]
    rounds: int = 1


def processes(side: Side) -> tuple[list[int], list[int]]:
    """The processes of h1: the agent's, and those of its switch."""
    host = side.hosts[0]
    return [side.agent(host).pid], list(side.dataplane.daemons(host).values())

"""What an agent has done so far, as numbers that only grow."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ovs_l2pop.agent.jobs import Messages

#: Upper bounds of the classes that times are counted in, in seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Counters:
    """Written by the worker alone."""

    #: Messages by (source, result): "socket" or "server"; "applied", or "refused" in part or all.
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Times from a batch being taken in until it was written or left to be, by the bound that they
    #: are below; what is longer than all counts in :attr:`batches` alone.
    below: Counter[float] = field(default_factory=Counter)
    batches: int = 0
    seconds: float = 0.0  #: of all batches
    looks: int = 0  #: read-backs of what is installed

    def taken_in(self, batch: Iterable[Messages], seconds: float) -> None:
        """A batch was taken in; what its messages were refused, for themselves, is known."""
        for job in batch:
            # A line that can't be read at all is among the refusals alone.
            refused = {refusal.line for refusal in job.outcome.refusals}
            self.messages["socket", "refused"] += len(refused - {0})
            for told in job.told:
                if told.line is None:
                    self.messages["server", "refused" if 0 in refused else "applied"] += 1
                elif told.number not in refused:
                    self.messages["socket", "applied"] += 1
        self.batches += 1
        self.seconds += seconds
        self.below.update(bound for bound in BOUNDS if seconds <= bound)

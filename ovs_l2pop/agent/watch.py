"""When to look whether the dataplane still is what it should be, and what was found so far.

Pure: a look is a read-back that :mod:`ovs_l2pop.agent.worker` makes.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable

#: Seconds from a hint to the look: who changes one thing mostly changes several, and who does it
#: on purpose wants to see the effect.
_SETTLE = 2.0

#: A look may take one part in so many of the time; one after a hint, one part in fewer. Somebody
#: else may write what we write, and every look be followed by a hint.
_DUTY, _HINTED_DUTY = 50, 10


class Watch:
    """Decides when to look: every so often, and soon after a hint that something was changed.

    :param interval: seconds between two looks without a hint, at the most; 0: none at all.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._due = float("inf")
        #: Rows that somebody took away or changed and that were written again, and rows that
        #: somebody added and that were deleted, by ("missing" or "surplus", kind).
        self.mended: Counter[tuple[str, str]] = Counter()
        #: When something was last found, in seconds of the wall clock.
        self.last_found: float | None = None
        #: Seconds that the last look took.
        self.cost = 0.0
        self.looked()

    @property
    def due(self) -> bool:
        return self._clock() >= self._due

    def disturbed(self) -> None:
        """Somebody may have changed something."""
        if self._interval:
            pause = max(min(_SETTLE, self._interval), _HINTED_DUTY * self.cost)
            self._due = min(self._due, self._clock() + pause)

    def looked(self, found: Iterable[tuple[str, str]] = (), cost: float = 0.0) -> None:
        """The dataplane was read back.

        :param found: for each row that differed, what :attr:`mended` counts it as.
        :param cost: seconds that it took.
        """
        before = self.mended.total()
        self.mended.update(found)
        if self.mended.total() > before:
            self.last_found = time.time()
        self.cost = cost
        if self._interval:
            pause = max(self._interval, _DUTY * cost)
            self._due = self._clock() + pause * random.uniform(0.5, 0.9)

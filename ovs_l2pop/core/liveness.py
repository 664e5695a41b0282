"""Which VTEPs have fallen silent: rounds of questions and answers → who is dead. Pure.

Who never answered is not dead: something on the way may drop questions. And when nobody answers
any more, this host is the one that is cut off, and nothing is known of the others.
"""

from collections.abc import Collection

#: Rounds in a row without an answer after which a VTEP is dead, as RFC 5880's detection multiplier
#: mostly is.
LOST = 3


class Liveness:
    """Counts what each VTEP leaves unanswered."""

    def __init__(self) -> None:
        #: By VTEP that has answered once: rounds since it last did.
        self._silent: dict[str, int] = {}
        self.dead: frozenset[str] = frozenset()

    @property
    def alive(self) -> int:
        """How many have answered of late."""
        return len(self._silent) - len(self.dead)

    def round(self, asked: Collection[str], answered: Collection[str]) -> frozenset[str]:
        """All of *asked* were asked once more, and these have answered; who is dead."""
        before = {vtep: count for vtep, count in self._silent.items() if vtep in asked}
        some = bool(answered)
        self._silent = {vtep: count + some for vtep, count in before.items()}
        self._silent.update(dict.fromkeys(set(asked).intersection(answered), 0))
        self.dead = frozenset(vtep for vtep, count in self._silent.items() if count >= LOST)
        return self.dead

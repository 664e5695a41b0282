"""How long to wait until something is tried again. Pure."""


class Backoff:
    """Seconds until the next try: doubled each time, from the first to the last."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._next = first

    def pause(self) -> float:
        """It failed: seconds to wait."""
        pause, self._next = self._next, min(2 * self._next, self._last)
        return pause

    def reset(self) -> None:
        """It worked."""
        self._next = self._first

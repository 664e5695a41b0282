"""Waiting for other threads."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it does, or fail."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "did not come true in 10 s"
        time.sleep(0.01)

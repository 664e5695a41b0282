"""Waiting for something to come true, and saying what didn't."""

import time
from collections.abc import Callable
from typing import TypeVar

from l2pop_lab.topology import LabError

T = TypeVar("T")


def wait_until(
    probe: Callable[[], T], what: str, timeout: float = 20.0, interval: float = 0.1
) -> T:
    """Call *probe* until its value is true, and return that value.

    :param what: completes the sentence "after 20 s still not: …".
    :raises LabError: after *timeout* seconds, with the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"after {timeout:g} s still not: {what} (last: {value!r})")
        time.sleep(interval)

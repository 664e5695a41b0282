"""Processes that can be ended for certain, and never another one that got their number."""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from l2pop_lab.errors import LabError


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from a later one with the same id by when it started."""

    pid: int
    started: int
    """In clock ticks since boot: field 22 of ``/proc/<pid>/stat``, see proc(5)."""

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Return the identity of *pid*, None if there is no such process or only its zombie."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the command in brackets and may itself hold blanks and brackets.
        fields = text[text.rindex(")") + 2 :].split()
        if fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal to this very process, nothing if it has ended."""
        try:
            # The descriptor is bound to the process: once the check below has passed, the id
            # can't go over to another one before the signal is sent.
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def end(processes: Iterable[ProcessIdentity], grace: float = 3.0) -> None:
    """End *processes*, all at once: SIGTERM, and SIGKILL after *grace* seconds.

    :raises LabError: if one survives SIGKILL by five seconds.
    """
    left = [process for process in processes if process.alive()]
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for process in left:
            process.signal(number)
            # A stopped process acts on SIGTERM only once it runs again.
            process.signal(signal.SIGCONT)
        deadline = time.monotonic() + seconds
        while left := [process for process in left if process.alive()]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
    if left:
        raise LabError(f"processes {[process.pid for process in left]} don't end, even by SIGKILL")

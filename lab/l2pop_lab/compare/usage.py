"""Memory and processor time of processes, from ``/proc`` (proc(5))."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def memory(pids: Iterable[int]) -> float:
    """Resident memory in MiB, shared pages counted for each."""
    return sum(_resident(pid) for pid in pids) / 1024


def processor(pids: Iterable[int]) -> float:
    """Seconds of processor time so far, in user and kernel mode, of all threads."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _ticks(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    # Behind the command in brackets, which may itself hold blanks: fields 14 and 15.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[11]) + int(fields[12])

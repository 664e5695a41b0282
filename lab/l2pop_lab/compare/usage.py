"""Memory and processor time of processes."""

from collections.abc import Iterable

from psutil import Process


def memory(pids: Iterable[int]) -> float:
    """Resident memory in MiB, shared pages counted for each."""
    return float(sum(Process(pid).memory_info().rss for pid in pids)) / 2**20


def processor(pids: Iterable[int]) -> float:
    """Seconds of processor time so far, in user and kernel mode, of all threads."""
    times = [Process(pid).cpu_times() for pid in pids]
    return float(sum(time.user + time.system for time in times))

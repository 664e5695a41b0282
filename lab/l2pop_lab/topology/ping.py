"""Pings as numbers: what was sent, what came back, what was lost in between."""

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.running import Running

_ANSWER = re.compile(r"bytes from .*icmp_seq=(\d+) .*?time=([\d.]+) ms( \(DUP!\))?")
_SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")


@dataclass(frozen=True, slots=True)
class PingResult:
    """The outcome of a series of echo requests."""

    sent: int
    received: int
    rtts: list[float]
    """Round trip times in ms, in order of arrival, duplicates left out."""
    duplicates: int
    """Answers beyond the first to one request: more than zero means a loop or a double flood."""
    lost_sequences: list[int]
    """The numbers, from 1, of the requests without an answer."""

    @property
    def lost(self) -> int:
        """How many requests found no answer."""
        return self.sent - self.received

    @property
    def longest_gap(self) -> int:
        """The most requests in a row without an answer; times the interval, the outage."""
        longest = run = previous = 0
        for number in self.lost_sequences:
            run = run + 1 if number == previous + 1 else 1
            previous = number
            longest = max(longest, run)
        return longest


def parse(output: str, *, interrupted: bool = False) -> PingResult:
    """Read what ``ping -n`` of iputils printed.

    :param interrupted: the last request may still have been on its way: leave it out if it has
        no answer.
    :raises LabError: if there is no summary.
    """
    summary = _SUMMARY.search(output)
    if not summary:
        raise LabError(f"ping gave no summary: {output.strip()!r}")
    sent = int(summary[1])
    rtts: list[float] = []
    answered: set[int] = set()
    duplicates = 0
    newest = 0
    for match in _ANSWER.finditer(output):
        # The field has 16 bits; a long series starts over.
        number = int(match[1])
        number += (newest - number + 0x8000) // 0x10000 * 0x10000
        newest = max(newest, number)
        if match[3] or number in answered:
            duplicates += 1
        else:
            answered.add(number)
            rtts.append(float(match[2]))
    if interrupted and sent and sent not in answered:
        sent -= 1
    lost = [number for number in range(1, sent + 1) if number not in answered]
    return PingResult(sent, len(answered), rtts, duplicates, lost)


def ping(
    namespace: str, address: str, *, count: int, interval: float, timeout: float
) -> PingResult:
    """Send *count* echo requests from *namespace* and wait for the answers.

    :param timeout: seconds to wait for an answer after the last request.
    :raises LabError: if ping couldn't even start, say for want of a route.
    """
    options = ["-n", "-c", str(count), "-i", str(interval), "-W", str(timeout)]
    done = subprocess.run(
        namespaces.command(namespace, ["ping", *options, address]),
        capture_output=True,
        text=True,
        timeout=count * (interval + timeout) + 30,
    )
    if done.returncode > 1:
        raise LabError(f"ping {address} in {namespace} failed: {done.stderr.strip()}")
    return parse(done.stdout)


class RunningPing(Running):
    """A series of echo requests that goes on until it is stopped; also a context manager."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output
        self._result: PingResult | None = None

    def stop(self) -> PingResult:
        """End the series and return its outcome; again and again the same."""
        if self._result is None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
            self._process.wait(10)
            self._result = parse(self._output.read_text(), interrupted=True)
        return self._result

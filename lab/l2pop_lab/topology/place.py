"""A namespace one can work in: what hosts and machines have in common."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.manifest import Manifest
from l2pop_lab.topology.ping import PingResult, RunningPing, ping

COMMAND_TIMEOUT = 60.0
"""Seconds; nothing in a laboratory takes that long unless it hangs."""


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002 (the name that subprocess.run uses)
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float = COMMAND_TIMEOUT,
) -> str:
    """Run a command and return what it printed on standard output.

    :param check: raise if the command reports failure.
    :raises LabError: with command, status and all output; also when it takes over *timeout*.
    """
    try:
        done = subprocess.run(
            argv,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            env=env,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(argv)} takes more than {timeout:g} s") from None
    if check and done.returncode:
        raise LabError(
            f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}\n{done.stdout}"
        )
    return done.stdout


class Place:
    """A network namespace with a directory for the files of what runs in it."""

    def __init__(self, name: str, namespace: str, directory: Path, manifest: Manifest) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self._manifest = manifest
        self._pings = 0

    def exec(
        self,
        *argv: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = COMMAND_TIMEOUT,
    ) -> str:
        """Run a command in the namespace and return its standard output.

        :raises LabError: if *check* and the command fails, or after *timeout* seconds.
        """
        argv_there = namespaces.command(self.namespace, argv)
        return run(argv_there, input=input, check=check, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in the namespace; it ends with the laboratory at the latest."""
        return self._manifest.popen(
            namespaces.command(self.namespace, argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
        )

    def ping(
        self, address: str, count: int = 3, interval: float = 0.05, timeout: float = 1.0
    ) -> PingResult:
        """Send *count* echo requests, *interval* seconds apart, and wait for the answers.

        :param timeout: seconds to wait for an answer after the last request.
        """
        return ping(self.namespace, address, count=count, interval=interval, timeout=timeout)

    def ping_forever(self, address: str, interval: float = 0.01) -> RunningPing:
        """Send echo requests until the result's ``stop()`` is called."""
        self._pings += 1
        output = self.directory / f"{self.name}-ping-{self._pings}.log"
        # Into a file: a pipe that nobody reads fills up within seconds and stops the ping.
        with output.open("wb") as file:
            argv = ["ping", "-n", "-i", str(interval), address]
            process = self.popen(argv, stdout=file, stderr=subprocess.STDOUT)
        return RunningPing(process, output)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace}>"

"""A long-running program of the cloud, with its output."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2pop_lab.topology import LabError
from l2pop_lab.topology.place import Place
from l2pop_lab.topology.processes import ProcessIdentity


class Service:
    """A program in a place; its output goes to ``<name>.out`` and is kept over restarts."""

    def __init__(self, place: Place, name: str) -> None:
        self.name = name
        self.output_path = place.directory / f"{name}.out"
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None
    ) -> None:
        """Start the program and don't wait for it."""
        if self.running:
            raise LabError(f"{self.name} of {self._place.name} runs already")
        with self.output_path.open("ab") as output:
            self._process = self._place.popen(
                argv, stdout=output, stderr=subprocess.STDOUT, env=dict(env), cwd=cwd
            )

    @property
    def running(self) -> bool:
        """Whether the program has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process started last."""
        if self._process is None:
            raise LabError(f"{self.name} of {self._place.name} was never started")
        return self._process.pid

    def must_run(self) -> None:
        """Make sure that the program hasn't ended by itself.

        :raises LabError: if it has, with the end of its output.
        """
        if not self.running:
            status = self._process.returncode if self._process else "never started"
            raise LabError(
                f"{self.name} of {self._place.name} ended ({status}):\n{self.output()[-4000:]}"
            )

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> None:
        """End the program by a signal and wait for its end.

        :raises LabError: if it hasn't ended after *timeout* seconds.
        """
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"{self.name} of {self._place.name} doesn't end on signal {number}"
                f" within {timeout:g} s"
            ) from None

    def kill_all(self) -> None:
        """Kill the program and the workers that it has forked, which would outlive it a moment."""
        if not self.running:
            return
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        identities = [ProcessIdentity.of(int(pid)) for pid in children]
        self.stop(signal.SIGKILL)
        for identity in identities:
            if identity is not None:
                identity.signal(signal.SIGKILL)

    def output(self) -> str:
        """Return what the program has printed."""
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

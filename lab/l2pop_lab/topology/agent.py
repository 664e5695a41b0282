"""The agent under test, as a process on a host."""

import configparser
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ovs_l2pop
from l2pop_lab.errors import LabError
from l2pop_lab.topology.ovs import wait_for_socket
from l2pop_lab.topology.place import COMMAND_TIMEOUT, Place

SOURCE = Path(ovs_l2pop.__file__).parents[1]
"""The folder that this package is in: a checkout or site-packages."""


class AgentProcess:
    """A running ``ovs-l2pop agent``."""

    def __init__(
        self,
        place: Place,
        process: subprocess.Popen[bytes],
        python: str,
        source: Path,
        control_socket: Path,
        log_path: Path,
    ) -> None:
        self.process = process
        self.control_socket = control_socket
        self.log_path = log_path
        self._place = place
        self._python = python
        self._source = source

    @classmethod
    def start(
        cls,
        place: Place,
        *,
        python: str,
        source: Path,
        config: Path,
        log_path: Path,
        args: Sequence[str] = (),
    ) -> "AgentProcess":
        """Start the agent with the configuration file *config* and don't wait for it.

        :raises LabError: if the file names no control socket.
        """
        parser = configparser.RawConfigParser()
        parser.read(config)
        control_socket = parser.get("ovs_l2pop", "control_socket", fallback=None)
        if control_socket is None:
            raise LabError(f"{config} names no [ovs_l2pop] control_socket")
        argv = [python, "-m", "ovs_l2pop", "agent", "--config-file", str(config), *args]
        with log_path.open("ab") as log:
            process = place.popen(
                argv, stdout=log, stderr=subprocess.STDOUT, env=_environment(source)
            )
        return cls(place, process, python, source, Path(control_socket), log_path)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait until the control socket accepts connections.

        :raises LabError: with the end of the log, if the agent ends first or takes too long.
        """
        try:
            wait_for_socket(self.control_socket, self.process, timeout)
        except LabError as error:
            raise LabError(f"agent of {self._place.name}: {error}\n{self.log()[-4000:]}") from None

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15.0) -> int:
        """End the agent by a signal and return its exit status (negative: the signal's number).

        :raises LabError: if it hasn't ended after *timeout* seconds.
        """
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"agent of {self._place.name} doesn't end on signal {number} within {timeout:g} s\n"
                f"{self.log()[-4000:]}"
            ) from None

    def kill(self) -> int:
        """End the agent without giving it the chance to clean up."""
        return self.stop(signal.SIGKILL)

    def log(self) -> str:
        """Return all that the agent has printed."""
        return self.log_path.read_text(errors="replace")

    def cli(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        timeout: float = COMMAND_TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``ovs-l2pop --socket <control socket> args`` and return how it went."""
        argv = [self._python, "-m", "ovs_l2pop", "--socket", str(self.control_socket), *args]
        return subprocess.run(
            argv,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            env=_environment(self._source),
            timeout=timeout,
        )


def _environment(source: Path) -> dict[str, str]:
    # This code comes first, whatever else is installed; "python -m" alone would prefer a package
    # in the current directory.
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(source), *([inherited] if inherited else [])])
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}

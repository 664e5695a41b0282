"""Commands to ovs-vswitchd itself, as ``ovs-appctl`` gives them (ovs-vswitchd(8)).

Its socket answers JSON-RPC. The library's client waits for ever where the switch hangs. Here the
connection stays: what comes too late is read before the next answer, and the switch needn't
complain of a reader that left.
"""

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

from ovs_l2pop.core.errors import BackendError


class Appctl:
    """A connection to ovs-vswitchd, made when it is needed.

    :param rundir: where ovs-vswitchd has its sockets.
    """

    def __init__(self, rundir: Path) -> None:
        self._rundir = rundir
        self._connection: socket.socket | None = None
        self._received = ""
        self._id = 0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def command(self, name: str, *arguments: str, timeout: float = 0.5) -> str:
        """What ovs-vswitchd answers.

        :param timeout: seconds for an answer.
        :raises BackendError: it doesn't know the command, refuses it, can't be reached or is busy.
        """
        try:
            if self._connection is None:
                self._connection = self._connect(timeout)
            self._id += 1
            request = {"method": name, "params": list(arguments), "id": self._id}
            self._connection.settimeout(timeout)
            self._connection.sendall(json.dumps(request).encode())
            answer = self._answer(self._connection, timeout)
        except TimeoutError as error:
            raise BackendError(f"ovs-vswitchd, {name}: no answer in {timeout:g} s") from error
        except (OSError, ValueError, RecursionError) as error:
            self.close()
            raise BackendError(f"ovs-vswitchd, {name}: {error}") from error
        if answer.get("error") is not None:
            raise BackendError(f"ovs-vswitchd, {name}: {str(answer['error']).strip()}")
        return str(answer.get("result") or "")

    def _connect(self, timeout: float) -> socket.socket:
        self._received = ""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(_path(self._rundir)))
        except OSError:
            connection.close()
            raise
        return connection

    def _answer(self, connection: socket.socket, timeout: float) -> dict[str, Any]:
        """The answer to the last request; those to earlier ones are left out."""
        deadline = time.monotonic() + timeout
        while True:
            while self._received.endswith("}"):  # else the last one isn't whole
                with contextlib.suppress(json.JSONDecodeError):
                    answer, end = json.JSONDecoder().raw_decode(self._received)
                    self._received = self._received[end:].lstrip()
                    if not isinstance(answer, dict):
                        raise ValueError("no answer of JSON-RPC")
                    if answer.get("id") == self._id:
                        return answer
                    continue
                break
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            connection.settimeout(left)
            if not (data := connection.recv(1 << 20)):
                raise ConnectionError("closed")
            self._received += data.decode("ascii").rstrip()


def _path(rundir: Path) -> Path:
    """Where ovs-vswitchd listens: the name holds its process id, unless it was told another.

    :raises OSError: there is none that may be seen.
    """
    with contextlib.suppress(OSError, ValueError):
        process = int((rundir / "ovs-vswitchd.pid").read_text())
        if (named := rundir / f"ovs-vswitchd.{process}.ctl").exists():
            return named
    found = list(rundir.glob("ovs-vswitchd*.ctl"))
    if not found:
        raise FileNotFoundError(f"{rundir} has no ovs-vswitchd*.ctl")
    return max(found, key=lambda path: path.stat().st_mtime)

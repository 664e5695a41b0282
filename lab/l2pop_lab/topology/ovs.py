"""One host's Open vSwitch: database server and switch daemon with the userspace datapath."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from l2pop_lab.errors import LabError
from l2pop_lab.topology.place import Place, run

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_TIMEOUT = 15.0
"""Seconds; a start takes half a second on an idle machine."""

EXPECTED_WARNINGS = {
    r"fatal_signal(\([^|]*\))?\|WARN\|terminating with signal": "the laboratory ends it so",
    # With tens of milliseconds of its own it would be the switch's doing.
    r"timeval\|WARN\|Unreasonably long \d+ms poll interval \(\dms user, \dms s": "a paused machine",
    r"timeval\|WARN\|(context switches|faults|disk):": "further lines of the same",
    r"br-tun<->unix#\d+: connection dropped \(Connection reset by peer\)": "an agent that was"
    " killed before it had read what the switch told it",
}
"""Patterns of log lines to be expected, each with the reason; a healthy start prints none."""

_COMPLAINT = re.compile(r"^[^|]*\|\d+\|[^|]*\|(?:WARN|ERR|EMER)\|")


def wait_for_socket(path: Path, process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait until the unix socket at *path* accepts connections.

    :raises LabError: if *process*, which is to listen there, ends first, or after *timeout* s.
    """
    deadline = time.monotonic() + timeout
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
                return
            except OSError as error:
                reason = error
        if process.poll() is not None:
            raise LabError(f"process {process.pid} ended with {process.returncode} at its start")
        if time.monotonic() > deadline:
            raise LabError(f"nobody listens at {path} after {timeout:g} s: {reason}")
        time.sleep(0.01)


class OpenVswitch:
    """``ovsdb-server`` and ``ovs-vswitchd`` of one host.

    Both run in the foreground as children of this process, so their ids are known for certain.
    """

    def __init__(self, place: Place, rundir: Path) -> None:
        self.rundir = rundir
        self._place = place
        self._ovsdb_server: subprocess.Popen[bytes] | None = None
        self._vswitchd: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> str:
        """The database's address in OVSDB syntax."""
        return f"unix:{self.rundir}/db.sock"

    def create_database(self) -> None:
        """Make an empty database."""
        self.rundir.mkdir(parents=True)
        run(["ovsdb-tool", "create", f"{self.rundir}/conf.db", str(SCHEMA)])

    def start_ovsdb_server(self) -> None:
        """Start the database server and wait until it serves the switch, if that runs.

        The switch tries again after 1, 2, 4 and then every 8 seconds.
        """
        if _runs(self._ovsdb_server):
            raise LabError(f"ovsdb-server of {self._place.name} runs already")
        self._ovsdb_server = self._start(
            "ovsdb-server",
            f"{self.rundir}/conf.db",
            f"--remote=p{self.connection}",
            # As distributions start it: a Neutron agent adds a TCP port there for itself.
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
        )
        wait_for_socket(self.rundir / "db.sock", self._ovsdb_server, START_TIMEOUT)
        if _runs(self._vswitchd):
            self._wait_for_switch()

    def start_vswitchd(self) -> None:
        """Start the switch and wait until it has carried out what is in the database."""
        if _runs(self._vswitchd):
            raise LabError(f"ovs-vswitchd of {self._place.name} runs already")
        # Without --disable-system it would look for the kernel module and warn that it's absent.
        self._vswitchd = self._start("ovs-vswitchd", self.connection, "--disable-system")
        wait_for_socket(self.rundir / "ovs-vswitchd.ctl", self._vswitchd, START_TIMEOUT)
        self._wait_for_switch()

    def stop_ovsdb_server(self, number: int = signal.SIGTERM) -> int:
        """End the database server by a signal and return its exit status.

        Until it is back, the switch serves no OpenFlow and forwards nothing: its main thread does
        both, here where no other thread moves packets, and only while it holds the database's lock.
        Packets wait for up to the size of a socket's buffer and come late.
        """
        return _stop(self._ovsdb_server, number)

    def stop_vswitchd(self, number: int = signal.SIGTERM) -> int:
        """End the switch by a signal and return its exit status; its devices go with it."""
        return _stop(self._vswitchd, number)

    @contextmanager
    def frozen(self, program: str) -> Iterator[None]:
        """While the block runs, ``ovs-vswitchd`` or ``ovsdb-server`` does nothing at all.

        Its sockets take connections, and data until their buffers are full.
        """
        process = self._vswitchd if program == "ovs-vswitchd" else self._ovsdb_server
        if process is None:
            raise LabError(f"{program} was never started")
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def vsctl(self, *args: str, timeout: float = 10.0) -> str:
        """Run ``ovs-vsctl``."""
        seconds = max(1, round(timeout))
        return run(["ovs-vsctl", f"--db={self.connection}", f"--timeout={seconds}", *args])

    def ofctl(self, *args: str, version: str = "OpenFlow14", input: str | None = None) -> str:  # noqa: A002
        """Run ``ovs-ofctl``."""
        return run(["ovs-ofctl", "-O", version, *args], env=self._environment(), input=input)

    def appctl(self, *args: str) -> str:
        """Run ``ovs-appctl`` on the switch."""
        return run(["ovs-appctl", "--timeout=30", "-t", f"{self.rundir}/ovs-vswitchd.ctl", *args])

    def log(self, program: str = "ovs-vswitchd") -> str:
        """Return the log since the laboratory started, restarts included."""
        path = self.rundir / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def unexpected_warnings(self, ignore: Iterable[str] = (), start: int = 0) -> list[str]:
        """Return the lines of the switch's log of level WARN and worse that need an explanation.

        :param ignore: more patterns (regular expressions) to leave out.
        :param start: how many characters at the log's start to leave out.
        """
        patterns = [re.compile(pattern) for pattern in EXPECTED_WARNINGS]
        patterns += [re.compile(pattern) for pattern in ignore]
        return [
            line
            for line in self.log()[start:].splitlines()
            if _COMPLAINT.match(line) and not any(pattern.search(line) for pattern in patterns)
        ]

    def _wait_for_switch(self) -> None:
        # A change that isn't --no-wait returns when the switch has caught up with it.
        self.vsctl(
            *("set", "Open_vSwitch", "."),
            f"external_ids:lab-time={time.time_ns()}",
            timeout=START_TIMEOUT,
        )

    def _start(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        with (self.rundir / f"{program}.out").open("ab") as output:
            return self._place.popen(
                [
                    program,
                    *args,
                    f"--unixctl={self.rundir}/{program}.ctl",
                    f"--pidfile={self.rundir}/{program}.pid",
                    f"--log-file={self.rundir}/{program}.log",
                    "-vconsole:off",
                    "-vsyslog:off",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )

    def _environment(self) -> dict[str, str]:
        rundir = str(self.rundir)
        return os.environ | {"OVS_RUNDIR": rundir, "OVS_LOGDIR": rundir, "OVS_DBDIR": rundir}


def _runs(process: subprocess.Popen[bytes] | None) -> bool:
    return process is not None and process.poll() is None


def _stop(process: subprocess.Popen[bytes] | None, number: int) -> int:
    if process is None:
        raise LabError("it was never started")
    if process.poll() is None:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # it may be frozen
    try:
        return process.wait(15)
    except subprocess.TimeoutExpired:
        raise LabError(f"process {process.pid} doesn't end on signal {number}") from None

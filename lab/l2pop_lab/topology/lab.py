"""Several VXLAN hosts with an underlay between them, on one machine.

::

      h1                      h2
     ┌──────────────────┐    ┌──────────────────┐
     │ vm1 ─ br-int     │    │     br-int ─ vm2 │     machines: namespaces of their own
     │       (br-tun)   │    │     (br-tun)     │     br-tun: the agent under test makes it
     │       br-phy     │    │     br-phy       │     10.200.0.1, 10.200.0.2: the VTEPs
     └─────────┬────────┘    └────────┬─────────┘
          phy0 │                 phy0 │
     ┌─────────┴──────────────────────┴─────────┐
     │ h1            br-ul                   h2 │     the underlay: a namespace with a bridge
     └──────────────────────────────────────────┘

Each host is a namespace with its own Open vSwitch in userspace, or a Linux bridge host, which has
the kernel's bridges alone. Nothing is in the root namespace.
"""

import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from l2pop_lab.errors import LabError
from l2pop_lab.topology import manifest, namespaces
from l2pop_lab.topology.capture import Capture
from l2pop_lab.topology.host import UNDERLAY_DEVICE, Host
from l2pop_lab.topology.linuxhost import LinuxBridgeHost
from l2pop_lab.topology.ovs import SCHEMA
from l2pop_lab.topology.place import Place
from l2pop_lab.topology.running import Running

MAXIMUM_HOSTS = 250
UNDERLAY_MTU = 1600
"""Bytes; room for a machine's 1,450 or 1,500 and the outer headers over IPv6 (70)."""

_PROGRAMS = (
    "ip",
    "ethtool",
    "ping",
    "ovsdb-tool",
    "ovsdb-server",
    "ovs-vswitchd",
    "ovs-vsctl",
    "ovs-ofctl",
    "ovs-appctl",
)
_numbers = itertools.count()


class Lab(Running):
    """VXLAN hosts ``h1``, ``h2``, … on one machine; a context manager. Needs root.

    :param hosts: how many.
    :param prefix: what the names of the namespaces begin with; by default one of this process.
    :param family: 4 for VTEPs 10.200.0.N, 6 for fd00:200::N.
    :param linuxbridge: the numbers, from 1, of the hosts without Open vSwitch.
    :param tunnel_ports: of the agents with Open vSwitch; None: the agent's default.
    """

    def __init__(
        self,
        hosts: int = 3,
        prefix: str | None = None,
        *,
        family: Literal[4, 6] = 4,
        linuxbridge: Collection[int] = (),
        tunnel_ports: str | None = None,
    ) -> None:
        if not 1 <= hosts <= MAXIMUM_HOSTS:
            raise LabError(f"a laboratory has 1 to {MAXIMUM_HOSTS} hosts, not {hosts}")
        self.prefix = prefix or _unused_prefix()
        self.family = family
        self.underlay = f"{self.prefix}-ul"
        """The namespace of the underlay; its bridge ``br-ul`` has a port per host."""
        self.hosts: list[Host] = []
        self._count = hosts
        self._linuxbridge = linuxbridge
        self._tunnel_ports = tunnel_ports
        self._manifest: manifest.Manifest | None = None

    @property
    def directory(self) -> Path:
        """Where the laboratory has its files."""
        return self._running.directory

    def start(self) -> Self:
        """Bring all hosts up; on failure leave nothing behind.

        :raises LabError: naming what is missing or failed.
        """
        _require_tools()
        if namespaces.exists(self.underlay):
            raise LabError(f"there is a laboratory {self.prefix!r} already")
        directory = tempfile.mkdtemp(prefix=manifest.DIRECTORY_PREFIX, dir=str(manifest.DIRECTORY))
        self._manifest = manifest.Manifest(Path(directory))
        try:
            self._start_underlay()
            self._start_hosts(range(1, self._count + 1))
        except BaseException:
            self.stop()
            raise
        return self

    def add_place(self, name: str) -> Place:
        """Make one more namespace with a directory, for what is neither a host nor a machine."""
        place = Place(name, f"{self.prefix}-{name}", self.directory / name, self._running)
        place.directory.mkdir()
        self._running.add_namespaces(place.namespace)
        return place

    def host(self, name: str) -> Host:
        """Return the host of this name, such as ``h1``."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r} among {', '.join(host.name for host in self.hosts)}")

    def capture_underlay(self) -> Capture:
        """Collect the frames that hosts send on the underlay, each once.

        A frame is taken where it enters the underlay, at its sender's port; the copies that the
        underlay's bridge makes of a broadcast don't count.
        """
        return Capture(self.underlay, [host.name for host in self.hosts], "in")

    def stop(self) -> None:
        """End all processes, delete all namespaces and files; safe to repeat."""
        if self._manifest is not None:
            with _signals_deferred():
                self._manifest.tear_down()
            self._manifest = None

    def leave(self) -> Path:
        """Keep everything running when this process ends; return the manifest for ``remove``."""
        path = self._running.keep()
        self._manifest = None
        return path

    @staticmethod
    def remove(path: str | os.PathLike[str]) -> None:
        """Take away a laboratory that was left; see :func:`l2pop_lab.manifest.destroy`."""
        manifest.destroy(path)

    def __enter__(self) -> Self:
        return self.start()

    @property
    def _running(self) -> manifest.Manifest:
        if self._manifest is None:
            raise LabError("the laboratory isn't running")
        return self._manifest

    def _start_underlay(self) -> None:
        self._running.add_namespaces(self.underlay)
        namespaces.set_sysctls(self.underlay, {"net/ipv6/conf/default/disable_ipv6": 1})
        namespaces.ip_batch(
            [
                # Without snooping, else it would swallow the hosts' neighbour solicitations.
                "link add br-ul type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set br-ul mtu {UNDERLAY_MTU} up",
            ],
            self.underlay,
        )

    def _start_hosts(self, numbers: Sequence[int]) -> None:
        hosts = [self._host(number) for number in numbers]
        self._running.add_namespaces(*(host.namespace for host in hosts))
        lines = []
        for host in hosts:
            lines += [
                f"link add {host.name} mtu {UNDERLAY_MTU} type veth peer name {UNDERLAY_DEVICE}"
                f" mtu {UNDERLAY_MTU} netns {host.namespace}",
                f"link set {host.name} master br-ul up",
            ]
        namespaces.ip_batch(lines, self.underlay)
        namespaces.offloads_off(self.underlay, "br-ul", *(host.name for host in hosts))
        with ThreadPoolExecutor(min(8, len(hosts))) as pool:
            list(pool.map(lambda host: host.start(), hosts))
            self.hosts += hosts
            list(pool.map(self._introduce, self.hosts))

    def _host(self, number: int) -> Host:
        name = f"h{number}"
        kind = LinuxBridgeHost if number in self._linuxbridge else Host
        return kind(
            name=name,
            namespace=f"{self.prefix}-{name}",
            directory=self.directory / name,
            manifest=self._running,
            vtep=f"10.200.0.{number}" if self.family == 4 else f"fd00:200::{number:x}",
            prefix_length=24 if self.family == 4 else 64,
            mac=f"02:c8:00:00:00:{number:02x}",
            tunnel_ports=self._tunnel_ports,
        )

    def _introduce(self, host: Host) -> None:
        host.know_peers((peer.vtep, peer.mac) for peer in self.hosts if peer is not host)


def _unused_prefix() -> str:
    while True:
        number = next(_numbers)
        prefix = f"l2p{os.getpid()}" + (f"x{number}" if number else "")
        if not namespaces.exists(f"{prefix}-ul"):
            return prefix


def _require_tools() -> None:
    if os.geteuid() != 0:
        raise LabError("a laboratory makes network namespaces: run it as root")
    missing = [program for program in _PROGRAMS if not shutil.which(program)]
    if not SCHEMA.exists():
        missing.append(str(SCHEMA))
    if missing:
        raise LabError(
            f"a laboratory needs {', '.join(missing)}: "
            "install openvswitch-switch, iproute2, ethtool and iputils-ping"
            " (and have /usr/sbin in PATH)"
        )


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the end of the block: nothing cuts the clean-up short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {
        kind: handler
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(kind)) not in (signal.SIG_IGN, None)
    }
    for kind in before:
        signal.signal(kind, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    for number in received:
        signal.raise_signal(number)

"""A host of the cloud: a host of the laboratory with a real Neutron agent on it."""

import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from l2pop_lab.topology import Host, LabError
from l2pop_lab.topology.place import Place, run
from neutronlab import forwarding, management
from neutronlab.forwarding import Flow, Forwarding
from neutronlab.installation import CHECKOUT, Installation
from neutronlab.service import Service
from neutronlab.settings import Options, merged, write
from neutronlab.things import Network


@dataclass(frozen=True, slots=True)
class AgentKind:
    """How a host's agent is set up."""

    name: str
    l2_population: bool = True
    extensions: tuple[str, ...] = ()
    user: Literal["root", "neutron"] = "root"
    """"neutron": an unprivileged user with sudo for rootwrap, as distributions run the agent."""
    rootwrap_daemon: bool = False
    """For the user neutron: keep one rootwrap process instead of one a command."""
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """More options, by section."""


STOCK = AgentKind("stock")
OURS = AgentKind("ours", extensions=("ovs_l2pop",))


class Node:
    """A host with its agent; made by :class:`neutronlab.Cloud`."""

    def __init__(
        self, host: Host, kind: AgentKind, installation: Installation, transport_url: str
    ) -> None:
        self.host = host
        self.kind = kind
        self._installation = installation
        self._transport_url = transport_url
        self._service = Service(host, "neutron-openvswitch-agent")
        self.log_path = host.directory / "neutron-openvswitch-agent.log"

    @property
    def name(self) -> str:
        """The host's name, for Neutron and for the laboratory."""
        return self.host.name

    @property
    def vtep(self) -> str:
        """The address of the host's tunnel end."""
        return self.host.vtep

    def connect(self, control: Place, number: int) -> None:
        """Connect the host to the management network as 10.201.0.*number*."""
        management.connect(self.host, control, number)
        # As packages set it up. The agent would do it itself if nobody listened there.
        self.host.vsctl("set-manager", "ptcp:6640:127.0.0.1")

    # -- the agent --------------------------------------------------------------------------

    def start_agent(self, kind: AgentKind | None = None) -> None:
        """Start the agent, as another kind from now on if one is given; don't wait for it."""
        self.kind = kind or self.kind
        agent = self._installation.program("neutron-openvswitch-agent")
        # Where the agent and all that it calls look for the host's Open vSwitch.
        Path("/run/openvswitch").mkdir(exist_ok=True)
        mounts = [str(self.host.rundir), "/run/openvswitch"]
        if self.kind.user == "root":
            config = self._write_config(self.host.directory / "etc" / "neutron.conf")
            become: tuple[str, ...] = ()
        else:
            # The laboratory's directory is root's alone otherwise.
            self.host.directory.parent.chmod(0o711)
            self._check_access()
            etc = self._prepare_private_etc()
            mounts += [str(etc), "/etc"]
            config = Path("/etc/neutron/neutron.conf")
            become = _AS_NEUTRON
        self._service.start(
            [
                *("sh", "-euc", _MOUNT_AND_RUN, "sh", *mounts, "--"),
                *(*become, agent, "--config-file", str(config)),
            ],
            self._installation.environment(),
        )

    def stop_agent(self, number: int = signal.SIGTERM, grace: float = 5.0) -> bool:
        """End the agent by a signal, as systemd does: what hasn't ended after *grace* is killed.

        Upstream's agent hasn't ended a minute after SIGTERM.

        :return: whether the signal was enough.
        """
        try:
            self._service.stop(number, grace)
        except LabError:
            self._service.kill_all()
            return False
        return True

    def kill_agent(self) -> None:
        """Kill the agent with its helpers."""
        self._service.kill_all()

    def agent_must_run(self) -> None:
        """Make sure that the agent hasn't ended by itself."""
        self._service.must_run()

    @property
    def agent_pid(self) -> int:
        """The agent's process id."""
        return self._service.pid

    def agent_log(self) -> str:
        """Return the agent's log, all its runs."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def agent_output(self) -> str:
        """Return what the agent has printed, besides its log."""
        return self._service.output()

    def restart_openvswitch(self) -> None:
        """End the switch and start it again: ports stay, all flows are gone."""
        self.host.stop_vswitchd()
        self.host.start_vswitchd()

    def tag(self, network: Network) -> int | None:
        """Return the local VLAN that a machine is to be plugged into, if the agent won't say."""
        return None

    # -- what the switch does ---------------------------------------------------------------

    def flows(self, bridge: str = "br-tun") -> list[Flow]:
        """Return all flows of a bridge."""
        return forwarding.dump(self.host, bridge)

    def forwarding(self) -> dict[int, Forwarding]:
        """Return where br-tun sends packets, by local VLAN."""
        return forwarding.read(self.host)

    def local_vlans(self) -> dict[str, int]:
        """Return the local VLAN of each port that is wired: port id → VLAN."""
        return forwarding.local_vlans(self.host)

    def tunnels(self) -> set[tuple[str, str]]:
        """Return the tunnel ports, as pairs of type and VTEP."""
        return forwarding.tunnels(self.host)

    # -- files ------------------------------------------------------------------------------

    def _write_config(self, path: Path) -> Path:
        directory = self.host.directory
        if self.kind.user == "root":
            privileges: Options = {"agent": {"root_helper": "env"}}
        else:
            program = self._installation.program
            rootwrap = f"sudo {program('neutron-rootwrap')} {_ROOTWRAP_CONFIG}"
            daemon = f"sudo {program('neutron-rootwrap-daemon')} {_ROOTWRAP_CONFIG}"
            privileges = {
                "agent": {
                    "root_helper": rootwrap,
                    "root_helper_daemon": daemon if self.kind.rootwrap_daemon else None,
                },
            }
        options: Options = {
            "DEFAULT": {
                "host": self.name,
                "transport_url": self._transport_url,
                "state_path": directory / "neutron",
                "log_file": self.log_path,
                "use_stderr": False,
            },
            "oslo_concurrency": {"lock_path": directory / "neutron" / "locks"},
            "ovs": {
                "local_ip": self.vtep,
                "datapath_type": "netdev",
            },
            "agent": {
                "tunnel_types": ("vxlan",),
                "l2_population": self.kind.l2_population,
                "arp_responder": self.kind.l2_population,
                "extensions": self.kind.extensions or None,
            },
            "securitygroup": {"enable_security_group": False, "firewall_driver": "noop"},
        }
        return write(path, merged(options, privileges, self.kind.options))

    def _prepare_private_etc(self) -> Path:
        """Copy /etc and add a user ``neutron`` with the rights that distributions give it."""
        etc = self.host.directory / "private-etc"
        if not etc.exists():
            run(["cp", "-a", "/etc", str(etc)])
            with (etc / "passwd").open("a") as file:
                file.write(f"neutron:x:{_UID}:{_UID}::/nonexistent:/usr/sbin/nologin\n")
            with (etc / "group").open("a") as file:
                file.write(f"neutron:x:{_UID}:\n")
            with (etc / "shadow").open("a") as file:
                file.write("neutron:*:19000:0:99999:7:::\n")
            program = self._installation.program
            sudoers = etc / "sudoers.d" / "neutron"
            sudoers.write_text(
                "Defaults:neutron !requiretty\n"
                "neutron ALL = (root) NOPASSWD:"
                f" {program('neutron-rootwrap')} {_ROOTWRAP_CONFIG} *,"
                f" {program('neutron-rootwrap-daemon')} {_ROOTWRAP_CONFIG}\n"
            )
            sudoers.chmod(0o440)
            shipped = self._installation.prefix / "etc" / "neutron"
            shutil.rmtree(etc / "neutron", ignore_errors=True)
            shutil.copytree(shipped, etc / "neutron")
            rootwrap = etc / "neutron" / "rootwrap.conf"
            # As DevStack does for a virtual environment.
            rootwrap.write_text(
                rootwrap.read_text().replace(
                    "\nexec_dirs=", f"\nexec_dirs={self._installation.prefix / 'bin'},"
                )
            )
        self._write_config(etc / "neutron" / "neutron.conf")
        (self.host.directory / "neutron").mkdir(exist_ok=True)
        self.log_path.touch()
        for path in (self.host.directory / "neutron", self.log_path):
            run(["chown", "-R", f"{_UID}:{_UID}", str(path)])
        return etc

    def _check_access(self) -> None:
        for path in (CHECKOUT, self._installation.prefix, self.host.directory):
            closed = [parent for parent in (path, *path.parents) if not _open_to_all(parent)]
            if closed:
                raise LabError(f"{closed[0]} is closed to the user that the agent is to run as")


def _open_to_all(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


_UID = 64064
"""Of the user ``neutron``, which exists in the agent's /etc only."""
_ROOTWRAP_CONFIG = "/etc/neutron/rootwrap.conf"

# `ip netns exec` has given the process mounts of its own: what is mounted here nobody else sees.
_MOUNT_AND_RUN = """
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""
_AS_NEUTRON = ("setpriv", "--reuid=neutron", "--regid=neutron", "--init-groups", "--inh-caps=-all")

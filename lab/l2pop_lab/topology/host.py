"""One VXLAN host: a namespace with its own Open vSwitch, its VTEP, and machines plugged in."""

import configparser
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from l2pop_lab.topology import namespaces
from l2pop_lab.topology.agent import SOURCE, AgentProcess
from l2pop_lab.topology.capture import Capture, Direction
from l2pop_lab.topology.machine import Machine
from l2pop_lab.topology.manifest import Manifest
from l2pop_lab.topology.ovs import OpenVswitch
from l2pop_lab.topology.place import Place

UNDERLAY_DEVICE = "phy0"
INTEGRATION_BRIDGE = "br-int"
PHYSICAL_BRIDGE = "br-phy"


class Host(Place):
    """A host of the laboratory; made by :class:`l2pop_lab.topology.Lab`."""

    def __init__(
        self,
        name: str,
        namespace: str,
        directory: Path,
        manifest: Manifest,
        vtep: str,
        prefix_length: int,
        mac: str,
        tunnel_ports: str | None = None,
    ) -> None:
        super().__init__(name, namespace, directory, manifest)
        self.vtep = vtep
        self.mac = mac
        """The MAC address of the VTEP, which is br-phy's."""
        self.tunnel_ports = tunnel_ports
        """The agent's option of that name; None: its default."""
        self.machines: dict[str, Machine] = {}
        self._prefix_length = prefix_length
        self._peers: list[tuple[str, str]] = []
        self._agents = 0
        self._ovs = OpenVswitch(self, directory)

    # -- Open vSwitch -----------------------------------------------------------------------

    @property
    def rundir(self) -> Path:
        """``OVS_RUNDIR``: sockets, database and logs of the host's Open vSwitch."""
        return self._ovs.rundir

    @property
    def ovsdb(self) -> str:
        """The database's address: ``unix:<rundir>/db.sock``."""
        return self._ovs.connection

    def start(self) -> None:
        """Bring the host up; its namespace with the underlay device must exist."""
        # The kernel sees what arrives on phy0 and on machines' ports besides OVS, and the VTEP's
        # address is its own: it would answer ARP and pings a second time, and VXLAN with "port
        # unreachable". It has no IPv6 there, answers no ARP (8: for no local address), and IPv4
        # it drops because the VTEP's MAC isn't phy0's.
        namespaces.set_sysctls(
            self.namespace,
            {
                f"net/{key}": value
                for device in ("default", UNDERLAY_DEVICE)
                for key, value in (
                    (f"ipv6/conf/{device}/disable_ipv6", 1),
                    (f"ipv4/conf/{device}/arp_ignore", 8),
                )
            },
        )
        namespaces.ip_batch(["link set lo up", f"link set {UNDERLAY_DEVICE} up"], self.namespace)
        namespaces.offloads_off(self.namespace, UNDERLAY_DEVICE)
        self._ovs.create_database()
        self._ovs.start_ovsdb_server()
        self._ovs.vsctl(
            *("--no-wait", "init"),
            *("--", "set", "Open_vSwitch", ".", f"external_ids:hostname={self.name}"),
            *("--", "add-br", PHYSICAL_BRIDGE),
            *("--", "set", "Bridge", PHYSICAL_BRIDGE, "datapath_type=netdev"),
            f"other_config:hwaddr={self.mac}",
            *("--", "add-port", PHYSICAL_BRIDGE, UNDERLAY_DEVICE),
            *("--", "add-br", INTEGRATION_BRIDGE),
            *("--", "set", "Bridge", INTEGRATION_BRIDGE, "datapath_type=netdev"),
        )
        self.start_vswitchd()

    def start_vswitchd(self) -> None:
        """Start the switch and give the VTEP its address, which went with the last switch."""
        self._ovs.start_vswitchd()
        sysctls: dict[str, object] = {f"net/ipv4/conf/{PHYSICAL_BRIDGE}/arp_ignore": 0}
        address = f"address replace {self.vtep}/{self._prefix_length} dev {PHYSICAL_BRIDGE}"
        if ":" in self.vtep:
            # Nobody else has the address: without nodad it is unusable for the first second.
            address += " nodad"
            sysctls |= {
                f"net/ipv6/conf/{PHYSICAL_BRIDGE}/disable_ipv6": 0,
                f"net/ipv6/conf/{PHYSICAL_BRIDGE}/router_solicitations": 0,
            }
        namespaces.set_sysctls(self.namespace, sysctls)
        lines = [address, f"link set {PHYSICAL_BRIDGE} up"]
        namespaces.ip_batch(lines, self.namespace)
        namespaces.offloads_off(self.namespace, PHYSICAL_BRIDGE)
        self.know_peers(self._peers)

    def stop_vswitchd(self, number: int = signal.SIGTERM) -> int:
        """End the switch by a signal and return its exit status."""
        return self._ovs.stop_vswitchd(number)

    def start_ovsdb_server(self) -> None:
        """Start the database server; what it held is still there."""
        self._ovs.start_ovsdb_server()

    def stop_ovsdb_server(self, number: int = signal.SIGTERM) -> int:
        """End the database server by a signal and return its exit status."""
        return self._ovs.stop_ovsdb_server(number)

    def know_peers(self, peers: Iterable[tuple[str, str]]) -> None:
        """Tell the switch the MAC addresses of other VTEPs, as pairs of VTEP and MAC.

        Native tunnelling drops the packet for which it has to ask; a kernel would keep it. Tests
        that count first packets need the kernel's behaviour.
        """
        self._peers = list(peers)
        for vtep, mac in self._peers:
            self.appctl("tnl/neigh/set", PHYSICAL_BRIDGE, vtep, mac)

    def frozen(self, program: str) -> AbstractContextManager[None]:
        """See :meth:`OpenVswitch.frozen`."""
        return self._ovs.frozen(program)

    def vsctl(self, *args: str, timeout: float = 10.0) -> str:
        """Run ``ovs-vsctl`` on the host's database; without ``--no-wait`` wait for the switch."""
        return self._ovs.vsctl(*args, timeout=timeout)

    def ofctl(self, *args: str, version: str = "OpenFlow14", input: str | None = None) -> str:  # noqa: A002
        """Run ``ovs-ofctl -O version`` with the host's bridges."""
        return self._ovs.ofctl(*args, version=version, input=input)

    def appctl(self, *args: str) -> str:
        """Run ``ovs-appctl`` on the host's switch."""
        return self._ovs.appctl(*args)

    def trace(self, bridge: str, flow: str, packet: bytes = b"") -> str:
        """Return what ``ofproto/trace`` says on a packet that enters *bridge*."""
        return self.appctl("ofproto/trace", bridge, flow, *([packet.hex()] if packet else []))

    def ofport(self, interface: str) -> int:
        """Return the OpenFlow number of a port."""
        return int(self.vsctl("get", "Interface", interface, "ofport"))

    def vswitchd_log(self) -> str:
        """Return the switch's log since the laboratory started, restarts included."""
        return self._ovs.log()

    def unexpected_warnings(self, ignore: Iterable[str] = (), start: int = 0) -> list[str]:
        """Return the complaints in the switch's log that are not explained.

        :param ignore: regular expressions of lines that the caller can explain.
        :param start: the length of ``vswitchd_log()`` from which to look.
        """
        return self._ovs.unexpected_warnings(ignore, start)

    # -- Machines and frames ----------------------------------------------------------------

    def plug_port(
        self, port: str, mac: str, bridge: str, tag: int | None, external_ids: Mapping[str, str]
    ) -> None:
        """Put a machine's port into a bridge; :meth:`add_machine` does it."""
        self.vsctl(
            *("add-port", bridge, port),
            *([f"tag={tag}"] if tag is not None else []),
            *("--", "set", "Interface", port, f'external_ids:attached-mac="{mac}"'),
            *(f'external_ids:{key}="{value}"' for key, value in external_ids.items()),
        )

    def unplug_port(self, port: str) -> None:
        """Take a machine's port out of its bridge; :meth:`Machine.remove` does it."""
        self.vsctl("--if-exists", "del-port", port)

    def add_machine(
        self,
        name: str,
        mac: str,
        ip: str | Sequence[str] = (),
        tag: int | None = None,
        bridge: str = INTEGRATION_BRIDGE,
        mtu: int = 1450,
        dad: bool = True,
        external_ids: Mapping[str, str] | None = None,
    ) -> Machine:
        """Plug a machine into a bridge of the host, and return it when it can send.

        :param name: up to 11 characters; the port is ``tap-<name>``.
        :param ip: addresses of either family, with or without prefix length (/24 and /64).
        :param tag: the local VLAN; None for a port that carries tagged frames as they are.
        :param dad: False to use IPv6 addresses at once, without duplicate address detection.
        :param external_ids: what to tell an agent about the port, say Neutron's ``iface-id``.
        """
        machine = Machine(
            self,
            name=name,
            namespace=f"{self.namespace}-{name}",
            directory=self.directory,
            manifest=self._manifest,
            mac=mac,
            addresses=[ip] if isinstance(ip, str) else list(ip),
            tag=tag,
        )
        machine.plug(bridge=bridge, mtu=mtu, dad=dad, external_ids=external_ids or {})
        self.machines[name] = machine
        return machine

    def capture(self, *interfaces: str, direction: Direction = "in") -> Capture:
        """Collect frames on devices of the host, its underlay device by default.

        *direction* is the kernel's: what OVS sends leaves the device "out".
        """
        return Capture(self.namespace, interfaces or (UNDERLAY_DEVICE,), direction)

    # -- The agent under test ---------------------------------------------------------------

    def agent_defaults(self) -> dict[str, dict[str, object]]:
        """The options that an agent on this host can't do without, by section."""
        return {
            "ovs_l2pop": {
                "local_ip": self.vtep,
                "state_path": self.directory / "state",
                "control_socket": self.directory / "agent.sock",
                "drift_interval": 0,  # what a test damages stays so until it says otherwise
            },
            "openvswitch": {
                "ovsdb_connection": self.ovsdb,
                "rundir": self.rundir,
                "datapath_type": "netdev",
                **({"tunnel_ports": self.tunnel_ports} if self.tunnel_ports else {}),
            },
        }

    def agent_config(self, **sections: Mapping[str, object]) -> Path:
        """Write an agent's configuration file for this host and return its path.

        Each keyword is a section with options to add or replace; an option of None is left out::

            host.agent_config(ovs_l2pop={"sync_interval": 5}, openvswitch={"datapath_type": None})
        """
        options = self.agent_defaults()
        for section, values in sections.items():
            options.setdefault(section, {}).update(values)
        parser = configparser.RawConfigParser()
        for section, values in options.items():
            parser[section] = {
                key: str(value) for key, value in values.items() if value is not None
            }
        path = self.directory / "agent.conf"
        with path.open("w") as file:
            parser.write(file)
        return path

    def start_agent(
        self,
        *args: str,
        config: Path | None = None,
        python: str = sys.executable,
        source: Path = SOURCE,
        wait: bool = True,
    ) -> AgentProcess:
        """Start ``ovs-l2pop agent`` in the host's namespace.

        :param args: more arguments for the command.
        :param config: the configuration file; None for ``agent_config()``.
        :param python: the interpreter that runs it, so a test can take another environment's.
        :param source: the folder with the package ``ovs_l2pop`` to run.
        :param wait: return when it answers on its control socket.
        """
        self._agents += 1
        agent = AgentProcess.start(
            self,
            python=python,
            source=source,
            config=config or self.agent_config(),
            log_path=self.directory / f"agent-{self._agents}.log",
            args=args,
        )
        if wait:
            agent.wait_ready()
        return agent

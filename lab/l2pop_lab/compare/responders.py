"""Other responders: the same hosts and machines, told the same, without an agent of ours.

Each is set up as its own users have it, with their tools. They have one network, ``blue``, flooded
to all hosts.
"""

import json
import shutil
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2pop_lab.compare.dataplanes import TUNNEL_BRIDGE, LinuxBridge, Openvswitch
from l2pop_lab.compare.sides import CompareError, Side
from l2pop_lab.compare.streams import BLUE, Network
from l2pop_lab.topology import Host, Lab, Machine, namespaces
from l2pop_lab.topology.host import INTEGRATION_BRIDGE
from l2pop_lab.topology.ovs import wait_for_socket
from ovs_l2pop.core.messages import AddEntries, Attachment, Entry, Parser, Properties, RemoveEntries
from ovs_l2pop.core.wire import Message

FRR = Path("/usr/lib/frr")
"""Where Debian has FRR's daemons."""

_TUNNEL, _NOWHERE = f"vxlan-{BLUE.number}", "nowhere"
_PATIENCE = 30.0


class Responder(Side):
    """Hosts on which somebody else's responder answers."""

    title = ""
    #: Whether they are without Open vSwitch.
    linux = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, lab.hosts, LinuxBridge() if self.linux else Openvswitch())
        self._attached: set[str] = set()

    @classmethod
    def missing(cls) -> str:
        """Why it can't be had on this machine; empty: it can."""
        return ""

    @property
    def name(self) -> str:
        return self.title

    def mend(self) -> None:
        """Nothing of it ends by itself."""

    def tell(self, host: Host, *messages: Message) -> None:
        """Have a host know what messages say.

        :raises CompareError: it can't be told that.
        """
        for message in messages:
            changes, refused = Parser(host.vtep).parse(message)
            if refused:
                raise CompareError(str(refused[0]))
            for change in changes:
                match change:
                    case Attachment(unknown_unicast=None, unknown_neighbour=None):
                        if host.name not in self._attached:
                            self.attach(host)
                        self._attached.add(host.name)
                    case AddEntries():
                        said = change.properties or {}
                        add = self.add_here if change.vtep == host.vtep else self.add
                        for entry in change.entries:
                            add(host, entry, said.get((entry.mac, entry.ip), Properties()))
                    case RemoveEntries():
                        remove = self.remove_here if change.vtep == host.vtep else self.remove
                        for entry in change.entries:
                            remove(host, entry)
                    case _:
                        raise CompareError(f"{self.title} has no setting for that")

    @abstractmethod
    def attach(self, host: Host) -> None:
        """Have a host have the network, and its broadcasts go to all other hosts."""

    @abstractmethod
    def add(self, host: Host, entry: Entry, owner: Properties) -> None:
        """Tell a host of a machine elsewhere."""

    @abstractmethod
    def remove(self, host: Host, entry: Entry) -> None:
        """The opposite; the machine may be another's meanwhile."""

    def add_here(self, host: Host, entry: Entry, owner: Properties) -> None:
        """Tell a host of a machine of its own: of that it needn't be told."""

    def remove_here(self, host: Host, entry: Entry) -> None:
        """The opposite."""

    def others(self, host: Host) -> list[str]:
        """The VTEPs of the other hosts."""
        return [other.vtep for other in self.hosts if other is not host]


class NeutronFlows(Responder):
    """The flows that Neutron's Open vSwitch agent has, with l2population and its ARP responder: as
    of ``br_tun.py`` and ``ovs_bridge.py`` of Neutron 29. Of IPv6 it answers nothing."""

    title = "Neutron's flows"
    linux = False

    def attach(self, host: Host) -> None:
        vlan, tunnel = BLUE.local_vlan, BLUE.number
        host.vsctl(
            *("add-br", TUNNEL_BRIDGE),
            *("--", "set", "Bridge", TUNNEL_BRIDGE, "datapath_type=netdev", "fail_mode=secure"),
            *_patch(INTEGRATION_BRIDGE, "patch-tun", "patch-int"),
            *_patch(TUNNEL_BRIDGE, "patch-int", "patch-tun"),
        )
        for vtep in self.others(host):
            port = _port(vtep)
            host.vsctl(
                *("add-port", TUNNEL_BRIDGE, port, "--", "set", "Interface", port, "type=vxlan"),
                *("options:key=flow", f"options:remote_ip={vtep}", f"options:local_ip={host.vtep}"),
            )
        inside = host.ofport("patch-int")
        numbers = [host.ofport(_port(vtep)) for vtep in self.others(host)]
        learn = (
            "learn(table=20,hard_timeout=300,priority=1,NXM_OF_VLAN_TCI[0..11],"
            "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],"
            f"load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],output:NXM_OF_IN_PORT[]),output:{inside}"
        )
        everybody = ",".join(f"output:{number}" for number in numbers)
        host.ofctl(
            "add-flows",
            TUNNEL_BRIDGE,
            "-",
            input="\n".join(
                (
                    f"table=0,priority=1,in_port={inside},actions=goto_table:2",
                    *(f"table=0,priority=1,in_port={n},actions=goto_table:4" for n in numbers),
                    "table=2,priority=1,arp,dl_dst=ff:ff:ff:ff:ff:ff,actions=goto_table:21",
                    "table=2,priority=0,dl_dst=00:00:00:00:00:00/01:00:00:00:00:00,"
                    "actions=goto_table:20",
                    "table=2,priority=0,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,"
                    "actions=goto_table:22",
                    f"table=4,priority=1,tun_id={tunnel},actions=push_vlan:0x8100,"
                    f"set_field:{vlan | 0x1000}->vlan_vid,goto_table:10",
                    f"table=10,priority=1,actions={learn}",
                    "table=20,priority=0,actions=goto_table:22",
                    "table=21,priority=0,actions=goto_table:22",
                    f"table=22,priority=1,dl_vlan={vlan},actions=pop_vlan,"
                    f"set_field:{tunnel}->tunnel_id,{everybody}",
                )
            ),
        )

    def add(self, host: Host, entry: Entry, owner: Properties) -> None:
        host.ofctl(
            "add-flow",
            TUNNEL_BRIDGE,
            f"table=20,priority=2,dl_vlan={BLUE.local_vlan},dl_dst={entry.mac},actions=pop_vlan,"
            f"set_field:{BLUE.number}->tunnel_id,output:{host.ofport(_port(entry.vtep))}",
        )
        if ":" not in entry.ip:
            host.ofctl(
                "add-flow",
                TUNNEL_BRIDGE,
                f"{_answer(entry)},priority=1,actions=set_field:2->arp_op,"
                "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],"
                f"set_field:{entry.mac}->arp_sha,set_field:{entry.ip}->arp_spa,"
                f"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{entry.mac}->eth_src,in_port",
            )

    def remove(self, host: Host, entry: Entry) -> None:
        unicast = f"table=20,dl_vlan={BLUE.local_vlan},dl_dst={entry.mac}"
        host.ofctl("del-flows", TUNNEL_BRIDGE, unicast)
        if ":" not in entry.ip:
            host.ofctl("del-flows", TUNNEL_BRIDGE, _answer(entry))


class _KernelsResponder(Responder):
    """A vxlan device in a bridge, and neighbours."""

    tunnel_options = ""

    def attach(self, host: Host) -> None:
        bridge, _ = self.dataplane.place(BLUE)
        tunnel = f"{_TUNNEL} type vxlan id {BLUE.number} local {host.vtep} dstport 4789"
        _ip(
            host,
            # Without an address of its own there, a host asks and answers nobody.
            f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0",
            f"link set {bridge} addrgenmode none up",
            f"link add {tunnel} {self.tunnel_options}",
            f"link set {_TUNNEL} addrgenmode none master {bridge} up",
        )
        for vtep in self.others(host):
            host.exec(*_bridge("append", "00:00:00:00:00:00", f"dst {vtep} self permanent"))
        six = {f"net/ipv6/conf/{device}/disable_ipv6": 0 for device in (bridge, _TUNNEL)}
        namespaces.set_sysctls(host.namespace, six)

    def neighbours_on(self) -> str:
        """The device whose neighbours are told."""
        return self.dataplane.place(BLUE)[0]

    def add(self, host: Host, entry: Entry, owner: Properties) -> None:
        host.exec(*_bridge("replace", entry.mac, f"dst {entry.vtep} self permanent"))
        host.exec(*_bridge("replace", entry.mac, "master static"))
        _ip(host, _neighbour(entry, owner, self.neighbours_on()))

    def remove(self, host: Host, entry: Entry) -> None:
        for how in (f"dst {entry.vtep} self", "master"):
            host.exec(*_bridge("del", entry.mac, how), check=False)
        on = self.neighbours_on()
        host.exec("ip", "neighbour", "del", entry.ip, "dev", on, check=False)


class NeighSuppress(_KernelsResponder):
    """The kernel's responder on a bridge's port, as control planes of EVPN use it."""

    title = "neigh_suppress"

    def attach(self, host: Host) -> None:
        super().attach(host)
        host.exec("bridge", "link", "set", "dev", _TUNNEL, "neigh_suppress", "on")


class Proxy(_KernelsResponder):
    """The vxlan device's own responder, as Neutron's Linux bridge agent used it."""

    title = "vxlan proxy"
    tunnel_options = "proxy"

    def neighbours_on(self) -> str:
        return _TUNNEL


class Frr(NeighSuppress):
    """FRR's EVPN (zebra and bgpd on every host) above the kernel's responder. A machine is known to
    the host that has it, as a neighbour of its bridge, and told to the others by BGP."""

    title = "FRR EVPN"
    tunnel_options = "nolearning"

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        #: What hosts are to learn from others, by host and IP: MAC, and whether it has the R flag;
        #: None: that nobody has it.
        self._due: dict[tuple[str, str], tuple[str, bool] | None] = {}

    @classmethod
    def missing(cls) -> str:
        return "" if (FRR / "bgpd").exists() else "FRR isn't installed"

    def attach(self, host: Host) -> None:
        super().attach(host)
        bridge, _ = self.dataplane.place(BLUE)
        # What is told is behind a port: one for machines that are nowhere.
        _ip(
            host,
            f"link add {_NOWHERE} type veth peer name {_NOWHERE}2",
            f"link set {_NOWHERE}2 addrgenmode none up",
            f"link set {_NOWHERE} addrgenmode none master {bridge} up",
        )
        directory = host.directory / "frr"
        directory.mkdir()
        # The daemons become a user of their own, who must find their files.
        shutil.chown(directory, "frr", "frr")
        for above in (host.directory, host.directory.parent):
            above.chmod(0o711)
        others = self.others(host)
        peers = "".join(f" neighbor {vtep} remote-as 64512\n" for vtep in others)
        active = "".join(f"  neighbor {vtep} activate\n" for vtep in others)
        configured = {
            "zebra": "",
            "bgpd": f"router bgp 64512\n bgp router-id {host.vtep}\n"
            f" no bgp default ipv4-unicast\n timers bgp 1 3\n{peers}"
            f" address-family l2vpn evpn\n{active}  advertise-all-vni\n exit-address-family\n",
        }
        for daemon, text in configured.items():
            (directory / f"{daemon}.conf").write_text(text)
            with (directory / f"{daemon}.log").open("ab") as log:
                process = host.popen(
                    [
                        *(str(FRR / daemon), "-P", "0"),
                        *("-f", str(directory / f"{daemon}.conf")),
                        *("-i", str(directory / f"{daemon}.pid"), "--log", "stdout"),
                        *("-z", str(directory / "zserv"), "--vty_socket", str(directory)),
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if daemon == "zebra":
                wait_for_socket(directory / "zserv", process, _PATIENCE)

    def add(self, host: Host, entry: Entry, owner: Properties) -> None:
        self._due[host.name, entry.ip] = entry.mac, _says_router(entry, owner)

    def remove(self, host: Host, entry: Entry) -> None:
        self._due[host.name, entry.ip] = None

    def add_here(self, host: Host, entry: Entry, owner: Properties) -> None:
        ports = {machine.mac: machine.port for machine in host.machines.values()}
        port = ports.get(entry.mac, _NOWHERE)
        host.exec("bridge", "fdb", "replace", entry.mac, "dev", port, "master", "static")
        _ip(host, _neighbour(entry, owner, self.neighbours_on()))

    def remove_here(self, host: Host, entry: Entry) -> None:
        on = self.neighbours_on()
        host.exec("ip", "neighbour", "del", entry.ip, "dev", on, check=False)
        host.exec("bridge", "fdb", "del", entry.mac, "dev", _NOWHERE, "master", check=False)

    def tell_all(self, *messages: Message) -> None:
        super().tell_all(*messages)
        self._wait()

    def populate(self, network: Network, numbers: Sequence[int]) -> list[Machine]:
        machines = super().populate(network, numbers)
        self._wait()
        return machines

    def _wait(self) -> None:
        """Until BGP has told everybody."""
        for host in self.hosts:
            wanted = {ip: is_ for (name, ip), is_ in self._due.items() if name == host.name}
            end = time.monotonic() + _PATIENCE
            while not self._told(host, wanted):
                if time.monotonic() > end:
                    raise CompareError(f"{host.name}: BGP hasn't told {wanted}")
                time.sleep(0.05)

    def _told(self, host: Host, wanted: Mapping[str, tuple[str, bool] | None]) -> bool:
        there = {}
        for family in "-4", "-6":
            listed = host.exec("ip", family, "-j", "neighbour", "show", "dev", self.neighbours_on())
            for one in json.loads(listed or "[]"):
                if "extern_learn" in one:
                    there[one["dst"]] = (one.get("lladdr"), "router" in one)
        return all(there.get(ip) == is_ for ip, is_ in wanted.items())


RESPONDERS: tuple[type[Responder], ...] = (NeutronFlows, Proxy, NeighSuppress, Frr)
"""All of them, in the order of columns."""


def _patch(bridge: str, port: str, peer: str) -> tuple[str, ...]:
    interface = ("set", "Interface", port, "type=patch", f"options:peer={peer}")
    return ("--", "add-port", bridge, port, "--", *interface)


def _port(vtep: str) -> str:
    return f"vxlan-{vtep.rpartition('.')[2]}"


def _answer(entry: Entry) -> str:
    return f"table=21,arp,dl_vlan={BLUE.local_vlan},arp_tpa={entry.ip}"


def _ip(host: Host, *lines: str) -> None:
    namespaces.ip_batch(lines, host.namespace)


def _bridge(what: str, mac: str, how: str) -> list[str]:
    return ["bridge", "fdb", what, mac, "dev", _TUNNEL, *how.split()]


def _says_router(entry: Entry, owner: Properties) -> bool:
    return owner.router and ":" in entry.ip


def _neighbour(entry: Entry, owner: Properties, device: str) -> str:
    router = " router" if _says_router(entry, owner) else ""
    return f"neighbour replace {entry.ip} lladdr {entry.mac} dev {device} nud permanent{router}"

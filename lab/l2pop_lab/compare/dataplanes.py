"""What only one backend has: where machines are plugged in, its processes, its own tools."""

from collections.abc import Mapping
from typing import Protocol

from l2pop_lab.compare.streams import Network
from l2pop_lab.topology import Host
from l2pop_lab.topology.host import INTEGRATION_BRIDGE

TUNNEL_BRIDGE = "br-tun"
STRANGER_MAC = "fa:16:3e:99:99:99"
STRANGER_COOKIE = "0x57"


class Dataplane(Protocol):
    """One backend's dataplane on a host of the laboratory."""

    name: str
    restart_absent: str
    """Why there is no switch to restart; empty where there is one."""

    def place(self, network: Network) -> tuple[str, int | None]:
        """Return the bridge, and the port's local VLAN, for a machine of *network*."""
        ...

    def daemons(self, host: Host) -> Mapping[str, int]:
        """Return the processes that the dataplane needs besides the agent: name → id."""
        ...

    def cut(self, host: Host, network: Network, mac: str) -> str:
        """Delete the installed entry of a machine behind the agent's back; return the command."""
        ...

    def plant(self, host: Host, network: Network) -> str:
        """Write an entry that isn't the agent's; return the command."""
        ...

    def planted(self, host: Host, network: Network) -> bool:
        """Tell whether that entry is still there."""
        ...


class Openvswitch:
    """Flows of br-tun; machines are ports of br-int."""

    name = "openvswitch"
    restart_absent = ""

    def place(self, network: Network) -> tuple[str, int | None]:
        return INTEGRATION_BRIDGE, network.local_vlan

    def daemons(self, host: Host) -> Mapping[str, int]:
        names = ("ovs-vswitchd", "ovsdb-server")
        return {name: int((host.rundir / f"{name}.pid").read_text()) for name in names}

    def cut(self, host: Host, network: Network, mac: str) -> str:
        match = f"table=20,dl_vlan={network.local_vlan},dl_dst={mac}"
        host.ofctl("del-flows", TUNNEL_BRIDGE, match)
        return f"ovs-ofctl del-flows {TUNNEL_BRIDGE} {match}"

    def plant(self, host: Host, network: Network) -> str:
        flow = (
            f"cookie={STRANGER_COOKIE},table=20,priority=5,dl_vlan={network.local_vlan},"
            f"dl_dst={STRANGER_MAC},actions=drop"
        )
        host.ofctl("add-flow", TUNNEL_BRIDGE, flow)
        return f"ovs-ofctl add-flow {TUNNEL_BRIDGE} {flow}"

    def planted(self, host: Host, network: Network) -> bool:
        wanted = f"cookie={STRANGER_COOKIE}/-1"
        return STRANGER_MAC in host.ofctl("dump-flows", TUNNEL_BRIDGE, wanted)


class LinuxBridge:
    """The kernel's vxlan devices; a network has a bridge of its own."""

    name = "linuxbridge"
    restart_absent = "not applicable: the switch is the kernel"

    def place(self, network: Network) -> tuple[str, int | None]:
        return f"brq{network.network_id[:11]}", None

    def daemons(self, host: Host) -> Mapping[str, int]:
        return {}

    def cut(self, host: Host, network: Network, mac: str) -> str:
        command = f"bridge fdb del {mac} dev vxlan-{network.number} self"
        host.exec(*command.split())
        return command

    def plant(self, host: Host, network: Network) -> str:
        device = f"vxlan-{network.number}"
        command = f"bridge fdb add {STRANGER_MAC} dev {device} dst 10.200.0.9 self permanent"
        host.exec(*command.split())
        return command

    def planted(self, host: Host, network: Network) -> bool:
        return STRANGER_MAC in host.exec("bridge", "fdb", "show", "dev", f"vxlan-{network.number}")

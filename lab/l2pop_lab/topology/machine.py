"""A machine plugged into a host's bridge: what would be an instance in a cloud."""

import ipaddress
import json
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.capture import Capture, Direction
from l2pop_lab.topology.manifest import Manifest
from l2pop_lab.topology.place import Place

if TYPE_CHECKING:
    from l2pop_lab.topology.host import Host

DEVICE = "eth0"


class Machine(Place):
    """A namespace with one network device; made by :meth:`Host.add_machine`."""

    def __init__(
        self,
        host: "Host",
        *,
        name: str,
        namespace: str,
        directory: Path,
        manifest: Manifest,
        mac: str,
        addresses: Sequence[str],
        tag: int | None,
    ) -> None:
        # Device names have at most 15 characters.
        if not re.fullmatch(r"[a-z0-9-]{1,11}", name):
            raise LabError(f"{name!r} is not 1 to 11 of a-z, 0-9 and -")
        super().__init__(name, namespace, directory, manifest)
        self.host = host
        self.mac = mac
        self.tag = tag
        self.interfaces = [_interface(address) for address in addresses]
        self.port = f"tap-{name}"
        """The name of its port on the host's bridge."""

    @property
    def ip(self) -> str:
        """The first address."""
        return str(self.interfaces[0].ip)

    def plug(self, *, bridge: str, mtu: int, dad: bool, external_ids: Mapping[str, str]) -> None:
        """Make the namespace and connect it to *bridge* of the host."""
        has_ipv6 = any(interface.version == 6 for interface in self.interfaces)
        self._manifest.add_namespaces(self.namespace)
        # A machine without an IPv6 address has no IPv6: captures of its port stay quiet.
        sysctls: dict[str, object] = {
            "net/ipv6/conf/default/disable_ipv6": 0 if has_ipv6 else 1,
            "net/ipv6/conf/default/router_solicitations": 0,
            "net/ipv6/conf/default/accept_dad": 1 if dad else 0,
        }
        namespaces.set_sysctls(self.namespace, sysctls)
        namespaces.ip_batch(
            [
                f"link add {self.port} mtu {mtu} type veth"
                f" peer name {DEVICE} mtu {mtu} address {self.mac} netns {self.namespace}",
                f"link set {self.port} up",
            ],
            self.host.namespace,
        )
        namespaces.offloads_off(self.namespace, DEVICE)
        namespaces.offloads_off(self.host.namespace, self.port)
        self.host.plug_port(self.port, self.mac, bridge, self.tag, external_ids)
        # The device comes up last: what it sends then finds the port in place.
        lines = ["link set lo up", f"link set {DEVICE} up"]
        for interface in self.interfaces:
            nodad = " nodad" if interface.version == 6 and not dad else ""
            lines.append(f"address add {interface.with_prefixlen} dev {DEVICE}{nodad}")
        namespaces.ip_batch(lines, self.namespace)

    def capture(self, direction: Direction = "in") -> Capture:
        """Collect the frames that the machine receives ("in"), sends ("out") or "both"."""
        return Capture(self.namespace, [DEVICE], direction)

    def send(self, frame: bytes) -> None:
        """Send one Ethernet frame as it is, without frame check sequence."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((DEVICE, 0))
                raw.send(frame)

        namespaces.call(self.namespace, send)

    def neighbours(self) -> dict[str, tuple[str, str]]:
        """Return the machine's neighbour table: IP → (MAC, state as ``ip neigh`` names it)."""
        rows = json.loads(self.exec("ip", "-j", "neighbour", "show", "dev", DEVICE))
        return {row["dst"]: (row.get("lladdr", ""), " ".join(row["state"])) for row in rows}

    def forget_neighbours(self) -> None:
        """Empty the machine's neighbour table, so that it has to ask again."""
        self.exec("ip", "neighbour", "flush", "all")

    def remove(self) -> None:
        """Unplug the machine and end all that runs in it."""
        self.host.unplug_port(self.port)
        namespaces.ip_batch([f"link delete {self.port}"], self.host.namespace)
        self._manifest.delete_namespace(self.namespace)
        self.host.machines.pop(self.name, None)


def _interface(address: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Read an address, with the prefix length that tenants' subnets mostly have if it has none."""
    if "/" not in address:
        address += "/64" if ":" in address else "/24"
    return ipaddress.ip_interface(address)

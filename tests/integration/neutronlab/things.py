"""What the API has made, as values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2pop_lab.topology import Machine

if TYPE_CHECKING:
    from neutronlab.node import Node


@dataclass(frozen=True, slots=True)
class Network:
    """A network with its subnets."""

    id: str
    type: str
    segment: int
    """VNI, GRE key or VLAN."""
    mtu: int
    subnets: dict[str, str]
    """Subnet id → CIDR."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port as it was when it was read."""

    id: str
    network_id: str
    mac: str
    ips: tuple[str, ...]
    host: str
    status: str


@dataclass(slots=True, eq=False)
class Instance:
    """A port with the machine that is plugged in for it."""

    port: Port
    network: Network
    node: "Node"
    machine: Machine

    @property
    def ip(self) -> str:
        """The first address."""
        return self.port.ips[0]

    @property
    def mac(self) -> str:
        """The MAC address."""
        return self.port.mac

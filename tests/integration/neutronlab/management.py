"""The management network: a bridge beside the control plane that every host has a device to."""

from l2pop_lab.topology import Host, namespaces
from l2pop_lab.topology.place import Place

ADDRESS = "10.201.0.254"
"""Of the control plane; hosts are 10.201.0.1 and so on."""
_BRIDGE, _DEVICE = "br-mgmt", "mgmt0"


def make(control: Place) -> None:
    """Make the bridge."""
    namespaces.ip_batch(
        [
            "link set lo up",
            f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0",
            f"address add {ADDRESS}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        ],
        control.namespace,
    )


def connect(host: Host, control: Place, number: int) -> None:
    """Connect a host as 10.201.0.*number*."""
    namespaces.ip_batch(
        [
            f"link add {host.name} type veth peer name {_DEVICE} netns {host.namespace}",
            f"link set {host.name} master {_BRIDGE} up",
        ],
        control.namespace,
    )
    # The laboratory makes hosts answer no ARP unless told so.
    namespaces.set_sysctls(host.namespace, {f"net/ipv4/conf/{_DEVICE}/arp_ignore": 0})
    namespaces.ip_batch(
        [f"address add 10.201.0.{number}/24 dev {_DEVICE}", f"link set {_DEVICE} up"],
        host.namespace,
    )

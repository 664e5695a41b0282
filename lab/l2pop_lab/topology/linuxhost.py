"""A VXLAN host without Open vSwitch: its VTEP and its bridges are the kernel's."""

from collections.abc import Iterable, Mapping

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.host import UNDERLAY_DEVICE, Host


class LinuxBridgeHost(Host):
    """A host whose agent has the backend ``linuxbridge``; made by :class:`l2pop_lab.topology.Lab`.

    The VTEP's address is on the underlay device. A machine is plugged into a bridge that is there,
    say one that the agent has made. What concerns Open vSwitch fails.
    """

    def start(self) -> None:
        """Bring the host up; its namespace with the underlay device must exist."""
        self.directory.mkdir()
        six = ":" in self.vtep
        namespaces.set_sysctls(
            self.namespace,
            {
                # As on a host of a cloud: nothing that it makes gets an address by itself.
                "net/ipv6/conf/default/disable_ipv6": 1,
                f"net/ipv6/conf/{UNDERLAY_DEVICE}/disable_ipv6": 0 if six else 1,
                f"net/ipv6/conf/{UNDERLAY_DEVICE}/router_solicitations": 0,
            },
        )
        nodad = " nodad" if six else ""
        namespaces.ip_batch(
            [
                "link set lo up",
                f"link set {UNDERLAY_DEVICE} address {self.mac} up",
                f"address add {self.vtep}/{self._prefix_length} dev {UNDERLAY_DEVICE}{nodad}",
            ],
            self.namespace,
        )
        namespaces.offloads_off(self.namespace, UNDERLAY_DEVICE)

    def know_peers(self, peers: Iterable[tuple[str, str]]) -> None:
        """Tell the kernel the MAC addresses of other VTEPs, so that captures hold no ARP for it."""
        self._peers = list(peers)
        namespaces.ip_batch(
            [
                f"neighbour replace {vtep} lladdr {mac} dev {UNDERLAY_DEVICE} nud permanent"
                for vtep, mac in self._peers
            ],
            self.namespace,
        )

    def plug_port(
        self, port: str, mac: str, bridge: str, tag: int | None, external_ids: Mapping[str, str]
    ) -> None:
        """Put a machine's port into a bridge."""
        if tag is not None:
            raise LabError(f"{self.name} has no local VLANs: a network has a bridge of its own")
        namespaces.ip_batch([f"link set {port} master {bridge}"], self.namespace)

    def unplug_port(self, port: str) -> None:
        """Take a machine's port out of its bridge."""
        namespaces.ip_batch([f"link set {port} nomaster"], self.namespace)

    def agent_defaults(self) -> dict[str, dict[str, object]]:
        """The options that an agent on this host can't do without, by section."""
        options = super().agent_defaults()
        del options["openvswitch"]
        options["ovs_l2pop"]["backend"] = "linuxbridge"
        return options

    def vswitchd_log(self) -> str:
        """Return the log of a switch that isn't there."""
        return ""

    def unexpected_warnings(self, ignore: Iterable[str] = (), start: int = 0) -> list[str]:
        """Return no complaints."""
        return []

"""The options of the group ``[vxlan]``, named as those of Neutron's Linux bridge agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from oslo_config import cfg

from ovs_l2pop.core.encapsulation import headers
from ovs_l2pop.core.errors import ConfigError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

VXLAN_OPTS = [
    cfg.BoolOpt(
        "l2_population",
        default=True,
        help="Unicast mode: the forwarding entries of [ovs_l2pop]'s table are written, and BUM"
        " traffic is copied to each VTEP of the network. False is multicast mode: BUM traffic goes"
        " to the network's multicast group, everything else is learned, and the table is not"
        " written.",
    ),
    cfg.BoolOpt(
        "arp_responder",
        help="Answer ARP requests and IPv6 neighbour solicitations for known addresses on this"
        " host. Not set: as [ovs_l2pop] arp_responder says. Without l2_population nothing is"
        " known, and nothing answered.",
    ),
    cfg.IPOpt(
        "local_ip",
        help="May repeat [ovs_l2pop] local_ip, so that a file of Neutron's Linux bridge agent can"
        " be given as well; another address is an error.",
    ),
    cfg.PortOpt(
        "udp_dstport",
        default=4789,
        min=1,
        help="UDP destination port of VXLAN packets, the same on all hosts. 4789 is IANA's, and"
        " what Open vSwitch takes; Neutron's Linux bridge agent left it to the kernel, which"
        " takes 8472.",
    ),
    cfg.IntOpt(
        "ttl",
        default=0,
        min=0,
        max=255,
        help="TTL of outer headers. 0: the kernel's choice, which is 1 for multicast: packets to a"
        " group don't leave the underlay's segment.",
    ),
    cfg.StrOpt(
        "tos",
        default="0",
        regex=r"^(inherit|0x[0-9a-fA-F]{1,2}|[0-9]{1,3})$",
        help="TOS byte of outer headers: a number, or inherit to copy the inner one.",
    ),
    cfg.StrOpt(
        "vxlan_group",
        help="Multicast mode: group that BUM traffic of a network goes to, or a range of them in"
        " CIDR notation, from which a network gets the one that its VNI ends in; with a /8 (IPv6:"
        " /104) every VNI has its own. The same on all hosts.",
    ),
    cfg.ListOpt(
        "multicast_ranges",
        default=[],
        help="Multicast mode: groups for ranges of VNIs, <group>:<lowest VNI>:<highest VNI>; the"
        " first that holds a VNI is taken. vxlan_group serves the others.",
    ),
]


def list_opts() -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator."""
    return [("vxlan", VXLAN_OPTS)]


class Range(NamedTuple):
    """Multicast groups for some VNIs."""

    groups: IPv4Network | IPv6Network
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class LinuxBridgeSettings:
    """What the backend needs to know of the configuration."""

    #: None for who only takes away.
    local_ip: str | None
    tunnel_types: tuple[str, ...]
    l2_population: bool
    arp_responder: bool
    port: int
    ttl: int
    tos: int
    ranges: tuple[Range, ...]
    known_vteps_only: bool = False
    drop_unknown_unicast: bool = False
    drop_unknown_neighbour: bool = False

    @classmethod
    def from_config(cls, conf: Any) -> "LinuxBridgeSettings":
        """Read, and check what one option can't know of the others.

        :raises ConfigError: names the option.
        """
        conf.register_opts(VXLAN_OPTS, group="vxlan")
        common, vxlan = conf.ovs_l2pop, conf.vxlan
        try:
            responder = vxlan.arp_responder
            settings = cls(
                local_ip=common.local_ip,
                tunnel_types=tuple(common.tunnel_types),
                l2_population=vxlan.l2_population,
                arp_responder=common.arp_responder if responder is None else responder,
                port=vxlan.udp_dstport,
                ttl=vxlan.ttl,
                tos=_tos(vxlan.tos),
                ranges=_ranges(vxlan.multicast_ranges, vxlan.vxlan_group),
                known_vteps_only=common.known_vteps_only,
                drop_unknown_unicast=common.unknown_unicast == "drop",
                drop_unknown_neighbour=common.unknown_neighbour == "drop",
            )
            repeated = vxlan.local_ip
        except (cfg.Error, ValueError) as error:
            raise ConfigError(str(error)) from error
        if settings.local_ip is not None:
            _check_addresses(settings, repeated)
        return settings

    def group(self, vni: int) -> str | None:
        """The multicast group of a network, the same on every host; None: it has none."""
        for groups, lowest, highest in self.ranges:
            if lowest <= vni <= highest:
                return str(groups.network_address + (vni & int(groups.hostmask)))
        return None

    @property
    def answers(self) -> bool:
        """Whether there is something to answer ARP and ND from, and it is asked for."""
        return self.arp_responder and self.l2_population

    @property
    def overhead(self) -> int:
        """Bytes that a tunnel adds to a packet."""
        return headers("vxlan", 6 if self.local_ip is not None and ":" in self.local_ip else 4)


def _tos(text: str) -> int:
    if text == "inherit":
        return 1  # what the kernel takes for it
    number = int(text, 0) if text.startswith("0x") else int(text)
    if number > 255:
        raise ConfigError(f"[vxlan] tos {text} is over 255")
    return number


def _ranges(ranges: Sequence[str], group: str | None) -> tuple[Range, ...]:
    found = []
    for text in ranges:
        # From the right: an IPv6 group has colons of its own.
        parts = text.rsplit(":", 2)
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            raise ConfigError(
                f"[vxlan] multicast_ranges: {text!r} is not <group>:<lowest VNI>:<highest VNI>"
            )
        where = f"multicast_ranges: {text!r}:"
        lowest, highest = int(parts[1]), int(parts[2])
        if not 1 <= lowest <= highest <= MAX_SEGMENT_ID["vxlan"]:
            raise ConfigError(f"[vxlan] {where} not a range within 1..{MAX_SEGMENT_ID['vxlan']}")
        found.append(Range(_groups(parts[0].strip("[]"), where), lowest, highest))
    if group:
        found.append(Range(_groups(group, "vxlan_group:"), 1, MAX_SEGMENT_ID["vxlan"]))
    return tuple(found)


def _groups(text: str, where: str) -> IPv4Network | IPv6Network:
    try:
        groups = ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ConfigError(f"[vxlan] {where} {error}") from error
    if not groups.is_multicast:
        raise ConfigError(f"[vxlan] {where} {groups} is not multicast")
    return groups


def _check_addresses(settings: LinuxBridgeSettings, repeated: str | None) -> None:
    local = ip_address(settings.local_ip or "")
    if repeated is not None and ip_address(repeated) != local:
        raise ConfigError(
            f"[vxlan] local_ip {repeated} is not [ovs_l2pop] local_ip {local}: set the latter alone"
        )
    for groups, _, _ in settings.ranges:
        if groups.version != local.version:
            raise ConfigError(
                f"[vxlan] group {groups} is not of the address family of local_ip {local}"
            )
    if not settings.l2_population and not settings.ranges:
        raise ConfigError(
            "[vxlan] l2_population is off: multicast mode needs vxlan_group or multicast_ranges"
        )

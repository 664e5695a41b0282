"""The options of the group ``[openvswitch]``, checked, as settings of the backend."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_config import cfg

from ovs_l2pop.backends.openvswitch.codec import LIBRARIES
from ovs_l2pop.backends.openvswitch.pipeline import OF_NETWORK, SETTINGS
from ovs_l2pop.backends.openvswitch.rows import INTEGRATION_PATCH, TUNNEL_PATCH, Bridges
from ovs_l2pop.core.errors import ConfigError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

#: The extension's too.
BROADCAST_RATE = cfg.IntOpt(
    "broadcast_rate",
    default=0,
    min=0,
    max=1_000_000,
    help="Frames a second that each network may send from this host to all its VTEPs at once"
    " (broadcast, multicast, unknown unicast), and as many in one burst; what is more is dropped"
    " and counted. Answers given here are none of these. Needs a switch with meters (user space;"
    " kernel 4.18). 0: no limit.",
)

#: The extension's too.
PACKET_TOO_BIG = cfg.BoolOpt(
    "packet_too_big",
    default=True,
    help="Tell machines which packets are too large for the underlay (RFC 1191, RFC 8201), where"
    " the switch forwards in user space and a port of the integration bridge has an MTU with which"
    " that can happen. A kernel datapath tells them itself. Needs meters.",
)

#: The extension's too.
TUNNEL_PORTS = cfg.StrOpt(
    "tunnel_ports",
    default="per_vtep",
    choices=[
        ("per_vtep", "one to each VTEP: Open vSwitch counts and watches (BFD) each"),
        ("flow", "one of each tunnel type (remote_ip=flow): another VTEP costs flows only"),
    ],
    help="Which ports the tunnel bridge has.",
)

OPTS = [
    cfg.StrOpt(
        "ovsdb_connection",
        default="unix:/run/openvswitch/db.sock",
        help="Where ovsdb-server listens, as ovs-vsctl --db takes it.",
    ),
    cfg.StrOpt(
        "rundir",
        default="/run/openvswitch",
        help="Directory of ovs-vswitchd's management sockets (<bridge>.mgmt).",
    ),
    cfg.StrOpt(
        "integration_bridge",
        default="br-int",
        help="Bridge that machines are plugged into. Made if missing.",
    ),
    cfg.StrOpt(
        "tunnel_bridge",
        default="br-tun",
        help="Bridge that holds tunnels and flows. Made if missing.",
    ),
    cfg.StrOpt(
        "datapath_type",
        default="system",
        help="Datapath type of bridges that are made here: system (kernel) or netdev (userspace)."
        " Where the integration bridge is there already, its type is taken.",
    ),
    cfg.PortOpt(
        "vxlan_udp_port",
        default=4789,
        min=1,
        help="UDP destination port of VXLAN tunnels (4789: IANA's).",
    ),
    cfg.BoolOpt(
        "tunnel_csum",
        default=False,
        help="Compute checksums of outer headers.",
    ),
    cfg.BoolOpt(
        "dont_fragment",
        default=True,
        help="Set the don't-fragment bit on outer IPv4 headers.",
    ),
    cfg.StrOpt(
        "tos",
        regex=r"^(inherit|0x[0-9a-fA-F]{1,2}|[0-9]{1,3})$",
        help="TOS byte of outer headers: a number, or inherit to copy the inner one.",
    ),
    TUNNEL_PORTS,
    BROADCAST_RATE,
    PACKET_TOO_BIG,
    cfg.StrOpt(
        "openflow_library",
        default="os_ken",
        choices=list(LIBRARIES),
        help="Library that builds and reads OpenFlow messages. ryu needs the extra of that name.",
    ),
]

_BRIDGES = ("integration_bridge", "tunnel_bridge")
#: What a device can be called: IFNAMSIZ less its end.
_BRIDGE_NAME = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")


def list_opts() -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator."""
    return [("openvswitch", OPTS)]


def register(conf: Any) -> Any:
    """The group of ``conf``."""
    conf.register_opts(OPTS, group="openvswitch")
    return conf.openvswitch


@dataclass(frozen=True, slots=True)
class OpenvswitchSettings:
    """Options of the groups ``[ovs_l2pop]`` and ``[openvswitch]`` that matter here."""

    local_ip: str
    tunnel_types: tuple[str, ...]
    arp_responder: bool
    ovsdb_connection: str
    rundir: Path
    bridges: Bridges
    vxlan_udp_port: int
    tunnel_csum: bool
    dont_fragment: bool
    tos: str | None
    openflow_library: str
    #: A Neutron agent has laid out the bridges; only what L2 population adds is ours.
    shared: bool = False
    #: That agent routes on this host (DVR).
    distributed: bool = False
    #: Where VTEPs of a network are known, only they may send into it.
    known_vteps_only: bool = True
    #: Nobody elsewhere hears what is sent to, or asked for, whom the table doesn't know.
    drop_unknown_unicast: bool = False
    drop_unknown_neighbour: bool = False
    #: Frames a second that a network may flood; 0: any number.
    broadcast_rate: int = 0
    #: Machines are told which packets the underlay has no room for.
    packet_too_big: bool = True
    #: One port of each type leads to all VTEPs, and flows tell to which.
    flow_tunnels: bool = False

    @classmethod
    def from_config(cls, conf: Any) -> "OpenvswitchSettings":
        """Read, and check what one option can't know of the others.

        :raises ConfigError: names the option.
        """
        common, ovs = conf.ovs_l2pop, register(conf)
        try:
            for option in OPTS:  # values are checked when they are read
                getattr(ovs, option.dest)
            if ovs.tos not in (None, "inherit") and int(ovs.tos, 0) > 255:
                raise ConfigError(f"[openvswitch] tos {ovs.tos} is over 255")
        except (cfg.Error, ValueError) as error:
            raise ConfigError(str(error)) from error
        _check_bridges(ovs)
        return cls(
            local_ip=common.local_ip,
            tunnel_types=tuple(common.tunnel_types),
            arp_responder=common.arp_responder,
            ovsdb_connection=ovs.ovsdb_connection,
            rundir=Path(ovs.rundir),
            bridges=Bridges(ovs.integration_bridge, ovs.tunnel_bridge, ovs.datapath_type),
            vxlan_udp_port=ovs.vxlan_udp_port,
            tunnel_csum=ovs.tunnel_csum,
            dont_fragment=ovs.dont_fragment,
            tos=ovs.tos,
            openflow_library=ovs.openflow_library,
            known_vteps_only=common.known_vteps_only,
            drop_unknown_unicast=common.unknown_unicast == "drop",
            drop_unknown_neighbour=common.unknown_neighbour == "drop",
            broadcast_rate=ovs.broadcast_rate,
            packet_too_big=ovs.packet_too_big,
            flow_tunnels=ovs.tunnel_ports == "flow",
        )

    @property
    def limit_broadcast(self) -> bool:
        return self.broadcast_rate > 0

    @property
    def underlay_ipv6(self) -> bool:
        return self.local_ip is not None and ":" in self.local_ip

    @property
    def conditions(self) -> frozenset[str]:
        """Those of the pipeline's conditions that hold."""
        return frozenset(name for name in SETTINGS | OF_NETWORK if getattr(self, name))

    def tunnel_options(self, offloads: bool = False) -> dict[str, tuple[tuple[str, str], ...]]:
        """Interface options but remote_ip, by tunnel type (ovs-vswitchd.conf.db(5)).

        :param offloads: Open vSwitch hands flows to hardware, which can set no packet mark: with
            one to set, no flow of a tunnel would be offloaded (Neutron bug 1855888).
        """
        common = {
            "local_ip": self.local_ip,
            "in_key": "flow",
            "out_key": "flow",
            "df_default": str(self.dont_fragment).lower(),
            "csum": str(self.tunnel_csum).lower(),
            # A packet mark of the inner packet must not steer the outer one (bug 1839252).
            **({} if offloads else {"egress_pkt_mark": "0"}),
            **({"tos": self.tos} if self.tos else {}),
        }
        vxlan = {"dst_port": str(self.vxlan_udp_port)}
        return {
            kind: tuple(sorted((common | (vxlan if kind == "vxlan" else {})).items()))
            for kind in MAX_SEGMENT_ID
        }


def _check_bridges(openvswitch: Any) -> None:
    """Open vSwitch gives a bridge a device of its name, and a port."""
    names = {option: getattr(openvswitch, option) for option in _BRIDGES}
    for option, name in names.items():
        told = f"[openvswitch] {option} {name!r}"
        if not _BRIDGE_NAME.fullmatch(name):
            raise ConfigError(
                f"{told}: a bridge's name has 1 to 15 characters, none of them / or : or a space"
            )
        if name in (INTEGRATION_PATCH, TUNNEL_PATCH):
            raise ConfigError(f"{told}: a patch port has this name")
    if len(set(names.values())) < len(names):
        raise ConfigError(
            f"[openvswitch] integration_bridge and tunnel_bridge are both {name!r}: machines are"
            " plugged into one, and the other holds tunnels"
        )

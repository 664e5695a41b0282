"""The options, for oslo.config; ``etc/ovs-l2pop.conf.sample`` is made from them."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from oslo_config import cfg

from ovs_l2pop.backends.openvswitch.codec import LIBRARIES
from ovs_l2pop.errors import ConfigError
from ovs_l2pop.messages import MAX_SEGMENT_ID
from ovs_l2pop.paths import CONTROL_SOCKET, STATE_PATH

L2POP_OPTS = [
    cfg.StrOpt(
        "backend",
        default="openvswitch",
        help="The dataplane to program: openvswitch or linuxbridge, or the name of another"
        " entry point in the group ovs_l2pop.backends.",
    ),
    cfg.IPOpt(
        "local_ip",
        help="IP address of this host's VTEP, IPv4 or IPv6. All VTEPs of a cloud are of one"
        " family. Required.",
    ),
    cfg.ListOpt(
        "tunnel_types",
        default=["vxlan"],
        item_type=cfg.types.String(choices=list(MAX_SEGMENT_ID)),
        help="Tunnels that this host can build: any of vxlan, gre, geneve.",
    ),
    cfg.BoolOpt(
        "arp_responder",
        default=True,
        help="Answer ARP requests and IPv6 neighbour solicitations for known addresses on this"
        " host, instead of copying them to every host of the network.",
    ),
    cfg.StrOpt(
        "control_socket",
        default=CONTROL_SOCKET,
        help="Unix socket on which the agent listens for the commands of ovs-l2pop. Only its"
        " owner can open it.",
    ),
    cfg.StrOpt(
        "state_path",
        default=STATE_PATH,
        help="Directory in which the agent keeps its forwarding table, so that after a restart"
        " nothing has to be sent again.",
    ),
]

OPENVSWITCH_OPTS = [
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
        help="Datapath type of bridges that are made here: system (kernel) or netdev (userspace).",
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
    cfg.StrOpt(
        "openflow_library",
        default="os_ken",
        choices=list(LIBRARIES),
        help="Library that builds and reads OpenFlow messages. ryu needs the extra of that name.",
    ),
]


def list_opts() -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator."""
    return [("ovs_l2pop", L2POP_OPTS), ("openvswitch", OPENVSWITCH_OPTS)]


def load(arguments: Sequence[str]) -> Any:
    """Read ``--config-file`` and ``--config-dir`` of ``arguments``.

    :raises ConfigError: names the option.
    """
    conf = cfg.ConfigOpts()
    for group, options in list_opts():
        conf.register_opts(options, group=group)
    try:
        conf(list(arguments), project="ovs-l2pop")
        for group, options in list_opts():  # values are checked when they are read
            for option in options:
                getattr(conf[group], option.dest)
        _check_local_ip(conf)
        if conf.openvswitch.tos not in (None, "inherit") and int(conf.openvswitch.tos, 0) > 255:
            raise ConfigError(f"[openvswitch] tos {conf.openvswitch.tos} is over 255")
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigError(str(error)) from error
    except (cfg.Error, ValueError) as error:
        raise ConfigError(str(error)) from error
    return conf


def _check_local_ip(conf: Any) -> None:
    """It must be an address that a host can have; in canonical notation, as in messages."""
    if conf.ovs_l2pop.local_ip is None:
        raise ConfigError("[ovs_l2pop] local_ip is not set: the address of this host's VTEP")
    address = ip_address(conf.ovs_l2pop.local_ip)
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ConfigError(f"[ovs_l2pop] local_ip {address} can't be the address of a VTEP")
    conf.set_override("local_ip", str(address), group="ovs_l2pop")

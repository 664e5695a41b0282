"""The options, for oslo.config; ``etc/ovs-l2pop.conf.sample`` is made from them."""

import socket
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from oslo_config import cfg

from ovs_l2pop.core.errors import ConfigError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID, UNKNOWN, vtep_problem
from ovs_l2pop.core.table import Limits
from ovs_l2pop.paths import CONTROL_SOCKET, STATE_PATH

#: Names the default configuration files.
PROJECT = "ovs-l2pop"

#: Named as Neutron names them, so that its own files can be given to the agent as well. Those of
#: oslo.messaging (``[oslo_messaging_rabbit]`` and others) are read by that library.
DEFAULT_OPTS = [
    cfg.StrOpt(
        "transport_url",
        secret=True,
        sample_default="rabbit://USER:PASSWORD@HOST:5672/",
        help="Neutron's message broker, as in neutron.conf; oslo.messaging's other options are"
        " taken too. Not set: the agent hears only what ovs-l2pop send tells it. Needs"
        " pip install 'ovs-l2pop[rpc]'.",
    ),
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<host name>",
        help="This host's name in Neutron. Used with transport_url only.",
    ),
]

#: The extension's too.
DRIFT_INTERVAL = cfg.FloatOpt(
    "drift_interval",
    default=60.0,
    min=0.0,
    help="Seconds at the most between two looks whether the dataplane still is what it should"
    " be; what somebody else changed is written again, and logged. Changes that the dataplane"
    " tells of are mended within some seconds. 0: ovs-l2pop check finds them, and repair mends"
    " them.",
)

#: The extension's too.
KNOWN_VTEPS_ONLY = cfg.BoolOpt(
    "known_vteps_only",
    default=True,
    help="Drop, and count, frames of a network that come from a VTEP which nobody has announced in"
    " it; as long as none is announced there, all are let in. Neutron's own agents know no other"
    " way for a VTEP that is announced nowhere: there is no tunnel to it. False lets in every VTEP"
    " that has the network's VNI, as for machines of a cloud without L2 population.",
)

#: The extension's too.
UNKNOWN_OPTS = [
    cfg.StrOpt(
        f"unknown_{what}",
        default="flood",
        choices=UNKNOWN,
        help=f"What becomes of {frames} that nobody has announced: flood copies it to every VTEP of"
        f" the network, drop to none (RFC 9161 section 3.6). {more} What a network says for itself"
        " when it is attached comes first.",
    )
    for what, frames, more in (
        (
            "unicast",
            "a frame to a MAC address",
            "What the switch has learned is known to it.",
        ),
        (
            "neighbour",
            "an ARP request or neighbour solicitation for an address",
            "Probes and announcements go to all in any case.",
        ),
    )
]

#: The extension's too.
HOLD_MOVING = cfg.BoolOpt(
    "hold_moving_addresses",
    default=False,
    help="An address that moved between VTEPs five times within 180 s is a duplicate (RFC 7432"
    " section 15.1): it stays where it was before the fifth move until it has been quiet for 180 s."
    " False: it is told, and the newest claim wins.",
)

#: The extension's too.
VTEP_PROBE_INTERVAL = cfg.FloatOpt(
    "vtep_probe_interval",
    default=0.0,
    min=0.0,
    help="Seconds between two ICMP echo requests to each VTEP, over the underlay. One that has"
    " answered before and leaves three in a row unanswered is dead: BUM traffic is not copied to it"
    " until it answers again; unicast is left as it is. When nobody answers, nobody is taken for"
    " dead. Needs CAP_NET_RAW, or this process's group in sysctl net.ipv4.ping_group_range. 0:"
    " nobody is asked, and a server's word is all there is.",
)

#: The extension's too.
ORPHAN_TIME = cfg.FloatOpt(
    "orphan_time",
    default=600.0,
    min=0.0,
    help="Where the table in state_path was lost or damaged: seconds for which what is installed"
    " is kept of networks that nobody has spoken for since, neither a server nor messages. Time"
    " in which the server can't be asked doesn't count. Ten minutes are enough for an agent, or"
    " whoever feeds the daemon, to come to all networks of a host; what is gone by then does"
    " no harm meanwhile but for taking room. 0: it goes at once.",
)

#: The extension's too: how much is taken in, whoever says it.
LIMITS = [
    cfg.IntOpt(
        "max_vteps",
        default=Limits().vteps,
        min=1,
        help="Remote VTEPs that are taken in, in all networks together; a tunnel may be made for"
        " each. What is said of more is refused by name.",
    ),
    cfg.IntOpt(
        "max_networks",
        default=Limits().networks,
        min=1,
        help="Networks that are taken in, attached here or not.",
    ),
    cfg.IntOpt(
        "max_entries",
        default=Limits().entries,
        min=1,
        help="Entries that are taken in, in all networks together; each takes 1.3 kB.",
    ),
]


def limits(options: Any) -> Limits:
    """The options :data:`LIMITS` of a group."""
    return Limits(options.max_vteps, options.max_networks, options.max_entries)


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
        "log_format",
        default="text",
        choices=["text", "json"],
        help="What the agent writes to stderr: lines for people, or objects of JSON, one a line,"
        " with time, level, logger and message.",
    ),
    cfg.PortOpt(
        "metrics_port",
        default=0,
        help="TCP port of 127.0.0.1 on which the agent answers Prometheus. 0: it does not."
        " Needs prometheus-client (pip install 'ovs-l2pop[metrics]').",
    ),
    cfg.StrOpt(
        "state_path",
        default=STATE_PATH,
        help="Directory in which the agent keeps its forwarding table, so that after a restart"
        " nothing has to be sent again.",
    ),
    cfg.FloatOpt(
        "report_interval",
        default=30.0,
        min=0.0,
        help="Seconds between two reports to the Neutron server that this host is alive, as the"
        " Open vSwitch agent makes them: ports can then be bound to this host, and those of"
        " attached networks become ACTIVE. At most half of the server's agent_down_time."
        " 0: another agent reports for this host. Used with transport_url only.",
    ),
    cfg.FloatOpt(
        "sync_interval",
        default=60.0,
        min=1.0,
        help="Seconds at the most between two questions to the Neutron server whether anything was"
        " missed, in the attached networks; answered by the mechanism driver ovs_l2pop. Used with"
        " transport_url only.",
    ),
    DRIFT_INTERVAL,
    KNOWN_VTEPS_ONLY,
    *UNKNOWN_OPTS,
    HOLD_MOVING,
    ORPHAN_TIME,
    VTEP_PROBE_INTERVAL,
    *LIMITS,
]


#: Whose options the daemon reads: names of ``oslo.config.opts``. And its own groups.
_OF_DAEMON = ("ovs_l2pop", "ovs_l2pop.linuxbridge", "ovs_l2pop.openvswitch")
_OURS = ("ovs_l2pop", "openvswitch")
#: As alike as two names are that differ by a slip of the hand (difflib).
_NEARLY = 0.85


def list_opts() -> list[tuple[str, Sequence[Any]]]:
    """For oslo-config-generator."""
    return [
        ("DEFAULT", DEFAULT_OPTS),
        ("ovs_l2pop", L2POP_OPTS),
    ]


def load(arguments: Sequence[str], *, need_local_ip: bool = True) -> Any:
    """Read ``--config-file`` and ``--config-dir`` of ``arguments``.

    :param need_local_ip: False for who makes nothing that has this address.
    :raises ConfigError: names the option.
    """
    conf = cfg.ConfigOpts()
    for group, options in list_opts():
        conf.register_opts(options, group=None if group == "DEFAULT" else group)
    try:
        conf(list(arguments), project=PROJECT)
        for group, options in list_opts():  # values are checked when they are read
            for option in options:
                getattr(conf if group == "DEFAULT" else conf[group], option.dest)
        if need_local_ip or conf.ovs_l2pop.local_ip is not None:
            _check_local_ip(conf)
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigError(str(error)) from error
    except (cfg.Error, ValueError) as error:
        raise ConfigError(str(error)) from error
    return conf


def unknown(conf: Any) -> Iterator[str]:
    """What stands in the files and nobody reads, with the nearest name that means something.

    Of groups that others read as well (a Neutron file may be given too), only what is nearly right.

    :param conf: as :func:`load` gives it.
    """
    known: dict[str, set[str]] = {}
    for entry in entry_points(group="oslo.config.opts"):
        # The library takes a second to import, and nobody needs it without a broker.
        if entry.name in _OF_DAEMON or (entry.name == "oslo.messaging" and conf.transport_url):
            try:
                groups = entry.load()()
            except ImportError:  # who needs it says so
                continue
            for group, options in groups:
                names = known.setdefault(str(group or "DEFAULT"), set())
                for option in options:
                    names.add(option.dest)
                    names |= {str(old.name).replace("-", "_") for old in option.deprecated_opts}
    files = [Path(path) for path in conf.config_file or ()]
    for directory in conf.config_dir or ():
        files += sorted(Path(directory).glob("*.conf"))
    for path in files:
        sections: dict[str, dict[str, Any]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        for group, given in sections.items():
            if group not in known:
                if near := get_close_matches(group, _OURS, 1, _NEARLY):
                    yield f"{path}: [{group}] is no group of options: [{near[0]}]?"
                continue
            for name in given.keys() - known[group]:
                near = get_close_matches(name, known[group], 1, 0.6 if group in _OURS else _NEARLY)
                meant = f": {near[0]}?" if near else ""
                if near or group in _OURS:
                    yield f"{path}: [{group}] {name} is no option{meant}"


def _check_local_ip(conf: Any) -> None:
    """It must be an address that a host can have; in canonical notation, as in messages."""
    if conf.ovs_l2pop.local_ip is None:
        raise ConfigError("[ovs_l2pop] local_ip is not set: the address of this host's VTEP")
    address = ip_address(conf.ovs_l2pop.local_ip)
    if (problem := vtep_problem(str(address))) is not None:
        raise ConfigError(f"[ovs_l2pop] local_ip {conf.ovs_l2pop.local_ip}: {problem}")
    conf.set_override("local_ip", str(address), group="ovs_l2pop")

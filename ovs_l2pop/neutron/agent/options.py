"""The extension's options, in the file that the agent reads; its other settings are the agent's."""

from typing import Any

from oslo_config import cfg

from ovs_l2pop.backends.openvswitch.options import BROADCAST_RATE, PACKET_TOO_BIG, TUNNEL_PORTS
from ovs_l2pop.config import (
    DRIFT_INTERVAL,
    HOLD_MOVING,
    KNOWN_VTEPS_ONLY,
    LIMITS,
    ORPHAN_TIME,
    UNKNOWN_OPTS,
    VTEP_PROBE_INTERVAL,
)

OPTS = [
    cfg.StrOpt(
        "state_path",
        sample_default="$state_path/ovs-l2pop",
        help="Directory in which the extension keeps its forwarding table and control socket.",
    ),
    cfg.StrOpt(
        "openvswitch_rundir",
        default="/run/openvswitch",
        help="Directory of ovs-vswitchd's management sockets. Where the agent may not open them,"
        " flows go over the agent's own OpenFlow connection.",
    ),
    cfg.FloatOpt(
        "sync_interval",
        default=60.0,
        min=1.0,
        help="Seconds at the most between two questions to the server whether anything was missed.",
    ),
    DRIFT_INTERVAL,
    KNOWN_VTEPS_ONLY,
    *UNKNOWN_OPTS,
    HOLD_MOVING,
    ORPHAN_TIME,
    VTEP_PROBE_INTERVAL,
    TUNNEL_PORTS,
    BROADCAST_RATE,
    PACKET_TOO_BIG,
    *LIMITS,
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [("ovs_l2pop", OPTS)]

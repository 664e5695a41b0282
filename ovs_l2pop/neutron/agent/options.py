"""The extension's options, in the file that the agent reads; its other settings are the agent's."""

from typing import Any

from oslo_config import cfg

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
    cfg.FloatOpt(
        "drift_interval",
        default=60.0,
        min=0.0,
        help="Seconds at the most between two looks whether the dataplane still is what it should"
        " be; what somebody else changed is written again, and logged. Changes that the dataplane"
        " tells of are mended within some seconds. 0: ovs-l2pop check finds them, and repair mends"
        " them.",
    ),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [("ovs_l2pop", OPTS)]

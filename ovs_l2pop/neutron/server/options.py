"""The mechanism driver's options, in the file that neutron-server reads."""

from typing import Any

from oslo_config import cfg

OPTS = [
    cfg.IntOpt(
        "dead_host_time",
        default=0,
        min=0,
        help="Seconds after an L2 agent's last report until its host is taken out of flooding:"
        " hosts of ours don't copy broadcast to it until it reports again. Machines there are still"
        " reached by unicast. More than agent_down_time makes sense. 0: never.",
    ),
    cfg.IntOpt(
        "fanout_above",
        default=50,
        min=0,
        help="Hosts of ours that are told of a change by a message each. Where there are more, one"
        " message goes to all hosts of ours in the cloud, and those without the network leave it"
        " unread: no worker of the server is held by the number of those who hear.",
    ),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [("ovs_l2pop", OPTS)]

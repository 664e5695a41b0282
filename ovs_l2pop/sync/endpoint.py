"""What the server calls on a host."""

import logging
from typing import Any

import oslo_messaging

from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.follower import Follower

LOG = logging.getLogger(__name__)


class Updates:
    """Endpoint of :data:`ovs_l2pop.sync.protocol.AGENT_TOPIC`."""

    target = oslo_messaging.Target(version=protocol.VERSION)

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def update_ports(self, context: Any, **update: Any) -> None:
        """Ports of a network came, moved, changed or went."""
        try:
            self._follower.updated(update)
        except protocol.ProtocolError as error:
            LOG.warning("an update can't be read, asking for all: %s", error)
            self._follower.hinted()


def call(own: bool) -> tuple[str, dict[str, Any]]:
    """Version of ``sync``, and arguments besides the usual ones.

    :param own: own ports are asked for.
    """
    return (protocol.OWN_VERSION, {"own": True}) if own else (protocol.VERSION, {})


def is_unsupported(error: BaseException) -> bool:
    """Whether a call failed because the server is of a release before the call's version."""
    # What the server raised comes as a RemoteError that names it.
    return getattr(error, "exc_type", type(error).__name__) == "UnsupportedVersion"

"""What Neutron tells a mechanism driver of the name ``l2population``, and no other.

``notify_l2pop_port_wiring`` (``neutron/plugins/ml2/rpc.py``) looks that name up and calls
``update_port_up`` or ``update_port_down`` when an agent has wired a port. Two things are heard of
in no other way, and both concern stock hosts only, since hosts of ours ask for what they miss:
that a host has wired an HA router's interface which is bound to another host, and that an agent
lost its tables (``refresh_tunnels``). So where nobody has that name we answer to it as well.
Everything else works without being called.
"""

from typing import Any

from neutron_lib.plugins import directory
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

_NAME = "l2population"


def hear(driver: Any) -> bool:
    """Answer to the name if it is free.

    :returns: whether there is nothing more to do.
    """
    manager = getattr(directory.get_plugin(), "mechanism_manager", None)
    if manager is None:
        return False  # the plugin is still being made
    for extension in manager.ordered_mech_drivers:
        if extension.obj is driver:
            holder = manager.mech_drivers.setdefault(_NAME, extension)
            if holder is not extension:
                LOG.error(
                    "Both ovs_l2pop and %s are in mechanism_drivers: every entry will be sent"
                    " twice, and hosts with our extension will have it from both. Remove %s.",
                    _NAME,
                    _NAME,
                )
            return True
    return False

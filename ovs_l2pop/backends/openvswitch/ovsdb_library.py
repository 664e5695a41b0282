"""What is used of ovs and ovsdbapp, which speak of eventlet wherever it is importable, and warn of
it; nothing of ours uses it.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ovs import jsonrpc, timeval
    from ovs.poller import Poller
    from ovs.stream import Stream
    from ovsdbapp.backend.ovs_idl import command, connection, idlutils
    from ovsdbapp.schema.open_vswitch import impl_idl

__all__ = [
    "Poller",
    "Stream",
    "command",
    "connection",
    "idlutils",
    "impl_idl",
    "jsonrpc",
    "timeval",
]

"""What is used of ovs and ovsdbapp, which import eventlet wherever that can be, and warn of it.

Nothing of ours uses it, and to import it takes 0.17 s, half of what an agent needs for its imports:
they are told that there is none, unless somebody else in this process has it.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def _without_eventlet() -> Iterator[None]:
    if "eventlet" in sys.modules:
        yield
        return
    # What sys.modules has as None can't be imported (the import system's reference, 5.3.1).
    sys.modules["eventlet"] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules["eventlet"]


with warnings.catch_warnings(), _without_eventlet():
    warnings.simplefilter("ignore")
    from ovs import jsonrpc, timeval
    from ovs.db.idl import ROW_DELETE, Idl
    from ovs.poller import Poller
    from ovs.stream import Stream
    from ovsdbapp.backend.ovs_idl import command, connection, idlutils
    from ovsdbapp.schema.open_vswitch import impl_idl

__all__ = [
    "ROW_DELETE",
    "Idl",
    "Poller",
    "Stream",
    "command",
    "connection",
    "idlutils",
    "impl_idl",
    "jsonrpc",
    "timeval",
]

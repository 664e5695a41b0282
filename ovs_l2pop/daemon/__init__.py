"""The daemon of a host without a Neutron agent, listening to a Neutron server.

::

    rpc.py        oslo.messaging: calls, and endpoints that are called
    upstream.py   upstream's l2population messages, into the table
    presence.py   this host is there, and which of its ports are up: what makes it a VTEP
    listener.py   all of it, and :mod:`ovs_l2pop.sync.follower` for our own protocol

Three may fill the table of such a host: ``ovs-l2pop send``, upstream's messages and our protocol.
They don't mix in one network for long, by one rule: **in a network that a server with our driver
serves for this host, that server decides; every other network it leaves alone.** It serves those
that are attached here and in which it knows a port of this host; what it doesn't know of them goes
with the next ``sync``, whoever told it. Where it knows no port, or where nobody answers ``sync``
(a server with upstream's driver), what came from others stays, and what comes from them is all
there is.

So a sender is not asked who it is, nothing has to be remembered of who told what, and a restart,
another server or a lost message end in the same table. Nor do the two languages of one server
collide: it speaks ours to a host that reports our extension, and upstream's to others.
"""

import contextlib
import warnings

# Before any module imports oslo.messaging.
with warnings.catch_warnings():
    # Some of its libraries look whether eventlet is there, which then says that it is deprecated.
    warnings.simplefilter("ignore")
    # oslo.service would load its half for eventlet. Before release 4.2 it has no other, and without
    # the libraries of its extra "threading" neither; nothing is patched by that.
    with contextlib.suppress(Exception):
        from oslo_service import backend

        backend.init_backend(backend.BackendType.THREADING)
    import oslo_messaging  # noqa: F401

"""Flows read back beside other work: on a connection and in a thread of their own.

To read 100,000 takes nearly half a second, which no change should wait for.
"""

import threading
from collections.abc import Callable

from ovs_l2pop.backends.openvswitch import rows
from ovs_l2pop.backends.openvswitch.channel import Channel
from ovs_l2pop.backends.openvswitch.transport import Transport
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError


class FlowsRead:
    """All flows of a cookie, from when this is made.

    :param transport: makes the connection, in the thread.
    :param ready: called by the thread when it ends.
    """

    def __init__(
        self, transport: Callable[[], Transport], cookie: int, ready: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._cookie = cookie
        self._ready = ready
        self._found: set[Row] = set()
        self._error: BackendError | None = None
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)
        self._thread.start()

    def take(self) -> set[Row]:
        """The flows, the caller's from then on; waits for the thread.

        :raises BackendError: they could not be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            channel = Channel(self._transport())
            try:
                for body in channel.flows(self._cookie):
                    self._found.update(rows.flows_in(body))
            finally:
                channel.close()
        except BackendError as error:
            self._error = error
        self._ready()

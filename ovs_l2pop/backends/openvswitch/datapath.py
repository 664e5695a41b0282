"""OpenFlow over a connection that os-ken holds: for an agent that may not open the socket.

Inside Neutron the agent mostly runs as an unprivileged user, and the bridge already has a
connection to it (``of_interface`` native). The same bytes travel over that one. Writing is as fast
as over the management socket; what is read back is decoded by os-ken on its way, 7 s for 100,000
flows.
"""

import queue
from typing import Any

from os_ken.base.app_manager import AppManager, OSKenApp
from os_ken.controller import ofp_event
from os_ken.controller.handler import MAIN_DISPATCHER, set_ev_cls

from ovs_l2pop.backends.openvswitch.codec import OFP_VERSION
from ovs_l2pop.backends.openvswitch.transport import HEADER, Received
from ovs_l2pop.core.errors import BackendError


class DatapathTransport:
    """See :class:`.transport.Transport`.

    :param datapath: os-ken's object for the bridge's connection.
    :raises BackendError: it speaks another version than OpenFlow 1.3.
    """

    pushes = False  # os-ken passes on answers only

    def __init__(self, datapath: Any) -> None:
        self.name = f"OpenFlow connection of bridge {datapath.id:#018x}"
        if datapath.ofproto.OFP_VERSION != OFP_VERSION:
            raise BackendError(f"{self.name}: doesn't speak OpenFlow 1.3")
        # The connection's other user counts up from a random number: half of all away from it.
        self.first_xid = ((datapath.xid >> 30) + 2 & 3) << 30
        self._datapath = datapath
        self._received: queue.SimpleQueue[Received] = queue.SimpleQueue()
        _listener().transports[datapath] = self

    def send(self, data: bytes) -> None:
        if not self._datapath.send(data):
            raise BackendError(f"{self.name}: closed")

    def receive(self, timeout: float) -> Received | None:
        try:
            return self._received.get(block=timeout > 0, timeout=timeout)
        except queue.Empty:
            # os-ken 4.2 on native threads closes the socket of a lost connection, but waits for
            # ever before it would tell of it.
            if self._datapath.socket.fileno() < 0:
                raise BackendError(f"{self.name}: the switch closed the connection") from None
            return None

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Let go of it; the connection is its owner's."""
        _listener().transports.pop(self._datapath, None)

    def came(self, message: Any) -> None:
        """A message arrived; only answers to ours count. Called by os-ken's thread."""
        if message.xid >> 30 == self.first_xid >> 30:
            body = bytes(message.buf[HEADER.size :])
            self._received.put((message.msg_type, message.xid, body))


class _Listener(OSKenApp):
    """Takes from os-ken's events what belongs to a transport; one for the process."""

    OFP_VERSIONS = (OFP_VERSION,)

    def __init__(self) -> None:
        super().__init__()
        self.transports: dict[Any, DatapathTransport] = {}

    @set_ev_cls(
        [
            ofp_event.EventOFPErrorMsg,
            ofp_event.EventONFBundleCtrlMsg,
            ofp_event.EventOFPFlowStatsReply,
            ofp_event.EventOFPGroupDescStatsReply,
            ofp_event.EventOFPMeterConfigStatsReply,
            ofp_event.EventOFPMeterFeaturesStatsReply,
            ofp_event.EventOFPMeterStatsReply,
        ],
        MAIN_DISPATCHER,
    )
    def reply(self, event: Any) -> None:
        transport = self.transports.get(event.msg.datapath)
        if transport is not None:
            transport.came(event.msg)


def _listener() -> _Listener:
    manager = AppManager.get_instance()
    for application in manager.applications.values():
        if isinstance(application, _Listener):
            return application
    listener: _Listener = manager.instantiate(_Listener)
    listener.start()
    return listener

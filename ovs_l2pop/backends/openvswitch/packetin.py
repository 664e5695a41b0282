"""Packets that are too large for the underlay: the switch hands them here, their senders are told.

Only the switch sees such a packet, and no flow can make its answer: that quotes the packet.
"""

import logging
import struct
import threading
from collections.abc import Callable

from ovs_l2pop.backends.openvswitch import icmp_errors
from ovs_l2pop.backends.openvswitch.codec import OFP_VERSION
from ovs_l2pop.backends.openvswitch.transport import HEADER, ManagementSocket
from ovs_l2pop.core.errors import BackendError

LOG = logging.getLogger(__name__)

#: Of the controller that the flow names: Neutron's own connections are 0. "l2" in ASCII.
CONTROLLER_ID = 0x6C32

_EXPERIMENTER, _SET_CONFIG, _PACKET_IN, _PACKET_OUT, _SET_ASYNC = 4, 9, 10, 13, 28
_NICIRA, _SET_CONTROLLER_ID = 0x2320, 20
_ACTION = 1 << 1  # OFPR_ACTION, as a mask
#: buffer, total length, reason, table, cookie; then the match and 2 bytes of padding
_PACKET_IN_HEAD = struct.Struct("!IHBBQ")
_PACKET_OUT_HEAD = struct.Struct("!IIH6x")
_OUTPUT = struct.Struct("!HHIH6x")
_NO_BUFFER, _CONTROLLER_PORT = 0xFFFFFFFF, 0xFFFFFFFD


class TooBigAnswers:
    """Tells senders, in a thread of its own, until it is closed.

    :param path: the bridge's management socket.
    :param table: the number of the table whose packets are meant.
    :param patch: the port's number towards the machines.
    :param size: of the largest IP packet that fits, by local VLAN; None: not known.
    :raises BackendError: no connection.
    """

    def __init__(
        self, path: str, table: int, patch: int, size: Callable[[int], int | None]
    ) -> None:
        self._table, self._patch, self._size = table, patch, size
        self._closing = False
        self._socket = ManagementSocket(path)
        who = struct.pack("!II6xH", _NICIRA, _SET_CONTROLLER_ID, CONTROLLER_ID)
        self._send(_EXPERIMENTER, who)
        self._send(_SET_CONFIG, struct.pack("!HH", 0, 0xFFFF))
        self._send(_SET_ASYNC, struct.pack("!6I", _ACTION, _ACTION, 0, 0, 0, 0))
        self._thread = threading.Thread(target=self._run, name="packet-too-big", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                message = self._socket.receive(0.5)
                if message is not None and message[0] == _PACKET_IN:
                    self._answer(message[2])
        except BackendError as error:  # the backend has noticed, or is about to
            LOG.debug("no more answers to packets that are too large: %s", error)

    def _answer(self, body: bytes) -> None:
        _, _, _, table, _ = _PACKET_IN_HEAD.unpack_from(body)
        match_length = int.from_bytes(body[18:20], "big")
        frame = body[_PACKET_IN_HEAD.size + (match_length + 7) // 8 * 8 + 2 :]
        if table != self._table or len(frame) < 18:
            return
        size = self._size(int.from_bytes(frame[14:16], "big") & 0xFFF)
        if size is not None and (answer := icmp_errors.too_big(frame, size)) is not None:
            out = _OUTPUT.pack(0, _OUTPUT.size, self._patch, 0)
            head = _PACKET_OUT_HEAD.pack(_NO_BUFFER, _CONTROLLER_PORT, len(out))
            self._send(_PACKET_OUT, head + out + answer)

    def _send(self, kind: int, body: bytes) -> None:
        self._socket.send(HEADER.pack(OFP_VERSION, kind, HEADER.size + len(body), 0) + body)

"""Frames as they pass a device, collected in memory."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.running import Running

Direction = Literal["in", "out", "both"]

# From linux/if_ether.h, linux/if_packet.h and asm-generic/socket.h; Python's socket lacks them.
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_PACKET_OUTGOING = 4
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_TP_STATUS_VLAN_VALID = 1 << 4
_TP_STATUS_VLAN_TPID_VALID = 1 << 6

_BUFFER_BYTES = 32 << 20
_SNAP_LENGTH = 65536


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame that has passed a device."""

    time: float
    """Seconds since the epoch, by the kernel's clock when it saw the frame."""
    interface: str
    outgoing: bool
    """Whether the namespace sent it through the device, or received it."""
    data: bytes
    """From the destination MAC on, with the VLAN tag where it was, no frame check sequence."""


class Capture(Running):
    """Collects the frames on *interfaces* of a namespace; a context manager.

    It listens from its construction on, so a frame that is sent afterwards isn't missed.
    """

    def __init__(
        self, namespace: str, interfaces: Sequence[str], direction: Direction = "in"
    ) -> None:
        self.namespace = namespace
        self._direction = direction
        self._frames: list[CapturedFrame] = []
        self._changed = threading.Condition()
        self._dropped = 0
        self._sockets: dict[int, tuple[socket.socket, str]] = {}
        namespaces.call(namespace, lambda: self._open(interfaces))
        self._poll = select.poll()
        for descriptor in self._sockets:
            self._poll.register(descriptor, select.POLLIN)
        self._stop_in, self._stop_out = socket.socketpair()
        self._poll.register(self._stop_in, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name=f"capture {namespace}", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> list[CapturedFrame]:
        """What has been collected so far, oldest first per interface."""
        with self._changed:
            return list(self._frames)

    @property
    def data(self) -> list[bytes]:
        """The bare frames collected so far."""
        return [frame.data for frame in self.frames]

    def clear(self) -> None:
        """Forget what has been collected so far."""
        with self._changed:
            self._frames.clear()

    def wait_for(
        self, wanted: Callable[[bytes], bool], count: int = 1, timeout: float = 5.0
    ) -> list[CapturedFrame]:
        """Wait for *count* frames that *wanted* says yes to and return all such frames.

        :raises LabError: after *timeout* seconds, with what there is.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [frame for frame in self._frames if wanted(frame.data)]
                if len(found) >= count:
                    return found
                if not self._changed.wait(deadline - time.monotonic()):
                    raise LabError(
                        f"{len(found)} of {count} frames within {timeout:g} s, "
                        f"{len(self._frames)} others"
                    )

    def stop(self) -> list[CapturedFrame]:
        """Stop collecting and return the frames, those included that had arrived by now.

        :raises LabError: if the kernel had to drop frames, so counts would be wrong.
        """
        if self._thread.is_alive():
            self._stop_out.send(b"x")
            self._thread.join()
            self._close()
        if self._dropped:
            raise LabError(f"the capture in {self.namespace} lost {self._dropped} frames")
        return self.frames

    def _open(self, interfaces: Sequence[str]) -> None:
        for interface in interfaces:
            # No protocol yet: it would collect from all devices until it is bound to one.
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._sockets[raw.fileno()] = (raw, interface)
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            # The kernel takes the VLAN tag out of the frame and hands it over beside it.
            raw.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            if self._direction == "in":
                raw.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            raw.setblocking(False)
            raw.bind((interface, _ETH_P_ALL))

    def _run(self) -> None:
        stopping = False
        while not stopping:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._stop_in.fileno():
                    stopping = True
                else:
                    self._drain(*self._sockets[descriptor])
        for raw, interface in self._sockets.values():
            self._drain(raw, interface)

    def _drain(self, raw: socket.socket, interface: str) -> None:
        batch = []
        while True:
            try:
                data, ancillary, _, address = raw.recvmsg(_SNAP_LENGTH, 256)
            except BlockingIOError:
                break
            except OSError:  # the device went down or away; what it had is collected
                continue
            outgoing = address[2] == _PACKET_OUTGOING
            if self._direction == "both" or outgoing == (self._direction == "out"):
                when, data = _complete(data, ancillary)
                batch.append(CapturedFrame(when, interface, outgoing, data))
        if batch:
            with self._changed:
                self._frames += batch
                self._changed.notify_all()

    def _close(self) -> None:
        for raw, _ in self._sockets.values():
            statistics = raw.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._dropped += struct.unpack("=II", statistics)[1]
            raw.close()
        self._stop_in.close()
        self._stop_out.close()


def _complete(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> tuple[float, bytes]:
    """Return the time of arrival and the frame with its VLAN tag back in place."""
    when = 0.0
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("=qq", value[:16])
            when = seconds + nanoseconds / 1e9
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, *_, tci, tpid = _AUXDATA.unpack(value[: _AUXDATA.size])
            if status & _TP_STATUS_VLAN_VALID:
                tpid = tpid if status & _TP_STATUS_VLAN_TPID_VALID else 0x8100
                data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
    return when, data

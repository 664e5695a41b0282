"""Whether the VTEPs of others are alive: ICMP echo (RFC 792, RFC 4443 §4) over the underlay.

Every host answers it, whatever runs there, and a host whose agent is dead forwards on: so it is the
host that is asked, not its agent. What it can't see is a switch that has died on a host that lives.
"""

import errno
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Collection

from ovs_l2pop.core.liveness import Liveness

LOG = logging.getLogger(__name__)

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
#: Questions sent in a row, so that answers find room.
_AT_ONCE = 50


class Prober:
    """Asks once in every interval; a thread of its own.

    :param local_ip: this host's VTEP, from which it asks.
    :param interval: seconds.
    """

    def __init__(self, local_ip: str, interval: float) -> None:
        self._local_ip = local_ip
        self._interval = interval
        self._family = 6 if ":" in local_ip else 4
        self._vteps: tuple[str, ...] = ()
        self._liveness = Liveness()
        self._round = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        #: Why nobody can be asked; None: they can.
        self.trouble: str | None = None

    @classmethod
    def every(cls, interval: float, local_ip: str) -> "Prober | None":
        """One that asks once in so many seconds; 0: none."""
        return cls(local_ip, interval) if interval else None

    @property
    def alive(self) -> int:
        """How many VTEPs have answered of late."""
        return self._liveness.alive

    def dead(self, vteps: Collection[str]) -> frozenset[str]:
        """Which of these are dead, as far as is known by now; from now on these are asked."""
        self._vteps = tuple(vteps)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
            self._thread.start()
        return self._liveness.dead.intersection(vteps)

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=self._interval + 1)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with self._socket() as sock:
                    self.trouble = None
                    while not self._end.is_set():
                        self._ask(sock)
            except OSError as error:
                if self.trouble is None:
                    LOG.warning("VTEPs can't be asked whether they are alive: %s", error)
                self.trouble = error.strerror or str(error)
                self._end.wait(self._interval)

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if self._family == 6 else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM, _PROTOCOL[self._family])
        except PermissionError:  # net.ipv4.ping_group_range; so with CAP_NET_RAW
            sock = socket.socket(family, socket.SOCK_RAW, _PROTOCOL[self._family])
        sock.setblocking(False)
        sock.bind((self._local_ip, 0))
        return sock

    def _ask(self, sock: socket.socket) -> None:
        """One round."""
        until = time.monotonic() + self._interval
        self._round = self._round + 1 & 0xFFFF
        asked, answered = self._vteps, set[str]()
        for start in range(0, len(asked), _AT_ONCE):
            for vtep in asked[start : start + _AT_ONCE]:
                self._send(sock, vtep)
            self._hear(sock, answered, time.monotonic() + 0.001)
        self._hear(sock, answered, until)
        before = self._liveness.dead
        dead = self._liveness.round(asked, answered)
        for vtep in sorted(dead - before):
            LOG.warning("VTEP %s doesn't answer any more: floods leave it out", vtep)
        for vtep in sorted((before - dead) & set(asked)):
            LOG.info("VTEP %s answers again", vtep)

    def _send(self, sock: socket.socket, vtep: str) -> None:
        identifier = os.getpid() & 0xFFFF  # with SOCK_DGRAM the kernel puts its own
        request = _ECHO.pack(_REQUEST[self._family], 0, 0, identifier, self._round)
        if self._family == 4:
            total = sum(struct.unpack("!4H", request))
            total = (total & 0xFFFF) + (total >> 16)
            request = request[:2] + struct.pack("!H", ~total & 0xFFFF) + request[4:]
        try:
            sock.sendto(request, (vtep, 0))
        except OSError as error:
            # No route, no neighbour, no room: as good as no answer.
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.EBADF):
                raise

    def _hear(self, sock: socket.socket, answered: set[str], until: float) -> None:
        """Take in answers to this round until then."""
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0 and not self._end.is_set():
                if not selector.select(min(left, 0.2)):
                    continue
                try:
                    data, sender = sock.recvfrom(1024)
                except OSError:  # an ICMP error
                    continue
                raw = self._family == 4 and sock.type == socket.SOCK_RAW
                body = data[(data[0] & 15) * 4 :] if raw else data
                if len(body) >= _ECHO.size:
                    kind, _, _, _, number = _ECHO.unpack_from(body)
                    if (kind, number) == (_REPLY[self._family], self._round):
                        answered.add(sender[0])

"""What a service manager is told, where one listens: sd_notify(3), sd_watchdog_enabled(3).

The protocol is a datagram of lines; systemd's own library for it needs a compiler.
"""

import logging
import os
import socket
from collections.abc import MutableMapping

LOG = logging.getLogger(__name__)


class ServiceManager:
    """Whoever has set ``NOTIFY_SOCKET``; silent where nobody has.

    :param environment: of the process. What is read is taken out: children are not meant.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        #: A leading "@" stands for the abstract namespace (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        mine = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between two signs of life, half of what it waits for; None: it waits for none.
        self.interval: float | None = None
        if self._address and mine and microseconds.isdigit() and int(microseconds):
            self.interval = int(microseconds) / 2_000_000

    def tell(self, *lines: str) -> None:
        """Such as ``READY=1``. That nobody hears it is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            LOG.debug("the service manager at %r isn't told %s: %s", self._address, lines, error)

"""RPC through oslo.messaging: endpoints are called, and servers.

A broker that is away is waited for, without end: what may wait runs in a thread of its own.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import oslo_messaging
from oslo_config import cfg

from ovs_l2pop.config import PROJECT
from ovs_l2pop.core.errors import ConfigError, L2popError, first_line

#: Neutron's, unless ``control_exchange`` says otherwise (``neutron/common/config.py``).
_EXCHANGE = "neutron"

#: Of an administrator, as agents are: what ``neutron_lib.context`` makes of it on the server.
_CONTEXT = {"is_admin": True}

#: Seconds that an ending agent waits for the library, which takes up to five to stop listening.
#: What is lost by that is asked for at the next start, like all that is cast until then.
_STOP_TIMEOUT = 0.5

#: Where the library tells of connections and of messages that it can't deliver to an endpoint.
_LOGGERS = ("oslo.messaging._drivers.impl_rabbit", "oslo_messaging.rpc.server")
#: How it tells that a connection is back, there and nowhere else.
_RECONNECTED = "Reconnected"

#: Seconds until it may tell the same trouble again. Without the broker three connections would do
#: so every second, and a hostile sender as often as it likes.
_REPEAT = 60.0


class RpcError(L2popError):
    """A call was not answered, or with an error."""


class Rpc:
    """One host's end of the message broker.

    :param arguments: the configuration files, as :func:`ovs_l2pop.config.load` takes them.
    :param host: this host's name in Neutron.
    :param reconnected: called when the broker was away; messages may have been lost. From any
        thread.
    :raises ConfigError: the library's options can't be used.
    """

    def __init__(
        self, arguments: Sequence[str], host: str, reconnected: Callable[[], None] = lambda: None
    ) -> None:
        self._host = host
        self._endpoints: list[tuple[str, object]] = []
        self._servers: list[Any] = []
        self._watch = _Watch(reconnected)
        oslo_messaging.set_transport_defaults(_EXCHANGE)
        try:
            # The library looks some of its options up in the process-wide configuration only.
            cfg.CONF(list(arguments), project=PROJECT)
            self._transport = oslo_messaging.get_rpc_transport(cfg.CONF)
        except oslo_messaging.MessagingException as error:
            raise ConfigError(f"[DEFAULT] transport_url: {error}") from error
        except cfg.Error as error:
            raise ConfigError(str(error)) from error
        except ValueError as error:  # its text may hold part of a password
            raise ConfigError("[DEFAULT] transport_url is not the URL of a broker") from error

    def serve(self, topic: str, endpoint: object) -> None:
        """Have an endpoint called, from :meth:`start` on, by casts to all who listen to the topic
        and to this host by name. One call after the other, in the order in which they come."""
        self._endpoints.append((topic, endpoint))

    def start(self) -> None:
        """Listen; returns when all endpoints do. After an exception it can be called again."""
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._watch)
        for topic, endpoint in self._endpoints[len(self._servers) :]:
            target = oslo_messaging.Target(topic=topic, server=self._host)
            server = oslo_messaging.get_rpc_server(self._transport, target, [endpoint])
            server.start(override_pool_size=1)
            self._servers.append(server)

    def stop(self) -> None:
        """Take in what has arrived and end; with the broker away without waiting for it."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._watch)
        ending = threading.Thread(target=self._stop, name="rpc-end", daemon=True)
        ending.start()
        ending.join(_STOP_TIMEOUT)

    def call(
        self, topic: str, method: str, *, version: str, timeout: float, **arguments: Any
    ) -> Any:
        """Call whoever serves the topic; its answer.

        :param timeout: seconds to wait for it.
        :raises RpcError: there is none, or the broker is away.
        """
        target = oslo_messaging.Target(topic=topic, version=version)
        try:
            client = oslo_messaging.get_rpc_client(self._transport, target)
            # A call that can't be sent now would be out of date when it can.
            return client.prepare(timeout=timeout, retry=0).call(_CONTEXT, method, **arguments)
        except oslo_messaging.MessagingTimeout as error:
            raise RpcError(f"{method} on {topic}: no answer within {timeout:g} s") from error
        except Exception as error:
            raise RpcError(f"{method} on {topic}: {first_line(error)}") from error

    def _stop(self) -> None:
        for server in self._servers:
            server.stop()
        # The transport's own clean-up would wait two seconds for replies that nobody needs.
        for server in self._servers:
            server.wait()


class _Watch(logging.Filter):
    """Hears in the library's log that a connection is back, and shortens that log.

    If that is worded in another way some day, what was lost comes with the next periodic sync.
    """

    def __init__(self, reconnected: Callable[[], None]) -> None:
        super().__init__()
        self._reconnected = reconnected
        #: Text and kind of exception → when it may be told again.
        self._quiet: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)  # with its placeholders: all connections say the same
        if _RECONNECTED in text:
            self._quiet.clear()
            self._reconnected()
        if record.levelno < logging.WARNING:
            return True
        trouble = text, record.exc_info and record.exc_info[0]
        now = time.monotonic()
        if now < self._quiet.get(trouble, 0.0):
            return False
        if len(self._quiet) > 100:  # some texts hold what varies
            self._quiet.clear()
        self._quiet[trouble] = now + _REPEAT
        return True

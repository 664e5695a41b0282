"""All that the daemon has to do with a Neutron server."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.backend import Health
from ovs_l2pop.core.errors import first_line
from ovs_l2pop.daemon import upstream
from ovs_l2pop.daemon.presence import Presence, agent_state
from ovs_l2pop.daemon.rpc import Rpc, RpcError
from ovs_l2pop.daemon.upstream import UpstreamMessages
from ovs_l2pop.sync import endpoint, protocol
from ovs_l2pop.sync.endpoint import Updates
from ovs_l2pop.sync.follower import SYNC_TIMEOUT, Follower

LOG = logging.getLogger(__name__)

#: Seconds until listening is tried again after the broker refused it.
_RETRY = 10.0


class Listener:
    """Listens for one worker, and is its speaker, from :meth:`start` to :meth:`stop`; neither waits
    for the broker.

    :param conf: of :func:`ovs_l2pop.config.load`.
    :param arguments: its arguments, for oslo.messaging's own options.
    :raises ConfigError: those can't be used.
    """

    def __init__(self, conf: Any, arguments: Sequence[str], worker: Worker) -> None:
        options = conf.ovs_l2pop
        self._host: str = conf.host
        self._rpc = Rpc(arguments, self._host, self._reconnected)
        self._follower = Follower(worker, self._sync, options.sync_interval, attaches=False)
        self._presence: Presence | None = None
        if options.report_interval:
            self._presence = Presence(
                *(worker, self._rpc, agent_state(conf), options.report_interval),
                missed=self._follower.soon,
            )
        self._rpc.serve(upstream.TOPIC, UpstreamMessages(worker, self._host))
        self._rpc.serve(protocol.AGENT_TOPIC, Updates(self._follower))
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to listen; the worker is started."""
        threading.Thread(target=self._run, name="rpc-start", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        if self._presence is not None:
            self._presence.stop()
        self._follower.stop()
        self._rpc.stop()

    # -- as a speaker, in the worker ---------------------------------------------------------------

    def networks_changed(self) -> None:
        self._follower.networks_changed()
        if self._presence is not None:
            self._presence.soon()

    def health(self) -> Health:
        return self._follower.health()

    def awaited(self, network_id: str, told: bool) -> bool:
        return self._follower.awaited(network_id, told)

    def out_of_reach(self) -> bool:
        return self._follower.out_of_reach()

    # -- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        """Ask only when there are ears for what is said after the answer."""
        trouble = None
        while not self._ended.is_set():
            try:
                self._rpc.start()
                break
            except Exception as error:  # noqa: BLE001 - whatever RPC raises: it is tried again
                if trouble != first_line(error):
                    trouble = first_line(error)
                    LOG.error("can't listen to the broker, will go on trying: %s", trouble)
                self._ended.wait(_RETRY)
        if self._ended.is_set():
            return
        LOG.info("listening to Neutron as host %s", self._host)
        self._follower.start()
        if self._presence is not None:
            self._presence.start()

    def _reconnected(self) -> None:
        """What was cast meanwhile is lost."""
        self._follower.soon()
        if self._presence is not None:
            self._presence.soon(refresh=True)

    def _sync(
        self, networks: Mapping[str, str], cursor: protocol.Cursor | None, own: bool
    ) -> object:
        version, more = endpoint.call(own)
        try:
            return self._rpc.call(
                *(protocol.SERVER_TOPIC, "sync"),
                version=version,
                timeout=SYNC_TIMEOUT,
                host=self._host,
                networks=networks,
                cursor=cursor,
                **more,
            )
        except RpcError as error:
            if error.__cause__ is not None and endpoint.is_unsupported(error.__cause__):
                raise protocol.OldServerError(str(error)) from error
            raise

"""This host is there: what an L2 agent tells the server, so that ports can be bound to its host.

* ``report_state``: the host's VTEP, and what its agent can do. The mechanism driver ``openvswitch``
  binds ports to hosts whose agent of the type "Open vSwitch agent" is alive, l2population drivers
  read the VTEP and the language from it. The server keeps one such agent for each host: where
  Neutron's own runs, it must be the only one that reports.
* ``update_device_list``: which ports are up. A port of this host is, when its network is attached
  here. Others are told of a port when it is ACTIVE, and that it gets by this.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.backends.openvswitch.options import register
from ovs_l2pop.daemon.rpc import Rpc, RpcError
from ovs_l2pop.sync.protocol import EXTENSION

LOG = logging.getLogger(__name__)

#: ``neutron_lib.agent.topics``: REPORTS, PLUGIN.
REPORTS_TOPIC = "q-reports-plugin"
PLUGIN_TOPIC = "q-plugin"

#: Seconds to wait for an answer, and until the next try without one.
_TIMEOUT = 20.0
_RETRY = 5.0

#: Ports in one ``update_device_list``: Neutron's ``rpc_resources_processing_step``.
_PORTS_PER_CALL = 20

ACTIVE = "ACTIVE"
REVIVED = "revived"


def agent_state(conf: Any) -> dict[str, Any]:
    """What this host's agent is and can do (``neutron/agent/rpc.py``, PluginReportStateAPI)."""
    ours, openvswitch = conf.ovs_l2pop, register(conf)
    return {
        "agent_type": "Open vSwitch agent",  # what the driver openvswitch looks for
        "binary": "ovs-l2pop-agent",  # what people see
        "host": conf.host,
        "topic": "N/A",
        "configurations": {
            "tunneling_ip": ours.local_ip,
            "tunnel_types": list(ours.tunnel_types),
            "l2_population": True,
            "arp_responder_enabled": ours.arp_responder,
            "extensions": [EXTENSION],
            "bridge_mappings": {},
            "integration_bridge": openvswitch.integration_bridge,
            "datapath_type": openvswitch.datapath_type,
            "ovs_hybrid_plug": False,
            "enable_distributed_routing": False,
            "in_distributed_mode": False,
        },
    }


class Presence:
    """Reports every so often, and looks after this host's ports.

    :param state: :func:`agent_state`.
    :param interval: seconds between two reports.
    :param missed: called when the server may have cast to this host in vain.
    """

    def __init__(
        self,
        worker: Worker,
        rpc: Rpc,
        state: Mapping[str, Any],
        interval: float,
        missed: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._rpc = rpc
        self._state = dict(state)
        self._host: str = state["host"]
        self._interval = interval
        self._missed = missed
        self._wanted = threading.Event()
        self._stopped = False
        self._starting = True
        #: The server is to send what upstream's agents can't ask for: all entries of a network.
        self._refresh = True
        #: Whether the server answered the last time; None before the first.
        self._answered: bool | None = None
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wanted.set()

    def soon(self, *, refresh: bool = False) -> None:
        """Something about this host's ports or networks has changed.

        :param refresh: casts may have been lost.
        """
        self._refresh = self._refresh or refresh
        self._wanted.set()

    # -- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            self._wanted.clear()
            pause = self._interval
            try:
                self._tell()
            except RpcError as error:
                if self._answered is not False:
                    LOG.warning("no report to the server, will go on trying: %s", error)
                self._answered = False
                pause = min(pause, _RETRY)
            except Exception:
                LOG.exception("internal error")
            self._wanted.wait(pause)

    def _tell(self) -> None:
        trouble, attached = self._worker.call(self._look).result()
        if trouble is not None:
            # Ports must not be bound to a host that can't serve them.
            LOG.debug("not reported: %s", trouble)
            return
        status = self._report()
        if self._answered is False:
            LOG.info("the server takes reports again")
        self._answered = True
        if status == REVIVED:
            self._refresh = True
            self._missed()
        self._wire(attached)

    def _look(self) -> tuple[str | None, set[str]]:
        attachments = self._worker.table.attachments()
        return self._worker.trouble, {attachment.network_id for attachment in attachments}

    def _report(self) -> Any:
        state = self._state | {"uuid": str(uuid4())}
        if self._starting:
            state["start_flag"] = True
        status = self._rpc.call(
            *(REPORTS_TOPIC, "report_state"),
            version="1.1",
            timeout=_TIMEOUT,
            agent_state={"agent_state": state},
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        )
        self._starting = False
        return status

    def _wire(self, attached: set[str]) -> None:
        """Say which ports are up: those of attached networks, and no other."""
        refresh, self._refresh = self._refresh, False
        try:
            ports = self._rpc.call(
                *(PLUGIN_TOPIC, "get_ports_by_vnic_type_and_host"),
                version="1.7",
                timeout=_TIMEOUT,
                vnic_type="normal",
                host=self._host,
            )
            up, down = _split(self._own(ports), attached, refresh)
            for step in _steps(up):
                self._update_devices(step, [], refresh)
            for step in _steps(down):
                self._update_devices([], step, False)
        except RpcError:
            self._refresh = self._refresh or refresh
            raise
        if up:
            self._missed()

    def _own(self, ports: Any) -> list[Mapping[str, Any]]:
        """A port that is about to come here (live migration) is not this host's yet."""
        found = [port for port in ports or () if isinstance(port, dict)]
        return [port for port in found if port.get("binding:host_id", self._host) == self._host]

    def _update_devices(self, up: list[str], down: list[str], refresh: bool) -> None:
        answer = self._rpc.call(
            *(PLUGIN_TOPIC, "update_device_list"),
            version="1.8",
            timeout=_TIMEOUT,
            devices_up=up,
            devices_down=down,
            agent_id=f"ovs-l2pop-{self._host}",
            host=self._host,
            refresh_tunnels=refresh,
        )
        for key in ("failed_devices_up", "failed_devices_down"):
            if failed := (answer or {}).get(key):
                LOG.warning("the server could not update ports, see its log: %s", failed)


def _split(
    ports: Iterable[Mapping[str, Any]], attached: set[str], refresh: bool
) -> tuple[list[str], list[str]]:
    """Ports to be reported up and down."""
    up, down = [], []
    for port in ports:
        active = port.get("status") == ACTIVE
        if port.get("network_id") not in attached:
            if active:
                down.append(port["id"])
        elif port.get("admin_state_up") and (refresh or not active):
            up.append(port["id"])
    return up, down


def _steps(devices: list[str]) -> Iterable[list[str]]:
    starts = range(0, len(devices), _PORTS_PER_CALL)
    return (devices[start : start + _PORTS_PER_CALL] for start in starts)

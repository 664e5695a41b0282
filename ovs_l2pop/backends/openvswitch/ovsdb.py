"""Bridges and tunnel ports, through ovsdbapp.

A tunnel port of ours carries ``ovs-l2pop`` in its ``external_ids``; a port without it is somebody
else's and is never touched. But a tunnel that we need, of the name that we give it, is taken over:
its mark was removed, or a Neutron agent had made it. Where that agent has the bridge with us, all
its tunnels are, with their numbers. All ports of a batch go in one transaction: 1,000 take under a
second, one by one they take 86 ms each. Every port asks for a number of our choice
(``ofport_request``): flows can be made before the port is there, and an OVS restart renumbers
nothing.
"""

import errno
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

with warnings.catch_warnings():
    # ovs and ovsdbapp speak of eventlet wherever it is importable; nothing of ours uses it.
    warnings.simplefilter("ignore")
    from ovs import jsonrpc, timeval
    from ovs.db.idl import Idl
    from ovs.poller import Poller
    from ovs.stream import Stream
    from ovsdbapp.backend.ovs_idl import command, connection, idlutils
    from ovsdbapp.schema.open_vswitch import impl_idl

from ovs_l2pop.backends.openvswitch.rows import TunnelPort, Wiring
from ovs_l2pop.difference import Row
from ovs_l2pop.errors import BackendError
from ovs_l2pop.messages import MAX_SEGMENT_ID

OWNER_KEY = "ovs-l2pop"

#: Highest OpenFlow port number that a port may have (OFPP_MAX, openflow.h).
MAX_OFPORT = 0xFEFF

#: Columns to keep a copy of; everything else stays on the server. The library's JSON parser is
#: slow, and a busy switch updates statistics columns every few seconds.
_COLUMNS = {
    "Open_vSwitch": ["bridges", "cur_cfg", "next_cfg"],
    "Bridge": ["name", "ports", "fail_mode", "datapath_type", "protocols", "other_config"],
    "Port": ["name", "interfaces", "external_ids", "tag", "trunks", "vlan_mode"],
    "Interface": ["name", "type", "options", "ofport", "ofport_request", "error"],
}


@dataclass(frozen=True, slots=True)
class Bridges:
    """The two bridges of a host and the patch ports between them, by Neutron's names."""

    integration: str
    tunnel: str
    datapath_type: str
    integration_patch: str = "patch-tun"
    tunnel_patch: str = "patch-int"

    def peer(self, patch: str) -> str:
        """What a patch port leads to."""
        return self.tunnel_patch if patch == self.integration_patch else self.integration_patch

    def wiring(self) -> tuple[Wiring, ...]:
        """What must hold of them."""
        return (
            Wiring(self.integration, "bridge"),
            Wiring(self.tunnel, "bridge"),
            Wiring(self.tunnel, "fail mode secure"),
            Wiring(self.integration, self.integration_patch),
            Wiring(self.tunnel, self.tunnel_patch),
        )


#: Seconds for a connection and for the handshake with vswitchd.
_CONNECT_TIMEOUT = 10.0
#: Seconds for each tunnel port in a transaction besides; vswitchd makes some 1,000 a second.
_TIMEOUT_PER_PORT = 0.02


class Ovsdb:
    """A connection to the host's ovsdb-server.

    :param target: as ``ovs-vsctl --db`` takes it, such as ``unix:/run/openvswitch/db.sock``.
    :param shared: tunnels of others may be taken over.
    :raises BackendError: no connection, also from every method once it is lost for longer; it is
        then :attr:`broken`, and a new one must be made.
    """

    def __init__(self, target: str, shared: bool = False) -> None:
        self._target = target
        self._shared = shared
        #: A transaction has failed, or is still under way in the library.
        self.broken = False
        self._seen = -1
        try:
            helper = idlutils.create_schema_helper(_schema(target))
            for table, columns in _COLUMNS.items():
                helper.register_columns(table, columns)
            self._connection = connection.Connection(Idl(target, helper), _CONNECT_TIMEOUT)

            # The library keeps a connection on the class: a class of its own for each.
            class Api(impl_idl.OvsdbIdl):
                _ovsdb_connection = None

            self._api: Any = Api(self._connection)
        except Exception as error:
            # The library raises a bare Exception where it can't connect.
            raise BackendError(f"ovsdb {target}: {error}") from error

    def close(self) -> None:
        self._connection.stop(timeout=2)

    def prepare(self, bridges: Bridges | None) -> None:
        """Make what is missing of bridges and patch ports, and wait until vswitchd is at rest.

        None only waits: the bridges are somebody else's.

        The tunnel bridge is in fail mode "secure" from its first moment: three hosts with a
        learning bridge between their tunnels are a loop (Neutron bug 1421232).
        """
        self._commit(_Prepare(self._api, bridges), _CONNECT_TIMEOUT)

    def changed(self) -> bool:
        """Whether anything that is kept a copy of has changed since the last call."""
        with self._connection.lock:
            seen, self._seen = self._seen, self._api.idl.change_seqno
            return bool(self._seen != seen)

    def has_bridge(self, name: str) -> bool:
        """Whether the database has the bridge."""
        with self._connection.lock:
            return self._row("Bridge", name) is not None

    def ofports(self, bridge: str) -> Mapping[str, int]:
        """Port name → OpenFlow port number of every port on the bridge that has one."""
        with self._connection.lock:
            return {
                interface.name: interface.ofport[0]
                for port in self._bridge(bridge).ports
                for interface in port.interfaces
                if interface.ofport and interface.ofport[0] > 0
            }

    def wiring(self, bridges: Bridges) -> set[Wiring]:
        """What of :meth:`Bridges.wiring` holds."""

        def holds(wish: Wiring) -> bool:
            bridge = self._row("Bridge", wish.bridge)
            if bridge is None or wish.what == "bridge":
                return bridge is not None
            if wish.what == "fail mode secure":
                return bool(bridge.fail_mode == ["secure"])
            peer = bridges.peer(wish.what)
            return any(
                port.name == wish.what
                and _leads_to(port.interfaces[0], peer)
                and not _is_restricted(port)
                for port in bridge.ports
            )

        with self._connection.lock:
            return {wish for wish in bridges.wiring() if holds(wish)}

    def tunnels(self, bridge: str) -> set[TunnelPort]:
        """Our tunnel ports as they are. ``ofport`` is 0 where vswitchd has given none."""
        return self._tunnels(bridge, False)

    def usable_tunnels(self, bridge: str) -> set[TunnelPort]:
        """Besides, those that :meth:`write` would take over."""
        return self._tunnels(bridge, self._shared)

    def _tunnels(self, bridge: str, shared: bool) -> set[TunnelPort]:
        with self._connection.lock:
            ports = _ours(self._bridge(bridge), shared).values()
            return {_tunnel(port.interfaces[0]) for port in ports}

    def write(
        self, bridge: str, add: Collection[TunnelPort], remove: Collection[TunnelPort]
    ) -> dict[Row, str]:
        """Make and delete tunnel ports in one transaction.

        A port whose name is in both is changed in place.

        :returns: ports that vswitchd did not take, with its reason; nothing is left of them.
        """
        write = _WriteTunnels(self._api, bridge, add, remove, self._shared)
        self._commit(write, _CONNECT_TIMEOUT + _TIMEOUT_PER_PORT * (len(add) + len(remove)))
        refused = dict(write.refused)
        failed: list[TunnelPort] = []
        with self._connection.lock:
            for row in add:
                interface = self._row("Interface", row.name)
                if row in refused:
                    continue
                if interface is None or not interface.ofport or interface.ofport[0] <= 0:
                    error = interface.error if interface is not None else []
                    refused[row] = error[0] if error else "vswitchd gave it no port number"
                    failed.append(row)
        if failed:
            self._commit(
                _WriteTunnels(self._api, bridge, [], failed, self._shared), _CONNECT_TIMEOUT
            )
        return refused

    def _row(self, table: str, name: str) -> Any:
        return idlutils.row_by_value(self._api.idl, table, "name", name, None)

    def _bridge(self, name: str) -> Any:
        if (row := self._row("Bridge", name)) is None:
            raise BackendError(f"bridge {name} does not exist")
        return row

    def _commit(self, cmd: Any, timeout: float) -> None:
        transaction = impl_idl.OvsVsctlTransaction(
            self._api, self._connection, timeout=timeout, check_error=True, log_errors=False
        )
        transaction.add(cmd)
        try:
            transaction.commit()
        except BackendError:
            raise
        except Exception as error:  # the library passes on whatever a transaction met
            self.broken = True
            raise BackendError(f"ovsdb {self._target}: {error}") from error


def _schema(target: str) -> Any:
    """The database's schema. The library's own way to ask would wait for a hanging server for ever.

    :raises OSError: no server answers, or not in time.
    """
    problem = errno.ECONNREFUSED
    for one in idlutils.parse_connection(target):
        deadline = timeval.msec() + round(1000 * _CONNECT_TIMEOUT)
        problem, stream = Stream.open_block(Stream.open(one), deadline - timeval.msec())
        if problem:
            continue
        rpc = jsonrpc.Connection(stream)
        request = jsonrpc.Message.create_request("get_schema", ["Open_vSwitch"])
        problem = rpc.send(request)
        while problem in (0, errno.EAGAIN):
            rpc.run()
            problem, reply = rpc.recv()
            if reply is not None and reply.id == request.id:
                rpc.close()
                if reply.error:
                    raise OSError(errno.ENODATA, str(reply.error))
                return reply.result
            if timeval.msec() >= deadline:
                problem = errno.ETIMEDOUT
            poller = Poller()
            rpc.wait(poller)
            rpc.recv_wait(poller)
            poller.timer_wait_until(deadline)
            poller.block()
        rpc.close()
    raise OSError(problem, "closed the connection" if problem < 0 else os.strerror(problem))


def _ours(bridge: Any, shared: bool) -> dict[str, Any]:
    """Our tunnel ports by their names; where the bridge is shared, all."""
    return {
        port.name: port
        for port in bridge.ports
        if port.external_ids.get(OWNER_KEY) == "tunnel" or (shared and _leads_away(port.interfaces))
    }


def _leads_away(interfaces: Sequence[Any]) -> bool:
    """Whether a port is a tunnel of networks, not just one tunnel of somebody's."""
    return len(interfaces) == 1 and (
        interfaces[0].type in MAX_SEGMENT_ID
        and interfaces[0].options.get("in_key") == "flow"
        and interfaces[0].options.get("remote_ip", "flow") != "flow"
    )


def _leads_to(interface: Any, peer: str) -> bool:
    return bool(interface.type == "patch" and interface.options.get("peer") == peer)


def _is_restricted(port: Any) -> bool:
    """Whether it takes some VLANs only."""
    return bool(port.tag or port.trunks or port.vlan_mode)


def _tunnel(interface: Any) -> TunnelPort:
    options = dict(interface.options)
    remote = options.pop("remote_ip", "")
    ofport = interface.ofport[0] if interface.ofport else 0
    return TunnelPort(
        interface.name, interface.type, remote, tuple(sorted(options.items())), max(ofport, 0)
    )


class _Prepare(command.BaseCommand):
    """See :meth:`Ovsdb.prepare`. A transaction that changes nothing still has vswitchd answer."""

    def __init__(self, api: Any, bridges: Bridges | None) -> None:
        super().__init__(api)
        self._bridges = bridges

    def run_idl(self, txn: Any) -> None:
        names = self._bridges
        if names is None:
            return
        kind = names.datapath_type
        integration = self._bridge(txn, names.integration, kind, secure=False)
        tunnel = self._bridge(txn, names.tunnel, kind, secure=True)
        self._patch(txn, integration, names.integration_patch, names.tunnel_patch)
        self._patch(txn, tunnel, names.tunnel_patch, names.integration_patch)

    def _bridge(self, txn: Any, name: str, datapath_type: str, secure: bool) -> Any:
        bridge = idlutils.row_by_value(self.api.idl, "Bridge", "name", name, None)
        if bridge is None:
            bridge = txn.insert(self.api.idl.tables["Bridge"])
            bridge.name = name
            bridge.datapath_type = datapath_type
            bridge.fail_mode = ["secure"] if secure else []
            bridge.other_config = {"disable-in-band": "true"}
            bridge.protocols = []
            bridge.ports = []
            self.api._ovs.addvalue("bridges", bridge)
            self._port(txn, bridge, name, "internal")
            return bridge
        if secure and bridge.fail_mode != ["secure"]:
            bridge.fail_mode = ["secure"]
        if secure and bridge.other_config.get("disable-in-band") != "true":
            bridge.setkey("other_config", "disable-in-band", "true")
        if bridge.protocols and "OpenFlow13" not in bridge.protocols:
            bridge.protocols = [*bridge.protocols, "OpenFlow13"]
        return bridge

    def _patch(self, txn: Any, bridge: Any, name: str, peer: str) -> None:
        port = next((port for port in bridge.ports if port.name == name), None)
        if port is None:
            port, interface = self._port(txn, bridge, name, "patch")
            port.external_ids = {OWNER_KEY: "patch"}
            interface.options = {"peer": peer}
            return
        interface, is_ours = port.interfaces[0], port.external_ids.get(OWNER_KEY) == "patch"
        if not _leads_to(interface, peer):
            if not is_ours:
                what = interface.type or "a device"
                if what == "patch":
                    what = f"a patch port to {interface.options.get('peer', '')}"
                raise BackendError(
                    f"port {name} of {bridge.name} is not a patch port to {peer} but {what};"
                    " remove or rename it"
                )
            interface.type = "patch"
            interface.options = {"peer": peer}
        if not is_ours:
            port.setkey("external_ids", OWNER_KEY, "patch")
        if _is_restricted(port):
            port.tag = port.trunks = port.vlan_mode = []

    def _port(self, txn: Any, bridge: Any, name: str, kind: str) -> tuple[Any, Any]:
        if idlutils.row_by_value(self.api.idl, "Port", "name", name, None) is not None:
            raise BackendError(f"port {name} exists on another bridge than {bridge.name}")
        return _insert_port(txn, self.api.idl, bridge, name, kind)


class _WriteTunnels(command.BaseCommand):
    """See :meth:`Ovsdb.write`."""

    def __init__(
        self,
        api: Any,
        bridge: str,
        add: Collection[TunnelPort],
        remove: Collection[TunnelPort],
        shared: bool,
    ) -> None:
        super().__init__(api)
        self._bridge, self._add, self._remove, self._shared = bridge, add, remove, shared
        self.refused: dict[Row, str] = {}

    def run_idl(self, txn: Any) -> None:
        self.refused = {}  # the library runs a command anew where a transaction collided
        idl = self.api.idl
        bridge = idlutils.row_by_value(idl, "Bridge", "name", self._bridge, None)
        if bridge is None:
            raise BackendError(f"bridge {self._bridge} does not exist")
        ours = _ours(bridge, self._shared)
        kept = {row.name for row in self._add}
        for row in self._remove:
            if row.name in ours and row.name not in kept:
                bridge.delvalue("ports", ours[row.name])
        # Ours without its mark, or a Neutron agent's from before we were there.
        left = {
            (port.name, port.interfaces[0].type, port.interfaces[0].options["remote_ip"]): port
            for port in bridge.ports
            if _leads_away(port.interfaces)
        }
        for row in self._add:
            port = ours.get(row.name) or left.get((row.name, row.type, row.remote_ip))
            if port is not None and not self._may_change(port.interfaces[0], row):
                self.refused[row] = f"port {row.name} leads to another VTEP of the same hash"
                continue
            if port is None:
                if idlutils.row_by_value(idl, "Port", "name", row.name, None) is not None:
                    self.refused[row] = f"a port {row.name} exists that is not ours"
                    continue
                port, interface = _insert_port(txn, idl, bridge, row.name, row.type)
                port.external_ids = {OWNER_KEY: "tunnel"}
            else:
                interface = port.interfaces[0]
                port.setkey("external_ids", OWNER_KEY, "tunnel")
                interface.type = row.type
            interface.options = {"remote_ip": row.remote_ip, **dict(row.options)}
            interface.ofport_request = [row.ofport]

    def _may_change(self, interface: Any, row: TunnelPort) -> bool:
        """Whether our port of that name is this row's: the same VTEP's, or one that is to go."""
        remote = interface.options.get("remote_ip")
        gone = {(gone.name, gone.remote_ip) for gone in self._remove}
        return remote == row.remote_ip or (row.name, remote) in gone


def _insert_port(txn: Any, idl: Any, bridge: Any, name: str, kind: str) -> tuple[Any, Any]:
    interface = txn.insert(idl.tables["Interface"])
    interface.name = name
    interface.type = kind
    port = txn.insert(idl.tables["Port"])
    port.name = name
    port.interfaces = [interface]
    bridge.addvalue("ports", port)
    return port, interface

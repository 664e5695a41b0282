"""Bridges and tunnel ports, through ovsdbapp.

A tunnel port of ours carries ``ovs-l2pop`` in its ``external_ids`` and is ours whatever its other
columns say; a port without it is somebody else's and is never touched. But a tunnel that we need,
of the name that we give it, is taken over: its mark was removed, or a Neutron agent had made it.
Where that agent has the bridge with us, all its tunnels are, with their numbers. Ports of a batch
go together: one by one they take 86 ms each. Every port asks for a number of our choice
(``ofport_request``): flows can be made before the port is there, and an OVS restart renumbers
nothing.
"""

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ovs_l2pop.backends.openvswitch import columns, ovsdb_copy
from ovs_l2pop.backends.openvswitch.ovsdb_commands import Prepare, WriteTunnels
from ovs_l2pop.backends.openvswitch.ovsdb_copy import COLUMNS, OWNER_KEY, Copy, Interface, Port
from ovs_l2pop.backends.openvswitch.ovsdb_library import (
    Poller,
    Stream,
    connection,
    idlutils,
    impl_idl,
    jsonrpc,
    timeval,
)
from ovs_l2pop.backends.openvswitch.rows import Bridges, Oddities, TunnelPort, Wiring
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError

#: Seconds for a connection and for the handshake with vswitchd.
_CONNECT_TIMEOUT = 10.0
#: Tunnel ports in a transaction: vswitchd answers nobody while it makes them, and what takes too
#: long counts as failed.
_SLICE = 200
#: Seconds for each of them besides. vswitchd makes hundreds a second; to delete one beside 4,000
#: takes it 50 ms (OVS 3.1, userspace datapath).
_TIMEOUT_PER_PORT = 0.1
#: Characters of an error of the library that are passed on; it may list all rows of a transaction.
_ERROR_LENGTH = 300


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
            schema = _schema(target)
            helper = idlutils.create_schema_helper(schema)
            for table, wanted in COLUMNS.items():
                there = schema["tables"][table]["columns"]
                helper.register_columns(table, [column for column in wanted if column in there])
            self._copy = Copy(target, helper)
            self._connection = connection.Connection(self._copy, _CONNECT_TIMEOUT)

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
        self._commit(Prepare(self._api, self._copy, bridges), _CONNECT_TIMEOUT)

    def changed(self) -> bool:
        """Whether anything that is kept a copy of has changed since the last call."""
        with self._connection.lock:
            seen, self._seen = self._seen, self._copy.change_seqno
            return bool(self._seen != seen)

    def has_tunnel_bridge(self, bridges: Bridges) -> bool:
        """Whether the database has the tunnel bridge, of a datapath type that it can stay in."""
        with self._connection.lock:
            bridge = self._copy.named("Bridge", bridges.tunnel)
            wanted = ovsdb_copy.wanted_datapath_type(self._copy, bridges)
            return bridge is not None and (
                self._shared or ovsdb_copy.datapath_type(bridge) == wanted
            )

    def offloads(self) -> bool:
        """Whether Open vSwitch may hand flows to hardware (``other_config:hw-offload``)."""
        with self._connection.lock:
            config = self._api._ovs.other_config
            return bool(config.get("hw-offload", "").lower() == "true")

    def largest_packet(self, bridges: Bridges) -> int:
        """The largest IP packet that a machine may send without being told that it is too large: 0
        where the switch doesn't forward in user space, and where it takes them for the card to cut
        (``userspace-tso-enable``)."""
        with self._connection.lock:
            bridge = self._copy.named("Bridge", bridges.integration)
            cut = self._api._ovs.other_config.get("userspace-tso-enable", "").lower() == "true"
            if bridge is None or ovsdb_copy.datapath_type(bridge) != "netdev" or cut:
                return 0
            machines = (i.mtu for i in self._interfaces(bridge) if i.name != bridges.integration)
            return max(machines, default=0)

    def underlay_mtu(self, device: str) -> int | None:
        """What fits on the way that tunnels of this bridge take: out of its other ports, without a
        look at the bridge's own. None where it is no bridge."""
        with self._connection.lock:
            bridge = self._copy.named("Bridge", device)
            if bridge is None:
                return None
            others = (i for i in self._interfaces(bridge) if i.type != "internal")
            return min((i.mtu for i in others if i.mtu), default=None)

    def ofports(self, bridge: str) -> Mapping[str, int]:
        """Port name → OpenFlow port number of every port on the bridge that has one."""
        with self._connection.lock:
            interfaces = self._interfaces(self._bridge(bridge))
            return {one.name: one.ofport for one in interfaces if one.ofport}

    def numbers(self, rows: Iterable[TunnelPort]) -> dict[str, int]:
        """The same of these ports."""
        with self._connection.lock:
            there = self._copy.interface_names()
            return {row.name: there[row.name].ofport for row in rows if row.name in there}

    def wiring(self, bridges: Bridges, patch: int) -> set[Wiring]:
        """What there is of :meth:`Bridges.wiring`, and how.

        :param patch: the number that the tunnel bridge's patch port had when it was looked up.
        """
        with self._connection.lock:
            found = set()
            for wish in bridges.wiring():
                if (bridge := self._copy.named("Bridge", wish.bridge)) is None:
                    continue
                if wish.what == "bridge":
                    odd = self._odd_bridge(bridge, bridges)
                elif wish.what == "fail mode secure":
                    if bridge.fail_mode != ["secure"]:
                        continue
                    odd = ()
                else:
                    ports = {port.name: port for port in self._copy.ports(bridge)}
                    if (port := ports.get(wish.what)) is None:
                        continue
                    odd = self._odd_patch(port, bridges, patch)
                found.add(wish._replace(odd=odd))
            return found

    def _odd_bridge(self, bridge: Any, bridges: Bridges) -> Oddities:
        if bridge.name != bridges.tunnel:
            return ()
        odd = columns.odd(bridge, columns.BRIDGE)
        if bridge.other_config.get("disable-in-band") != "true":
            odd += (("other_config:disable-in-band", "not true"),)
        if bridge.protocols and "OpenFlow13" not in bridge.protocols:
            odd += (("protocols", ",".join(bridge.protocols)),)
        if ovsdb_copy.datapath_type(bridge) != ovsdb_copy.wanted_datapath_type(self._copy, bridges):
            odd += (("datapath_type", ovsdb_copy.datapath_type(bridge)),)
        return odd

    def _odd_patch(self, port: Port, bridges: Bridges, number: int) -> Oddities:
        odd = self._copy.bond(port)
        if port.mark != "patch":
            odd += ((f"external_ids:{OWNER_KEY}", port.mark or ""),)
        if port.name == bridges.integration_patch:
            odd += columns.odd(port.row, columns.INTEGRATION_PATCH_PORT)
        else:
            odd += port.odd
        if (interface := self._copy.interface_of(port)) is None:
            return odd
        if (interface.type, interface.options) != ("patch", {"peer": bridges.peer(port.name)}):
            options = ",".join(f"{key}={value}" for key, value in interface.options.items())
            odd += (("interface", f"{interface.type or 'a device'} {options}".strip()),)
        if port.name == bridges.tunnel_patch and number not in (0, interface.ofport):
            odd += (("ofport", str(interface.ofport or "[]")),)
        return odd + interface.odd

    def tunnels(self, bridge: str) -> set[TunnelPort]:
        """Our tunnel ports as they are. ``ofport`` is 0 where vswitchd has given none."""
        return self._tunnels(bridge, False)

    def usable_tunnels(self, bridge: str) -> set[TunnelPort]:
        """Besides, those that :meth:`write` would take over."""
        return self._tunnels(bridge, self._shared)

    def _tunnels(self, bridge: str, shared: bool) -> set[TunnelPort]:
        with self._connection.lock:
            ports = self._copy.ours(self._bridge(bridge), shared).values()
            return {self._copy.tunnel(port) for port in ports}

    def troubles(self, bridges: Bridges) -> list[tuple[str, str]]:
        """What isn't ours to change and may keep frames from their way: what it is, and why."""
        with self._connection.lock:
            return list(_troubles(self._copy, bridges, self._shared))

    def write(
        self, bridge: str, add: Collection[TunnelPort], remove: Collection[TunnelPort]
    ) -> dict[Row, str]:
        """Make and delete tunnel ports, in slices: what is done is done when a later one fails.

        A port whose name is in both is changed in place.

        :returns: ports that vswitchd did not take, with its reason; nothing is left of them.
        """
        kept = {row.name for row in add}
        going = frozenset((row.name, row.remote_ip) for row in remove)
        refused: dict[Row, str] = {}
        for some in _slices([row for row in remove if row.name not in kept]):
            self._write(bridge, [], some, going)
        for some in _slices(add):
            refused.update(self._write(bridge, some, [], going))
        return refused

    def _write(
        self,
        bridge: str,
        add: list[TunnelPort],
        remove: list[TunnelPort],
        going: frozenset[tuple[str, str]],
    ) -> dict[Row, str]:
        write = WriteTunnels(self._api, self._copy, bridge, add, remove, going, self._shared)
        self._commit(write, _CONNECT_TIMEOUT + _TIMEOUT_PER_PORT * (len(add) + len(remove)))
        refused = dict(write.refused)
        failed: list[TunnelPort] = []
        with self._connection.lock:
            made = self._copy.ours(self._bridge(bridge), False)
            for row in add:
                if row in refused:
                    continue
                port = made.get(row.name)
                interface = port and self._copy.interface_of(port)
                if interface is None or not interface.ofport:
                    error = interface.error if interface is not None else ""
                    refused[row] = error or "vswitchd gave it no port number"
                    if other := self._same_tunnel(row):
                        refused[row] += f"; {other}"
                    failed.append(row)
        if failed:
            self._write(bridge, [], failed, frozenset())
        return refused

    def _same_tunnel(self, row: TunnelPort) -> str | None:
        """Who has a tunnel to the same VTEP: Open vSwitch has one for a pair of addresses."""
        for interface in self._copy.interface_names().values():
            same = (interface.type, interface.remote_ip) == (row.type, row.remote_ip)
            if same and interface.name != row.name:
                where = ovsdb_copy.in_use(self._copy, interface.name)
                return f"port {interface.name}{where} is a tunnel to {row.remote_ip} already"
        return None

    def _interfaces(self, bridge: Any) -> Iterator[Interface]:
        """Those of all ports of a bridge."""
        return (i for port in self._copy.ports(bridge) for i in self._copy.interfaces(port))

    def _bridge(self, name: str) -> Any:
        if (row := self._copy.named("Bridge", name)) is None:
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
            text = str(error)
            if len(text) > _ERROR_LENGTH:
                text = f"{text[:_ERROR_LENGTH]}… ({len(text)} characters)"
            raise BackendError(f"ovsdb {self._target}: {text}") from error


def _slices(rows: Collection[TunnelPort]) -> Iterator[list[TunnelPort]]:
    rows = list(rows)
    return (rows[at : at + _SLICE] for at in range(0, len(rows), _SLICE))


def _troubles(copy: Copy, bridges: Bridges, shared: bool) -> Iterator[tuple[str, str]]:
    integration, tunnel = (
        copy.named("Bridge", name) for name in (bridges.integration, bridges.tunnel)
    )
    if integration is None or tunnel is None:
        return
    here, there = ovsdb_copy.datapath_type(integration), ovsdb_copy.datapath_type(tunnel)
    if here != there:
        yield (
            "bridges",
            f"{bridges.integration} is of datapath type {here} and {bridges.tunnel} of {there}:"
            " no patch port leads from one to the other",
        )
    if not shared and (targets := sorted(one.target for one in tunnel.controller)):
        yield (
            "controller",
            f"{bridges.tunnel} has a controller ({', '.join(targets)}), which may change every"
            f" flow; ovs-vsctl del-controller {bridges.tunnel} takes it away",
        )
    switch = next(iter(copy.tables["Open_vSwitch"].rows.values()))
    if switch.other_config.get("flow-restore-wait", "").lower() == "true":
        yield "Open vSwitch", "other_config:flow-restore-wait is true: it forwards nothing"


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

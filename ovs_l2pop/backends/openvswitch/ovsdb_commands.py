"""What is written to the database; each command is all of a transaction."""

import logging
from collections.abc import Collection
from typing import Any

from ovs_l2pop.backends.openvswitch import columns
from ovs_l2pop.backends.openvswitch.ovsdb_copy import (
    OWNER_KEY,
    Copy,
    Port,
    datapath_type,
    in_use,
    wanted_datapath_type,
)
from ovs_l2pop.backends.openvswitch.ovsdb_library import command
from ovs_l2pop.backends.openvswitch.render import tunnel_name
from ovs_l2pop.backends.openvswitch.rows import INTEGRATION_PATCH, Bridges, TunnelPort
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

LOG = logging.getLogger(__name__)


class Prepare(command.BaseCommand):
    """See :meth:`Ovsdb.prepare`. A transaction that changes nothing still has vswitchd answer."""

    def __init__(self, api: Any, copy: Copy, bridges: Bridges | None) -> None:
        super().__init__(api)
        self._copy = copy
        self._bridges = bridges

    def __str__(self) -> str:
        return "prepare bridges"

    def run_idl(self, txn: Any) -> None:
        names = self._bridges
        if names is None:
            return
        kind = wanted_datapath_type(self._copy, names)
        known = self.api._ovs.datapath_types
        if known and kind not in known:
            raise BackendError(
                f"bridge {names.integration}: this Open vSwitch has no datapath type {kind}, only"
                f" {', '.join(sorted(known))}"
            )
        integration = self._copy.named("Bridge", names.integration)
        tunnel = self._copy.named("Bridge", names.tunnel)
        # What is read once something was written would be a mixture.
        ports = [[] if row is None else self._copy.ports(row) for row in (integration, tunnel)]
        if integration is None:
            integration = self._insert_bridge(txn, names.integration, kind, [])
        if tunnel is None:
            tunnel = self._insert_bridge(txn, names.tunnel, kind, ["secure"])
        else:
            self._put_right(tunnel, kind)
        self._patch(txn, integration, ports[0], names.integration_patch, names.tunnel_patch)
        self._patch(txn, tunnel, ports[1], names.tunnel_patch, names.integration_patch)

    def _insert_bridge(self, txn: Any, name: str, kind: str, fail_mode: list[str]) -> Any:
        bridge = txn.insert(self._copy.tables["Bridge"])
        bridge.name = name
        bridge.datapath_type = kind
        bridge.fail_mode = fail_mode
        bridge.other_config = {"disable-in-band": "true"}
        bridge.protocols = []
        bridge.ports = []
        self.api._ovs.addvalue("bridges", bridge)
        self._check_name(name, name)
        _insert_port(txn, self._copy, bridge, name, "internal")
        return bridge

    def _put_right(self, bridge: Any, kind: str) -> None:
        columns.put_right(bridge, columns.BRIDGE | {"fail_mode": ["secure"]})
        if (found := datapath_type(bridge)) != kind:
            LOG.warning(
                "bridge %s is of datapath type %s; it gets %s, which the integration bridge is of:"
                " no patch port leads from one to the other",
                *(bridge.name, found, kind),
            )
            bridge.datapath_type = kind
        if bridge.other_config.get("disable-in-band") != "true":
            bridge.setkey("other_config", "disable-in-band", "true")
        if bridge.protocols and "OpenFlow13" not in bridge.protocols:
            bridge.protocols = [*bridge.protocols, "OpenFlow13"]

    def _patch(self, txn: Any, bridge: Any, there: list[Port], name: str, peer: str) -> None:
        port = next((port for port in there if port.name == name), None)
        wanted = columns.INTEGRATION_PATCH_PORT if name == INTEGRATION_PATCH else columns.PORT
        if port is None:
            self._check_name(bridge.name, name)
            row, interface = _insert_port(txn, self._copy, bridge, name, "patch")
            row.external_ids = {OWNER_KEY: "patch"}
            row.other_config = wanted["other_config"]
            interface.options = {"peer": peer}
            return
        found = self._copy.interface_of(port)
        if port.mark != "patch":
            if found is None or not found.leads_to(peer):
                raise BackendError(
                    f"port {name} of {bridge.name} is not a patch port to {peer} but"
                    f" {found or 'a bond'}; remove or rename it"
                )
            port.row.setkey("external_ids", OWNER_KEY, "patch")
        columns.put_right(port.row, wanted)
        own = {"type": "patch", "options": {"peer": peer}}
        _put_interface_right(txn, self._copy, port, own)

    def _check_name(self, bridge: str, name: str) -> None:
        if (where := in_use(self._copy, name)) is not None:
            raise BackendError(f"port {name}{where} is on another bridge than {bridge}")


class WriteTunnels(command.BaseCommand):
    """See :meth:`Ovsdb.write`."""

    def __init__(
        self,
        api: Any,
        copy: Copy,
        bridge: str,
        add: Collection[TunnelPort],
        remove: Collection[TunnelPort],
        going: Collection[tuple[str, str]],
        shared: bool,
    ) -> None:
        super().__init__(api)
        self._copy = copy
        self._bridge, self._add, self._remove, self._shared = bridge, add, remove, shared
        #: (name, remote VTEP) of all ports that go, not in this transaction alone.
        self._going = going
        self.refused: dict[Row, str] = {}

    def __str__(self) -> str:
        return f"make {len(self._add)} and delete {len(self._remove)} tunnel ports"

    def run_idl(self, txn: Any) -> None:
        self.refused = {}  # the library runs a command anew where a transaction collided
        copy = self._copy
        bridge = copy.named("Bridge", self._bridge)
        if bridge is None:
            raise BackendError(f"bridge {self._bridge} does not exist")
        ours = copy.ours(bridge, self._shared)
        for row in self._remove:
            if row.name in ours:
                bridge.delvalue("ports", ours[row.name].row)
        if not self._add:
            return
        there = {port.name: port for port in copy.ports(bridge)}
        ports, interfaces = copy.port_names(), copy.interface_names()
        done: set[str] = set()
        for row in self._add:
            port = there.get(row.name)
            if row.name in done or (row.name in ours and self._is_anothers(ours[row.name], row)):
                self.refused[row] = f"port {row.name} leads to another VTEP of the same hash"
            elif port is None and row.name not in ports and row.name not in interfaces:
                done.add(row.name)
                self._make(txn, bridge, row)
            elif port is not None and (row.name in ours or self._was_left(port, row)):
                done.add(row.name)
                if row.name in interfaces and copy.interface_of(port) is None:
                    where = in_use(copy, row.name)
                    self.refused[row] = f"an interface {row.name}{where} exists that is not ours"
                    continue
                self._put_right(txn, port, row)
            else:
                where = in_use(copy, row.name)
                self.refused[row] = f"a port {row.name}{where} exists that is not ours"

    def _make(self, txn: Any, bridge: Any, row: TunnelPort) -> None:
        port, interface = _insert_port(txn, self._copy, bridge, row.name, row.type)
        port.external_ids = {OWNER_KEY: "tunnel"}
        interface.options = {"remote_ip": row.remote_ip, **dict(row.options)}
        interface.ofport_request = [row.ofport]

    def _put_right(self, txn: Any, port: Port, row: TunnelPort) -> None:
        if port.mark != "tunnel":
            port.row.setkey("external_ids", OWNER_KEY, "tunnel")
        columns.put_right(port.row, columns.PORT)
        own = {
            "type": row.type,
            "options": {"remote_ip": row.remote_ip, **dict(row.options)},
            "ofport_request": [row.ofport],
        }
        _put_interface_right(txn, self._copy, port, own)

    def _was_left(self, port: Port, row: TunnelPort) -> bool:
        """Whether it is ours without its mark, or a Neutron agent's from before we were there."""
        interface = self._copy.interface_of(port)
        return (
            interface is not None
            and self._copy.leads_away(port)
            and (interface.type, interface.remote_ip) == (row.type, row.remote_ip)
        )

    def _is_anothers(self, port: Port, row: TunnelPort) -> bool:
        """Whether our port of that name is another VTEP's, and stays: names are cut hashes."""
        interface = self._copy.interface_of(port)
        if interface is None or interface.type not in MAX_SEGMENT_ID:
            return False
        remote = interface.remote_ip
        if remote in ("", row.remote_ip) or (row.name, remote) in self._going:
            return False
        try:
            return tunnel_name(interface.type, remote) == row.name
        except ValueError:  # no address
            return False


def _put_interface_right(txn: Any, copy: Copy, port: Port, own: columns.Columns) -> None:
    """Give a port one interface, of its own name, with ``own`` columns besides those of all."""
    found = copy.interface_of(port)
    if found is not None:
        if len(port.interfaces) > 1:
            port.row.interfaces = [found.row]
        columns.put_right(found.row, columns.INTERFACE | own)
        return
    interface = txn.insert(copy.tables["Interface"])
    interface.name = port.name
    for column, value in own.items():
        setattr(interface, column, value)
    port.row.interfaces = [interface]


def _insert_port(txn: Any, copy: Copy, bridge: Any, name: str, kind: str) -> tuple[Any, Any]:
    interface = txn.insert(copy.tables["Interface"])
    interface.name = name
    interface.type = kind
    port = txn.insert(copy.tables["Port"])
    port.name = name
    port.interfaces = [interface]
    bridge.addvalue("ports", port)
    return port, interface

"""The copy of the database that the library keeps, read as ports and bridges."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ovs_l2pop.backends.openvswitch import columns
from ovs_l2pop.backends.openvswitch.ovsdb_library import Idl, idlutils
from ovs_l2pop.backends.openvswitch.rows import TUNNEL_PATCH, Bridges, Oddities, TunnelPort
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

#: In ``external_ids`` of a port of ours: "tunnel" or "patch".
OWNER_KEY = "ovs-l2pop"

#: Columns to keep a copy of; everything else stays on the server. The library's JSON parser is
#: slow, and a busy switch updates statistics columns every few seconds.
COLUMNS: Mapping[str, Iterable[str]] = {
    "Open_vSwitch": ["bridges", "cur_cfg", "next_cfg", "other_config", "datapath_types"],
    "Bridge": [
        *("name", "ports", "fail_mode", "datapath_type", "protocols", "other_config"),
        *("controller", *columns.BRIDGE),
    ],
    "Port": ["name", "interfaces", "external_ids", *columns.PORT],
    "Interface": [
        *("name", "type", "options", "ofport", "ofport_request", "error"),
        *columns.INTERFACE,
    ],
    # Others refer to these.
    "Controller": ["target"],
    "QoS": ["type"],
}


class Interface(NamedTuple):
    """A row of the table Interface."""

    row: Any
    name: str
    type: str
    options: dict[str, str]
    ofport: int  #: 0: none
    ofport_request: int  #: 0: none
    error: str
    odd: Oddities

    @property
    def remote_ip(self) -> str:
        return self.options.get("remote_ip", "")

    @property
    def leads_away(self) -> bool:
        """Whether it is a tunnel of networks, not just one tunnel of somebody's."""
        return (
            self.type in MAX_SEGMENT_ID
            and self.options.get("in_key") == "flow"
            and self.options.get("remote_ip", "flow") != "flow"
        )

    def leads_to(self, peer: str) -> bool:
        """Whether it is a patch port to that one."""
        return self.type == "patch" and self.options.get("peer") == peer

    def __str__(self) -> str:
        if self.type == "patch":
            return f"a patch port to {self.options.get('peer', '')}"
        return self.type or "a device"


class Port(NamedTuple):
    """A row of the table Port."""

    row: Any
    name: str
    mark: str | None  #: what of ours it is: "tunnel", "patch"
    interfaces: tuple[Any, ...]
    odd: Oddities


class Copy(Idl):
    """The library's copy of the database, and what was read of rows that haven't changed since.

    A column takes the library some 10 µs each time: of 1,000 ports, half a second for every change
    of anything.
    """

    def __init__(self, target: str, helper: Any) -> None:
        super().__init__(target, helper)
        self._known: dict[Any, Any] = {}

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the library for every row that came, changed or went."""
        self._known.pop(row.uuid, None)

    def named(self, table: str, name: str) -> Any | None:
        """The row of that name."""
        return idlutils.row_by_value(self, table, "name", name, None)

    def names(self, table: str) -> dict[str, Any]:
        """Name → row, of ports or of interfaces."""
        read = self.port if table == "Port" else self.interface
        return {read(row).name: row for row in self.tables[table].rows.values()}

    def ports(self, bridge: Any) -> list[Port]:
        """The ports of a bridge."""
        rows = self._known.get(bridge.uuid)
        if rows is None:
            rows = self._known[bridge.uuid] = tuple(bridge.ports)
        return [self.port(row) for row in rows]

    def port(self, row: Any) -> Port:
        """A port."""
        port: Port | None = self._known.get(row.uuid)
        if port is None:
            mark, odd = row.external_ids.get(OWNER_KEY), columns.odd(row, columns.PORT)
            port = self._known[row.uuid] = Port(row, row.name, mark, tuple(row.interfaces), odd)
        return port

    def interface(self, row: Any) -> Interface:
        """An interface."""
        interface: Interface | None = self._known.get(row.uuid)
        if interface is None:
            interface = self._known[row.uuid] = Interface(
                row,
                row.name,
                row.type,
                dict(row.options),
                max(next(iter(row.ofport), 0), 0),
                next(iter(row.ofport_request), 0),
                next(iter(row.error), ""),
                columns.odd(row, columns.INTERFACE),
            )
        return interface

    def interface_of(self, port: Port) -> Interface | None:
        """The interface that a port of ours must have: one of its own name."""
        interfaces = (self.interface(row) for row in port.interfaces)
        return next((one for one in interfaces if one.name == port.name), None)

    def bond(self, port: Port) -> Oddities:
        """Whether it has other interfaces besides, or instead."""
        names = [self.interface(row).name for row in port.interfaces]
        return () if names == [port.name] else (("interfaces", ",".join(names)),)

    def leads_away(self, port: Port) -> bool:
        """Whether it is somebody's tunnel of networks, such as a Neutron agent makes."""
        interface = self.interface_of(port)
        return len(port.interfaces) == 1 and interface is not None and interface.leads_away

    def ours(self, bridge: Any, shared: bool) -> dict[str, Port]:
        """Our tunnel ports by their names; where the bridge is shared, all."""
        return {
            port.name: port
            for port in self.ports(bridge)
            if port.name != TUNNEL_PATCH
            and (port.mark == "tunnel" or (shared and self.leads_away(port)))
        }

    def tunnel(self, port: Port) -> TunnelPort:
        """The port as a row."""
        odd = (*self.bond(port), *port.odd)
        interface = self.interface_of(port)
        if interface is None:
            return TunnelPort(port.name, "", "", (), 0, odd)
        options = dict(interface.options)
        remote = options.pop("remote_ip", "")
        if interface.ofport_request != interface.ofport:
            odd += (("ofport_request", str(interface.ofport_request or "[]")),)
        return TunnelPort(
            port.name,
            interface.type,
            remote,
            tuple(sorted(options.items())),
            interface.ofport,
            odd + interface.odd,
        )


def datapath_type(bridge: Any) -> str:
    """Empty means "system"."""
    return bridge.datapath_type or "system"


def wanted_datapath_type(copy: Copy, bridges: Bridges) -> str:
    """Patch ports join bridges of one type: where machines are plugged in decides."""
    integration = copy.named("Bridge", bridges.integration)
    return bridges.datapath_type if integration is None else datapath_type(integration)


def in_use(copy: Copy, name: str) -> str | None:
    """Where a port or an interface of that name is: " of BRIDGE"; None: nowhere."""
    for bridge in copy.tables["Bridge"].rows.values():
        for port in copy.ports(bridge):
            interfaces = map(copy.interface, port.interfaces)
            if name == port.name or name in (one.name for one in interfaces):
                return f" of {bridge.name}"
    return None

"""The copy of the database that the library keeps, read as ports and bridges."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from ovs_l2pop.backends.openvswitch import columns
from ovs_l2pop.backends.openvswitch.ovsdb_library import ROW_DELETE, Idl
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
        *("name", "type", "options", "ofport", "ofport_request", "error", "mtu"),
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
    mtu: int  #: 0: none
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
    interfaces: tuple[int, ...]  #: their UUIDs
    odd: Oddities


Read = TypeVar("Read", Port, Interface)


class _Table(Generic[Read]):
    """Rows of a table as they were read, each once for every change of it."""

    def __init__(self, read: Callable[[Any], Read]) -> None:
        self._read: Callable[[Any], Read] = read
        self._found: dict[int, Read] = {}
        self._names: dict[str, Read] = {}
        self._unread: dict[int, Any] = {}

    def changed(self, row: Any, gone: bool) -> None:
        """It came, changed or went."""
        before = self._found.pop(row.uuid.int, None)
        if before is not None and self._names.get(before.name) is before:
            del self._names[before.name]
        if gone:
            self._unread.pop(row.uuid.int, None)
        else:
            self._unread[row.uuid.int] = row

    def all(self) -> Mapping[int, Read]:
        """By UUID, as a number: the library's are hashed in Python."""
        self._catch_up()
        return self._found

    def names(self) -> Mapping[str, Read]:
        """By name."""
        self._catch_up()
        return self._names

    def _catch_up(self) -> None:
        for uuid, row in self._unread.items():
            self._found[uuid] = found = self._read(row)
            self._names[found.name] = found
        self._unread.clear()


class Copy(Idl):
    """The library's copy of the database, and what was read of rows that haven't changed since.

    A column takes the library some 10 µs each time, and the ports of a bridge, of which there may
    be thousands, a comparison for each: half a second for every change of anything.
    """

    def __init__(self, target: str, helper: Any) -> None:
        super().__init__(target, helper)
        self._ports: _Table[Port] = _Table(_read_port)
        self._interfaces: _Table[Interface] = _Table(_read_interface)
        #: By the UUID of a bridge: its ports.
        self._inside: dict[int, list[Port]] = {}
        #: By the UUID of a port: what was made of it, and of what.
        self._tunnels: dict[int, tuple[Port, tuple[Interface, ...], TunnelPort]] = {}

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the library for every row that came, changed or went."""
        gone = event == ROW_DELETE
        table = row._table.name
        if table in ("Bridge", "Port"):
            self._inside.clear()
        if table == "Interface":
            self._interfaces.changed(row, gone)
        elif table == "Port":
            self._ports.changed(row, gone)
            if gone:
                self._tunnels.pop(row.uuid.int, None)

    def named(self, table: str, name: str) -> Any | None:
        """The row of that name."""
        rows = self.tables[table].rows.values()
        return next((row for row in rows if row.name == name), None)

    def port_names(self) -> Mapping[str, Port]:
        """All ports there are, by name."""
        return self._ports.names()

    def interface_names(self) -> Mapping[str, Interface]:
        """All interfaces there are, by name."""
        return self._interfaces.names()

    def ports(self, bridge: Any) -> list[Port]:
        """The ports of a bridge."""
        found = self._inside.get(bridge.uuid.int)
        if found is None:
            known = self._ports.all()
            # The attribute would have the library make a row of each, and sort them.
            uuids = _references(bridge, "ports")
            found = self._inside[bridge.uuid.int] = [known[one] for one in uuids if one in known]
        return found

    def interfaces(self, port: Port) -> tuple[Interface, ...]:
        """The interfaces of a port."""
        known = self._interfaces.all()
        if (
            len(port.interfaces) == 1 and port.interfaces[0] in known
        ):  # nearly all, and there are many
            return (known[port.interfaces[0]],)
        return tuple(known[uuid] for uuid in port.interfaces if uuid in known)

    def interface_of(self, port: Port) -> Interface | None:
        """The interface that a port of ours must have: one of its own name."""
        return next((one for one in self.interfaces(port) if one.name == port.name), None)

    def bond(self, port: Port) -> Oddities:
        """Whether it has other interfaces besides, or instead."""
        names = [one.name for one in self.interfaces(port)]
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
        interfaces = self.interfaces(port)
        before = self._tunnels.get(port.row.uuid.int)
        if before is None or before[0] is not port or before[1] != interfaces:
            made = self._make_tunnel(port)
            before = self._tunnels[port.row.uuid.int] = port, interfaces, made
        return before[2]

    def _make_tunnel(self, port: Port) -> TunnelPort:
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


def _read_port(row: Any) -> Port:
    mark, odd = row.external_ids.get(OWNER_KEY), columns.odd(row, columns.PORT)
    return Port(row, row.name, mark, _references(row, "interfaces"), odd)


def _read_interface(row: Any) -> Interface:
    return Interface(
        row,
        row.name,
        row.type,
        dict(row.options),
        max(next(iter(row.ofport), 0), 0),
        next(iter(row.ofport_request), 0),
        next(iter(row.error), ""),
        next(iter(row.mtu), 0),
        columns.odd(row, columns.INTERFACE),
    )


def _references(row: Any, column: str) -> tuple[int, ...]:
    """UUIDs of the rows that a column refers to, as the database has it: without what a transaction
    under way would change."""
    return tuple(atom.value.int for atom in row._data[column].values) if row._data else ()


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
            if name == port.name or name in (one.name for one in copy.interfaces(port)):
                return f" of {bridge.name}"
    return None

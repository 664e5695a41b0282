"""Upstream's l2pop messages, validated, as changes to the forwarding table.

The three messages have the form that Neutron's ``l2population`` driver has cast since 2013
(``neutron/plugins/ml2/drivers/l2pop/rpc.py``), so that other producers and consumers of it keep
working::

    add_fdb_entries / remove_fdb_entries
        {"<network uuid>": {"segment_id": 1001, "network_type": "vxlan",
                            "ports": {"<vtep ip>": [["<mac>", "<ip>"], …]}}}
    update_fdb_entries
        {"chg_ip": {"<network uuid>": {"<vtep ip>": {"before": [["<mac>", "<ip>"], …],
                                                     "after": [["<mac>", "<ip>"], …]}}}}

What the owner of an address is, beyond being there, stands beside ``ports`` (and beside ``before``
and ``after``)::

    "properties": [["<mac>", "<ip>", {"router": true, "override": false, "sticky": true}], …]

``router`` and ``override`` are the flags that a neighbour advertisement has for it (RFC 4861 §4.4,
RFC 9047 §2), false and true where nothing is said; what is ``sticky`` stays where it is, whoever
else claims it (RFC 7432 §15.2). It is ours too, and optional: a message without it changes no
property of what it names.

An integer ``revision`` beside ``ports``, and beside ``before`` and ``after``, is ours: upstream's
agents take no notice of it. It orders what is told of an entry: :mod:`ovs_l2pop.core.revisions`.

Two more tell which networks this host has, for where no Neutron agent does::

    attach_network {"network_id": …, "network_type": "vxlan", "segment_id": 1001, "local_vlan": 5}
    detach_network {"network_id": …}

The first may also say what becomes of frames to whom the table doesn't know: ``"unknown_unicast"``
and ``"unknown_neighbour"``, ``"flood"`` or ``"drop"``; else the agent's options of that name do.

Nothing that arrives raises: what is wrong becomes a :class:`Refusal` that names the offender, and
what is good beside it becomes a change.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple
from uuid import UUID

from ovs_l2pop.core.errors import L2popError

#: The pair that asks for broadcast, unknown unicast and multicast of a network to be copied to a
#: VTEP (``FLOODING_ENTRY`` in ``neutron/common/constants.py``).
FLOODING_MAC = "00:00:00:00:00:00"
FLOODING_IP = "0.0.0.0"

#: Network type → highest segmentation id: VNI of 24 bits (RFC 7348 §5, RFC 8926 §3.4), GRE key of
#: 32 bits (RFC 2890 §2.1). 0 is the key of a tunnel without one, so the lowest is 1 everywhere.
MAX_SEGMENT_ID = {"vxlan": 2**24 - 1, "gre": 2**32 - 1, "geneve": 2**24 - 1}

#: VLAN ids 0 and 4095 are reserved (IEEE 802.1Q §9.6).
MAX_LOCAL_VLAN = 4094


#: What may become of frames to whom the table doesn't know.
UNKNOWN = ("flood", "drop")


class Segment(NamedTuple):
    """How a network's frames are marked on the underlay."""

    network_type: str  #: a key of :data:`MAX_SEGMENT_ID`
    segment_id: int  #: VXLAN or Geneve VNI, GRE key

    def __str__(self) -> str:
        return f"{self.network_type} {self.segment_id}"


class Attachment(NamedTuple):
    """A network that this host has ports in."""

    network_id: str
    segment: Segment
    local_vlan: (
        int | None
    )  #: VLAN id of the network on the integration bridge; None on Linux bridge
    bridge: str | None = None  #: Linux bridge to use instead of the one named after the network
    #: What becomes of frames to a MAC, and of questions for an address, that the table doesn't
    #: know: of :data:`UNKNOWN`; None: as the agent's options say.
    unknown_unicast: str | None = None
    unknown_neighbour: str | None = None

    def drops(self, what: str, otherwise: bool) -> bool:
        """Whether what is for who isn't known is dropped.

        :param what: ``unknown_unicast`` or ``unknown_neighbour``.
        :param otherwise: what the agent's options say.
        """
        said: str | None = getattr(self, what)
        return otherwise if said is None else said == "drop"


class Entry(NamedTuple):
    """A machine behind a VTEP. All three are strings in canonical notation."""

    mac: str
    ip: str
    vtep: str


class Properties(NamedTuple):
    """What the owner of an address is, beyond being there."""

    router: bool = False  #: the R flag of advertisements (RFC 4861 §4.4)
    override: bool = True  #: the O flag: not for anycast addresses and proxies (§7.2.4, §7.2.7)
    sticky: bool = False  #: stays where it is, whoever else claims it (RFC 7432 §15.2)


#: Properties by (MAC, IP).
Owners = Mapping[tuple[str, str], Properties]


class AddEntries(NamedTuple):
    """Machines at one VTEP of one network. ``segment`` is None where the message has none."""

    network_id: str
    segment: Segment | None
    vtep: str
    entries: list[Entry]
    flooding: bool
    revision: int | None = None  #: orders words about one entry, where the sender numbers them
    #: Of those of the entries of which something is said; None: of none.
    properties: Owners | None = None


class RemoveEntries(NamedTuple):
    """The same machines, no longer there."""

    network_id: str
    vtep: str
    entries: list[Entry]
    flooding: bool
    revision: int | None = None


class Detach(NamedTuple):
    """This host has no port in the network any more."""

    network_id: str


Change = AddEntries | RemoveEntries | Attachment | Detach


class Told(NamedTuple):
    """One message, as it was read."""

    changes: list[Change]
    #: The message itself, for the table's file; None where part of it was refused, or there was
    #: none.
    line: bytes | None = None
    #: Which line of what its sender sent, from 1; 0: it came otherwise.
    number: int = 0

    @property
    def size(self) -> int:
        """Bytes, about, of the message that says this."""
        if self.line is not None:
            return len(self.line)
        return sum(
            100 + 50 * len(change.entries)
            for change in self.changes
            if isinstance(change, AddEntries | RemoveEntries)
        )


class Refusal(NamedTuple):
    """One thing that was not applied: where it stood, what it was, what is wrong with it."""

    where: str
    offender: str
    reason: str
    #: The line of what its sender sent, from 1; 0: it came otherwise.
    line: int = 0

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        return f"{line}{self.where}: {self.offender}: {self.reason}"


class InvalidError(L2popError):
    """Carries offender and reason up to where the place is known."""

    def __init__(self, offender: object, reason: str) -> None:
        super().__init__(reason)
        self.offender = quote(offender)
        self.reason = reason

    def at(self, where: str) -> Refusal:
        return Refusal(where, self.offender, self.reason)


def quote(value: object) -> str:
    """The offender as text, bounded: a log line must not grow with hostile input."""
    if isinstance(value, (dict, list)) and len(value) > 8:
        return f"{type(value).__name__} of {len(value)} elements"
    try:
        text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    except (ValueError, RecursionError):  # thousands of digits, hundreds of brackets
        return f"{type(value).__name__} too large to be shown"
    return text if len(text) <= 80 else text[:77] + "..."


_CANONICAL_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}").fullmatch
_ANY_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}").fullmatch
#: What Linux takes for a device: IFNAMSIZ, and ``dev_valid_name`` in its ``net/core/dev.c``.
_DEVICE_NAME = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}", re.ASCII).fullmatch
_GROUP_MAC_DIGITS = frozenset("13579bdf")  # second digit odd: the I/G bit (IEEE 802-2014 §8.2.2)


def _mac(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidError(value, "not a MAC address")
    if not _CANONICAL_MAC(value):
        if not _ANY_MAC(value):
            raise InvalidError(value, "not a MAC address")
        value = value.lower().replace("-", ":")
    if value[1] in _GROUP_MAC_DIGITS:
        raise InvalidError(value, "a group address can't be a machine's MAC address")
    return value


#: Canonical dotted quads that can be a machine's: neither multicast (224-239) nor 0.0.0.0 nor the
#: broadcast address. The parser of the standard library takes three times as long.
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_UNICAST_IPV4 = re.compile(
    rf"(?!0\.0\.0\.0$|2(?:2[4-9]|3\d)\.|255\.255\.255\.255$){_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII
).fullmatch


def _ip(value: object) -> str:
    """An IPv4 or IPv6 address in canonical notation, with no zone."""
    if not isinstance(value, str) or "%" in value:
        raise InvalidError(value, "not an IP address")
    if _UNICAST_IPV4(value):
        return value
    try:
        address = IPv6Address(value) if ":" in value else IPv4Address(value)
    except AddressValueError:
        raise InvalidError(value, "not an IP address") from None
    if address.version == 4 or address.is_multicast or address.is_unspecified:
        raise InvalidError(value, "not a unicast IP address")
    return str(address)


#: Where no VTEP can be: 0/8 and loopback (RFC 1122 §3.2.1.3), multicast, 240/4 (RFC 1112 §4), and
#: IPv4 addresses in IPv6's notation (RFC 4291 §2.5.5.2), which no packet carries.
_NO_VTEPS = {
    ip_network("0.0.0.0/8"): "in 0.0.0.0/8, this network",
    ip_network("127.0.0.0/8"): "a loopback address",
    ip_network("224.0.0.0/4"): "a multicast address",
    ip_network("240.0.0.0/4"): "in 240.0.0.0/4, reserved",
    ip_network("::/128"): "the unspecified address",
    ip_network("::1/128"): "the loopback address",
    ip_network("::ffff:0:0/96"): "an IPv4 address in IPv6's notation",
    ip_network("ff00::/8"): "a multicast address",
}


@lru_cache(10_000)
def vtep_problem(address: str) -> str | None:
    """Why a VTEP can't have this address, or None.

    :raises ValueError: it is no IP address.
    """
    parsed = ip_address(address)
    for network, what in _NO_VTEPS.items():
        if parsed.version == network.version and parsed in network:
            return f"not a VTEP's address: {what}"
    return None


def _vtep(value: object, version: int | None) -> str:
    if not isinstance(value, str) or "%" in value:
        raise InvalidError(value, "not an IP address")
    try:
        problem = vtep_problem(value)
    except ValueError:
        raise InvalidError(value, "not an IP address") from None
    vtep = str(ip_address(value)) if ":" in value else value
    if problem is None and version not in (None, 6 if ":" in vtep else 4):
        problem = f"VTEP is not an IPv{version} address"
    if problem is not None:
        raise InvalidError(value, problem)
    return vtep


def _uuid(value: object) -> str:
    if isinstance(value, str) and len(value) in (32, 36):
        try:
            parsed = str(UUID(value))
        except ValueError:
            pass
        else:
            if value.lower() in (parsed, parsed.replace("-", "")):
                return parsed
    raise InvalidError(value, "not a UUID")


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidError(value, f"{what} must be an object")
    return value


def _integer(value: object, low: int, high: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidError(value, f"{what} must be an integer")
    if not low <= value <= high:
        raise InvalidError(value, f"{what} must be in {low}..{high}")
    return value


def _segment(body: Mapping[str, Any]) -> Segment:
    network_type = body.get("network_type")
    if not isinstance(network_type, str) or network_type not in MAX_SEGMENT_ID:
        raise InvalidError(network_type, f"network_type must be one of {', '.join(MAX_SEGMENT_ID)}")
    high = MAX_SEGMENT_ID[network_type]
    return Segment(
        network_type, _integer(body.get("segment_id"), 1, high, f"{network_type} segment_id")
    )


def _revision(body: Mapping[str, Any]) -> int | None:
    """Optional; of databases' range (SQL's BIGINT)."""
    revision = body.get("revision")
    return None if revision is None else _integer(revision, 0, 2**63 - 1, "revision")


def entry(mac: object, ip: object, vtep: str) -> Entry:
    """A machine behind a VTEP.

    :raises InvalidError: an address can't be a machine's.
    """
    if (mac := _mac(mac)) == FLOODING_MAC:
        raise InvalidError(mac, "the flooding entry is no machine's")
    return Entry(mac, _ip(ip), vtep)


def check_vtep(vtep: object, local_ip: str) -> str:
    """A VTEP, in canonical notation.

    :raises InvalidError: it can't be one, or none that is reached from this.
    """
    return _vtep(vtep, _family(local_ip))


def read(
    lines: Iterable[bytes], parser: "Parser", first: int | None = None
) -> tuple[list[Told], list[Refusal]]:
    """Messages, one JSON object a line, and what was refused of them. Never raises.

    :param first: number of the first line, for refusals to name theirs; None: they don't.
    """
    told: list[Told] = []
    refusals: list[Refusal] = []
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        number = 0 if first is None else first + at
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            text = line[:60].decode(errors="backslashreplace")
            refusals.append(Refusal(f"message ({error})", quote(text), "not JSON", number))
            continue
        changes, refused = parser.parse(message)
        refusals += (refusal._replace(line=number) for refusal in refused)
        if changes:
            told.append(Told(changes, None if refused else line, number))
    return told, refusals


def unreachable(change: Change, local_ip: str) -> Refusal | None:
    """Why nothing of a change can be reached from this VTEP: its VTEP is of another family."""
    if not isinstance(change, AddEntries | RemoveEntries):
        return None
    try:
        check_vtep(change.vtep, local_ip)
    except InvalidError as error:
        return error.at(f"fdb_entries of network {change.network_id} ports, VTEP")
    return None


def _family(address: str) -> int:
    return 6 if ":" in address else 4


class Parser:
    """Turns messages into changes.

    ``local_ip`` is this host's VTEP: all VTEPs of a cloud are of one address family, and an
    address of the other one can't be reached from here, so it is refused. None accepts both.
    """

    def __init__(self, local_ip: str | None = None) -> None:
        self._vtep_version = None if local_ip is None else _family(local_ip)
        self._methods: dict[str, Callable[[dict[str, Any]], None]] = {
            "add_fdb_entries": self._add,
            "remove_fdb_entries": self._remove,
            "update_fdb_entries": self._update,
            "attach_network": self._attach,
            "detach_network": self._detach,
            "table_format": self._format,
        }
        self._changes: list[Change] = []
        self._refusals: list[Refusal] = []

    def parse(self, message: object) -> tuple[list[Change], list[Refusal]]:
        """Changes to apply in this order, and what was refused. Never raises."""
        self._changes, self._refusals = [], []
        try:
            body = _mapping(message, "a message")
            method = body.get("method")
            handler = self._methods.get(method) if isinstance(method, str) else None
            if handler is None:
                raise InvalidError(method, f"method must be one of {', '.join(self._methods)}")
        except InvalidError as error:
            self._refuse("message", error)
        else:
            try:
                handler(body)
            except InvalidError as error:
                self._refuse(str(method), error)
        return self._changes, self._refusals

    def _refuse(self, where: str, error: InvalidError) -> None:
        self._refusals.append(error.at(where))

    def _add(self, message: dict[str, Any]) -> None:
        for network_id, body, where in self._networks(message.get("fdb_entries")):
            try:
                segment, revision = _segment(body), _revision(body)
            except InvalidError as error:
                self._refuse(where, error)
                continue
            owners = self._owners(body, where)
            for vtep, pairs, place in self._vteps(body.get("ports"), f"{where} ports"):
                entries, flooding = self._pairs(pairs, vtep, place)
                change = AddEntries(network_id, segment, vtep, entries, flooding, revision, owners)
                self._changes.append(change)

    def _remove(self, message: dict[str, Any]) -> None:
        # The segment is not needed to remove an entry, so a wrong one does no harm.
        for network_id, body, where in self._networks(message.get("fdb_entries")):
            try:
                revision = _revision(body)
            except InvalidError as error:
                self._refuse(where, error)
                continue
            for vtep, pairs, place in self._vteps(body.get("ports"), f"{where} ports"):
                entries, flooding = self._pairs(pairs, vtep, place)
                self._changes.append(RemoveEntries(network_id, vtep, entries, flooding, revision))

    def _update(self, message: dict[str, Any]) -> None:
        actions = _mapping(message.get("fdb_entries"), "fdb_entries")
        for action, networks in actions.items():
            if action != "chg_ip":
                self._refuse(
                    "update_fdb_entries", InvalidError(action, "the only action is chg_ip")
                )
                continue
            for network_id, body, where in self._networks(networks, "chg_ip"):
                for vtep, change, place in self._vteps(body, where):
                    self._change_ip(network_id, vtep, change, place)

    def _change_ip(self, network_id: str, vtep: str, change: object, where: str) -> None:
        try:
            lists = _mapping(change, "a change of addresses")
            revision = _revision(lists)
        except InvalidError as error:
            self._refuse(where, error)
            return
        # Either list may be missing: an address that only came or only went (Neutron bug 1367881).
        before, floods = self._pairs(lists.get("before", []), vtep, f"{where} before")
        after, floods_too = self._pairs(lists.get("after", []), vtep, f"{where} after")
        if floods or floods_too:
            self._refuse(where, InvalidError(FLOODING_MAC, "the flooding entry has no address"))
        # What comes goes in first: a VTEP that loses its last entry is forgotten, and with it the
        # segment that it announced, which this message doesn't tell again.
        if after:
            owners = self._owners(lists, where)
            self._changes.append(AddEntries(network_id, None, vtep, after, False, revision, owners))
        kept = set(after)
        if gone := [entry for entry in before if entry not in kept]:
            self._changes.append(RemoveEntries(network_id, vtep, gone, False, revision))

    def _attach(self, message: dict[str, Any]) -> None:
        local_vlan = message.get("local_vlan")
        if local_vlan is not None:
            _integer(local_vlan, 1, MAX_LOCAL_VLAN, "local_vlan")
        bridge = message.get("bridge")
        if bridge is not None and not (isinstance(bridge, str) and _DEVICE_NAME(bridge)):
            raise InvalidError(bridge, "not the name of a bridge")
        network_id = _uuid(message.get("network_id"))
        unknown = []
        for name in ("unknown_unicast", "unknown_neighbour"):
            value = message.get(name)
            if value not in (None, *UNKNOWN):
                raise InvalidError(value, f"{name} must be one of {', '.join(UNKNOWN)}")
            unknown.append(value)
        segment = _segment(message)
        self._changes.append(Attachment(network_id, segment, local_vlan, bridge, *unknown))

    def _detach(self, message: dict[str, Any]) -> None:
        self._changes.append(Detach(_uuid(message.get("network_id"))))

    def _format(self, message: dict[str, Any]) -> None:
        """The first line of a table's file, which may be sent like any other file."""
        if message.get("format") != 1:
            raise InvalidError(message.get("format"), "of this format nothing is known")

    def _networks(
        self, value: object, what: str = "fdb_entries"
    ) -> Iterator[tuple[str, dict[str, Any], str]]:
        for key, body in _mapping(value, what).items():
            where = f"{what} of network {quote(key)}"
            try:
                network_id = _uuid(key)
                yield network_id, _mapping(body, "a network"), where
            except InvalidError as error:
                self._refuse(where, error)

    def _vteps(self, value: object, where: str) -> Iterator[tuple[str, Any, str]]:
        try:
            vteps = _mapping(value, "a map from VTEP to entries")
        except InvalidError as error:
            self._refuse(where, error)
            return
        for key, body in vteps.items():
            try:
                vtep = _vtep(key, self._vtep_version)
            except InvalidError as error:
                self._refuse(f"{where}, VTEP", error)
            else:
                yield vtep, body, f"{where}, VTEP {vtep}"

    def _owners(self, body: Mapping[str, Any], where: str) -> Owners | None:
        """``properties``; mostly there are none."""
        if (listed := body.get("properties")) is None:
            return None
        owners: dict[tuple[str, str], Properties] = {}
        if not isinstance(listed, list):
            self._refuse(where, InvalidError(listed, "properties must be a list"))
            listed = []
        for index, item in enumerate(listed):
            try:
                if not isinstance(item, (list, tuple)) or len(item) < 3:
                    raise InvalidError(item, "must be [MAC, IP, properties]")
                told = _mapping(item[2], "properties of an address")
                known = {name: told[name] for name in Properties._fields if name in told}
                for name, value in known.items():
                    if not isinstance(value, bool):
                        raise InvalidError(value, f"{name} must be true or false")
                owners[_mac(item[0]), _ip(item[1])] = Properties(**known)
            except InvalidError as error:
                self._refuse(f"{where} properties [{index}]", error)
        return owners or None

    def _pairs(self, pairs: object, vtep: str, where: str) -> tuple[list[Entry], bool]:
        entries: list[Entry] = []
        flooding = False
        if not isinstance(pairs, list):
            self._refuse(where, InvalidError(pairs, "must be a list of [MAC, IP] pairs"))
            return entries, flooding
        for index, pair in enumerate(pairs):
            try:
                # Later elements are ignored: upstream could never add a third one without
                # breaking its peers (bug 1352801), and we don't want to be such a peer.
                if not isinstance(pair, (list, tuple)) or len(pair) < 2:
                    raise InvalidError(pair, "must be a [MAC, IP] pair")
                mac, ip = _mac(pair[0]), pair[1]
                if mac == FLOODING_MAC:
                    if ip != FLOODING_IP:
                        raise InvalidError(ip, f"the flooding entry's IP is {FLOODING_IP}")
                    flooding = True
                else:
                    entries.append(Entry(mac, _ip(ip), vtep))
            except InvalidError as error:
                self._refuse(f"{where} [{index}]", error)
        return entries, flooding

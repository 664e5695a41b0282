"""Who may send into a network: a packet filter before the vxlan devices, which take from anybody.

The frames of a network's VTEPs, and nobody else's, get in; what a stranger sends is dropped before
it is unpacked, and counted. An nftables table of our own holds all of it, and one more VTEP is one
more element of a set::

    table inet ovs-l2pop {
        set closed { typeof @th,96,24; elements = { 77 } }
        set members { typeof @th,96,24 . ip saddr; elements = { 77 . 192.0.2.12 } }
        set members6 { … }
        counter strangers { }
        chain input {
            type filter hook input priority raw; policy accept;
            udp dport 4789 @th,96,24 @closed @th,96,24 . ip saddr != @members
                counter name strangers drop
            …
        }
    }

``@th,96,24`` is the VNI: 24 bits behind the headers of UDP (8 bytes) and the first half of VXLAN's
(RFC 7348 §5). Networks that aren't in ``closed`` are let alone, as are other ports and VNIs of
others. What is written together is one transaction of the kernel's, so that no member is left out
for a moment.

Numbers are those of ``linux/netfilter/nfnetlink.h`` and ``nf_tables.h``; they are sent big-endian.
"""

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice

from ovs_l2pop.backends.linuxbridge.rows import Closed, Guard, GuardRow, Member
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink import messages as nl
from ovs_l2pop.netlink.socket import Netlink

TABLE = "ovs-l2pop"
"""The table's name."""

_SUBSYSTEM = 10
_BEGIN, _END = 0x10, 0x11
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _DELCHAIN = 0, 1, 2, 3, 4, 5
_NEWRULE, _GETRULE, _DELRULE, _NEWSET, _GETSET = 6, 7, 8, 9, 10
_NEWELEMENT, _GETELEMENT, _DELELEMENT, _NEWOBJECT, _GETOBJECT = 12, 13, 14, 18, 19
_INET = 1  # NFPROTO_INET
_HEAD = struct.pack("!BBH", _INET, 0, 0)  # family, version, resource
_BATCH = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
#: NFTA_…_TABLE of whatever is in a table, and NFTA_TABLE_NAME.
_OF_TABLE = 1
_CHAIN_NAME, _HOOK, _POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_RULE_CHAIN, _EXPRESSIONS = 2, 4
_SET_NAME, _SET_FLAGS, _KEY_TYPE, _KEY_LENGTH, _SET_ID, _SET_USERDATA = 2, 3, 4, 5, 10, 13
_LIST_SET, _ELEMENTS = 2, 3
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA, _PACKETS = 2, 3, 4, 2

_CHAIN, _COUNTER, _CLOSED = "input", "strangers", "closed"
_MEMBERS = {4: "members", 6: "members6"}
#: What nft keeps beside a set, so as to list it: the expressions that its key is made of.
_TYPEOF = bytes.fromhex(
    "0004020000000326000407000000011e000400000000010400000000020403000000030460000000040418000000"
)
_TYPEOF_4 = bytes.fromhex(
    "000400000000034600040d000000013e0026000407000000011e00040000000001040000000002040300000003"
    "04600000000404180000000114000407000000010c00040c00000001040b000000"
)
_TYPEOF_6 = bytes.fromhex(
    "000400000000034600040d000000013e0026000407000000011e00040000000001040000000002040300000003"
    "04600000000404180000000114000407000000010c00040d000000010408000000"
)
#: Sets: type and bytes of the key as nft numbers types, and the above. Parts fill four bytes.
_SETS = {
    _CLOSED: (4, 3, _TYPEOF),
    "members": (4 << 6 | 7, 4 + 4, _TYPEOF_4),
    "members6": (4 << 6 | 8, 4 + 16, _TYPEOF_6),
}

#: Elements in one message, whose list may have 64 kB; and in one transaction.
_PER_MESSAGE, _PER_TRANSACTION = 1000, 20_000


class Filter:
    """The table, through a netlink socket of its namespace.

    :raises BackendError: this kernel has no nftables, or they may not be used.
    """

    def __init__(self) -> None:
        self._netlink = Netlink(nl.NETFILTER)
        try:
            self._listed(_GETTABLE)
        except BackendError:
            self._netlink.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def rows(self) -> set[GuardRow]:
        """What is there. Nothing, where the sets aren't ours any more: then all is made anew."""
        if not self._sets_are_right():
            return set()
        found: set[GuardRow] = {Closed(_vni(key)) for key in self._elements(_CLOSED)}
        for name in _MEMBERS.values():
            found.update(Member(_vni(key), _address(key[4:])) for key in self._elements(name))
        if (port := self._port()) is not None:
            found.add(Guard(port))
        return found

    def dropped(self) -> int:
        """Packets of strangers so far; from 0 on with a new table."""
        for found in self._listed(_GETOBJECT):
            if nl.string(found.get(_OBJECT_NAME, b"")) == _COUNTER:
                data = nl.attributes(found.get(_OBJECT_DATA, b""))
                return int.from_bytes(data.get(_PACKETS, b""), "big")
        return 0

    def write(self, add: Collection[GuardRow], remove: Collection[GuardRow]) -> dict[Row, str]:
        """Write, members before what closes their networks; the rows that were refused.

        :raises BackendError: somebody took the table away meanwhile.
        """
        guards = [row for row in add if isinstance(row, Guard)]
        if not guards and any(isinstance(row, Guard) for row in remove):
            # All else is gone with it.
            reason = self._transact([_table(_NEWTABLE), _table(_DELTABLE)])
            refused: list[Row] = [*add, *remove] if reason else [*add]
            return dict.fromkeys(refused, reason or "nothing is filtered")
        everything: list[Row] = [*add, *remove]
        for guard in guards:
            if reason := self._transact(list(self._frame(guard))):
                return dict.fromkeys(everything, reason)
        if not self._write_elements(add, remove):
            return {}
        # Somebody else may have changed a set: what is gone can't be deleted.
        there = self.rows()
        if not any(isinstance(row, Guard) for row in there):
            raise BackendError(f"the packet filter's table {TABLE} was taken away")
        if reason := self._write_elements(add, [row for row in remove if row in there]):
            return dict.fromkeys(everything, reason)
        return {}

    # -- what is there -----------------------------------------------------------------------

    def _listed(self, what: int, *more: bytes) -> list[dict[int, bytes]]:
        """What the table has of a kind; for the kind table: itself."""
        body = _HEAD + nl.text(_OF_TABLE, TABLE) + b"".join(more)
        kind = _SUBSYSTEM << 8 | what
        try:
            bodies = self._netlink.dump(nl.Message(kind, 0, body if what != _GETTABLE else _HEAD))
        except BackendError as error:
            if what != _GETTABLE and not self._listed(_GETTABLE):
                return []  # there is none
            raise BackendError(f"nftables: {error}") from error
        found = [nl.attributes(body, len(_HEAD)) for body in bodies]
        return [one for one in found if nl.string(one.get(_OF_TABLE, b"")) == TABLE]

    def _sets_are_right(self) -> bool:
        if not self._listed(_GETTABLE):
            return False
        found = {
            nl.string(one.get(_SET_NAME, b"")): (
                int.from_bytes(one.get(_KEY_TYPE, b""), "big"),
                int.from_bytes(one.get(_KEY_LENGTH, b""), "big"),
                int.from_bytes(one.get(_SET_FLAGS, b""), "big"),
            )
            for one in self._listed(_GETSET)
        }
        return found == {name: (kind, size, 0) for name, (kind, size, _) in _SETS.items()}

    def _port(self) -> int | None:
        """The port that is filtered, where chain and rules are as they should be."""
        chains = self._listed(_GETCHAIN)
        names = [nl.string(chain.get(_CHAIN_NAME, b"")) for chain in chains]
        if names != [_CHAIN] or not _CHAIN_SETTINGS.items() <= _settings(chains[0]).items():
            return None
        if not any(
            nl.string(o.get(_OBJECT_NAME, b"")) == _COUNTER for o in self._listed(_GETOBJECT)
        ):
            return None
        rules = [
            [_expression(one) for _, one in nl.each(rule.get(_EXPRESSIONS, b""))]
            for rule in self._listed(_GETRULE)
        ]
        port = _port_of(rules)
        if port is None or len(rules) != len(_MEMBERS):
            return None
        for rule, version in zip(rules, _MEMBERS, strict=True):
            wanted = [_expression(one) for one in _rule(version, port)]
            if len(rule) != len(wanted):
                return None
            for (name, values), (wanted_name, wanted_values) in zip(rule, wanted, strict=True):
                if name != wanted_name or not wanted_values.items() <= values.items():
                    return None
        return port

    def _elements(self, name: str) -> Iterator[bytes]:
        """The keys in a set."""
        for listed in self._listed(_GETELEMENT, nl.text(_LIST_SET, name)):
            yield from _keys(listed.get(_ELEMENTS, b""), (_SETS[name][1] + 3) & ~3)

    # -- what should be ----------------------------------------------------------------------

    def _frame(self, guard: Guard) -> Iterator[nl.Message]:
        """Table, sets, chain and rules; what is in the sets stays, where they are right."""
        yield _table(_NEWTABLE)
        if self._sets_are_right():
            chains = [nl.string(chain[_CHAIN_NAME]) for chain in self._listed(_GETCHAIN)]
            yield from (_message(_DELRULE, nl.text(_RULE_CHAIN, chain)) for chain in chains)
            yield from (_message(_DELCHAIN, nl.text(_CHAIN_NAME, chain)) for chain in chains)
        else:
            yield _table(_DELTABLE)
            yield _table(_NEWTABLE)
            for number, (name, (kind, size, userdata)) in enumerate(_SETS.items(), 1):
                yield _message(
                    _NEWSET,
                    nl.text(_SET_NAME, name),
                    _u32(_SET_FLAGS, 0),
                    _u32(_KEY_TYPE, kind),
                    _u32(_KEY_LENGTH, size),
                    _u32(_SET_ID, number),
                    nl.attribute(_SET_USERDATA, userdata),
                )
        yield _message(
            _NEWOBJECT,
            nl.text(_OBJECT_NAME, _COUNTER),
            _u32(_OBJECT_TYPE, 1),
            nl.nested(_OBJECT_DATA, nl.attribute(1, bytes(8)), nl.attribute(_PACKETS, bytes(8))),
        )
        settings = (nl.attribute(kind, value) for kind, value in _CHAIN_SETTINGS.items())
        yield _message(_NEWCHAIN, nl.text(_CHAIN_NAME, _CHAIN), *settings)
        for version in _MEMBERS:
            expressions = (nl.attribute(1, one) for one in _rule(version, guard.port))
            yield _message(
                _NEWRULE, nl.text(_RULE_CHAIN, _CHAIN), nl.nested(_EXPRESSIONS, *expressions)
            )

    def _write_elements(self, add: Iterable[GuardRow], remove: Iterable[GuardRow]) -> str:
        """Write elements; why they were refused, or nothing."""
        added, removed = _by_set(add), _by_set(remove)
        changes: list[tuple[int, str, Sequence[bytes]]] = []
        for kind, keys, order in (
            (_NEWELEMENT, added, ("members", "members6", _CLOSED)),
            (_DELELEMENT, removed, (_CLOSED, "members", "members6")),
        ):
            for name in order:
                rest = iter(keys.get(name, ()))
                while some := list(islice(rest, _PER_MESSAGE)):
                    changes.append((kind, name, some))
        per_transaction = _PER_TRANSACTION // _PER_MESSAGE
        for start in range(0, len(changes), per_transaction):
            messages = [_elements(*change) for change in changes[start : start + per_transaction]]
            if reason := self._transact(messages):
                return reason
        return ""

    def _transact(self, messages: Sequence[nl.Message]) -> str:
        """Have all of it done or nothing; why nothing was, or nothing."""
        begin, end = nl.Message(_BEGIN, 0, _BATCH), nl.Message(_END, 0, _BATCH)
        failures = self._netlink.write_together([begin, *messages, end])
        return "" if not failures else f"nftables: {failures[0]}"


def concerns(kind: int, body: bytes) -> bool:
    """Whether what the kernel tells of its tables is about ours."""
    found = nl.attributes(body, len(_HEAD)) if kind >> 8 == _SUBSYSTEM else {}
    return nl.string(found.get(_OF_TABLE, b"")) == TABLE


def _by_set(rows: Iterable[GuardRow]) -> dict[str, list[bytes]]:
    """Keys of elements by their set."""
    found: dict[str, list[bytes]] = {}
    for row in rows:
        if isinstance(row, Closed):
            found.setdefault(_CLOSED, []).append(row.vni.to_bytes(3, "big"))
        elif isinstance(row, Member):
            source = _packed(row.vtep)
            name = _MEMBERS[4 if len(source) == 4 else 6]
            found.setdefault(name, []).append(row.vni.to_bytes(3, "big") + b"\0" + source)
    return found


@lru_cache(10_000)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


@lru_cache(10_000)
def _address(packed: bytes) -> str:
    return str(ip_address(packed))


def _vni(key: bytes) -> int:
    return int.from_bytes(key[:3], "big")


def _message(what: int, *parts: bytes) -> nl.Message:
    """About something in the table."""
    exclusive = nl.EXCLUSIVE if what == _NEWCHAIN else 0
    new = what in (_NEWTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEMENT, _NEWOBJECT)
    flags = nl.CREATE | exclusive if new else 0
    # A rule comes behind the others (NLM_F_APPEND).
    flags |= 0x800 if what == _NEWRULE else 0
    body = _HEAD + nl.text(_OF_TABLE, TABLE) + b"".join(parts)
    return nl.Message(_SUBSYSTEM << 8 | what, flags, body)


def _table(what: int) -> nl.Message:
    return _message(what, _u32(2, 0) if what == _NEWTABLE else b"")


def _elements(what: int, name: str, keys: Iterable[bytes]) -> nl.Message:
    elements = (nl.nested(1, nl.nested(1, nl.attribute(1, key))) for key in keys)
    return _message(what, nl.text(_LIST_SET, name), nl.nested(_ELEMENTS, *elements))


def _u32(kind: int, value: int) -> bytes:
    return nl.attribute(kind, struct.pack("!I", value))


def _keys(listed: bytes, size: int) -> Iterator[bytes]:
    """The keys in a list of elements; mostly all elements are alike."""
    one = size + 12
    if len(listed) % one == 0 and size > 4:
        parts = list(struct.iter_unpack(f"12s{size}s", listed))
        if len({head for head, _ in parts}) == 1:
            yield from (key for _, key in parts)
            return
    for _, element in nl.each(listed):
        key = nl.attributes(nl.attributes(element).get(1, b"")).get(1, b"")
        if key:
            yield key


# -- the rules -------------------------------------------------------------------------------

# Before others see the packet: NF_INET_LOCAL_IN, priority raw.
_CHAIN_SETTINGS = {
    _HOOK: _u32(1, 1) + nl.attribute(2, struct.pack("!i", -300)),
    _POLICY: struct.pack("!I", 1),  # accept
    _CHAIN_TYPE: b"filter\0",
}
#: 16 bytes, and four of them behind the first four.
_REGISTER, _SECOND = 1, 9
#: Version → NFPROTO_…, where the source address is, and its bytes.
_FAMILIES = {4: (2, 12, 4), 6: (10, 8, 16)}


def _settings(chain: Mapping[int, bytes]) -> dict[int, bytes]:
    return {kind: chain.get(kind, b"") for kind in _CHAIN_SETTINGS}


def _do(name: str, *data: bytes) -> bytes:
    """An expression, as it stands in a list of them."""
    return nl.text(1, name) + nl.nested(2, *data)


def _load(base: int, offset: int, size: int, register: int = _REGISTER) -> bytes:
    numbers = (register, base, offset, size)
    return _do("payload", *(_u32(kind, value) for kind, value in enumerate(numbers, 1)))


def _meta(key: int) -> bytes:
    return _do("meta", _u32(2, key), _u32(1, _REGISTER))


def _equal(value: bytes) -> bytes:
    return _do("cmp", _u32(1, _REGISTER), _u32(2, 0), nl.attribute(3, nl.attribute(1, value)))


def _rule(version: int, port: int) -> list[bytes]:
    """The expressions for packets of IP of this version."""
    protocol, offset, size = _FAMILIES[version]
    network, transport = 1, 2
    return [
        _meta(15),
        _equal(bytes([protocol])),
        _meta(16),
        _equal(bytes([17])),  # UDP
        _load(transport, 2, 2),
        _equal(struct.pack("!H", port)),
        _load(transport, 12, 3),
        _do("lookup", nl.text(1, _CLOSED), _u32(2, _REGISTER), _u32(5, 0)),
        _load(transport, 12, 3),
        _load(network, offset, size, _SECOND),
        _do("lookup", nl.text(1, _MEMBERS[version]), _u32(2, _REGISTER), _u32(5, 1)),
        _do("objref", _u32(1, 1), nl.text(2, _COUNTER)),
        _do("immediate", _u32(1, 0), nl.attribute(2, nl.attribute(2, _u32(1, 0)))),  # drop
    ]


def _expression(one: bytes) -> tuple[str, dict[int, bytes]]:
    found = nl.attributes(one)
    return nl.string(found.get(1, b"")), nl.attributes(found.get(2, b""))


def _port_of(rules: list[list[tuple[str, dict[int, bytes]]]]) -> int | None:
    """What is compared in the place of the port."""
    if not rules or len(rules[0]) < 6:
        return None
    value = nl.attributes(rules[0][5][1].get(3, b"")).get(1, b"")
    return int.from_bytes(value, "big") if len(value) == 2 else None

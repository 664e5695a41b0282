"""The rows of the Open vSwitch backend, and how they travel in OpenFlow 1.3 messages.

A flow row is plain :class:`bytes` (see :mod:`.stamps`): there may be hundreds of thousands.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ovs_l2pop.core.errors import BackendError

#: (column, its value as text) of a row in OVSDB.
Oddities = tuple[tuple[str, str], ...]

#: The patch ports' names are Neutron's.
INTEGRATION_PATCH, TUNNEL_PATCH = "patch-tun", "patch-int"


class Group(NamedTuple):
    """One OpenFlow group."""

    group_id: int
    type: int  #: OFPGT_ALL 0, OFPGT_SELECT 1
    buckets: bytes


class Meter(NamedTuple):
    """One OpenFlow meter."""

    meter_id: int
    flags: int  #: OFPMF_*
    bands: bytes


class TunnelPort(NamedTuple):
    """One port of the tunnel bridge, to one remote VTEP."""

    name: str  #: at most 15 characters
    type: str  #: "vxlan", "gre" or "geneve"
    remote_ip: str
    options: tuple[tuple[str, str], ...]  #: Interface options but remote_ip, sorted
    ofport: int  #: OpenFlow port number
    odd: Oddities = ()  #: columns that aren't what they should be; of what is wanted, none


class Wiring(NamedTuple):
    """Something about the bridges that everything else needs."""

    bridge: str  #: or "Open_vSwitch", for a setting of the switch
    what: str  #: "bridge", "fail mode secure", the name of a patch port, or a setting's value
    odd: Oddities = ()


class PortFlags(NamedTuple):
    """What somebody has set on a port of ours by OpenFlow; never wanted."""

    bridge: str
    port: str
    number: int
    mac: bytes  #: who changes a port has to name it
    flags: int  #: OFPPC_*


@dataclass(frozen=True, slots=True)
class Bridges:
    """The two bridges of a host and the patch ports between them, by Neutron's names."""

    integration: str
    tunnel: str
    datapath_type: str
    integration_patch: str = INTEGRATION_PATCH
    tunnel_patch: str = TUNNEL_PATCH

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


OvsRow = bytes | Group | Meter | TunnelPort | Wiring | PortFlags

_FLOW_MOD = struct.Struct("!QQBBHHHIIIHxx")
_GROUP_MOD = struct.Struct("!HBxI")
_METER_MOD = struct.Struct("!HHI")
_DROP_BAND = struct.Struct("!HHII4x")  # type, length, rate, burst

FLOW_MOD, GROUP_MOD, METER_MOD = 14, 15, 29  # ofp_type
_FLOW_ADD, _FLOW_DELETE, _FLOW_DELETE_STRICT = 0, 3, 4  # ofp_flow_mod_command
_GROUP_ADD, _GROUP_MODIFY, _GROUP_DELETE = 0, 1, 2  # ofp_group_mod_command
_METER_ADD, _METER_MODIFY, _METER_DELETE = 0, 1, 2  # ofp_meter_mod_command
_PACKETS_BURST_STATS = 2 | 4 | 8  # OFPMF_PKTPS, OFPMF_BURST, OFPMF_STATS
_ANY = 0xFFFFFFFF  # OFPP_ANY, OFPG_ANY, OFP_NO_BUFFER
_EXACT = 0xFFFFFFFFFFFFFFFF
# Given a whole cookie, Open vSwitch looks through all flows that have it, for each flow-mod: 16,000
# deletes take 2.9 s. One bit less, and it looks the flow up by its match: 0.13 s.
_NEARLY_EXACT = 0x7FFFFFFFFFFFFFFF
#: Of OpenFlow: all packets.
EMPTY_MATCH = bytes.fromhex("0001000400000000")


def flow_key(row: bytes) -> bytes:
    """Table, priority and match: two flows of one key can't be installed at once."""
    length = int.from_bytes(row[5:7], "big")
    return row[: 3 + (length + 7) // 8 * 8]


def add_flows(flows: Iterable[bytes], cookie: int) -> list[tuple[int, bytes]]:
    """(type, body) of the messages that install flow rows."""
    heads: dict[bytes, bytes] = {}  # by table and priority, of which there are few
    messages = []
    for row in flows:
        head = heads.get(row[:3])
        if head is None:
            table, priority = row[0], int.from_bytes(row[1:3], "big")
            head = heads[row[:3]] = _FLOW_MOD.pack(
                cookie, 0, table, _FLOW_ADD, 0, 0, priority, _ANY, _ANY, _ANY, 0
            )
        messages.append((FLOW_MOD, head + row[3:]))
    return messages


def delete_flow(row: bytes, cookie: int) -> tuple[int, bytes]:
    """The message that deletes a flow row if it is of this cookie, and nothing else."""
    body = _FLOW_MOD.pack(
        cookie,
        _NEARLY_EXACT,
        row[0],
        _FLOW_DELETE_STRICT,
        0,
        0,
        int.from_bytes(row[1:3], "big"),
        _ANY,
        _ANY,
        _ANY,
        0,
    )
    return FLOW_MOD, body + flow_key(row)[3:]


def delete_flows(
    cookie: int, table: int, match: bytes = EMPTY_MATCH, out_port: int = _ANY
) -> tuple[int, bytes]:
    """The message that deletes all flows of a cookie in a table that match and output there."""
    body = _FLOW_MOD.pack(cookie, _EXACT, table, _FLOW_DELETE, 0, 0, 0, _ANY, out_port, _ANY, 0)
    return FLOW_MOD, body + match


def delete_learned_flow(table: int, priority: int, match: bytes) -> tuple[int, bytes]:
    """The message that deletes the flow that has this match, whoever's it is."""
    body = _FLOW_MOD.pack(0, 0, table, _FLOW_DELETE_STRICT, 0, 0, priority, _ANY, _ANY, _ANY, 0)
    return FLOW_MOD, body + match


def add_group(row: Group, exists: bool) -> tuple[int, bytes]:
    """The message that makes a group, or changes it where its id exists."""
    command = _GROUP_MODIFY if exists else _GROUP_ADD
    return GROUP_MOD, _GROUP_MOD.pack(command, row.type, row.group_id) + row.buckets


def delete_group(row: Group) -> tuple[int, bytes]:
    """The message that deletes a group, with every flow that still uses it."""
    return GROUP_MOD, _GROUP_MOD.pack(_GROUP_DELETE, row.type, row.group_id)


def meter(meter_id: int, rate: int) -> Meter:
    """A meter that drops what is over a rate.

    :param rate: packets a second, and as many at once after a second of less.
    """
    return Meter(meter_id, _PACKETS_BURST_STATS, _DROP_BAND.pack(1, _DROP_BAND.size, rate, rate))


def add_meter(row: Meter, exists: bool) -> tuple[int, bytes]:
    """The message that makes a meter, or changes it where its id exists."""
    command = _METER_MODIFY if exists else _METER_ADD
    return METER_MOD, _METER_MOD.pack(command, row.flags, row.meter_id) + row.bands


def delete_meter(row: Meter) -> tuple[int, bytes]:
    """The message that deletes a meter, with every flow that still uses it."""
    return METER_MOD, _METER_MOD.pack(_METER_DELETE, 0, row.meter_id)


# ofp_flow_stats: length, table_id, durations, priority, timeouts, flags, cookie, counts, match …
_FLOW_STATS_SIZE = 48


def flows_in(body: bytes) -> list[bytes]:
    """Flow rows of the body of a flow statistics reply.

    :raises BackendError: the body is no list of flows.
    """
    rows, offset, end = [], 0, len(body)
    from_bytes = int.from_bytes
    while offset < end:
        length = from_bytes(body[offset : offset + 2], "big")
        # With a match, which has at least 8 bytes, and within the body.
        if length < _FLOW_STATS_SIZE + 8 or offset + length > end:
            raise BackendError(f"the switch sent a flow of {length} bytes in {end - offset}")
        rows.append(
            body[offset + 2 : offset + 3]
            + body[offset + 12 : offset + 14]
            + body[offset + _FLOW_STATS_SIZE : offset + length]
        )
        offset += length
    return rows


def counted_flows_in(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(packets, flow row) of the body of a flow statistics reply.

    :raises BackendError: the body is no list of flows.
    """
    offset = 0
    for row in flows_in(body):
        yield int.from_bytes(body[offset + 32 : offset + 40], "big"), row
        offset += int.from_bytes(body[offset : offset + 2], "big")


# ofp_group_desc: length, type, pad, group_id, buckets …
_GROUP_DESC = struct.Struct("!HBxI")


def groups_in(body: bytes) -> list[Group]:
    """Groups of the body of a group description reply.

    :raises BackendError: the body is no list of groups.
    """
    rows = []
    for at, end in _records(body, "group", _GROUP_DESC.size):
        _, kind, group_id = _GROUP_DESC.unpack_from(body, at)
        rows.append(Group(group_id, kind, body[at + _GROUP_DESC.size : end]))
    return rows


def _records(body: bytes, what: str, least: int, length_at: int = 0) -> Iterator[tuple[int, int]]:
    """Where each record of a reply begins and ends.

    :param what: they are, for people.
    :param least: bytes of one.
    :param length_at: where in a record its length stands.
    :raises BackendError: the body is no list of such records.
    """
    offset, end = 0, len(body)
    while offset < end:
        length = int.from_bytes(body[offset + length_at : offset + length_at + 2], "big")
        if length < least or offset + length > end:
            raise BackendError(f"the switch sent a {what} of {length} bytes in {end - offset}")
        yield offset, offset + length
        offset += length


# ofp_meter_config: length, flags, meter_id, bands …
_METER_CONFIG = struct.Struct("!HHI")


def meters_in(body: bytes) -> list[Meter]:
    """Meters of the body of a meter configuration reply.

    :raises BackendError: the body is no list of meters.
    """
    rows = []
    for at, end in _records(body, "meter", _METER_CONFIG.size):
        _, flags, meter_id = _METER_CONFIG.unpack_from(body, at)
        rows.append(Meter(meter_id, flags, body[at + _METER_CONFIG.size : end]))
    return rows


# ofp_meter_stats: meter_id, length, pad, flows, packets in, bytes in, duration …; then of each
# band: packets, bytes.
_METER_STATS = struct.Struct("!IH6xIQQII")


def metered_in(body: bytes) -> Iterator[tuple[int, int]]:
    """(meter id, packets that its bands dropped) of the body of a meter statistics reply.

    :raises BackendError: the body is no list of meters.
    """
    for at, end in _records(body, "meter", _METER_STATS.size, length_at=4):
        (meter_id,) = struct.unpack_from("!I", body, at)
        bands = range(at + _METER_STATS.size, end - 15, 16)
        yield meter_id, sum(int.from_bytes(body[band : band + 8], "big") for band in bands)

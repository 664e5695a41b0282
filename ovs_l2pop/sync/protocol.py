"""What the mechanism driver and hosts with our extension say to each other.

Every message is a statement about state, never an order to change something, so that it may be
lost, repeated or overtaken: "port P, as of revision 7, is behind VTEP V with these addresses".

From the server to a host: cast on :data:`AGENT_TOPIC` as soon as a port appears, moves, changes or
goes, with ``server=<host>`` to each of the hosts that have its network, or where these are many as
one fanout, which a host without the network leaves unread::

    update_ports(network_id, network_type, segment_id, ports=[PORT, …])
    PORT = [key, revision, vtep | null, [[mac, ip], …], [ip, …], [[mac, ip], …]]  # class PortState

One without ports is a hint: the host may have missed something, and should ask.

From a host to the server: called on :data:`SERVER_TOPIC`, at first use of a network, after every
reconnect, and periodically with jitter::

    sync(host, networks={network_id: digest, …}, cursor=None | [network_id, key], own=False)
    → {"age": seconds,                    # the answer is as of so long ago
       "gone": [network_id, …],           # the server knows no port of this host in them
       "chunks": [{"network_id", "network_type", "segment_id",
                   "after": key, "until": key | null, "ports": [PORT, …]}, …],
       "cursor": null | [network_id, key],
       "dead": [vtep, …],                 # nobody answers there: no broadcast goes to them
       "own": true}                       # the server takes the argument of that name

A network whose digest is the server's own is not in the answer. One that differs comes as a
sequence of chunks. Each says of a range of keys, after ``after`` up to and including ``until``
(null: to the end), that exactly these ports are in it: a chunk makes sense by itself, and the one
with ``until`` null ends its network. An answer is at most :data:`MAX_CHUNK` bytes; as long as
``cursor`` is not null the host calls again with the same ``networks`` and that cursor. A host that
has more than :data:`MAX_NETWORKS` asks for some after the others.

**Who wins.** Among updates the revision decides: a state replaces one of the same key with a lower
revision, and at equal revisions "gone" wins, because deleting a port does not raise its revision.
Of two at equal revisions that are both somewhere (a host's VTEP may change without its ports) the
later one stands, and the host asks whether that is right. An answer is what repairs, so it doesn't
obey that order: what a chunk says of its range stands whatever revisions are known (a database may
have gone back to a backup, an update may be forged), unless the host heard of the port later than
``age`` seconds before it asked; only then do revisions decide.
:mod:`ovs_l2pop.sync.replica` is this rule as code.

**Which networks a host has** is not the server's to say: "gone" takes back what the server told of
a network, but the network stays for as long as a port is plugged in there.

**Own ports.** With ``own`` true (version 1.1) digests and chunks have the ports behind the asking
host's own VTEP too; else (1.0) they leave them out, and the host leaves alone what it knows of
them. Updates of a port go to its own host as well.

**Segments.** No tunnel leads from one segment of a network to another, so a host is told of the
ports in its own only. One that has ports in several takes part in the first (by type and id).

**Flooding entries** are not sent: broadcast of a network goes to every VTEP that a port of it is
behind, but for the dead ones. A port that is behind several VTEPs at once (DVR interface, HA
router) has one state, and one key, for each. It carries no addresses: the MAC is on all hosts, or
moves by VRRP without the server's knowledge.

**Addresses of routers** come last, where there are any, and apart from the others: a neighbour
advertisement for one must say that it is a router's, or hosts forget their default route (RFC 4861
§7.2.5), so who doesn't know of this list must not answer for them. They don't count in digests: a
host that asks gets them with all else, and which ports are routers' does not change.

**Allowed addresses** are single addresses of a port's allowed address pairs. Such an address may
move between ports at any time, so nobody but the guests can answer for it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Segment, quote

#: What an agent lists in ``configurations["extensions"]`` when it speaks this protocol.
EXTENSION = "ovs_l2pop"

#: Named as Neutron names its own (``neutron_lib.agent.topics``).
AGENT_TOPIC = "q-agent-notifier-ovs_l2pop-update"
SERVER_TOPIC = "q-ovs_l2pop-plugin"

#: Of both endpoints (``oslo_messaging.Target``), and of the server's with own ports.
VERSION = "1.0"
OWN_VERSION = "1.1"

#: Bytes of JSON that one message carries at the most. RabbitMQ sends frames of 128 KiB by default
#: (``frame_max``); half of it leaves room for the envelope.
MAX_CHUNK = 64 * 1024

#: Networks that one call may ask for: more than a host of local VLANs (4,094) can have. 760 kB.
MAX_NETWORKS = 10_000

#: Characters of a key: a port's id and a host's name (255 at the most). Of a network's id.
_MAX_KEY = 512
_MAX_ID = 64
#: Seconds.
_MAX_AGE = 1e9

#: Revision of a deleted port: higher than any, since a port's id is never used again.
DELETED = 2**63 - 1

#: The digest of a network of which nothing is known.
UNKNOWN = ""

_MODULUS = 1 << 128


class ProtocolError(L2popError):
    """A message that is not of this protocol; the text names what is wrong with it."""


class OldServerError(L2popError):
    """The server doesn't know this version of the call."""


class PortState(NamedTuple):
    """Where a port is, as of a revision. A list of the same order on the wire."""

    #: Port id; for a port behind several VTEPs ``<port id>@<host>``.
    key: str
    #: The port's revision number in Neutron's database.
    revision: int
    #: None: the port is not on the network (any more).
    vtep: str | None
    #: (MAC, IP) of the port, in order.
    entries: tuple[tuple[str, str], ...] = ()
    #: Addresses that the port may use besides its own, in order.
    allowed: tuple[str, ...] = ()
    #: (MAC, IP) of a router, in order; link-local ones are not among the entries.
    routers: tuple[tuple[str, str], ...] = ()

    @property
    def order(self) -> tuple[int, bool]:
        """States of one key are ordered by this; a higher one is newer."""
        return self.revision, self.vtep is None

    def content(self) -> int:
        """What the state says apart from its revision, as a number below 2¹²⁸."""
        text = json.dumps([self.key, self.vtep, self.entries, self.allowed], separators=(",", ":"))
        return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())


def key_of(port_id: str, host: str | None = None) -> str:
    """The key of a port; ``host`` for one that is behind several VTEPs."""
    return port_id if host is None else f"{port_id}@{host}"


def parse_port(value: object) -> PortState:
    """A port as it came.

    MAC and IP addresses are only checked to be text: :class:`ovs_l2pop.core.messages.Parser`
    refuses bad ones later, and until then they must count in the digest like any other.

    :raises ProtocolError: it is not a PORT.
    """
    match value:
        case [str(key), int(revision), str() | None as vtep, [*pairs], [*allowed], *more] if (
            0 < len(key) <= _MAX_KEY and _is_number(revision, 0, DELETED)
        ):
            entries = tuple(_pair(pair) for pair in pairs)
            routers = more[0] if more and isinstance(more[0], list | tuple) else ()
            return PortState(
                *(key, revision, vtep, entries),
                _texts(allowed),
                tuple(_pair(pair) for pair in routers),
            )
    raise ProtocolError(f"not a port: {quote(value)}")


def _pair(value: object) -> tuple[str, str]:
    match value:
        case [str(mac), str(ip), *_]:
            return mac, ip
    raise ProtocolError(f"not a pair of MAC and IP: {quote(value)}")


def _is_number(value: object, low: float, high: float) -> bool:
    """Neither true nor false, which are integers to Python; nor NaN."""
    return not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high


def digest(segment: Segment, contents: int) -> str:
    """A network's digest.

    :param contents: the sum of :meth:`PortState.content` of its ports; in version 1.0 those behind
        the asking host's own VTEP are left out. A sum does not depend on the order, and follows a
        change of one port at the cost of that port.
    """
    text = f"{segment.network_type} {segment.segment_id}"
    of_segment = int.from_bytes(blake2b(text.encode(), digest_size=16).digest())
    return f"{(contents + of_segment) % _MODULUS:032x}"


@dataclass(frozen=True, slots=True)
class Update:
    """``update_ports``: what changed, from the server to a host."""

    network_id: str
    segment: Segment
    ports: tuple[PortState, ...]
    #: What is wrong with each port that could not be read; the others are good.
    refused: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        return _named(self.network_id, self.segment) | {"ports": [list(p) for p in self.ports]}

    @classmethod
    def from_wire(cls, value: object) -> "Update":
        """:raises ProtocolError: it is not one."""
        network_id, segment, ports, refused, _ = _unnamed(value)
        return cls(network_id, segment, ports, refused)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The ports whose keys are in a range: all of them."""

    network_id: str
    segment: Segment
    after: str
    until: str | None
    ports: tuple[PortState, ...]
    #: As in :class:`Update`. What such a chunk leaves out need not be gone.
    refused: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        return _named(self.network_id, self.segment) | {
            "after": self.after,
            "until": self.until,
            "ports": [list(p) for p in self.ports],
        }

    @classmethod
    def from_wire(cls, value: object) -> "Chunk":
        """:raises ProtocolError: it is not one."""
        network_id, segment, ports, refused, body = _unnamed(value)
        match body.get("after"), body.get("until"):
            case str(after), str() | None as until:
                return cls(network_id, segment, after, until, ports, refused)
        raise ProtocolError(f"network {quote(network_id)}: a chunk without its range")


#: Where to go on: the network, and the last key of it that was sent.
Cursor = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``sync`` returns."""

    age: float
    gone: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    cursor: Cursor | None
    dead: tuple[str, ...] = ()
    #: Whether the server can tell own ports.
    own: bool = False

    def to_wire(self) -> dict[str, Any]:
        return {
            "age": self.age,
            "gone": list(self.gone),
            "chunks": [chunk.to_wire() for chunk in self.chunks],
            "cursor": None if self.cursor is None else list(self.cursor),
            "dead": list(self.dead),
        } | ({"own": True} if self.own else {})

    @classmethod
    def from_wire(cls, value: object) -> "Answer":
        """:raises ProtocolError: it is not one."""
        match value:
            case {
                "age": int() | float() as age,
                "gone": list(gone),
                "chunks": list(chunks),
                **rest,
            } if _is_number(age, 0, _MAX_AGE):
                return cls(
                    float(age),
                    _texts(gone),
                    tuple(Chunk.from_wire(chunk) for chunk in chunks),
                    parse_cursor(rest.get("cursor")),
                    _texts(rest.get("dead", [])),
                    rest.get("own") is True,
                )
        raise ProtocolError(f"not an answer to sync: {quote(value)}")


def parse_networks(value: object) -> tuple[dict[str, str], list[object]]:
    """What ``sync`` is asked for, and what of that can't be a network.

    :raises ProtocolError: it is no mapping, or too large.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError(f"not a mapping of networks to digests: {quote(value)}")
    if len(value) > MAX_NETWORKS:
        raise ProtocolError(f"{len(value)} networks are too many for one call, see MAX_NETWORKS")
    networks: dict[str, str] = {}
    refused: list[object] = []
    for network_id, known in value.items():
        if isinstance(network_id, str) and 0 < len(network_id) <= _MAX_ID:
            networks[network_id] = known if isinstance(known, str) else UNKNOWN
        else:
            refused.append(network_id)
    return networks, refused


def parse_cursor(value: object) -> Cursor | None:
    """:raises ProtocolError: it is neither a cursor nor None."""
    match value:
        case None:
            return None
        case [str(network_id), str(key)] if len(network_id) <= _MAX_ID and len(key) <= _MAX_KEY:
            return network_id, key
    raise ProtocolError(f"not a cursor: {quote(value)}")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ProtocolError(f"not a list of texts: {quote(value)}")


def wire_size(port: PortState) -> int:
    """Bytes that a port takes in a message, with the blanks that some serializers put in."""
    return len(json.dumps(port)) + 2


def cut(sizes: Sequence[int], room: int) -> int:
    """How many ports of these sizes fit into ``room`` bytes; at least one, or nothing would ever
    move."""
    for count, size in enumerate(sizes):
        room -= size
        if room < 0:
            return max(count, 1)
    return len(sizes)


def updates(network_id: str, segment: Segment, ports: Iterable[PortState]) -> list[Update]:
    """As few messages as :data:`MAX_CHUNK` allows."""
    left = tuple(ports)
    result = []
    while left:
        count = cut([wire_size(port) for port in left], MAX_CHUNK - 1024)
        result.append(Update(network_id, segment, left[:count]))
        left = left[count:]
    return result


def _named(network_id: str, segment: Segment) -> dict[str, Any]:
    return {
        "network_id": network_id,
        "network_type": segment.network_type,
        "segment_id": segment.segment_id,
    }


def _unnamed(
    value: object,
) -> tuple[str, Segment, tuple[PortState, ...], tuple[str, ...], dict[Any, Any]]:
    match value:
        case {
            "network_id": str(network_id),
            "network_type": str(network_type),
            "segment_id": int(segment_id),
            "ports": list(ports),
            **rest,
        } if _is_number(segment_id, 1, MAX_SEGMENT_ID.get(network_type, 0)):
            parsed, refused = [], []
            for port in ports:
                try:
                    parsed.append(parse_port(port))
                except ProtocolError as error:
                    refused.append(str(error))
            segment = Segment(network_type, segment_id)
            return network_id, segment, tuple(parsed), tuple(refused), rest
    raise ProtocolError(f"not a message about a network: {quote(value)}")

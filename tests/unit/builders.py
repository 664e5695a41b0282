"""Messages and facts, short enough that a table of cases can be read."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    AddEntries,
    Change,
    Parser,
    Refusal,
    RemoveEntries,
    Segment,
    Told,
    read,
)
from ovs_l2pop.core.table import (
    FLOOD,
    NEIGHBOUR,
    UNICAST,
    Fact,
    ForwardingTable,
    Key,
    NeighbourFact,
    UnicastFact,
)
from ovs_l2pop.core.wire import Message

LOCAL = "192.0.2.1"
A, B, C = "192.0.2.2", "192.0.2.3", "192.0.2.4"  # VTEPs
N, M = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
MAC1, MAC2, MAC3 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "fa:16:3e:00:00:03"
IP1, IP2, IP3 = "10.0.0.1", "10.0.0.2", "10.0.0.3"
IP6 = "2001:db8::1"
FLOODING = [FLOODING_MAC, FLOODING_IP]

Facts = dict[Key, Fact]


def body(ports: Any, segment_id: Any = 1001, network_type: Any = "vxlan") -> Message:
    """A network in ``fdb_entries``."""
    return {"segment_id": segment_id, "network_type": network_type, "ports": ports}


def add(network: str, vtep: str, *pairs: Any, segment_id: int = 1001) -> Message:
    return wire.add(network, Segment("vxlan", segment_id), {vtep: list(pairs)})


def remove(network: str, vtep: str, *pairs: Any, segment_id: int = 1001) -> Message:
    return wire.remove(network, Segment("vxlan", segment_id), {vtep: list(pairs)})


def change_ip(network: str, vtep: str, before: Any = None, after: Any = None) -> Message:
    """Lists that are None are left out of the message."""
    return wire.update(wire.changed_ip(network, vtep, before, after))


def attach(
    network: str, local_vlan: int | None = 5, segment_id: int = 1001, network_type: str = "vxlan"
) -> Message:
    return wire.attach(network, Segment(network_type, segment_id), local_vlan)


detach = wire.detach


def told(*messages: Message, local_ip: str = LOCAL) -> tuple[list[Told], list[Refusal]]:
    """Messages as whoever hears them hands them to the worker."""
    return read([json.dumps(message).encode() for message in messages], Parser(local_ip))


def tell(table: ForwardingTable, *messages: Message) -> list[Refusal]:
    """Have the table take messages; what was refused of them."""
    parser = Parser(table.local_ip)
    refusals = []
    for message in messages:
        changes, refused = parser.parse(message)
        refusals += refused
        refusals += [refusal for change in changes if (refusal := table.apply(change))]
    return refusals


def built(*messages: Message, local_ip: str = LOCAL) -> ForwardingTable:
    """A table that has taken these messages, none of them refused."""
    table = ForwardingTable(local_ip)
    assert tell(table, *messages) == []
    return table


def holding(facts: Iterable[tuple[Key, Fact | None]]) -> Iterator[tuple[Key, Fact]]:
    for key, fact in facts:
        if fact is not None:
            yield key, fact


def facts(table: ForwardingTable) -> Facts:
    """All that holds, computed from scratch."""
    return dict(holding(table.facts(table.keys())))


def unicast(table: ForwardingTable, network: str = N) -> dict[str, str]:
    """MAC → VTEP."""
    found = facts(table)
    return {
        key[2]: fact.vtep
        for key, fact in found.items()
        if key[:2] == (UNICAST, network) and isinstance(fact, UnicastFact)
    }


def neighbours(table: ForwardingTable, network: str = N) -> dict[str, str]:
    """IP → MAC."""
    found = facts(table)
    return {
        key[2]: fact.mac
        for key, fact in found.items()
        if key[:2] == (NEIGHBOUR, network) and isinstance(fact, NeighbourFact)
    }


def flood(table: ForwardingTable, network: str = N) -> tuple[str, ...]:
    """VTEPs that BUM traffic is copied to."""
    fact = facts(table).get((FLOOD, network, ""))
    return fact.vteps if fact is not None else ()  # type: ignore[union-attr]


def take_in(entries: set[tuple[str, str, str]], changes: Iterable[Change]) -> None:
    """Take changes in as a table does; flooding is an entry too. Nothing is told twice, or taken
    back without having been told."""
    for change in changes:
        assert isinstance(change, AddEntries | RemoveEntries)
        flooding = {(FLOODING_MAC, FLOODING_IP, change.vtep)} if change.flooding else set()
        said = {*change.entries, *flooding}
        if isinstance(change, AddEntries):
            assert not said & entries, "told twice"
            entries |= said
        else:
            assert said <= entries, "taken back without having been told"
            entries -= said

"""What the owner of an address is, beyond being there: told, kept, and what follows from it."""

from typing import Any

import pytest
from builders import (
    IP1,
    IP2,
    IP6,
    LOCAL,
    MAC1,
    MAC2,
    A,
    B,
    C,
    N,
    add,
    attach,
    built,
    facts,
    remove,
    tell,
    unicast,
)

from ovs_l2pop.core import wire
from ovs_l2pop.core.flaps import PERIOD, Flaps
from ovs_l2pop.core.messages import Entry, Parser, Properties, Segment
from ovs_l2pop.core.table import NEIGHBOUR, UNICAST, ForwardingTable, NeighbourFact

ROUTER, ANYCAST, STICKY = (
    Properties(router=True),
    Properties(override=False),
    Properties(sticky=True),
)
SEGMENT = Segment("vxlan", 1001)


def owned(vtep: str, *pairs: list[str], as_: Properties) -> wire.Message:
    return wire.add(N, SEGMENT, {vtep: list(pairs)}, owners={(p[0], p[1]): as_ for p in pairs})


def neighbour(table: ForwardingTable, ip: str) -> NeighbourFact:
    fact = facts(table)[NEIGHBOUR, N, ip]
    assert isinstance(fact, NeighbourFact)
    return fact


def test_flags_are_those_that_were_told() -> None:
    table = built(
        attach(N),
        owned(A, [MAC1, IP6], as_=ROUTER),
        owned(A, [MAC2, IP2], as_=ANYCAST),
        add(N, A, [MAC1, IP1]),
    )
    told = [neighbour(table, ip)[3:] for ip in (IP6, IP2, IP1)]
    assert told == [(True, True), (False, False), (False, True)]


def test_a_message_without_properties_changes_none() -> None:
    table = built(attach(N), owned(A, [MAC1, IP6], as_=ROUTER), add(N, A, [MAC1, IP6]))
    assert neighbour(table, IP6).router
    tell(table, owned(A, [MAC1, IP6], as_=Properties()))
    assert not neighbour(table, IP6).router


def test_a_change_of_properties_alone_is_a_change() -> None:
    table = built(attach(N), add(N, A, [MAC1, IP6]))
    table.take_dirty()
    tell(table, owned(A, [MAC1, IP6], as_=ROUTER))
    assert (NEIGHBOUR, N, IP6) in table.take_dirty()


def test_what_comes_back_begins_anew() -> None:
    table = built(attach(N), owned(A, [MAC1, IP6], as_=ROUTER))
    tell(table, remove(N, A, [MAC1, IP6]), add(N, A, [MAC1, IP6]))
    assert not neighbour(table, IP6).router


def test_properties_survive_the_tables_file() -> None:
    table = built(
        attach(N),
        owned(A, [MAC1, IP6], as_=ROUTER),
        owned(B, [MAC1, IP6], as_=STICKY),
        add(N, A, [MAC2, IP1]),
    )
    again = built(*table.messages())
    assert facts(again) == facts(table)
    assert list(again.messages()) == list(table.messages())


def test_a_changed_address_may_bring_its_properties() -> None:
    table = built(attach(N), add(N, A, [MAC1, IP1]))
    owners = {(MAC1, IP6): ROUTER}
    tell(table, wire.update(wire.changed_ip(N, A, [], [[MAC1, IP6]], owners=owners)))
    assert neighbour(table, IP6).router


@pytest.mark.parametrize(
    ("listed", "offender"),
    [
        ("router", "router"),
        ([[MAC1, IP1]], MAC1),
        ([[MAC1, IP1, "router"]], "router"),
        ([[MAC1, IP1, {"router": "yes"}]], "yes"),
        ([[MAC1, IP1, {"router": 1}]], "1"),
        ([["no", IP1, {"router": True}]], "no"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_applies(listed: Any, offender: str) -> None:
    message = add(N, A, [MAC1, IP1], [MAC2, IP2])
    message["fdb_entries"][N]["properties"] = listed
    if isinstance(listed, list):
        listed.append([MAC2, IP2, {"router": True}])
    (change,), (refusal,) = Parser().parse(message)
    assert offender in refusal.offender
    assert change.entries == [Entry(MAC1, IP1, A), Entry(MAC2, IP2, A)]  # type: ignore[union-attr]
    owners = change.properties  # type: ignore[union-attr]
    assert owners == ({(MAC2, IP2): ROUTER} if isinstance(listed, list) else None)


def test_properties_of_later_releases_are_no_fault() -> None:
    message = add(N, A, [MAC1, IP1])
    message["fdb_entries"][N]["properties"] = [[MAC1, IP1, {"router": True, "later": [1]}, "more"]]
    (change,), refused = Parser().parse(message)
    assert refused == []
    assert change.properties == {(MAC1, IP1): ROUTER}  # type: ignore[union-attr]


# -- sticky ------------------------------------------------------------------------------------


def test_what_is_sticky_does_not_give_way() -> None:
    table = built(attach(N), owned(A, [MAC1, IP1], as_=STICKY), add(N, B, [MAC1, IP1], [MAC2, IP1]))
    assert unicast(table) == {MAC1: A, MAC2: B}
    assert neighbour(table, IP1).mac == MAC1


def test_of_two_that_are_sticky_the_first_stays() -> None:
    table = built(attach(N), owned(A, [MAC1, IP1], as_=STICKY), owned(B, [MAC1, IP1], as_=STICKY))
    assert unicast(table) == {MAC1: A}
    tell(table, remove(N, A, [MAC1, IP1]))
    assert unicast(table) == {MAC1: B}


# -- held --------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> ForwardingTable:
    table = ForwardingTable(LOCAL, holds=True)
    tell(table, attach(N), add(N, A, [MAC1, IP1]))
    table.flaps = Flaps(clock)
    return table


def moves(table: ForwardingTable, count: int) -> None:
    for number in range(count):
        tell(table, add(N, (B, A)[number % 2], [MAC1, IP1]))
        table.hold()


def test_else_the_newest_claim_wins() -> None:
    table = built(attach(N), add(N, A, [MAC1, IP1]))
    moves(table, 5)
    assert unicast(table) == {MAC1: B}


def test_four_moves_are_four_moves(table: ForwardingTable) -> None:
    moves(table, 4)
    assert unicast(table) == {MAC1: A}
    moves(table, 0)
    assert not table.flaps.current()


def test_after_five_moves_it_stays_where_it_was(table: ForwardingTable) -> None:
    moves(table, 5)  # to B
    assert unicast(table) == {MAC1: A}
    tell(table, add(N, C, [MAC1, IP1]))
    assert unicast(table) == {MAC1: A}


def test_it_ends_by_itself(table: ForwardingTable, clock: Clock) -> None:
    moves(table, 5)
    table.take_dirty()
    clock.now += PERIOD + 1
    table.hold()
    assert (UNICAST, N, MAC1) in table.take_dirty()
    assert unicast(table) == {MAC1: B}


def test_who_is_alone_is_not_held_off(table: ForwardingTable) -> None:
    moves(table, 5)
    tell(table, remove(N, A, [MAC1, IP1]))
    assert unicast(table) == {MAC1: B}


# -- what isn't known --------------------------------------------------------------------------


def test_a_network_says_what_becomes_of_the_unknown() -> None:
    message = wire.attach(N, SEGMENT, 5, unknown_unicast="drop", unknown_neighbour="flood")
    (attachment,), refused = Parser(LOCAL).parse(message)
    assert refused == []
    assert wire.to_message(attachment) == message
    assert attachment[-2:] == ("drop", "flood")


def test_another_word_is_refused() -> None:
    changes, (refusal,) = Parser().parse(wire.attach(N, SEGMENT, 5, unknown_unicast="ask"))
    assert not changes
    assert (refusal.offender, refusal.reason) == (
        "ask",
        "unknown_unicast must be one of flood, drop",
    )

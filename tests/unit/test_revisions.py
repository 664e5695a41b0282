"""Words that come late: numbered ones are put in order, those that go to and fro are told."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from builders import FLOODING, IP1, IP2, LOCAL, MAC1, MAC2, A, B, N, add, attach, remove
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core import revisions
from ovs_l2pop.core.flaps import MOVES, PERIOD, Flaps
from ovs_l2pop.core.messages import FLOODING_IP, FLOODING_MAC, Entry, Parser, Refusal
from ovs_l2pop.core.table import ForwardingTable, Limits
from ovs_l2pop.core.wire import Message


def numbered(message: Message, revision: Any) -> Message:
    (body,) = message["fdb_entries"].values()
    body["revision"] = revision
    return message


def tell(table: ForwardingTable, *messages: Message) -> list[Refusal]:
    """As the agent does."""
    refusals = []
    for message in messages:
        changes, refused = Parser(LOCAL).parse(message)
        refusals += refused
        for change in changes:
            admitted, refused = table.admit(change)
            refusals += refused
            if admitted is not None:
                table.apply(admitted)
    return refusals


def entries(table: ForwardingTable) -> set[Entry]:
    return set(table.announced(N)) if N in table.network_ids() else set()


def at(vtep: str, *, mac: str = MAC1, ip: str = IP1) -> Entry:
    return Entry(mac, ip, vtep)


def flooding(vtep: str) -> Entry:
    return Entry(FLOODING_MAC, FLOODING_IP, vtep)


MOVE = [
    numbered(add(N, A, FLOODING, [MAC1, IP1]), 1),
    numbered(add(N, B, FLOODING, [MAC1, IP1]), 2),
    numbered(remove(N, A, FLOODING, [MAC1, IP1]), 3),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_move_in_any_order(order: tuple[int, ...]) -> None:
    table = ForwardingTable(LOCAL)
    tell(table, attach(N), *(MOVE[n] for n in order))
    assert entries(table) - {flooding(B)} == {at(B)}


def test_a_late_old_add_is_refused_by_name() -> None:
    table = ForwardingTable(LOCAL)
    assert tell(table, *MOVE[1:]) == []
    (refusal, *_) = tell(table, MOVE[0])
    assert str(refusal) == (
        f"add_fdb_entries of network {N}: {MAC1} {IP1} at VTEP {A}: stale: revision 1, known is 3"
    )


def test_what_is_good_beside_it_applies() -> None:
    table = ForwardingTable(LOCAL)
    tell(table, *MOVE)
    assert len(tell(table, numbered(add(N, A, [MAC1, IP1], [MAC2, IP2]), 1))) == 1
    assert at(A, mac=MAC2, ip=IP2) in entries(table)


def test_without_a_number_the_newest_word_wins() -> None:
    table = ForwardingTable(LOCAL)
    assert tell(table, *MOVE, add(N, A, [MAC1, IP1])) == []
    assert at(A) in entries(table)


@pytest.mark.parametrize("revision", ["7", 1.5, -1, True, 2**63])
def test_what_is_no_number_is_refused(revision: Any) -> None:
    table = ForwardingTable(LOCAL)
    (refusal,) = tell(table, numbered(add(N, A, [MAC1, IP1]), revision))
    assert "revision must be" in str(refusal)
    assert entries(table) == set()


words = st.lists(st.tuples(st.booleans(), st.sampled_from([A, B]), st.integers(0, 5)), max_size=12)


@given(words=words, late=words)
def test_numbers_survive_the_file(words: list[Any], late: list[Any]) -> None:
    """A table that is built anew refuses what the first would have refused."""

    def message(adds: bool, vtep: str, revision: int) -> Message:
        return numbered((add if adds else remove)(N, vtep, [MAC1, IP1]), revision)

    table = ForwardingTable(LOCAL)
    tell(table, *(message(*word) for word in words))
    again = ForwardingTable(LOCAL)
    assert tell(again, *(dict(one) for one in table.messages())) == []
    assert entries(again) == entries(table)
    tell(table, *(message(*word) for word in late if word[0]))
    tell(again, *(message(*word) for word in late if word[0]))
    assert entries(again) == entries(table)


# -- to and fro ------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("removed", ["after", "before", "never"])
def test_five_moves_are_told_once_with_both(removed: str) -> None:
    table, clock = ForwardingTable(LOCAL), Clock()
    table.flaps = Flaps(clock)
    tell(table, add(N, A, [MAC1, IP1]))
    old, new = A, B
    for move in range(1, 21):
        gone, come = remove(N, old, [MAC1, IP1]), add(N, new, [MAC1, IP1])
        tell(table, *{"after": (come, gone), "before": (gone, come), "never": (come,)}[removed])
        clock.now += 5
        news = table.flaps.news()
        assert len(news) == (move == MOVES), move
        if news:
            assert (news[0].network_id, news[0].address) == (N, MAC1)
            assert {news[0].old, news[0].new} == {A, B}
        old, new = new, old
    (flap,) = table.flaps.current()
    assert {flap.old, flap.new} == {A, B}
    clock.now += PERIOD
    assert table.flaps.current() == []


def test_an_address_that_goes_from_mac_to_mac() -> None:
    """As two routers do that both think they are the master."""
    table = ForwardingTable(LOCAL)
    for _ in range(MOVES):
        tell(table, add(N, A, [MAC1, IP1]), add(N, B, [MAC2, IP1]))
    assert [flap.address for flap in table.flaps.news()] == [IP1]


def test_a_few_moves_are_life() -> None:
    table, clock = ForwardingTable(LOCAL), Clock()
    table.flaps = Flaps(clock)
    for move in range(40):
        tell(table, add(N, (A, B)[move % 2], [MAC1, IP1], [MAC1, IP2]))
        clock.now += PERIOD / 4
    assert table.flaps.news() == []


def test_what_is_read_from_disk_is_no_move(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(
        str(add(N, (A, B)[n % 2], [MAC1, IP1])).replace("'", '"').encode() for n in range(20)
    )
    store.close()
    agent = Worker(LOCAL, FakeBackend(), Store(tmp_path))
    agent.start().result()
    assert agent.table.flaps.current() == []
    agent.stop()


# -- bounds ----------------------------------------------------------------------------------------

M = "22222222-2222-4222-8222-222222222222"


def test_vteps_beyond_the_limit() -> None:
    table = ForwardingTable(LOCAL, Limits(vteps=1))
    assert tell(table, add(N, A, FLOODING), add(N, LOCAL, [MAC2, IP2])) == []
    (refusal,) = tell(table, add(N, B, FLOODING, [MAC1, IP1]), add(N, A, [MAC1, IP1]))
    assert "VTEP 192.0.2.3: max_vteps (1) others are known" in str(refusal)
    assert at(A) in entries(table)
    # Removing makes room.
    tell(table, remove(N, A, FLOODING, [MAC1, IP1]))
    assert tell(table, add(N, B, FLOODING)) == []


def test_networks_beyond_the_limit() -> None:
    table = ForwardingTable(LOCAL, Limits(networks=1))
    tell(table, add(N, A, FLOODING))
    assert [r.offender for r in tell(table, add(M, A, FLOODING), attach(M, 6, 1002))] == [
        f"network {M}"
    ] * 2
    assert tell(table, attach(N)) == []
    assert set(table.network_ids()) == {N}


def test_entries_beyond_the_limit() -> None:
    table = ForwardingTable(LOCAL, Limits(entries=1))
    (refusal,) = tell(table, add(N, A, FLOODING, [MAC1, IP1], [MAC2, IP2]))
    assert f"{MAC2} at {A} …: no room for these 1: max_entries (1) are known" in str(refusal)
    assert tell(table, add(N, A, [MAC1, IP1])) == [], "said again"
    assert entries(table) == {flooding(A), at(A)}
    tell(table, remove(N, A, [MAC1, IP1]))
    assert tell(table, add(N, A, [MAC2, IP2])) == []


def test_what_is_gone_is_remembered_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, with the newest number of its address unless somebody claims it."""
    monkeypatch.setattr(revisions, "_MAX_GONE", 2)
    known = revisions.Revisions()
    entries = [Entry(f"fa:16:3e:00:00:0{n}", f"10.0.0.{n}", "192.0.2.2") for n in range(4)]
    for entry in entries:
        known.added("net", entry, 5)
    for entry in entries[:3]:
        known.removed("net", entry, 6)
    stale = [known.newer("net", entry, 4, adding=True) is not None for entry in entries]
    assert stale == [False, True, True, True]

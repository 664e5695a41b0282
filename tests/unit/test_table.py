"""The forwarding table: upstream's defects as named cases, and random sequences of messages."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from builders import (
    FLOODING,
    IP1,
    IP2,
    IP6,
    LOCAL,
    MAC1,
    MAC2,
    A,
    B,
    C,
    Facts,
    M,
    N,
    add,
    attach,
    body,
    built,
    change_ip,
    detach,
    facts,
    flood,
    neighbours,
    remove,
    tell,
    unicast,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovs_l2pop.core.messages import Attachment, Entry, Segment
from ovs_l2pop.core.table import (
    FLOOD,
    NEIGHBOUR,
    NETWORK,
    UNICAST,
    VTEP,
    FloodFact,
    ForwardingTable,
    LocalFact,
    LocalNeighbourFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)
from ovs_l2pop.core.wire import Message

VXLAN = Segment("vxlan", 1001)
OTHER_SEGMENT = 2002
AT_A, AT_B = add(N, A, FLOODING, [MAC1, IP1]), add(N, B, FLOODING, [MAC1, IP1])
GONE_FROM_A, GONE_FROM_B = remove(N, A, FLOODING, [MAC1, IP1]), remove(N, B, FLOODING, [MAC1, IP1])


def is_empty(table: ForwardingTable) -> bool:
    """Nothing is left, not even in indexes."""
    return not (table._networks or table._holders or list(table.messages()))


# -- what a table says -------------------------------------------------------------------------


def test_one_machine() -> None:
    table = built(attach(N), AT_A)
    attachment = Attachment(N, VXLAN, 5)
    assert facts(table) == {
        (NETWORK, N, ""): NetworkFact(attachment, True),
        (VTEP, N, A): VtepFact(attachment, A),
        (FLOOD, N, ""): FloodFact(attachment, (A,)),
        (UNICAST, N, MAC1): UnicastFact(attachment, MAC1, A),
        (NEIGHBOUR, N, IP1): NeighbourFact(attachment, IP1, MAC1),
    }


def test_dual_stack_machine_has_one_unicast_fact_and_two_neighbours() -> None:
    """A4: the IPv6 address cost upstream's agents the IPv4 one."""
    table = built(attach(N), add(N, A, [MAC1, IP1], [MAC1, IP6]))
    assert unicast(table) == {MAC1: A}
    assert neighbours(table) == {IP1: MAC1, IP6: MAC1}
    tell(table, remove(N, A, [MAC1, IP1]))
    assert unicast(table) == {MAC1: A}
    assert neighbours(table) == {IP6: MAC1}


def test_flooding_vteps_are_sorted_and_each_once() -> None:
    table = built(attach(N), *(add(N, vtep, FLOODING) for vtep in (C, A, B, A, C)))
    assert flood(table) == (A, B, C)


def test_network_that_is_not_here_has_no_facts() -> None:
    assert facts(built(AT_A)) == {}


# -- defects of upstream -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [[AT_B, GONE_FROM_A], [GONE_FROM_A, AT_B], [AT_B, AT_B, GONE_FROM_A, GONE_FROM_A]],
    ids=["add first", "remove first", "each twice"],
)
def test_a17_machine_moves(order: list[Message]) -> None:
    table = built(attach(N), AT_A, *order)
    assert unicast(table) == {MAC1: B}
    assert neighbours(table) == {IP1: MAC1}
    assert flood(table) == (B,)
    assert (VTEP, N, A) not in facts(table)


@pytest.mark.parametrize("new_first", [True, False])
def test_a18_address_goes_to_a_new_machine(new_first: bool) -> None:
    order = [add(N, B, [MAC2, IP1]), remove(N, A, [MAC1, IP1])]
    table = built(attach(N), AT_A, *(order if new_first else reversed(order)))
    assert neighbours(table) == {IP1: MAC2}
    assert unicast(table) == {MAC2: B}


def test_a2_everything_removed_twice() -> None:
    table = built(attach(N), AT_A, GONE_FROM_A, GONE_FROM_A, detach(N), detach(N))
    assert is_empty(table)


@pytest.mark.parametrize(
    "message",
    [
        remove(M, A, FLOODING, [MAC1, IP1]),
        remove(N, C, FLOODING, [MAC1, IP1]),
        remove(N, A, [MAC2, IP1]),
        remove(N, A, [MAC1, IP2]),
        remove(N, B, [MAC1, IP1]),
        change_ip(N, A, before=[[MAC1, IP2]]),
        detach(M),
    ],
    ids=["network", "VTEP", "MAC", "IP", "entry of another VTEP", "address", "attachment"],
)
def test_a3_remove_of_what_is_not_there(message: Message) -> None:
    table = built(attach(N), AT_A, add(N, B, [MAC2, IP2]))
    before = facts(table)
    table.take_dirty()
    assert tell(table, message) == []
    assert facts(table) == before
    assert not table.take_dirty()
    assert is_empty(built(message))


def test_s7_s8_late_remove_from_the_old_host() -> None:
    table = built(attach(N), AT_A, GONE_FROM_A, AT_B)
    settled = facts(table)
    tell(table, GONE_FROM_A)
    assert facts(table) == settled
    assert unicast(table) == {MAC1: B}
    assert neighbours(table) == {IP1: MAC1}


def test_s14_addresses_only_added_or_only_removed() -> None:
    table = built(attach(N), AT_A, change_ip(N, A, after=[[MAC1, IP2]]))
    assert neighbours(table) == {IP1: MAC1, IP2: MAC1}
    tell(table, change_ip(N, A, before=[[MAC1, IP1]]))
    assert neighbours(table) == {IP2: MAC1}


def test_entries_before_the_attachment() -> None:
    early, late = built(AT_A, AT_B, attach(N)), built(attach(N), AT_A, AT_B)
    assert facts(early) == facts(late) != {}


# -- claims ------------------------------------------------------------------------------------


def test_newest_claim_wins_and_waiting_one_takes_over() -> None:
    table = built(attach(N), AT_A, AT_B)
    assert unicast(table) == {MAC1: B}
    states = {state.entry.vtep: state.state for state in table.entries(N)}
    assert states == {A: "waiting", B: "active"}
    tell(table, GONE_FROM_B)
    assert unicast(table) == {MAC1: A}
    assert neighbours(table) == {IP1: MAC1}


def test_claim_that_is_said_again_wins() -> None:
    table = built(attach(N), AT_A, AT_B, AT_A)
    assert unicast(table) == {MAC1: A}
    tell(table, GONE_FROM_A)
    assert unicast(table) == {MAC1: B}


def test_three_claims_fall_back_in_their_order() -> None:
    claims = [add(N, vtep, [MAC1, IP1]) for vtep in (A, B, C)]
    table = built(attach(N), *claims, remove(N, B, [MAC1, IP1]))
    assert unicast(table) == {MAC1: C}
    tell(table, remove(N, C, [MAC1, IP1]))
    assert unicast(table) == {MAC1: A}


def test_entry_may_win_its_ip_and_lose_its_mac() -> None:
    table = built(attach(N), add(N, A, [MAC1, IP1]), add(N, B, [MAC1, IP2]))
    assert unicast(table) == {MAC1: B}
    assert neighbours(table) == {IP1: MAC1, IP2: MAC1}
    assert [state.state for state in table.entries(N)] == ["active", "active"]


def test_own_vtep_wins_and_is_never_sent_to() -> None:
    """A machine that came to this host must not be sent away through a tunnel."""
    table = built(attach(N), AT_A, add(N, LOCAL, FLOODING, [MAC1, IP1]))
    assert unicast(table) == neighbours(table) == {}
    assert facts(table)[UNICAST, N, MAC1] == LocalFact(Attachment(N, VXLAN, 5), MAC1)
    assert flood(table) == (A,)
    assert (VTEP, N, LOCAL) not in facts(table)
    assert [state.state for state in table.entries(N)] == ["waiting", "local"]
    tell(table, remove(N, LOCAL, FLOODING, [MAC1, IP1]))
    assert unicast(table) == {MAC1: A}


# -- networks ----------------------------------------------------------------------------------


def test_two_networks_with_the_same_addresses_are_independent() -> None:
    table = built(
        attach(N, 5, 1001),
        attach(M, 6, 1002),
        add(N, A, FLOODING, [MAC1, IP1]),
        add(M, B, FLOODING, [MAC1, IP1], segment_id=1002),
    )
    assert (unicast(table, N), unicast(table, M)) == ({MAC1: A}, {MAC1: B})
    tell(table, remove(N, A, FLOODING, [MAC1, IP1]))
    assert unicast(table, N) == {}
    assert unicast(table, M) == {MAC1: B}
    assert neighbours(table, M) == {IP1: MAC1}
    assert flood(table, M) == (B,)


CONFLICTS: list[tuple[Message, str]] = [
    (attach(M, 5, 2002), f"local VLAN 5 belongs to network {N}; detach that one first"),
    (attach(M, 6, 1001), f"vxlan 1001 belongs to network {N}; detach that one first"),
    (attach(M, None, 1001), f"vxlan 1001 belongs to network {N}; detach that one first"),
]


@pytest.mark.parametrize(("message", "reason"), CONFLICTS, ids=["VLAN", "VNI", "VNI, no VLAN"])
def test_attachment_that_takes_what_another_network_has(message: Message, reason: str) -> None:
    table = built(attach(N, 5, 1001), AT_A, add(M, A, [MAC2, IP2], segment_id=2002))
    before = facts(table)
    (refusal,) = tell(table, message)
    assert (refusal.offender, refusal.reason) == (f"network {M}", reason)
    assert facts(table) == before
    tell(table, detach(N))
    assert tell(table, message) == []


def test_refused_change_of_an_attachment_keeps_the_old_one() -> None:
    table = built(attach(N, 5, 1001), attach(M, 6, 1002))
    assert tell(table, attach(M, 5, 1002))
    assert table.attachment(M) == Attachment(M, Segment("vxlan", 1002), 6)
    tell(table, detach(M), detach(N))
    assert is_empty(table)


def test_equal_ids_of_other_kinds_are_no_conflict() -> None:
    table = built(attach(N, 5, 1001), attach(M, 6, 1001, "geneve"))
    assert len(list(table.attachments())) == 2


def test_other_local_vlan() -> None:
    table = built(attach(N, 5), AT_A)
    table.take_dirty()
    tell(table, attach(N, 7))
    assert set(table.take_dirty()) == set(facts(table))
    assert {fact.attachment.local_vlan for fact in facts(table).values()} == {7}
    assert tell(table, attach(M, 5, 2002)) == []  # free again


def test_vtep_in_another_segment_is_out_of_reach() -> None:
    table = built(
        attach(N), AT_A, add(N, B, FLOODING, [MAC1, IP1], [MAC2, IP2], segment_id=OTHER_SEGMENT)
    )
    assert unicast(table) == {MAC1: A}
    assert flood(table) == (A,)
    assert (VTEP, N, B) not in facts(table)
    states = [(state.entry.vtep, state.state) for state in table.entries(N)]
    assert states == [(A, "active"), (B, "other segment"), (B, "other segment")]
    tell(table, attach(N, segment_id=OTHER_SEGMENT))
    assert unicast(table) == {MAC1: B, MAC2: B}
    assert flood(table) == (B,)


def test_change_of_address_keeps_the_segment_of_the_vtep() -> None:
    """Its only entry goes and comes in one message, which tells no segment."""
    table = built(attach(N), add(N, A, [MAC1, IP1], segment_id=OTHER_SEGMENT))
    tell(table, change_ip(N, A, [[MAC1, IP1]], [[MAC1, IP2]]))
    assert unicast(table) == neighbours(table) == {}


def test_long_tables_come_back_in_bounded_messages() -> None:
    pairs = [[MAC1, f"10.1.{n >> 8}.{n & 255}"] for n in range(1, 2502)]
    table = built(attach(N), add(N, A, *pairs))
    sizes = [len(m["fdb_entries"][N]["ports"][A]) for m in messages_of(table) if "fdb_entries" in m]
    assert sizes == [1000, 1000, 501]


def messages_of(table: ForwardingTable) -> list[Any]:
    return list(table.messages())


# -- random sequences --------------------------------------------------------------------------

NETWORKS = [N, M]
SEGMENTS = {N: [1001, OTHER_SEGMENT], M: [1002, OTHER_SEGMENT]}
VTEPS = [LOCAL, A, B, C]
PAIRS = [list(pair) for pair in itertools.product([MAC1, MAC2], [IP1, IP2, IP6])]


class Model:
    """The same rules, told as plainly as possible: a list of claims, the newest last."""

    def __init__(self) -> None:
        self.attachments: dict[str, Attachment] = {}
        self.own = {LOCAL}
        self.claims: list[tuple[str, str, str, str]] = []  # network, MAC, IP, VTEP
        self.floods: set[tuple[str, str]] = set()
        self.segments: dict[tuple[str, str], Segment | None] = {}

    def add(
        self, network: str, segment: Segment | None, vtep: str, pairs: list[Any], floods: bool
    ) -> None:
        if not pairs and not floods:
            return
        if segment is not None or (network, vtep) not in self.segments:
            self.segments[network, vtep] = segment
        if floods:
            self.floods.add((network, vtep))
        for mac, ip in pairs:
            claim = (network, mac, ip, vtep)
            self.claims = [old for old in self.claims if old != claim] + [claim]

    def remove(self, network: str, vtep: str, pairs: list[Any], floods: bool) -> None:
        if floods:
            self.floods.discard((network, vtep))
        gone = [(network, mac, ip, vtep) for mac, ip in pairs]
        self.claims = [claim for claim in self.claims if claim not in gone]
        if (network, vtep) not in self.floods | {(claim[0], claim[3]) for claim in self.claims}:
            self.segments.pop((network, vtep), None)

    def attach(self, attachment: Attachment) -> bool:
        others = [a for n, a in self.attachments.items() if n != attachment.network_id]
        if any(
            a.segment == attachment.segment
            or (a.local_vlan is not None and a.local_vlan == attachment.local_vlan)
            for a in others
        ):
            return False
        self.attachments[attachment.network_id] = attachment
        return True

    def facts(self) -> Facts:
        return {
            key: fact
            for attachment in self.attachments.values()
            for key, fact in self._facts(attachment)
        }

    def _facts(self, attachment: Attachment) -> Iterator[Any]:
        network = attachment.network_id
        reached = {
            vtep
            for (of, vtep), segment in self.segments.items()
            if of == network and segment in (None, attachment.segment)
        }
        yield (NETWORK, network, ""), NetworkFact(attachment, bool(reached - self.own))
        for vtep in reached - self.own:
            yield (VTEP, network, vtep), VtepFact(attachment, vtep)
        floods = sorted(v for n, v in self.floods if n == network and v in reached - self.own)
        if floods:
            yield (FLOOD, network, ""), FloodFact(attachment, tuple(floods))
        claims = [claim for claim in self.claims if claim[0] == network and claim[3] in reached]
        by_mac = {mac: vtep for _, mac, _, vtep in claims}  # the last one stays
        for mac, vtep in by_mac.items():
            here = vtep in self.own
            fact = LocalFact(attachment, mac) if here else UnicastFact(attachment, mac, vtep)
            yield (UNICAST, network, mac), fact
        by_ip = {ip: (mac, vtep) for _, mac, ip, vtep in claims}
        for ip, (mac, vtep) in by_ip.items():
            at = (NEIGHBOUR, network, ip)
            if vtep in self.own:
                yield at, LocalNeighbourFact(attachment, ip, mac)
            else:
                yield at, NeighbourFact(attachment, ip, mac)


a_network = st.sampled_from(NETWORKS)
a_vtep = st.sampled_from(VTEPS)
some_pairs = st.lists(st.sampled_from(PAIRS), max_size=3)


class RandomMessages(RuleBasedStateMachine):
    """Any sequence of messages: table, model and a follower of changes agree at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ForwardingTable(LOCAL)
        self.model = Model()
        self.followed: Facts = {}

    @initialize()
    def both_networks_are_here(self) -> None:
        for network in NETWORKS:
            self.attach(network, SEGMENTS[network][0], NETWORKS.index(network) + 1)

    @rule(addresses=st.sets(a_vtep, max_size=2))
    def this_host_has(self, addresses: set[str]) -> None:
        self.table.set_own(addresses)
        self.model.own = {LOCAL, *addresses}

    @rule(network=a_network, vtep=a_vtep, pairs=some_pairs, floods=st.booleans(), n=st.booleans())
    def add(self, network: str, vtep: str, pairs: list[Any], floods: bool, n: bool) -> None:
        segment_id = SEGMENTS[network][n]
        listed = pairs + [FLOODING] * floods
        assert tell(self.table, add(network, vtep, *listed, segment_id=segment_id)) == []
        self.model.add(network, Segment("vxlan", segment_id), vtep, pairs, floods)

    @rule(network=a_network, vtep=a_vtep, pairs=some_pairs, floods=st.booleans())
    def remove(self, network: str, vtep: str, pairs: list[Any], floods: bool) -> None:
        assert tell(self.table, remove(network, vtep, *pairs, *[FLOODING] * floods)) == []
        self.model.remove(network, vtep, pairs, floods)

    @rule(network=a_network, vtep=a_vtep, before=some_pairs, after=some_pairs)
    def change(self, network: str, vtep: str, before: list[Any], after: list[Any]) -> None:
        assert tell(self.table, change_ip(network, vtep, before, after)) == []
        self.model.add(network, None, vtep, after, False)
        self.model.remove(network, vtep, [pair for pair in before if pair not in after], False)

    @rule(
        network=a_network,
        segment_id=st.sampled_from([1001, 1002, OTHER_SEGMENT]),
        local_vlan=st.sampled_from([1, 2, 3, None]),
    )
    def attach(self, network: str, segment_id: int, local_vlan: int | None) -> None:
        refused = tell(self.table, attach(network, local_vlan, segment_id))
        taken = self.model.attach(Attachment(network, Segment("vxlan", segment_id), local_vlan))
        assert bool(refused) != taken

    @rule(network=a_network)
    def detach(self, network: str) -> None:
        assert tell(self.table, detach(network)) == []
        self.model.attachments.pop(network, None)

    @rule()
    def repeat_all_that_is_known(self) -> None:
        """A sync: nothing changes, and nothing need be written."""
        self.follow()
        before = facts(self.table)
        assert tell(self.table, *messages_of(self.table)) == []
        assert facts(self.table) == before

    @invariant()
    def winners_are_those_of_the_model(self) -> None:
        assert facts(self.table) == self.model.facts()

    @invariant()
    def follow(self) -> None:
        """Who looks at what may have changed, and at nothing else, sees the same."""
        for key, fact in self.table.facts(self.table.take_dirty()):
            if fact is None:
                self.followed.pop(key, None)
            else:
                self.followed[key] = fact
        assert self.followed == facts(self.table)

    @invariant()
    def rebuilding_gives_the_same(self) -> None:
        rebuilt = built(*messages_of(self.table))
        rebuilt.set_own(self.table.own)
        assert facts(rebuilt) == facts(self.table)
        assert {n: sorted(rebuilt.vteps(n)) for n in rebuilt.network_ids()} == {
            n: sorted(self.table.vteps(n)) for n in self.table.network_ids()
        }
        for network in self.table.network_ids():
            assert sorted(rebuilt.entries(network)) == sorted(self.table.entries(network))
            ours, theirs = self.table._networks[network], rebuilt._networks[network]
            for index, again in ((ours.macs, theirs.macs), (ours.ips, theirs.ips)):
                for address, claims in index.items():
                    # Of several VTEPs the order tells who comes next when one is gone.
                    if not isinstance(claims, Entry) and len({e.vtep for e in claims}) > 1:
                        there = again[address]
                        assert list(there) == list(claims)

    @invariant()
    def claims_are_those_of_the_model(self) -> None:
        listed = [
            (network, *state.entry)
            for network in self.table.network_ids()
            for state in self.table.entries(network)
        ]
        assert sorted(listed) == sorted(self.model.claims)
        for network in self.table._networks.values():
            assert set(network.macs) == {entry.mac for entry in network.entries}
            assert set(network.ips) == {entry.ip for entry in network.entries}
            for claims in (*network.macs.values(), *network.ips.values()):
                assert isinstance(claims, Entry) or len(claims) > 1  # one stands alone

    def teardown(self) -> None:
        """Removing all that was said leaves nothing."""
        for network, mac, ip, vtep in self.model.claims:
            tell(self.table, remove(network, vtep, [mac, ip]))
        for network, vtep in self.model.floods:
            tell(self.table, remove(network, vtep, FLOODING))
        for network in NETWORKS:
            tell(self.table, detach(network))
        assert is_empty(self.table)
        self.model = Model()
        self.follow()
        assert self.followed == {}


TestRandomMessages = RandomMessages.TestCase
TestRandomMessages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# -- order and repetition ----------------------------------------------------------------------

macs = [f"fa:16:3e:00:01:{n:02x}" for n in range(8)]
entries = st.dictionaries(
    st.sampled_from(macs), st.sampled_from([A, B, C, LOCAL]), min_size=1, max_size=8
)


@given(entries, st.sets(st.sampled_from([A, B, C])), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_order_and_repetition_do_not_matter(
    machines: dict[str, str], floods: set[str], rng: random.Random
) -> None:
    """Where no two claim one address, messages may come in any order and any number of times.

    Among them come messages about what is gone again: an add and then its removal.
    """
    final = [attach(N), attach(M, 6, 1002)]
    final += [add(N, vtep, [mac, f"10.0.0.{macs.index(mac)}"]) for mac, vtep in machines.items()]
    final += [add(N, vtep, FLOODING) for vtep in floods]
    expected = facts(built(*final))

    shuffled = final * 2
    rng.shuffle(shuffled)
    for mac, vtep in itertools.product(macs[:3], [A, B]):
        pair = [mac, f"10.0.0.{macs.index(mac)}"]
        if machines.get(mac) == vtep:
            continue
        came, went = sorted(rng.sample(range(len(shuffled) + 1), 2))
        shuffled.insert(came, add(N, vtep, pair))
        shuffled.insert(went + 1, remove(N, vtep, pair))
    assert facts(built(*shuffled)) == expected


def test_all_orders_of_one_migration() -> None:
    """Both hosts' messages and the attachment, in each order that the hosts can produce."""
    messages = [attach(N), add(N, A, [MAC1, IP1]), remove(N, A, [MAC1, IP1]), AT_B]
    for order in itertools.permutations(range(4)):
        if order.index(1) < order.index(2):
            table = built(*(messages[n] for n in order))
            assert unicast(table) == {MAC1: B}, order
            assert neighbours(table) == {IP1: MAC1}, order


def test_whole_network_in_one_message() -> None:
    ports = {vtep: [FLOODING, [mac, ip]] for vtep, mac, ip in ((A, MAC1, IP1), (B, MAC2, IP2))}
    message = {"method": "add_fdb_entries", "fdb_entries": {N: body(ports)}}
    one_by_one = [add(N, vtep, *pairs) for vtep, pairs in ports.items()]
    assert facts(built(attach(N), message)) == facts(built(attach(N), *one_by_one))

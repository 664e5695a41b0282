"""A table that others fill too: what the server says of it stands after a sync. Pure."""

import itertools
from typing import Any

from builders import MAC1, MAC2, N, tell
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.core.messages import FLOODING_IP, FLOODING_MAC, Change, Segment
from ovs_l2pop.core.table import ForwardingTable
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, PortState, Update
from ovs_l2pop.sync.replica import Replica

SEGMENT = Segment("vxlan", 1001)
OWN, A, B = "192.0.2.1", "192.0.2.2", "192.0.2.3"
IP1, IP2 = "10.0.0.1", "10.0.0.2"
Claims = set[tuple[str, str, str]]


class Host:
    """A replica and its table."""

    def __init__(self) -> None:
        self.table = ForwardingTable(OWN)
        self.clock = itertools.count(1000)
        self.replica = Replica(OWN, lambda: float(next(self.clock)))
        self.told: list[Change] = []
        assert self.replica.use(N)

    def take(self, changes: list[Change]) -> None:
        """What the replica says; the table refuses nothing of it."""
        self.told = changes
        assert not any(self.table.apply(change) for change in changes)

    def look(self) -> None:
        held = self.table.announced(N) if N in self.table.network_ids() else set()
        self.replica.held(N, SEGMENT, held)

    def sync(self, *ports: PortState, all_of_it: bool = True) -> bool:
        """Look, ask, and take the answer in; whether the server had to send the network."""
        self.look()
        there = sorted(port for port in ports if port.vtep is not None)
        own = protocol.digest(SEGMENT, sum(port.content() for port in there))
        differs = self.replica.digests()[N] != own
        chunks = (Chunk(N, SEGMENT, "", None, tuple(there)),) if differs else ()
        answer = Answer(0.0, (), chunks, None)
        self.take(self.replica.synced(answer, float(next(self.clock)), all_of_it=all_of_it)[0])
        return differs

    def gone(self, *, all_of_it: bool) -> None:
        self.look()
        answer = Answer(0.0, (N,), (), None)
        self.take(self.replica.synced(answer, float(next(self.clock)), all_of_it=all_of_it)[0])

    def others(self, method: str, mac: str, ip: str, vtep: str) -> None:
        """Somebody else tells the table something."""
        network = {"network_type": "vxlan", "segment_id": 1001, "ports": {vtep: [[mac, ip]]}}
        assert tell(self.table, {"method": method, "fdb_entries": {N: network}}) == []

    @property
    def entries(self) -> Claims:
        return set(self.table.announced(N)) if N in self.table.network_ids() else set()


def port(mac: str, ip: str, vtep: str, revision: int = 1) -> PortState:
    return PortState(f"port of {mac}", revision, vtep, ((mac, ip),))


def claims(*ports: PortState) -> Claims:
    found: Claims = set()
    for state in ports:
        assert state.vtep is not None
        found |= {(mac, ip, state.vtep) for mac, ip in state.entries}
        found.add((FLOODING_MAC, FLOODING_IP, state.vtep))
    return found


def test_what_the_server_does_not_know_goes() -> None:
    host, one = Host(), port(MAC1, IP1, A)
    host.sync(one)
    host.others("add_fdb_entries", MAC2, IP2, B)
    assert host.sync(one)
    assert host.entries == claims(one)
    assert not host.sync(one)


def test_what_somebody_took_away_comes_back() -> None:
    host, one = Host(), port(MAC1, IP1, A)
    host.sync(one)
    host.others("remove_fdb_entries", MAC1, IP1, A)
    assert host.sync(one)
    assert host.entries == claims(one)
    assert not host.sync(one)


def test_what_others_told_and_the_server_knows_is_not_told_again() -> None:
    host, one = Host(), port(MAC1, IP1, A)
    host.others("add_fdb_entries", MAC1, IP1, A)
    host.others("add_fdb_entries", FLOODING_MAC, FLOODING_IP, A)
    assert host.sync(one)
    assert host.told == []
    host.take(host.replica.updated(Update(N, SEGMENT, (port(MAC1, IP1, B, 2),))))
    assert host.entries == claims(port(MAC1, IP1, B))


def test_nor_is_it_when_the_answer_comes_in_pieces() -> None:
    """After a restart of a large network, say: the table has all of it."""
    host, ports = Host(), [port(MAC1, IP1, A), port(MAC2, IP2, B)]
    for mac, ip, vtep in claims(*ports):
        host.others("add_fdb_entries", mac, ip, vtep)
    host.look()
    first, last = sorted(ports)
    pieces = (
        Chunk(N, SEGMENT, "", first.key, (first,)),
        Chunk(N, SEGMENT, first.key, None, (last,)),
    )
    answer = Answer(0.0, (), pieces, None)
    assert host.replica.synced(answer, float(next(host.clock)))[0] == []
    assert not host.sync(*ports)


def test_a_network_without_a_port_of_this_host_is_left_to_the_others() -> None:
    host, one = Host(), port(MAC1, IP1, A)
    host.others("add_fdb_entries", MAC2, IP2, B)
    host.gone(all_of_it=False)
    assert host.entries == {(MAC2, IP2, B)}
    # Served for a time: what the server told goes with it, and what it took over.
    host.sync(one, all_of_it=False)
    assert host.entries == claims(one)
    host.others("add_fdb_entries", MAC2, IP2, B)
    host.gone(all_of_it=False)
    assert host.entries == {(MAC2, IP2, B)}


def test_a_network_that_this_host_alone_uses_goes_as_a_whole() -> None:
    host = Host()
    host.others("add_fdb_entries", MAC2, IP2, B)
    host.gone(all_of_it=True)
    assert host.entries == set()


def test_notation_of_the_table() -> None:
    """An agent reports its VTEP as it stands in its configuration."""
    host = Host()
    shouted = PortState("p", 1, "2001:DB8:0::2", (("FA-16-3E-00-00-01", "2001:DB8::1"),))
    # The table takes VTEPs of either family when nothing says which is ours.
    host.replica = Replica("2001:db8::9", lambda: float(next(host.clock)))
    host.table = ForwardingTable("2001:db8::9")
    host.sync(shouted)
    expected = {
        ("fa:16:3e:00:00:01", "2001:db8::1", "2001:db8::2"),
        (FLOODING_MAC, FLOODING_IP, "2001:db8::2"),
    }
    assert host.entries == expected
    assert not host.sync(shouted)
    assert host.entries == expected


def test_what_the_table_refuses_is_not_asked_for_for_ever() -> None:
    host, one = Host(), port(MAC1, IP1, A)
    bad = PortState("bad", 1, B, (("no MAC", IP2), (MAC2, "224.0.0.1")))
    six = PortState("six", 1, "2001:db8::1", ((MAC2, IP2),))
    host.look()
    answer = Answer(0.0, (), (Chunk(N, SEGMENT, "", None, (bad, one, six)),), None)
    host.take(host.replica.synced(answer, float(next(host.clock)))[0])
    refused = [(refusal.where, refusal.offender) for refusal in host.replica.take_refusals()]
    assert refused == [
        (f"port bad, VTEP {B}", "no MAC"),
        (f"port bad, VTEP {B}", "224.0.0.1"),
        ("port six, VTEP 2001:db8::1", "2001:db8::1"),
    ]
    assert host.replica.take_refusals() == []
    assert host.entries == claims(one) | {(FLOODING_MAC, FLOODING_IP, B)}
    assert not host.sync(bad, one, six)
    # Not for want of looking.
    host.others("remove_fdb_entries", MAC1, IP1, A)
    host.look()
    assert host.replica.digests() == {N: protocol.UNKNOWN}


POOL = [(mac, ip, vtep) for mac in (MAC1, MAC2) for ip in (IP1, IP2) for vtep in (OWN, A, B)]
INTERFERENCE = st.lists(
    st.tuples(st.sampled_from(["add_fdb_entries", "remove_fdb_entries"]), st.sampled_from(POOL)),
    max_size=6,
)
WORLD = st.lists(st.tuples(st.sampled_from(POOL), st.booleans()), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(WORLD, INTERFERENCE), min_size=1, max_size=5))
def test_whatever_others_do_a_sync_ends_where_the_server_is(rounds: list[Any]) -> None:
    host, revision = Host(), 0
    for world, interference in rounds:
        ports = {}
        for (mac, ip, vtep), cast in world:
            revision += 1
            ports[mac] = state = port(mac, ip, vtep, revision)
            if cast:
                host.take(host.replica.updated(Update(N, SEGMENT, (state,))))
        for method, claim in interference:
            host.others(method, *claim)
        host.sync(*ports.values())
        remote = {claim for claim in host.entries if claim[2] != OWN}
        assert remote == {claim for claim in claims(*ports.values()) if claim[2] != OWN}
        assert not host.sync(*ports.values())

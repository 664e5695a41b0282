"""The replica against a model: whatever became of server and messages, one full sync is equal.

The server's database lives, goes back to backups and has hosts whose VTEP changes; several
processes answer from pictures of different ages; updates are lost, repeated, reordered and forged.
``HYPOTHESIS_STEPS`` and ``HYPOTHESIS_EXAMPLES`` make it longer. Pure.
"""

import os
from typing import NamedTuple

from builders import take_in
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ovs_l2pop.core.messages import FLOODING_IP, FLOODING_MAC, Change, Segment
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, PortState, Update
from ovs_l2pop.sync.replica import Claim, Replica

NET = "11111111-2222-3333-4444-555555555555"
SEGMENT = Segment("vxlan", 1001)
HOSTS = {"here": "10.0.0.9", "a": "10.0.0.1", "b": "10.0.0.2"}
OWN = HOSTS["here"]
#: Seconds for which a process answers from one picture; ports in one chunk.
FRESH, SIZE = 5.0, 2

keys = st.sampled_from([f"port-{number}" for number in range(4)])
hosts = st.sampled_from(sorted(HOSTS))
processes = st.integers(0, 1)
numbers = st.integers(1, 3)
#: Revisions that a forger would think of.
forged = st.sampled_from([0, 1, 5, 2**62, protocol.DELETED])


class Port(NamedTuple):
    """As the database has it."""

    revision: int
    host: str
    ips: tuple[str, ...]
    allowed: tuple[str, ...]


class Database:
    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        #: Of deleted ports too: their revisions don't begin anew.
        self.revisions: dict[str, int] = {}
        self.vteps: dict[str, str] = dict(HOSTS)
        #: Hosts whose agent's row is gone.
        self.lost: set[str] = set()

    def state(self, key: str) -> PortState:
        port = self.ports.get(key)
        if port is None:
            return PortState(key, protocol.DELETED, None)
        if port.host in self.lost:
            return PortState(key, port.revision, None)
        mac = f"fa:16:3e:00:00:0{key[-1]}"
        entries = tuple((mac, ip) for ip in port.ips)
        return PortState(key, port.revision, self.vteps[port.host], entries, port.allowed)

    def states(self) -> list[PortState]:
        found = map(self.state, sorted(self.ports))
        return [state for state in found if state.vtep is not None]


class ReplicaModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.database = Database()
        self.backups: list[dict[str, Port]] = []
        self.casts: list[PortState] = []
        #: Each process's picture, and when it was taken.
        self.pictures: dict[int, tuple[float, list[PortState]]] = {}
        self.replica = Replica(OWN, self.clock)
        self.replica.use(NET)
        #: What the table holds: told by the replica, in this model by nobody else.
        self.table: set[Claim] = set()

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    # -- the database ------------------------------------------------------------------------

    @rule(
        key=keys, host=hosts, ips=st.lists(numbers, max_size=2), allowed=numbers, cast=st.booleans()
    )
    def port_is(self, key: str, host: str, ips: list[int], allowed: int, cast: bool) -> None:
        revision = self.database.revisions.get(key, 0) + 1
        self.database.revisions[key] = revision
        addresses = tuple(sorted({f"192.0.2.{number}" for number in ips}))
        self.database.ports[key] = Port(revision, host, addresses, (f"192.0.2.{allowed}",))
        self.casts += [self.database.state(key)] * cast

    @rule(key=keys)
    def port_is_deleted(self, key: str) -> None:
        if self.database.ports.pop(key, None):
            self.casts.append(self.database.state(key))

    @rule(host=st.sampled_from(["a", "b"]), number=numbers)
    def vtep_changes(self, host: str, number: int) -> None:
        self.database.vteps[host] = f"10.0.{number}.{ord(host)}"
        self.database.lost.discard(host)
        self.casts += [
            self.database.state(k) for k, p in self.database.ports.items() if p.host == host
        ]

    @rule(host=st.sampled_from(["a", "b"]))
    def row_is_deleted(self, host: str) -> None:
        self.database.lost.add(host)

    @rule()
    def backup(self) -> None:
        self.backups.append(dict(self.database.ports))

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.database.ports = dict(data.draw(st.sampled_from(self.backups)))
        self.database.revisions = {k: port.revision for k, port in self.database.ports.items()}

    @rule(seconds=st.sampled_from([0.1, 3.0, 20.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # -- the messages ------------------------------------------------------------------------

    @precondition(lambda self: self.casts)
    @rule(data=st.data(), again=st.booleans())
    def cast_arrives(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.casts) - 1))
        self.update(self.casts[at] if again else self.casts.pop(at))

    @precondition(lambda self: self.casts)
    @rule(data=st.data())
    def cast_is_lost(self, data: st.DataObject) -> None:
        self.casts.pop(data.draw(st.integers(0, len(self.casts) - 1)))

    @rule(key=keys, revision=forged, host=hosts, ip=numbers, gone=st.booleans())
    def forged_update(self, key: str, revision: int, host: str, ip: int, gone: bool) -> None:
        entries = (("fa:16:3e:00:00:66", f"192.0.2.{ip}"),)
        self.update(
            PortState(key, revision, None if gone else HOSTS[host], () if gone else entries)
        )

    def update(self, state: PortState) -> None:
        self.take(self.replica.updated(Update(NET, SEGMENT, (state,))))

    @rule()
    def host_is_not_known(self) -> None:
        self.take(self.replica.synced(Answer(0.0, (NET,), (), None), self.clock())[0])
        assert self.table == set()

    # -- asking ------------------------------------------------------------------------------

    @rule(process=processes, data=st.data())
    def sync(self, process: int, data: st.DataObject) -> None:
        """With updates that arrive while it is answered."""
        self.ask(process, data)

    def ask(self, process: int, data: st.DataObject | None = None) -> None:
        asked, cursor = self.replica.digests()[NET], None
        while True:
            asked_at = self.clock()
            answer = self.answer(process, asked, cursor)
            if data is not None and self.casts and data.draw(st.booleans()):
                self.cast_arrives(data, data.draw(st.booleans()))
            changes, cursor = self.replica.synced(answer, asked_at)
            self.take(changes)
            if cursor is None:
                return

    def answer(self, process: int, asked: str, cursor: Cursor | None) -> Answer:
        taken_at, states = self.pictures.get(process, (float("-inf"), []))
        now = self.clock()
        if taken_at < now - FRESH:
            taken_at, states = self.pictures[process] = self.clock(), self.database.states()
        age = max(0.0, now - taken_at)
        contents = sum(state.content() for state in states)
        if cursor is None and asked == protocol.digest(SEGMENT, contents):
            return Answer(age, (), (), None)
        after = "" if cursor is None else cursor[1]
        left = [state for state in states if state.key > after]
        until = left[SIZE - 1].key if len(left) > SIZE else None
        chunk = Chunk(NET, SEGMENT, after, until, tuple(left[:SIZE]))
        return Answer(age, (), (chunk,), None if until is None else (NET, until))

    def take(self, changes: list[Change]) -> None:
        take_in(self.table, changes)

    # -- what must hold ----------------------------------------------------------------------

    @rule(process=processes)
    def comes_right(self, process: int) -> None:
        """One full sync, later, with nothing in flight."""
        self.now += FRESH + 1
        self.casts.clear()
        self.ask(process)
        assert self.table == self.expected()
        before = self.replica.digests()[NET]
        contents = sum(state.content() for state in self.database.states())
        assert before == protocol.digest(SEGMENT, contents), "so the next one costs nothing"

    @rule(process=processes, key=keys, host=hosts)
    def comes_right_and_goes_on(self, process: int, key: str, host: str) -> None:
        """What happens next is told at once, or asked for."""
        self.comes_right(process)
        self.now += 60
        self.replica.take_doubt()
        self.port_is(key, host, [1], 2, cast=True)
        self.update(self.casts.pop())
        if self.table != self.expected():
            assert self.replica.take_doubt()
            self.comes_right(process)

    @invariant()
    def nothing_of_own_flooding(self) -> None:
        assert (FLOODING_MAC, FLOODING_IP, OWN) not in self.table

    def expected(self) -> set[Claim]:
        states = self.database.states()
        contested = {ip for s in states for ip in s.allowed if ip not in {i for _, i in s.entries}}
        flooding = {
            (FLOODING_MAC, FLOODING_IP, s.vtep) for s in states if s.vtep not in (None, OWN)
        }
        claims = {(mac, ip, s.vtep) for s in states for mac, ip in s.entries if s.vtep}
        return {c for c in claims if c[2] == OWN or c[1] not in contested} | {
            (mac, ip, vtep) for mac, ip, vtep in flooding if vtep
        }


TestReplicaModel = ReplicaModel.TestCase
TestReplicaModel.settings = settings(
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    stateful_step_count=int(os.environ.get("HYPOTHESIS_STEPS", "40")),
)

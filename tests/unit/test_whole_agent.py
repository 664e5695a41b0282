"""The whole agent against a model: whatever is lost, repeated, reordered, broken or killed.

Replica, follower, table, difference, store and worker are the real ones; dataplane and server are
in memory. After any history one sync and one look at the dataplane make it what an agent has that
was told the truth at once. ``HYPOTHESIS_STEPS`` and ``HYPOTHESIS_EXAMPLES`` make it longer.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fake_backend import FakeBackend
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.sync.follower import Follower
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, PortState, Update

OWN, VTEPS = "10.0.0.9", ["10.0.0.1", "10.0.0.2", "10.0.0.9"]
NETS = [f"{number}1111111-2222-3333-4444-555555555555" for number in range(2)]
SEGMENTS = {net: Segment("vxlan", 1001 + number) for number, net in enumerate(NETS)}

nets, vteps, numbers = st.sampled_from(NETS), st.sampled_from(VTEPS), st.integers(1, 5)


class Server:
    """Knows the truth; its answers hold two ports at a time."""

    def __init__(self) -> None:
        self.ports: dict[str, dict[str, PortState]] = {net: {} for net in NETS}
        #: Networks in which it knows a port of the host, and those in which one is plugged.
        self.here: set[str] = set()
        self.plugged: set[str] = set()
        self.down = False

    def __call__(self, networks: Mapping[str, str], cursor: Cursor | None, own: bool) -> object:
        if self.down:
            raise TimeoutError("no answer")
        gone = tuple(sorted(set(networks) - self.here)) if cursor is None else ()
        asked = [net for net in sorted(networks) if net in self.here]
        asked = [net for net in asked if cursor is None or net >= cursor[0]]
        if not asked:
            return Answer(0.0, gone, (), None).to_wire()
        net = asked[0]
        after = cursor[1] if cursor is not None and cursor[0] == net else ""
        ports = [port for key, port in sorted(self.ports[net].items()) if key > after]
        until = ports[1].key if len(ports) > 2 else None
        rest = (net, until) if until else (asked[1], "") if len(asked) > 1 else None
        chunk = Chunk(net, SEGMENTS[net], after, until, tuple(ports[:2]))
        return Answer(0.0, gone, (chunk,), rest).to_wire()


def rows_of(server: Server) -> set[Row]:
    """What an agent makes of the truth that hears it at once."""
    directory = Path(tempfile.mkdtemp())
    backend = FakeBackend()
    agent = Worker(OWN, backend, Store(directory), drift_interval=0)
    agent.start().result()
    try:
        follower = Follower(agent, server)
        for net in sorted(server.plugged):
            follower.use(attachment(net))
        assert follower.sync()
        return set(backend.rows)
    finally:
        agent.stop()
        shutil.rmtree(directory)


def attachment(net: str) -> Attachment:
    return Attachment(net, SEGMENTS[net], NETS.index(net) + 1)


class WholeAgent(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.backend = FakeBackend()
        self.directory = Path(tempfile.mkdtemp())
        self.revision = 0
        self.casts: list[Update] = []
        self.start()

    def start(self) -> None:
        store = Store(self.directory)
        self.agent = Worker(
            *(OWN, self.backend, store), drift_interval=0, speaker=lambda: self.follower
        )
        self.follower: Follower = Follower(self.agent, self.server)
        self.agent.start().result()
        for net in sorted(self.server.plugged):
            self.follower.use(attachment(net))

    def teardown(self) -> None:
        self.agent.stop()
        shutil.rmtree(self.directory)

    # -- the cloud ---------------------------------------------------------------------------

    @rule(net=nets, key=numbers, vtep=vteps, number=numbers)
    def port_is(self, net: str, key: int, vtep: str, number: int) -> None:
        self.revision += 1
        entries = ((f"fa:16:3e:00:00:{key:02x}", f"10.0.0.{10 * key + number}"),)
        # A port's id is never used again.
        name = f"{key}"
        self.say(net, PortState(name, self.revision, vtep, entries))

    @rule(net=nets, key=numbers)
    def port_is_down(self, net: str, key: int) -> None:
        if str(key) in self.server.ports[net]:
            self.revision += 1
            self.say(net, PortState(str(key), self.revision, None))

    def say(self, net: str, state: PortState) -> None:
        if state.vtep is None:
            del self.server.ports[net][state.key]
        else:
            self.server.ports[net][state.key] = state
        self.casts.append(Update(net, SEGMENTS[net], (state,)))

    @rule(net=nets)
    def network_comes(self, net: str) -> None:
        self.server.here.add(net)
        self.server.plugged.add(net)
        self.follower.use(attachment(net))

    @rule(net=nets)
    def network_goes(self, net: str) -> None:
        if net in self.server.plugged:
            self.server.here.discard(net)
            self.server.plugged.remove(net)
            self.follower.leave(net)

    @rule(net=nets, here=st.booleans())
    def port_is_rebound(self, net: str, here: bool) -> None:
        """By the API; it stays plugged where it is."""
        if net in self.server.plugged:
            (self.server.here.add if here else self.server.here.discard)(net)

    @rule()
    def backup(self) -> None:
        self.saved = {net: dict(ports) for net, ports in self.server.ports.items()}
        self.saved_revision = self.revision

    @precondition(lambda self: hasattr(self, "saved"))
    @rule()
    def restore(self) -> None:
        self.server.ports = {net: dict(ports) for net, ports in self.saved.items()}
        self.revision = self.saved_revision

    @rule(net=nets, key=numbers, vtep=st.sampled_from([*VTEPS, None]))
    def forged_update_arrives(self, net: str, key: int, vtep: str | None) -> None:
        state = PortState(str(key), 2**62, vtep)
        self.follower.updated(Update(net, SEGMENTS[net], (state,)).to_wire())

    # -- the messages ------------------------------------------------------------------------

    @precondition(lambda self: self.casts)
    @rule(data=st.data(), again=st.booleans())
    def cast_arrives(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.casts) - 1))
        cast = self.casts[at] if again else self.casts.pop(at)
        self.follower.updated(cast.to_wire())

    @precondition(lambda self: self.casts)
    @rule(data=st.data())
    def cast_is_lost(self, data: st.DataObject) -> None:
        self.casts.pop(data.draw(st.integers(0, len(self.casts) - 1)))

    @rule(down=st.booleans())
    def server_answers(self, down: bool) -> None:
        self.server.down = down
        self.follower.sync()

    # -- the dataplane -----------------------------------------------------------------------

    @rule(rows=st.integers(0, 6))
    def dataplane_breaks(self, rows: int) -> None:
        self.backend.breaks_after = rows

    @rule(down=st.booleans())
    def dataplane_is_away(self, down: bool) -> None:
        self.backend.down = down

    @rule(data=st.data())
    def somebody_meddles(self, data: st.DataObject) -> None:
        rows = sorted(self.backend.rows, key=str)
        if rows:
            self.backend.rows.discard(data.draw(st.sampled_from(rows)))
        self.backend.rows.add(("flow", "of", "nobody"))

    @rule(clean=st.booleans(), lost=st.booleans())
    def agent_restarts(self, clean: bool, lost: bool) -> None:
        if clean:
            self.agent.stop()
        else:  # what SIGKILL leaves: the file as it is, and a dataplane half written
            self.agent.call(lambda: self.agent._keeping.close()).result()
            self.agent.stop()
        if lost:  # a container without a volume
            shutil.rmtree(self.directory)
        self.start()

    # -- what must hold ----------------------------------------------------------------------

    @rule()
    def comes_right(self) -> None:
        self.server.down = self.backend.down = False
        self.backend.breaks_after = None
        assert self.follower.sync()
        for _ in range(3):  # the first may find a connection that was lost
            try:
                self.agent.call(self.agent.repair).result()
                break
            except BackendError:
                continue
        # What is left belongs to networks that are not here any more: kept of before, as far as the
        # dataplane was there to be asked.
        self.agent.call(self.agent._end_orphans).result()
        assert self.backend.rows == rows_of(self.server)


TestWholeAgent = WholeAgent.TestCase
TestWholeAgent.settings = settings(
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")),
    stateful_step_count=int(os.environ.get("HYPOTHESIS_STEPS", "40")),
)

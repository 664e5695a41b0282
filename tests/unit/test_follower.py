"""A host's side of the protocol, with an agent on a dataplane in memory and a server of our own."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fake_backend import FakeBackend

from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.sync import follower
from ovs_l2pop.sync.follower import Follower
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, OldServerError, PortState, Update

NET = "11111111-2222-3333-4444-555555555555"
OTHER = "22222222-2222-3333-4444-555555555555"
OWN, A, B = "10.0.0.9", "10.0.0.1", "10.0.0.2"
SEGMENT = Segment("vxlan", 1001)
ATTACHED = Attachment(NET, SEGMENT, 5)


def port(name: str, vtep: str | None, revision: int = 1) -> PortState:
    return PortState(name, revision, vtep, ((f"fa:16:3e:00:00:{name}", f"10.0.0.{int(name)}"),))


class Server:
    """Answers every sync with all there is of the networks that are asked for."""

    def __init__(self) -> None:
        self.ports: dict[str, list[PortState]] = {NET: []}
        self.down = False
        self.asked: list[Mapping[str, str]] = []
        self.age = 0.0
        #: Whether it can tell own ports, and whether it was asked to.
        self.own = True
        self.asked_own: list[bool] = []
        self.cursor: Cursor | None = None

    def __call__(self, networks: Mapping[str, str], cursor: Cursor | None, own: bool) -> object:
        self.asked.append(networks)
        self.asked_own.append(own)
        if self.down:
            raise TimeoutError("no answer")
        if own and not self.own:
            raise OldServerError("sync 1.1 is not known")
        chunks = [
            Chunk(network_id, SEGMENT, "", None, self._of(network_id, own))
            for network_id in networks
            if network_id in self.ports
        ]
        gone = tuple(network_id for network_id in networks if network_id not in self.ports)
        return Answer(self.age, gone, tuple(chunks), self.cursor, own=self.own).to_wire()

    def _of(self, network_id: str, own: bool) -> tuple[PortState, ...]:
        return tuple(state for state in self.ports[network_id] if own or state.vtep != OWN)


class Host:
    """An agent that follows a server; on one directory, one after the other."""

    def __init__(self, directory: Path, server: Server, backend: FakeBackend | None = None) -> None:
        self.backend = backend or FakeBackend()
        self.agent = Worker(OWN, self.backend, Store(directory), speaker=lambda: self.follower)
        self.follower = Follower(self.agent, server, interval=3600)
        self.agent.start().result()

    def start(self) -> None:
        self.follower.start()

    def stop(self) -> None:
        self.follower.stop()
        self.agent.stop()

    def local(self) -> set[str]:
        """MACs that are here, in the server's word."""
        rows: set[Any] = self.backend.rows
        return {row[2] for row in rows if row[0] == "LocalFact"}

    def attached(self) -> list[Attachment]:
        found: list[Attachment] = self.agent.call(
            lambda: list(self.agent.table.attachments())
        ).result()
        return found

    def unicast(self) -> dict[str, str]:
        """MAC → VTEP in the dataplane."""
        rows: set[Any] = self.backend.rows
        return {row[2]: row[3] for row in rows if row[0] == "UnicastFact"}


def wait(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not probe():
        assert time.monotonic() < deadline, "not within 20 s"
        time.sleep(0.02)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def host(tmp_path: Path, server: Server) -> Iterator[Host]:
    running = Host(tmp_path, server)
    running.start()
    yield running
    running.stop()


def test_first_use_of_a_network_brings_all_of_it(host: Host, server: Server) -> None:
    server.ports[NET] = [port("01", A), port("02", B), port("03", OWN)]
    assert host.follower.use(ATTACHED)
    assert host.follower.sync()
    assert host.unicast() == {"fa:16:3e:00:00:01": A, "fa:16:3e:00:00:02": B}


def test_what_came_before_this_host_was_cast_to_is_asked_for(host: Host, server: Server) -> None:
    """The server casts to hosts with an ACTIVE port; this one's is still being wired."""
    host.follower.use(ATTACHED)
    host.follower.sync()
    time.sleep(0.5)  # the follower's thread has asked as well
    server.ports[NET] = [port("01", A)]
    deadline = time.monotonic() + 5
    while host.unicast() != {"fa:16:3e:00:00:01": A}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_update_moves_a_machine_and_an_older_one_does_not(host: Host, server: Server) -> None:
    server.down = True  # updates speak alone: an answer of the empty server would take B away
    host.follower.use(ATTACHED)
    update = {"network_id": NET, "network_type": "vxlan", "segment_id": 1001}
    host.follower.updated({**update, "ports": [list(port("01", B, revision=8))]})
    host.follower.updated({**update, "ports": [list(port("01", A, revision=7))]})
    deadline = time.monotonic() + 5
    while host.unicast() != {"fa:16:3e:00:00:01": B}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_went_while_the_agent_was_down_goes_with_the_first_sync(
    tmp_path: Path, server: Server
) -> None:
    server.ports[NET] = [port("01", A), port("02", B)]
    first = Host(tmp_path, server)
    first.start()
    first.follower.use(ATTACHED)
    first.follower.sync()
    first.stop()

    server.ports[NET] = [port("02", B)]
    server.down = True
    second = Host(tmp_path, server)
    assert len(second.unicast()) == 2  # known from disk, with the server gone
    second.start()
    assert not second.follower.use(ATTACHED)
    assert len(second.unicast()) == 2
    server.down = False
    assert second.follower.sync()
    assert second.unicast() == {"fa:16:3e:00:00:02": B}
    second.stop()


def test_last_machine_of_a_network_that_went_meanwhile(tmp_path: Path, server: Server) -> None:
    """The digest of "nothing" must not hide that something is held."""
    server.ports[NET] = [port("01", A)]
    first = Host(tmp_path, server)
    first.start()
    first.follower.use(ATTACHED)
    first.follower.sync()
    first.stop()
    server.ports[NET] = []
    second = Host(tmp_path, server)
    second.start()
    second.follower.sync()
    assert second.unicast() == {}
    assert "" in server.asked[-1].values() or "" in server.asked[-2].values()
    second.stop()


def test_network_that_the_host_has_lost_is_detached(tmp_path: Path, server: Server) -> None:
    first = Host(tmp_path, server)
    first.start()
    first.follower.use(ATTACHED)
    first.stop()
    del server.ports[NET]
    second = Host(tmp_path, server)
    second.start()
    second.follower.sync()
    assert second.agent.call(lambda: list(second.agent.table.attachments())).result() == []
    second.stop()


def test_a_network_outlives_an_answer_that_knows_no_port_here(host: Host, server: Server) -> None:
    """Its only port was bound elsewhere behind the host's back, and is still plugged in."""
    server.ports[NET] = [port("01", A)]
    host.follower.use(ATTACHED)
    host.follower.sync()
    known = server.ports.pop(NET)
    assert host.follower.sync()
    assert host.unicast() == {}
    assert host.attached() == [ATTACHED]
    assert host.follower.unserved(NET)
    # Then another comes, or the same one back.
    server.ports[NET] = known
    assert host.follower.use(ATTACHED), "the server is worth asking"
    assert host.follower.sync()
    assert host.unicast() == {"fa:16:3e:00:00:01": A}
    assert not host.follower.unserved(NET)
    # Or the last one goes.
    del server.ports[NET]
    assert host.follower.sync()
    host.follower.leave(NET)
    assert host.attached() == []


def test_an_update_of_a_network_that_the_server_gave_up_asks_for_all(
    host: Host, server: Server
) -> None:
    del server.ports[NET]
    host.follower.use(ATTACHED)
    host.follower.sync()
    server.ports[NET] = [port("01", A), port("02", B)]
    update = {"network_id": NET, "network_type": "vxlan", "segment_id": 1001}
    host.follower.updated({**update, "ports": [list(port("02", B))]})
    wait(lambda: host.unicast() == {"fa:16:3e:00:00:01": A, "fa:16:3e:00:00:02": B})


def test_what_all_hosts_hear_is_left_unread_without_the_network(
    host: Host, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server tells all at once where many have a network: here nothing may come of it."""
    host.follower.use(ATTACHED)
    host.follower.sync()
    asked = len(server.asked)
    read = mock.Mock(side_effect=Update.from_wire)
    monkeypatch.setattr(Update, "from_wire", read)
    update = {"network_type": "vxlan", "segment_id": 1001, "ports": [list(port("09", B))]}
    host.follower.updated({"network_id": OTHER, **update})
    assert not read.called
    host.follower.updated({"network_id": NET, **update})
    assert read.call_count == 1
    wait(lambda: "fa:16:3e:00:00:09" in host.unicast())
    assert len(server.asked) == asked


def test_a_hint_asks_for_all(tmp_path: Path, server: Server) -> None:
    running = Host(tmp_path, server)
    running.follower.use(ATTACHED)
    running.start()
    wait(lambda: bool(server.asked))
    running.follower._again.clear()
    server.ports[NET] = [port("01", A)]
    hint = {"network_id": NET, "network_type": "vxlan", "segment_id": 1001, "ports": []}
    for _ in range(100):
        running.follower.updated(hint)
    wait(lambda: running.unicast() == {"fa:16:3e:00:00:01": A})
    running.stop()
    assert len(server.asked) < 10, "at any rate, but not at that one"


def test_a_server_of_the_release_before(host: Host, server: Server) -> None:
    host.follower.use(ATTACHED)
    server.own = False
    server.ports[NET] = [port("01", A)]
    assert host.follower.sync()
    assert host.unicast() == {"fa:16:3e:00:00:01": A}
    assert host.follower.sync()
    assert server.asked_own[-2:] == [False, False]
    # It is upgraded.
    server.own = True
    server.ports[NET] = [port("01", A), port("03", OWN)]
    assert host.follower.sync()
    wait(lambda: host.local() == {"fa:16:3e:00:00:03"})
    assert server.asked_own[-1]


def test_answers_that_come_to_no_end(host: Host, server: Server) -> None:
    server.cursor = (NET, "01")
    host.follower.use(ATTACHED)
    assert not host.follower.sync()
    assert host.follower.health().state == "trouble"


def test_more_networks_than_one_call_may_ask_for(
    host: Host, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "MAX_NETWORKS", 1)
    server.ports |= {NET: [port("01", A)], OTHER: [port("02", B)]}
    host.follower.use(ATTACHED)
    host.follower.use(Attachment(OTHER, Segment("vxlan", 1002), 6))
    assert host.follower.sync()
    assert {len(asked) for asked in server.asked[-2:]} == {1}
    assert len(host.agent.call(lambda: host.agent.table.announced(NET)).result()) == 2
    assert len(host.agent.call(lambda: host.agent.table.announced(OTHER)).result()) == 2


def test_another_local_vlan(host: Host, server: Server) -> None:
    server.ports[NET] = [port("01", A)]
    host.follower.use(ATTACHED)
    host.follower.sync()
    assert not host.follower.use(ATTACHED._replace(local_vlan=7))
    assert host.attached() == [ATTACHED._replace(local_vlan=7)]
    assert host.unicast() == {"fa:16:3e:00:00:01": A}


def test_local_vlan_that_went_to_another_network(host: Host, server: Server) -> None:
    """Neutron gives a local VLAN away at once; the network that had it must make room."""
    server.ports[NET] = [port("01", A)]
    host.follower.use(ATTACHED)
    host.follower.sync()
    server.ports[OTHER] = []
    host.follower.use(Attachment(OTHER, Segment("vxlan", 1002), 5))
    attached = host.agent.call(lambda: list(host.agent.table.attachments())).result()
    assert [attachment.network_id for attachment in attached] == [OTHER]
    assert host.unicast() == {}


def test_leaving_takes_everything_away(host: Host, server: Server) -> None:
    server.ports[NET] = [port("01", A)]
    host.follower.use(ATTACHED)
    host.follower.sync()
    host.follower.leave(NET)
    assert host.unicast() == {}
    assert not [row for row in host.backend.rows if isinstance(row, tuple) and row[0] == "tunnel"]


def test_answer_from_before_the_first_use_is_asked_for_again(host: Host, server: Server) -> None:
    """A port that came after the server's picture and before our first use is told by nobody."""
    server.age = 5.0
    host.follower.use(ATTACHED)
    assert host.follower.sync()
    server.ports[NET] = [port("01", A)]
    server.age = 0.0
    deadline = time.monotonic() + 5
    while host.unicast() != {"fa:16:3e:00:00:01": A}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_worker_may_ask_for_a_sync_whoever_waits_for_it(host: Host) -> None:
    """Networks that come tell so in the agent's worker, which the follower may be waiting for."""
    host.follower.networks_changed = host.follower.soon  # type: ignore[method-assign]
    host.follower.use(ATTACHED)
    with host.follower._lock:
        host.agent.call(host.follower.soon).result(timeout=5)


def test_a_lost_table_is_not_taken_for_the_truth_before_the_server_has_spoken(
    tmp_path: Path, server: Server
) -> None:
    server.ports[NET] = [port("01", A), port("02", B)]
    host = Host(tmp_path, server)
    host.follower.use(ATTACHED)
    host.follower.sync()
    before = set(host.backend.rows)
    host.stop()
    shutil.rmtree(tmp_path)

    server.down = True
    server.ports[NET] = [port("01", A)]
    again = Host(tmp_path, server, host.backend)
    again.follower.use(ATTACHED)  # the agent's ports come before the server's answer
    again.follower.sync()
    assert again.agent.call(lambda: again.agent._hearing.settled({NET: None}, 1e9)).result() == []
    assert {row for row in before if row[0] != "NetworkFact"} <= again.backend.rows  # type: ignore[index]
    assert again.follower.out_of_reach(), "so nothing goes by the clock"

    server.down = False
    again.follower.sync()
    again.agent.call(lambda: None).result()
    assert again.unicast() == {"fa:16:3e:00:00:01": A}
    assert again.agent.forgetful is None
    again.stop()

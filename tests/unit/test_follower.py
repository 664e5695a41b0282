"""A host's side of the protocol, with an agent on a dataplane in memory and a server of our own."""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend

from ovs_l2pop.agent.service import Agent
from ovs_l2pop.agent.store import Store
from ovs_l2pop.messages import Attachment, Segment
from ovs_l2pop.neutron.agent.follower import Follower
from ovs_l2pop.neutron.protocol import Answer, Chunk, Cursor, PortState

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

    def __call__(self, networks: Mapping[str, str], cursor: Cursor | None) -> object:
        self.asked.append(networks)
        if self.down:
            raise TimeoutError("no answer")
        chunks = [
            Chunk(network_id, SEGMENT, "", None, tuple(self.ports[network_id]))
            for network_id in networks
            if network_id in self.ports
        ]
        gone = tuple(network_id for network_id in networks if network_id not in self.ports)
        return Answer(self.age, gone, tuple(chunks), None).to_wire()


class Host:
    """An agent that follows a server; on one directory, one after the other."""

    def __init__(self, directory: Path, server: Server, backend: FakeBackend | None = None) -> None:
        self.backend = backend or FakeBackend()
        self.agent = Agent(OWN, self.backend, Store(directory))
        self.agent.start().result()
        self.follower = Follower(self.agent, server, interval=3600)

    def start(self) -> None:
        self.follower.start()

    def stop(self) -> None:
        self.follower.stop()
        self.agent.stop()

    def unicast(self) -> dict[str, str]:
        """MAC → VTEP in the dataplane."""
        rows: set[Any] = self.backend.rows
        return {row[2]: row[3] for row in rows if row[0] == "UnicastFact"}


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
    host.agent.networks_changed = host.follower.soon
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
    assert again.agent.call(lambda: again.agent.hearing.settled({NET: None}, 1e9)).result() == []
    assert {row for row in before if row[0] != "NetworkFact"} <= again.backend.rows  # type: ignore[index]
    assert again.agent.call(again.agent.out_of_reach).result(), "so nothing goes by the clock"

    server.down = False
    again.follower.sync()
    again.agent.call(lambda: None).result()
    assert again.unicast() == {"fa:16:3e:00:00:01": A}
    assert again.agent.forgetful is None
    again.stop()

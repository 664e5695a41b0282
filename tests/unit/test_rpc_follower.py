"""A follower on a host whose networks somebody else attaches: an operator, by ``send``."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import FLOODING, IP1, IP2, MAC1, MAC2, add, attach, detach, told
from fake_backend import FakeBackend

from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.messages import Segment
from ovs_l2pop.core.wire import Message
from ovs_l2pop.sync.follower import Follower
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, PortState

N, M = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
OWN, A, B = "192.0.2.1", "192.0.2.2", "192.0.2.3"
SEGMENT = Segment("vxlan", 1001)


def port(mac: str, ip: str, vtep: str, revision: int = 1) -> PortState:
    return PortState(f"port of {mac}", revision, vtep, ((mac, ip),))


class Server:
    """Answers with all there is of the networks in which it knows a port of the host."""

    def __init__(self) -> None:
        self.ports: dict[str, list[PortState]] = {}
        self.segment = SEGMENT
        self.down = False
        self.asked = 0

    def __call__(self, networks: Mapping[str, str], cursor: Cursor | None, own: bool) -> object:
        self.asked += 1
        if self.down:
            raise TimeoutError("no answer\nand a traceback of ten lines")
        there = [network for network in networks if network in self.ports]
        chunks = [Chunk(one, self.segment, "", None, tuple(self.ports[one])) for one in there]
        gone = tuple(network for network in networks if network not in self.ports)
        return Answer(0.0, gone, tuple(chunks), None).to_wire()


class Host:
    """An agent with a follower, on one directory."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.agent = Worker(OWN, FakeBackend(), Store(directory), speaker=lambda: self.follower)
        self.follower = Follower(self.agent, server, 3600, attaches=False)
        self.agent.start().result()
        self.follower.start()

    def stop(self) -> None:
        self.follower.stop()
        self.agent.stop()

    def send(self, *messages: Message) -> None:
        """What ``ovs-l2pop send`` does."""
        assert self.agent.submit(*told(*messages, local_ip=OWN)).result().refusals == []

    def entries(self, network_id: str = N) -> set[tuple[str, str, str]]:
        """All of a network in the table, without flooding entries."""

        def look() -> set[Any]:
            table = self.agent.table
            here = network_id in table.network_ids()
            return {state.entry for state in table.entries(network_id)} if here else set()

        found: set[tuple[str, str, str]] = self.agent.call(look).result()
        return found


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def host(tmp_path: Path, server: Server) -> Iterator[Host]:
    running = Host(tmp_path, server)
    yield running
    running.stop()


def wait(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.01)


def test_attaching_a_network_asks_for_it(host: Host, server: Server) -> None:
    server.ports[N] = [port(MAC1, IP1, A)]
    host.send(attach(N))
    wait(lambda: host.entries() == {(MAC1, IP1, A)})


def test_detaching_it_takes_away_what_the_server_told(host: Host, server: Server) -> None:
    server.ports[N] = [port(MAC1, IP1, A)]
    host.send(attach(N))
    wait(lambda: host.entries() == {(MAC1, IP1, A)})
    host.send(detach(N))
    wait(lambda: host.entries() == set())


def test_a_network_that_the_server_does_not_know_here_is_left_alone(
    host: Host, server: Server
) -> None:
    host.send(attach(N), add(N, A, [MAC1, IP1], FLOODING))
    wait(lambda: server.asked > 0)
    assert host.follower.sync()
    assert host.entries() == {(MAC1, IP1, A)}
    attachments = host.agent.call(lambda: list(host.agent.table.attachments())).result()
    assert [attachment.network_id for attachment in attachments] == [N]
    # Nor is it forgotten: once a port of this host is in it, the server decides.
    server.ports[N] = [port(MAC2, IP2, B)]
    assert host.follower.sync()
    assert host.entries() == {(MAC2, IP2, B)}


def test_a_network_is_left_alone_when_the_host_loses_its_last_port(
    host: Host, server: Server
) -> None:
    server.ports[N] = [port(MAC1, IP1, A)]
    host.send(attach(N))
    wait(lambda: host.entries() == {(MAC1, IP1, A)})
    del server.ports[N]
    assert host.follower.sync()
    assert host.entries() == set()
    host.send(add(N, B, [MAC2, IP2]))
    assert host.follower.sync()
    assert host.entries() == {(MAC2, IP2, B)}


def test_what_is_sent_of_a_served_network_is_settled_by_the_next_sync(
    host: Host, server: Server
) -> None:
    server.ports[N] = [port(MAC1, IP1, A)]
    host.send(attach(N))
    wait(lambda: host.entries() == {(MAC1, IP1, A)})
    host.send(add(N, B, [MAC2, IP2]), add(M, B, [MAC2, IP2]))
    assert host.follower.sync()
    assert host.entries() == {(MAC1, IP1, A)}
    assert host.entries(M) == {(MAC2, IP2, B)}, "not attached here: nobody's but the sender's"


def test_a_restart_knows_the_same(tmp_path: Path, server: Server) -> None:
    server.ports[N] = [port(MAC1, IP1, A), port(MAC2, IP2, B)]
    first = Host(tmp_path, server)
    first.send(attach(N), attach(M, local_vlan=6, segment_id=1002), add(M, B, [MAC2, IP2]))
    wait(lambda: len(first.entries()) == 2)
    first.stop()

    server.down = True
    second = Host(tmp_path, server)
    assert not second.follower.sync()
    assert len(second.entries()) == 2
    server.down = False
    server.ports[N] = [port(MAC2, IP2, B)]
    assert second.follower.sync()
    assert second.entries() == {(MAC2, IP2, B)}
    assert second.entries(M) == {(MAC2, IP2, B)}
    second.stop()


def test_a_server_that_does_not_answer_is_logged_once(
    host: Host, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.down = True
    host.send(attach(N))
    wait(lambda: server.asked > 0)
    for _ in range(3):
        assert not host.follower.sync()
    complaints = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert complaints == ["no sync with the server, will go on trying: no answer"]
    server.down = False
    assert host.follower.sync()
    assert caplog.records[-1].getMessage() == "the server answers again"


def test_a_mistaken_segment_is_told_once(
    host: Host, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.ports[N] = [port(MAC1, IP1, A)]
    server.segment = Segment("vxlan", 2002)
    host.send(attach(N))
    for _ in range(2):
        assert host.follower.sync()
    (complaint,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert N in complaint
    assert "vxlan 1001" in complaint
    assert "vxlan 2002" in complaint


def test_a_call_for_a_sync_ends_the_wait_for_another_try(host: Host, server: Server) -> None:
    """The broker is back, say; the next try of itself would come after minutes."""
    server.down = True
    host.send(attach(N))
    wait(lambda: server.asked >= 1)
    server.down = False
    server.ports[N] = [port(MAC1, IP1, A)]
    host.follower.soon()
    before = time.monotonic()
    wait(lambda: host.entries() == {(MAC1, IP1, A)})
    assert time.monotonic() - before < 0.9, "the shortest wait for another try is 1 s"

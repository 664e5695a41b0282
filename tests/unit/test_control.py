"""The control socket and the commands' side of it, over an agent with a dataplane in memory."""

import json
import logging
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from builders import FLOODING, IP1, IP2, LOCAL, MAC1, MAC2, A, B, M, N, add, attach, detach, remove
from fake_backend import FakeBackend
from waiting import eventually

from ovs_l2pop.agent.client import ask
from ovs_l2pop.agent.control import ControlServer
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.errors import ConfigError, ControlError
from ovs_l2pop.core.wire import Message

AT_A = add(N, A, FLOODING, [MAC1, IP1])


def line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Daemon:
    """An agent and its control socket."""

    def __init__(self, directory: Path, backend: FakeBackend | None = None) -> None:
        self.path = directory / "run" / "agent.sock"
        self.backend = backend or FakeBackend()
        self.agent = Worker(
            *(LOCAL, self.backend, Store(directory / "state")),
            housekeeping=lambda: self.server.keep_place(),
        )
        self.server: ControlServer = ControlServer(self.path, self.agent)
        self.agent.start().result()
        self.server.start()

    def stop(self) -> None:
        self.server.close()
        self.agent.stop()

    def send(self, *messages: Message) -> dict[str, Any]:
        return ask(self.path, {"command": "send"}, map(line, messages))

    def show(self, what: str) -> list[dict[str, Any]]:
        view = ask(self.path, {"command": "show", "what": what})
        return [dict(zip(view["columns"], row, strict=True)) for row in view["rows"]]

    def unicast(self) -> dict[str, str]:
        rows = self.backend.rows
        return {
            row[2]: row[3] for row in rows if isinstance(row, tuple) and row[0] == "UnicastFact"
        }


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path)
    yield running
    running.stop()


def connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(daemon.path))
    return connection


def answer(connection: socket.socket) -> Any:
    return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))


# -- sending -----------------------------------------------------------------------------------


def test_what_is_sent_is_written_before_the_answer(daemon: Daemon) -> None:
    result = daemon.send(attach(N), AT_A)
    assert result == {"refused": [], "refused_count": 0, "pending": None}
    assert daemon.unicast() == {MAC1: A}


def test_nothing_sent(daemon: Daemon) -> None:
    assert daemon.send() == {"refused": [], "refused_count": 0, "pending": None}


@pytest.mark.parametrize("size", [1, 7, 50])
def test_message_in_pieces(daemon: Daemon, size: int) -> None:
    data = line({"command": "send"}) + line(attach(N)) + line(AT_A)
    with connect(daemon) as connection:
        for at in range(0, len(data), size):
            connection.sendall(data[at : at + size])
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection)["refused_count"] == 0
    assert daemon.unicast() == {MAC1: A}


def test_pause_in_the_middle_of_a_line(daemon: Daemon) -> None:
    """What came whole is applied in the pause; the rest when it is whole."""
    data = line(AT_A)
    with connect(daemon) as connection:
        connection.sendall(line({"command": "send"}) + line(attach(N)) + data[:20])
        eventually(lambda: any(row[0] == "NetworkFact" for row in rows(daemon)))
        time.sleep(0.15)
        connection.sendall(data[20:])
        eventually(lambda: daemon.unicast() == {MAC1: A})  # the sender is still there
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection) == {"refused": [], "refused_count": 0, "pending": None}


def rows(daemon: Daemon) -> list[tuple[Any, ...]]:
    return [row for row in list(daemon.backend.rows) if isinstance(row, tuple)]


def test_pause_in_the_request(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(b'{"command": ')
        time.sleep(0.15)
        connection.sendall(b'"check"}\n')
        assert answer(connection)["rows"] == []


def test_last_line_needs_no_end(daemon: Daemon) -> None:
    result = ask(daemon.path, {"command": "send"}, [line(attach(N)), line(AT_A).rstrip()])
    assert result["refused_count"] == 0
    assert daemon.unicast() == {MAC1: A}


GARBAGE = [
    b"no json\n",
    b"\xff\xfe\x00\n",
    b"{\n",
    b"[" * 5000 + b"\n",
    b'{"method": ' + b"1" * 5000 + b"}\n",
    b"7\n",
    b'"text"\n',
    line({"method": "format_disk"}),
    line(add(N, A, ["bad", IP2])),
]


def test_garbage_among_good_lines(daemon: Daemon) -> None:
    sent = [line(attach(N)), b"\n", b"  \n"]
    for garbage in GARBAGE:
        sent.append(garbage)
    sent.append(line(AT_A))
    result = ask(daemon.path, {"command": "send"}, sent)
    assert result["refused_count"] == len(result["refused"]) == len(GARBAGE)
    assert daemon.unicast() == {MAC1: A}
    assert ask(daemon.path, {"command": "check"})["rows"] == []


def test_refusals_name_offender_and_reason(daemon: Daemon) -> None:
    (text,) = daemon.send(attach(N, 5000))["refused"]
    assert text == "line 1: attach_network: 5000: local_vlan must be in 1..4094"
    daemon.backend.refused_attachment = "gre is not among tunnel_types"
    (text,) = daemon.send(attach(N))["refused"]
    assert text == f"line 1: attach_network: network {N}: gre is not among tunnel_types"
    daemon.backend.refused_attachment = None
    daemon.backend.refuses = lambda row: isinstance(row, tuple) and row[0] == "UnicastFact"
    (text,) = daemon.send(attach(N), AT_A)["refused"]
    assert text.startswith("switch: flow UnicastFact")
    assert text.endswith(": table full")


def test_what_changed_and_what_recovered_is_logged(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        daemon.send(attach(N))
        daemon.backend.refuses = lambda row: isinstance(row, tuple) and row[0] == "UnicastFact"
        daemon.send(AT_A)
        daemon.backend.refuses = lambda row: False
        ask(daemon.path, {"command": "repair"})
        daemon.send(remove(N, A, [MAC1, IP1]), detach(N))
    texts = [record.getMessage() for record in caplog.records]
    assert f"attached network {N}: vxlan 1001" in texts
    assert f"detached network {N}" in texts
    assert any(f"behind VTEPs {A}, in networks {N}" in text for text in texts)
    assert texts[-1] == "the dataplane refuses nothing any more"


def test_each_cause_is_logged_once(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        daemon.send(*[add(N, A, [f"bad {n}", IP1]) for n in range(100)])
    assert len(caplog.records) == 1


def test_switch_that_is_down(daemon: Daemon) -> None:
    daemon.backend.down = True
    daemon.backend.breaks_after = 0
    result = daemon.send(attach(N), AT_A)
    assert result["refused"] == []
    assert result["pending"] == "the switch is down"
    daemon.backend.down = False
    daemon.backend.breaks_after = None
    eventually(lambda: daemon.unicast() == {MAC1: A})
    assert daemon.send(AT_A)["pending"] is None


def test_sender_that_goes_away_in_the_middle_of_a_line(daemon: Daemon) -> None:
    connection = connect(daemon)
    connection.sendall(line({"command": "send"}) + line(attach(N)) + line(AT_A) + b'{"method": "a')
    connection.close()
    eventually(lambda: daemon.unicast() == {MAC1: A})
    assert daemon.send()["refused"] == []


@pytest.mark.parametrize("data", [b"", b'{"comm', b"\n", b'{"command": "send"}\n', b"\x00" * 10])
def test_who_connects_and_goes_away(daemon: Daemon, data: bytes) -> None:
    for _ in range(5):
        with connect(daemon) as connection:
            connection.sendall(data)
    assert daemon.send(attach(N))["refused_count"] == 0


def test_twenty_senders_at_once(daemon: Daemon) -> None:
    start = threading.Barrier(20)

    def send(sender: int) -> dict[str, Any]:
        start.wait()
        mac = f"fa:16:3e:00:01:{sender:02x}"
        pairs = [[mac, f"10.{sender}.{n >> 8}.{n & 255}"] for n in range(1, 51)]
        return daemon.send(*(add(N, A, pair) for pair in pairs))

    daemon.send(attach(N))
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(send, range(20)))
    assert all(result == {"refused": [], "refused_count": 0, "pending": None} for result in results)
    assert len(daemon.unicast()) == 20
    assert len(daemon.show("entries")) == 1000
    assert ask(daemon.path, {"command": "check"})["rows"] == []


# -- asking ------------------------------------------------------------------------------------


def test_show(daemon: Daemon) -> None:
    daemon.send(attach(N), AT_A, add(N, B, FLOODING, [MAC1, IP2]), add(M, A, [MAC2, IP2]))
    networks = {network["network_id"]: network for network in daemon.show("networks")}
    assert networks[N] == {
        "network_id": N,
        "network_type": "vxlan",
        "segment_id": 1001,
        "local_vlan": 5,
        "vteps": 2,
        "entries": 2,
        "state": "attached",
    }
    assert (networks[M]["state"], networks[M]["local_vlan"]) == ("not attached", None)
    assert [(v["vtep"], v["networks"], v["entries"]) for v in daemon.show("vteps")] == [
        (A, 2, 2),
        (B, 1, 1),
    ]
    entries = [(e["mac"], e["ip"], e["vtep"], e["state"]) for e in daemon.show("entries")]
    assert entries == [
        (MAC1, IP1, A, "active"),
        (MAC1, IP2, B, "active"),
        (MAC2, IP2, A, "not attached"),
    ]
    tunnels = [(t["vtep"], t["networks"], t["state"]) for t in daemon.show("tunnels")]
    assert tunnels == [(A, 1, "installed"), (B, 1, "installed")]


@pytest.mark.parametrize(
    ("only", "found"),
    [
        ({}, [IP1, IP2, IP2]),
        ({"network_id": N[:5]}, [IP1, IP2]),
        ({"mac": MAC1}, [IP1, IP2]),
        ({"ip": IP2, "vtep": A}, [IP2]),
        ({"state": "not attached"}, [IP2]),
        ({"network_id": M, "mac": MAC1}, []),
    ],
)
def test_show_some_entries(daemon: Daemon, only: dict[str, str], found: list[str]) -> None:
    daemon.send(attach(N), AT_A, add(N, B, FLOODING, [MAC1, IP2]), add(M, A, [MAC2, IP2]))
    request = {"command": "show", "what": "entries", "only": only}
    answer = ask(daemon.path, request)
    assert ([row[2] for row in answer["rows"]], answer["left"]) == (found, 0)
    first = ask(daemon.path, request | {"limit": 1})
    assert [row[2] for row in first["rows"]] == found[:1]
    assert first["left"] == max(len(found) - 1, 0)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"only": {"colour": "blue"}}, "no column 'colour'"),
        ({"only": {"mac": 5}}, "no mapping"),
        ({"only": ["mac"]}, "no mapping"),
        ({"limit": -1}, "no number"),
        ({"limit": "all"}, "no number"),
    ],
)
def test_show_what_can_not_be(daemon: Daemon, more: dict[str, Any], why: str) -> None:
    with pytest.raises(ControlError, match=why):
        ask(daemon.path, {"command": "show", "what": "entries", **more})


@pytest.mark.parametrize("what", ["networks", "vteps", "entries", "tunnels"])
def test_show_while_the_switch_is_down(daemon: Daemon, what: str) -> None:
    """The table has forgotten the network, the switch not yet."""
    daemon.send(attach(N), AT_A)
    daemon.backend.down = True
    daemon.send(detach(N), remove(N, A, FLOODING, [MAC1, IP1]))
    assert isinstance(daemon.show(what), list)


def test_tunnels_are_not_said_to_be_there_while_the_switch_is_down(daemon: Daemon) -> None:
    daemon.send(attach(N), AT_A)
    daemon.backend.down = True
    daemon.send(add(N, B, FLOODING))
    assert {tunnel["state"] for tunnel in daemon.show("tunnels")} == {"unknown"}


def test_refusals_name_the_line(daemon: Daemon) -> None:
    daemon.backend.refused_attachment = "no gre"
    lines = [line(AT_A), b"\n", b"garbage\n", line(attach(N))]
    refused = ask(daemon.path, {"command": "send"}, lines)["refused"]
    assert [text.split(":")[0] for text in refused] == ["line 3", "line 4"]


def test_check_and_repair(daemon: Daemon) -> None:
    daemon.send(attach(N), AT_A)
    lost, foreign = ("tunnel", A, 1000), ("some", "flow")
    daemon.backend.rows -= {lost}
    daemon.backend.rows.add(foreign)
    found = ask(daemon.path, {"command": "check"})["rows"]
    assert [row[:2] for row in found] == [["missing", "tunnel"], ["surplus", "flow"]]
    repaired = ask(daemon.path, {"command": "repair"})
    assert repaired["rows"] == found
    assert repaired["refused"] == []
    assert ask(daemon.path, {"command": "check"})["rows"] == []


def test_check_while_the_switch_is_down(daemon: Daemon) -> None:
    daemon.backend.down = True
    for command in ("check", "repair"):
        with pytest.raises(ControlError, match="the switch is down"):
            ask(daemon.path, {"command": command})


BAD_REQUESTS: list[Any] = [
    {},
    [],
    None,
    {"command": "stop"},
    {"command": ["send"]},
    {"command": "show"},
    {"command": "show", "what": "passwords"},
]


@pytest.mark.parametrize("request_", BAD_REQUESTS, ids=str)
def test_unknown_request(daemon: Daemon, request_: Any) -> None:
    with pytest.raises(ControlError, match="unknown request"):
        ask(daemon.path, request_)


@pytest.mark.parametrize("data", [b"no json\n", b"\xff\n", b"[" * 5000 + b"\n", b"{"])
def test_request_that_is_no_json(daemon: Daemon, data: bytes) -> None:
    with connect(daemon) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection)["error"].startswith("request is not JSON")
    assert daemon.send()["refused_count"] == 0


# -- the socket --------------------------------------------------------------------------------


def test_only_the_owner_may_connect(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.path.parent.stat().st_mode) == 0o700


def test_second_agent_on_the_same_socket_is_refused(daemon: Daemon) -> None:
    with pytest.raises(ConfigError, match="another agent uses it"):
        ControlServer(daemon.path, daemon.agent)
    assert daemon.send()["refused_count"] == 0


def test_socket_of_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "run" / "agent.sock"))
    daemon = Daemon(tmp_path)
    assert daemon.send()["refused_count"] == 0
    daemon.stop()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    other = tmp_path / "precious"
    other.write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        ControlServer(other, daemon.agent)
    assert other.read_text() == "precious"
    daemon.stop()


def test_path_that_is_too_long_for_a_socket(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"control_socket .*: AF_UNIX path too long"):
        ControlServer(tmp_path / ("x" * 200), daemon.agent)


def test_socket_is_gone_after_the_end(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.stop()
    assert not daemon.path.exists()
    with pytest.raises(ControlError, match=r"no agent answers at .*Is it running"):
        ask(daemon.path, {"command": "check"})


@pytest.mark.parametrize("reply", [b"", b"no json", b"[]"])
def test_agent_that_answers_nonsense(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as connection:
                while connection.recv(65536):
                    pass
                connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(ControlError, match=r"went away|gave no answer"):
            ask(path, {"command": "check"})
        thread.join(5)


# -- the agent behind it -----------------------------------------------------------------------


def test_table_survives_a_restart_and_nothing_is_written(tmp_path: Path) -> None:
    first = Daemon(tmp_path)
    first.send(attach(N), AT_A, add(N, B, [MAC2, IP2]))
    first.stop()
    second = Daemon(tmp_path, first.backend)
    assert second.backend.writes[-1] == []
    assert second.unicast() == {MAC1: A, MAC2: B}
    assert len(second.show("entries")) == 2
    second.stop()


def test_fault_of_ours_does_not_end_the_agent(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self: FakeBackend, fact: object) -> Any:
        raise ZeroDivisionError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(FakeBackend, "render", fault)
        assert "a fault of ours" in str(daemon.send(attach(N), AT_A)["pending"])
    eventually(lambda: daemon.unicast() == {MAC1: A})
    assert daemon.send(AT_A)["pending"] is None


# -- what is kept ------------------------------------------------------------------------------


def test_what_was_refused_does_not_come_to_life_after_a_restart(tmp_path: Path) -> None:
    narrow = FakeBackend()
    daemon = Daemon(tmp_path, narrow)
    narrow.refused_attachment = "no gre"
    assert daemon.send(attach(M, 7, 77, "gre"))["refused_count"] == 1
    narrow.refused_attachment = None
    assert daemon.send(attach(N, 7))["refused_count"] == 0
    daemon.stop()
    daemon = Daemon(tmp_path)
    assert [(row["network_id"], row["state"]) for row in daemon.show("networks")] == [
        (N, "attached")
    ]
    daemon.stop()


def test_full_disk_is_told_to_the_sender(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    answer = daemon.send(attach(N), AT_A)
    assert "not kept on disk" in answer["pending"]
    assert daemon.unicast() == {MAC1: A}
    monkeypatch.undo()
    assert daemon.send(AT_A)["pending"] is None


def test_full_disk_does_not_keep_the_agent_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(tmp_path)
    daemon.send(attach(N), AT_A)
    daemon.stop()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "rewrite", full)
    daemon = Daemon(tmp_path)
    assert daemon.unicast() == {MAC1: A}
    daemon.stop()


def test_commands_all_the_time_do_not_keep_the_agent_from_reconnecting(daemon: Daemon) -> None:
    daemon.send(attach(N), AT_A)
    daemon.backend.down = True
    with pytest.raises(ControlError):
        ask(daemon.path, {"command": "check"})
    daemon.backend.rows.clear()
    daemon.backend.down = False
    deadline = time.monotonic() + 6
    while not daemon.unicast():
        assert time.monotonic() < deadline
        daemon.show("networks")

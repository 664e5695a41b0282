"""``ovs-l2pop send``: every way to write it does the same, and the plain one starts fast."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ovs_l2pop.cli import sending
from ovs_l2pop.cli.main import main
from ovs_l2pop.core.errors import ControlError

Sent = list[tuple[str, bytes]]


class Agent:
    """Answers as an agent would."""

    def __init__(self) -> None:
        self.sent: Sent = []
        self.answer: dict[str, Any] = {"refused": [], "refused_count": 0, "pending": None}
        self.error: BaseException | None = None

    def ask(self, path: Path, request: dict[str, Any], messages: Iterable[bytes]) -> dict[str, Any]:
        assert request == {"command": "send"}
        if self.error is not None:
            raise self.error
        self.sent.append((str(path), b"".join(messages)))
        return self.answer


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent()
    monkeypatch.setattr(sending, "ask", agent.ask)
    return agent


@pytest.mark.parametrize(
    "arguments",
    ["--socket S send F", "send --socket S F", "send F --socket S", "--debug --socket S send F"],
)
def test_messages_of_a_file(arguments: str, agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "messages"
    file.write_bytes(b"one\ntwo\n")
    words = {"S": "/run/s", "F": str(file)}
    assert main([words.get(word, word) for word in arguments.split()]) == 0
    assert agent.sent == [("/run/s", b"one\ntwo\n")]


@pytest.mark.parametrize("arguments", [["send"], ["send", "-"], ["--debug", "send", "-"]])
def test_messages_from_stdin(
    arguments: list[str], agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "messages"
    file.write_bytes(b"one\n")
    with file.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(arguments) == 0
    assert agent.sent == [("/run/ovs-l2pop/agent.sock", b"one\n")]


BOTH = pytest.mark.parametrize("before", [[], ["--debug"]], ids=["plain", "by cliff"])


@BOTH
def test_refusals_and_what_is_pending(
    before: list[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answer = {"refused": ["x: bad"], "refused_count": 3, "pending": "no switch"}
    assert main([*before, "send", "/dev/null"]) == 1
    assert capsys.readouterr().err == (
        "refused: x: bad\nrefused: 2 more\nkept, and written as soon as it can be: no switch\n"
    )


@BOTH
def test_no_agent(before: list[str], agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.error = ControlError("no agent answers")
    assert main([*before, "send", "/dev/null"]) == 1
    assert capsys.readouterr().err == "ovs-l2pop: no agent answers\n"


@BOTH
def test_no_such_file(before: list[str], agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*before, "send", "/nonexistent"]) == 1
    assert capsys.readouterr().err == "ovs-l2pop: /nonexistent: No such file or directory\n"
    assert agent.sent == []


@BOTH
def test_interrupted(before: list[str], agent: Agent) -> None:
    agent.error = KeyboardInterrupt()
    assert main([*before, "send", "/dev/null"]) == 130


def test_an_unknown_option_is_no_file(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", "--fast"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err
    assert agent.sent == []


def test_the_plain_way_imports_little() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from ovs_l2pop.cli.main import main\n"
            "main(['--socket', '/nonexistent', 'send', '/dev/null'])\n"
            "print({'cliff', 'stevedore', 'oslo_config'} & {*sys.modules})",
        ],
        capture_output=True,
        text=True,
    )
    assert "no agent answers" in done.stderr
    assert done.stdout == "set()\n"


@BOTH
def test_binary_data_is_not_sent(
    before: list[str], agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "messages"
    file.write_bytes(b"one\ntwo\n\x7fELF\0\0\n")
    assert main([*before, "send", str(file)]) == 1
    assert f"{file}: a NUL byte in line 3: binary data" in capsys.readouterr().err
    assert agent.sent == []

"""The daemon's log, when nobody reads it."""

import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from ovs_l2pop.cli.stderr import JsonFormatter, StderrHandler


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)


def say(handler: StderrHandler, text: str) -> None:
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))


def test_a_reader_that_stopped_reading_holds_nobody_up(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = StderrHandler(writer)
    for number in range(3000):
        say(handler, f"{number} {'x' * 100}")
    data = b""
    while len(more := os.read(reader, 1 << 20)) == 1 << 20 or b"\n" not in more:
        data += more
    data += more
    count = data.count(b"\n")
    assert 100 < count < 3000
    say(handler, "again")
    rest = os.read(reader, 1 << 20).decode()
    assert rest == f"({3000 - count} lines before this one found no reader)\nagain\n"
    os.close(reader)


def test_a_reader_that_is_gone_does_no_harm(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    say(StderrHandler(writer), "into the void")


def test_a_long_record_is_cut(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    say(StderrHandler(writer), "begin" + "x" * 3_400_000 + "end")
    text = os.read(reader, 1 << 20).decode()
    assert len(text) < 9000
    assert text.startswith("begin")
    assert text.endswith("end\n")
    os.close(reader)


def test_every_line_of_json_can_be_read(pipe: tuple[int, int]) -> None:
    """Also what is very long, holds quotes or ends of lines, and what tells of lines that were
    dropped."""
    reader, writer = pipe
    handler = StderrHandler(writer)
    handler.setFormatter(JsonFormatter())
    try:
        raise ValueError("x" * 50_000)
    except ValueError:
        info = sys.exc_info()
    handler.handle(logging.LogRecord("a.b", logging.ERROR, "", 0, "went %s", ("\nwrong",), info))
    say(handler, '"\x07\n é' * 5000)
    first, second = map(json.loads, os.read(reader, 1 << 20).splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("ERROR", "a.b", "went \nwrong")
    assert first["exception"].startswith("Traceback")
    assert first["time"].endswith("Z")
    assert " … " in second["message"]
    for number in range(3000):
        say(handler, str(number))
    while len(os.read(reader, 1 << 20)) == 1 << 20:
        pass
    say(handler, "again")
    lines = [json.loads(line) for line in os.read(reader, 1 << 20).splitlines()[-2:]]
    assert lines[0]["message"].endswith("lines before this one found no reader)")
    assert (lines[0]["level"], lines[1]["message"]) == ("WARNING", "again")

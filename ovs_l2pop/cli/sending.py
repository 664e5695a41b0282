"""What ``ovs-l2pop send`` does."""

import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ovs_l2pop.agent.client import ask
from ovs_l2pop.core.errors import ControlError


def send(control_socket: str, file_name: str = "-") -> int:
    """Hand a file's messages, or with ``-`` stdin's, to the agent; the exit code."""
    try:
        answer = _send(Path(control_socket), file_name)
    except ControlError as error:
        sys.stderr.write(f"ovs-l2pop: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return tell(answer)


def tell(answer: dict[str, Any]) -> int:
    """What became of messages, to people; the exit code."""
    for refusal in answer["refused"]:
        sys.stderr.write(f"refused: {refusal}\n")
    if (more := answer["refused_count"] - len(answer["refused"])) > 0:
        sys.stderr.write(f"refused: {more} more\n")
    if unkept := answer.get("unkept"):
        sys.stderr.write(f"taken in, but {unkept}; tried again every few seconds\n")
    if answer["pending"] not in (None, unkept):
        kept = "" if unkept else "kept, and "
        sys.stderr.write(f"{kept}written as soon as it can be: {answer['pending']}\n")
    return 1 if answer["refused_count"] or answer["pending"] else 0


def _send(control_socket: Path, file_name: str) -> dict[str, Any]:
    request = {"command": "send"}
    if file_name == "-":
        return ask(control_socket, request, _text(_chunks(sys.stdin.buffer), "stdin"))
    try:
        with open(file_name, "rb") as file:
            return ask(control_socket, request, _text(_chunks(file), file_name))
    except OSError as error:
        raise ControlError(f"{file_name}: {error.strerror}") from error


def _text(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same, as far as it can be JSON: a NUL byte is in none.

    :raises ControlError: names the line.
    """
    line = 1
    for chunk in chunks:
        if (at := chunk.find(0)) >= 0:
            line += chunk.count(b"\n", 0, at)
            raise ControlError(f"{name}: a NUL byte in line {line}: binary data, not JSON Lines")
        line += chunk.count(b"\n")
        yield chunk


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """What there is, as soon as it is there: a pipe may stay open for long."""
    read = getattr(file, "read1", file.read)
    return iter(lambda: read(1 << 20), b"")

"""What an agent was told lately: when, by whom, kept across restarts in two files of bounded size.

A line each: seconds since 1970, who told it, and the message as the table's file has it. Read by
whoever wants to know, not by the agent. Losing it loses nothing but that.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Change,
    Detach,
    Parser,
    RemoveEntries,
)

LOG = logging.getLogger(__name__)

FILE_NAME = "history"
#: Bytes of each of the two files, the one that is written and the one before.
_SIZE = 8 << 20
#: Bytes of a message of which more is kept than that it came.
_LARGEST = 4 << 20


class Event(NamedTuple):
    """One thing that was told."""

    at: float  #: seconds since 1970
    by: str  #: "socket" or "server"
    what: str  #: "attach", "detach", "add", "remove", or "many": too much to be kept
    network_id: str = ""
    vtep: str = ""
    mac: str = ""  #: empty of a flooding entry
    ip: str = ""


class History:
    """The writing side.

    :param directory: it is there.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._broken = False

    def note(self, told: Iterable[tuple[str, Iterable[bytes]]]) -> None:
        """What was taken in just now: who told it, and the messages as lines."""
        now = time.time()
        lines = [
            b"%.3f %s %s\n" % (now, by.encode(), line if len(line) <= _LARGEST else b"{}")
            for by, messages in told
            for line in map(bytes.strip, messages)
        ]
        if not lines:
            return
        try:
            self._append(b"".join(lines))
            self._broken = False
        except OSError as error:
            if not self._broken:
                LOG.warning("%s: what is told can't be noted: %s", self.path, error)
            self._broken = True

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            os.write(fd, data)
        finally:
            os.close(fd)
        if size + len(data) > _SIZE:
            self.path.replace(_before(self.path))


def read(path: Path) -> Iterator[Event]:
    """All that is kept, the oldest first. What can't be read is left out.

    :raises OSError: neither file can be opened, though there is one.
    """
    for file in (_before(path), path):
        try:
            with file.open("rb") as lines:
                for line in lines:
                    yield from _events(line)
        except FileNotFoundError:
            continue


def follow(path: Path) -> Iterator[Event | None]:
    """What is noted from now on; None whenever there is nothing new.

    :raises OSError: the file is there and can't be opened.
    """
    file = _opened(path)
    if file is not None:
        file.seek(0, os.SEEK_END)
    rest = b""
    while True:
        # Asked first: what is read then is all that was ever written to it.
        over = file is None or not _is(path, file)
        data = b"" if file is None else file.read()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield from _events(line)
        if over and not data:
            if file is not None:
                file.close()
            file, rest = _opened(path), b""
        if not data:
            yield None


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is(path: Path, file: BinaryIO) -> bool:
    """Whether that file is still there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _events(line: bytes) -> Iterator[Event]:
    try:
        at, by, message = line.split(b" ", 2)
        seconds, who = float(at), by.decode()
        told = json.loads(message)
    except ValueError:  # the last one, cut short
        return
    if not told:
        yield Event(seconds, who, "many")
        return
    changes, _ = Parser().parse(told)
    for change in changes:
        for event in _of(change):
            yield event._replace(at=seconds, by=who)


def _of(change: Change) -> Iterator[Event]:
    match change:
        case Attachment():
            yield Event(0, "", "attach", change.network_id)
        case Detach(network_id):
            yield Event(0, "", "detach", network_id)
        case AddEntries() | RemoveEntries():
            what = "add" if isinstance(change, AddEntries) else "remove"
            where = what, change.network_id, change.vtep
            if change.flooding:
                yield Event(0, "", *where)
            for entry in change.entries:
                yield Event(0, "", *where, entry.mac, entry.ip)

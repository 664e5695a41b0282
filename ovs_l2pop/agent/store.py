"""The forwarding table on disk: messages, in the form in which they arrive.

One file of JSON Lines. It starts as the messages that build the table and grows by what is taken
in; when it has grown enough it is written anew. What was acknowledged survives the end of the
process by any signal, and of the machine; a line that was being written then is dropped.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ovs_l2pop.errors import ConfigError

LOG = logging.getLogger(__name__)

FILE_NAME = "table.jsonl"

#: Bytes that may be appended before the file is written anew, beyond its own size then.
_SLACK = 4 << 20


class Store:
    """The file of one agent.

    :param directory: made, for its owner alone, if missing.
    :raises ConfigError: it can't be made or written, or another agent uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _open(directory / "lock")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._fd = _open(self._path)
                _sync_directory(directory)
            except OSError:
                os.close(self._lock)
                raise
        except BlockingIOError as error:
            raise ConfigError(f"state_path {directory} is in use by another agent") from error
        except OSError as error:
            raise ConfigError(f"state_path {directory}: {error}") from error
        self._size = os.fstat(self._fd).st_size
        self._limit = self._size + _SLACK

    def load(self) -> Iterator[Any]:
        """The messages in the file. A damaged line is logged and left out."""
        with self._path.open("rb") as file:
            whole = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    LOG.warning("%s: line %d is incomplete and is dropped", self._path, number)
                    os.ftruncate(self._fd, whole)
                    self._size = whole
                    return
                whole += len(line)
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    LOG.warning("%s: line %d is not a message: %s", self._path, number, error)

    def append(self, lines: Iterable[bytes]) -> None:
        """Keep these lines for good. Returns when they are on disk."""
        data = b"".join(line + b"\n" for line in lines)
        try:
            _write_all(self._fd, data)
            os.fdatasync(self._fd)
        except OSError:
            # Half a line on a full disk would spoil the next one. A rewrite brings these back.
            self._limit = -1
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    @property
    def bloated(self) -> bool:
        """Whether :meth:`rewrite` is due."""
        return self._size > self._limit

    def rewrite(self, messages: Iterable[dict[str, object]]) -> None:
        """Replace the file, in one step, by these messages."""
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)  # of a rewrite that was interrupted
        fd = _open(new)
        try:
            with open(fd, "ab", closefd=False) as file:
                for message in messages:
                    file.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            os.fdatasync(fd)
            new.replace(self._path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._size = os.fstat(self._fd).st_size
        self._limit = 2 * self._size + _SLACK
        # Or a crash of the machine would bring the old file back, without what is appended now.
        _sync_directory(self._path.parent)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
            os.close(self._lock)


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""The forwarding table on disk: messages, in the form in which they arrive.

One file of JSON Lines. It starts as the messages that build the table and grows by what is taken
in; when it has grown enough it is written anew, in a thread, while it goes on growing. What was
acknowledged survives the end of the process by any signal, and of the machine.

What happened to the file is told, not guessed: :attr:`Store.lost` says at the start why it may
lack what was known, :attr:`Store.intact` at any time whether what was kept is still where it was
kept. A damaged file is moved aside before it is written anew.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ovs_l2pop.core.errors import ConfigError, brief
from ovs_l2pop.lockfile import LockFile

LOG = logging.getLogger(__name__)

FILE_NAME = "table.jsonl"
_NEXT = ".next"
#: There as long as the table's file may lack what is known or what the dataplane has.
INCOMPLETE = "table.incomplete"

#: The first line; files of releases before it have none. Another number: another form.
FORMAT = 1
_METHOD = "table_format"

#: Bytes of a line; a message has no more.
_MAX_LINE = 64 << 20
#: Bytes that could not be written and are kept to be appended; beyond, all is written anew.
_MAX_OWED = 8 << 20
#: Damaged files that are kept, the newest.
_COPIES = 5
#: Damaged lines of one file that are logged.
_LOGGED = 10


class Store:
    """The file of one agent.

    :param directory: made, for its owner alone, if missing.
    :raises ConfigError: it can't be made or read, or another agent uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._fd = -1
        #: Why the table may lack what was known when it was written; None: it is whole.
        self.lost: str | None = None
        #: Where the damaged file is now.
        self.copy: Path | None = None
        self._damage: list[str] = []
        self._damaged = 0
        self._owed: list[bytes] = []
        #: The file is known not to hold all, whatever it looks like.
        self._stale = False
        #: The last line lacks its end.
        self._torn = False
        #: :data:`INCOMPLETE` may be there.
        self._marked = True
        self._successor: _Successor | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = LockFile(directory / "lock")
            try:
                self._fd = self._open_table()
            except OSError:
                self._lock.close()
                raise
        except BlockingIOError as error:
            raise ConfigError(f"state_path {directory} is in use by another agent") from error
        except OSError as error:
            raise ConfigError(f"state_path {directory}: {error}") from error
        self._note()

    # -- at the start ------------------------------------------------------------------------

    def load(self) -> Iterator[Any]:
        """The messages in the file, but for what is damaged. :meth:`loaded` must follow."""
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(_lines(file), 1):
                    try:
                        if not line.endswith(b"\n"):
                            self._torn = len(line) <= _MAX_LINE
                            raise ValueError("incomplete" if self._torn else "too long")
                        message = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        self.damaged(f"line {number}: {brief(error, 80)}")
                        continue
                    if isinstance(message, dict) and message.get("method") == _METHOD:
                        if message.get("format") != FORMAT:
                            self.damaged(f"a file of format {message.get('format')!r:.20}")
                            return
                    else:
                        yield message
        except OSError as error:
            self.damaged(f"can't be read: {error}")

    def damaged(self, what: str) -> None:
        """Something of the file could not be used, and is not going to be."""
        self._damaged += 1
        if self._damaged <= _LOGGED:
            LOG.warning("%s is damaged: %s", self._path, what)
            self._damage.append(what)

    def loaded(self) -> None:
        """All was read: a damaged file is copied aside, and remembered as not whole."""
        if self._damaged:
            self._keep_copy()
            where = f"; the file as it was: {self.copy}" if self.copy else ""
            more = f", and {self._damaged - 1} more" if self._damaged > 1 else ""
            self.lost = f"the table's file was damaged ({self._damage[0]}{more}){where}"
        if self.lost:
            LOG.info("the table may lack what is installed: %s", self.lost)
            self.mark(self.lost)

    # -- while it is used --------------------------------------------------------------------

    @property
    def intact(self) -> bool:
        """Whether the file is there, with all that was kept and nothing else: two system calls."""
        if self._stale or self._fd < 0:
            return False
        try:
            return self._seen == _identity(os.stat(self._path)) and self._lock.intact
        except OSError:
            return False

    def append(self, lines: Iterable[bytes]) -> None:
        """Keep these lines for good, and those that could not be kept before. Returns when they
        are on disk.

        :raises OSError: they are not; they are kept in mind for the next time.
        """
        self._owed += lines
        data = b"".join(line + b"\n" for line in self._owed)
        if self._torn and data:  # what was left out stays so, also where it would make sense
            data = b"\0\n" + data
        try:
            if self._fd < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            _write_all(self._fd, data)
            os.fdatasync(self._fd)
        except OSError as error:
            if len(data) > _MAX_OWED:
                self._owed.clear()
                self._stale = True
            # Half a line would spoil the next one.
            if self._fd >= 0:
                size = self._size
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, size)
                self._note()
                self._stale = self._stale or self._size != size
            self.mark(str(error))
            raise
        self._owed.clear()
        self._torn = self._torn and not data
        self._note()
        if self._successor is not None:
            self._successor.since += data

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @property
    def succeeding(self) -> bool:
        """Whether :meth:`succeed` was begun, and not ended."""
        return self._successor is not None

    def succeed(self, messages: Iterable[Mapping[str, object]]) -> None:
        """Begin to write what :meth:`rewrite` would, in a thread; :meth:`succeeded` ends that.

        :param messages: that build the table as it is now. They are taken in the thread.
        """
        if self._successor is None and self.intact and not self._owed:
            self._successor = _Successor(self._path.with_suffix(_NEXT), messages)

    def succeeded(self) -> bool:
        """Put what :meth:`succeed` began in the file's place, if it is written by now, with all
        that was appended meanwhile.

        :returns: whether it is there.
        :raises OSError: it isn't, and what is on disk is as it was.
        """
        successor = self._successor
        if successor is None or not successor.written:
            return False
        self._successor = None
        try:
            if not self.intact or self._owed:
                raise OSError(errno.ESTALE, "the file is not as it was left")
            fd = successor.take(self._path)
        finally:
            successor.drop()
        os.close(self._fd)
        self._fd = fd
        self._torn = False
        self._note()
        _sync_directory(self._path.parent)
        return True

    def rewrite(self, messages: Iterable[dict[str, object]]) -> None:
        """Replace the file, in one step, by these messages, in a directory that is made again
        where it is gone.

        :raises OSError: it can't be; what is on disk is as it was.
        """
        self._abandon()
        whole = self.intact and not self._owed
        new = self._path.with_suffix(".new")
        fd = -1
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock.renew()
            except BlockingIOError as error:
                raise OSError(errno.EBUSY, f"another agent uses {self._path.parent}") from error
            if self._path.is_dir():
                self._keep_copy()
            for left in (new, new.with_suffix(_NEXT)):  # of what was interrupted
                left.unlink(missing_ok=True)
            fd = _open(new)
            _write(fd, messages)
            os.fdatasync(fd)
            new.replace(self._path)
        except BaseException as error:
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):  # it may be what fills the disk
                    new.unlink()
            if not whole:
                self._stale = True
                self.mark(str(error))
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._owed.clear()
        self._stale = self._torn = False
        self._note()
        # Or a crash of the machine would bring the old file back, without what is appended now.
        _sync_directory(self._path.parent)

    def mark(self, reason: str | None) -> None:
        """Have the next start know that the file is not all there is; None: it is."""
        path = self._path.with_name(INCOMPLETE)
        if reason is None and not self._marked:
            return
        with contextlib.suppress(OSError):
            if reason is None:
                path.unlink(missing_ok=True)
                self._marked = False
                return
            self._marked = True
            if not path.exists():
                # Its name alone takes no room on a full disk.
                os.close(_open(path))
                path.write_text(reason)

    def close(self) -> None:
        self._abandon()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._lock.close()

    # -- inside ------------------------------------------------------------------------------

    def _abandon(self) -> None:
        if self._successor is not None:
            self._successor.drop()
            self._successor = None

    def _open_table(self) -> int:
        marker = self._path.with_name(INCOMPLETE)
        if marker.exists():
            with contextlib.suppress(OSError):
                self.lost = brief(marker.read_text(errors="replace"), 200)
            self.lost = f"when the agent last ran: {self.lost or 'not all could be kept'}"
        elif not self._path.exists():
            self.lost = f"there was no {self._path}"
        elif self._path.is_file() and not self._path.stat().st_size:
            self.lost = f"{self._path} was empty"
        try:
            fd = _open(self._path)
        except OSError as error:
            if error.errno == errno.EROFS and self._path.is_file():
                LOG.error("%s: nothing can be kept: %s", self._path, error)
                return -1
            self.damaged(f"can't be opened: {error}")
            self._keep_copy()
            fd = _open(self._path)
        with contextlib.suppress(OSError):
            _sync_directory(self._path.parent)
        return fd

    def _note(self) -> None:
        """The file as it is now is as we left it."""
        found = os.stat(self._path) if self._fd < 0 else os.fstat(self._fd)
        self._size = found.st_size
        self._seen = _identity(found)

    def _keep_copy(self) -> None:
        """Move aside what is there, as far as that can be done; of files the newest few are kept.

        A file is still there by its own name too, until it is replaced.
        """
        name = f"{FILE_NAME}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        copy = self._path.with_name(name)
        try:
            if copy.exists():
                return
            if self._path.is_file() and os.access(self._path, os.R_OK):
                try:
                    os.link(self._path, copy)
                except OSError:  # a file system without
                    shutil.copyfile(self._path, copy)
                copy.chmod(0o600)
            else:
                self._path.rename(copy)
            self.copy = copy
            LOG.warning("the damaged %s is kept as %s", self._path, copy)
            copies = sorted(self._path.parent.glob(f"{FILE_NAME}.damaged-*"))
            for old in copies[:-_COPIES]:
                if not old.is_dir():
                    old.unlink()
        except OSError as error:
            LOG.error("the damaged %s can't be kept: %s", self._path, error)


class _Successor:
    """A file that is going to take the table file's place, and the thread that writes it."""

    def __init__(self, path: Path, messages: Iterable[Mapping[str, object]]) -> None:
        self._path = path
        self._fd = -1
        self._error: Exception | None = None
        self._dropped = False
        #: What was appended to the table's file meanwhile.
        self.since = bytearray()
        self._thread = threading.Thread(
            target=self._write, args=(messages,), name="table-file", daemon=True
        )
        self._thread.start()

    @property
    def written(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def take(self, place: Path) -> int:
        """Bring it up to date and move it there; its descriptor.

        :raises OSError: it could not be written.
        """
        if self._error is not None:
            raise OSError(str(self._error)) from self._error
        _write_all(self._fd, self.since)
        os.fdatasync(self._fd)
        self._path.replace(place)
        fd, self._fd = self._fd, -1
        return fd

    def drop(self) -> None:
        """End it; nothing is left of what was not taken."""
        self._dropped = True
        self._thread.join()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, messages: Iterable[Mapping[str, object]]) -> None:
        try:
            self._path.unlink(missing_ok=True)  # of one that was interrupted
            self._fd = _open(self._path)
            _write(self._fd, itertools.takewhile(lambda _: not self._dropped, messages))
            os.fdatasync(self._fd)
        except Exception as error:  # noqa: BLE001 - told by who takes it
            self._error = error


def _write(fd: int, messages: Iterable[Mapping[str, object]]) -> None:
    """The content of a table's file."""
    with open(fd, "ab", closefd=False) as file:
        for message in itertools.chain([{"method": _METHOD, "format": FORMAT}], messages):
            file.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def _lines(file: Any) -> Iterator[bytes]:
    """Lines; of one that is too long the beginning, without its end."""
    while line := file.readline(_MAX_LINE + 1):
        yield line
        while len(line) > _MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE + 1)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""One process at a time: a lock on a file, which goes with whoever has it."""

import errno
import fcntl
import os
from pathlib import Path


class LockFile:
    """The lock of a file, which is made if missing.

    :raises BlockingIOError: another process has it.
    :raises OSError: the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _locked(path)

    @property
    def intact(self) -> bool:
        """Whether the file is still there: where somebody took it away, another could begin."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False

    def renew(self) -> None:
        """Take the lock of the file that is there now, made again where it is gone.

        :raises OSError: as at first, or it was closed; the lock of before is kept.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self.intact:
            fd = _locked(self._path)
            os.close(self._fd)
            self._fd = fd

    def close(self) -> None:
        """Let go; the file stays."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _locked(path: Path) -> int:
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd

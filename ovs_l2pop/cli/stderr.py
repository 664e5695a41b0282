"""The daemon's log: lines to stderr, whatever becomes of who reads them."""

import logging
import os
import select

#: Bytes that a pipe which tells that it is writable takes without waiting (PIPE_BUF, pipe(7)).
_AT_ONCE = 4096
#: Characters of a record; a longer one, mostly a traceback, is cut in the middle.
_MAX_RECORD = 8000
#: Milliseconds that a reader may take to make room. Once it has not, none until it has.
_PATIENCE = 100


class StderrHandler(logging.Handler):
    """Writes what its reader takes, and counts the rest: a log must neither stop the agent, which
    a full pipe would, nor end it."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if len(text) > _MAX_RECORD:
                half = _MAX_RECORD // 2
                text = f"{text[:half]} … {text[-half:]}"
            if self._dropped:
                text = f"({self._dropped} lines before this one found no reader)\n{text}"
            done = self._write(text.encode(errors="backslashreplace") + b"\n")
            self._dropped = 0 if done else self._dropped + 1
        except OSError:  # the reader is gone
            self._dropped += 1
        except Exception:  # noqa: BLE001 - as logging's own handlers
            self.handleError(record)

    def _write(self, data: bytes) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        view = memoryview(data)
        while view:
            if not poll.poll(0 if self._dropped else _PATIENCE):
                return False
            view = view[os.write(self._descriptor, view[:_AT_ONCE]) :]
        return True

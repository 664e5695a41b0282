"""The daemon's log: lines to stderr, whatever becomes of who reads them."""

import json
import logging
import os
import select
import time

#: Bytes that a pipe which tells that it is writable takes without waiting (PIPE_BUF, pipe(7)).
_AT_ONCE = 4096
#: Characters of a record; a longer one, mostly a traceback, is cut in the middle.
_MAX_RECORD = 8000
#: Milliseconds that a reader may take to make room. Once it has not, none until it has.
_PATIENCE = 100


#: Characters of a text within a record of JSON, which can't be cut; escapes make them more.
_MAX_TEXT = 1200


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (RFC 3339), level, logger, message, and the traceback of
    an exception."""

    def format(self, record: logging.LogRecord) -> str:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{whole}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if record.exc_info:
            told["exception"] = _cut(self.formatException(record.exc_info))
        return json.dumps(told)


def _cut(text: str) -> str:
    half = _MAX_TEXT // 2
    return text if len(text) <= _MAX_TEXT else f"{text[:half]} … {text[-half:]}"


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
                notice = f"({self._dropped} lines before this one found no reader)"
                told = {"name": record.name, "levelname": "WARNING", "msg": notice}
                text = f"{self.format(logging.makeLogRecord(told))}\n{text}"
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

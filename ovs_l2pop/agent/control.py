"""The control socket: what the commands of ``ovs-l2pop`` ask a running agent.

JSON Lines over a unix stream socket that only its owner can open. The first line is the request::

    {"command": "send"}                          then messages, one a line, until the sender
                                                 shuts its side down
    {"command": "show", "what": "networks"}      or vteps, entries, tunnels, health
    {"command": "check"} {"command": "repair"} {"command": "dump"}
    {"command": "why", "address": "10.0.0.5"}    or a MAC: who claims it, and what follows
    {"command": "history"}                       where the file is that says who told what

The answer is one object: ``{"error": …}``, or what the command gives.
"""

import contextlib
import json
import logging
import os
import selectors
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ovs_l2pop.agent import views
from ovs_l2pop.agent.jobs import Outcome
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.errors import ConfigError, ControlError, L2popError
from ovs_l2pop.core.messages import Parser, read
from ovs_l2pop.lockfile import LockFile

LOG = logging.getLogger(__name__)

#: Refused entries that an answer lists; beyond, it gives their number.
_MAX_LISTED = 10_000

#: A sender that pauses for so long (seconds) wants what it sent so far to be applied.
_PAUSE = 0.05
#: Bytes of a request, and of a message.
_MAX_REQUEST, _MAX_LINE = 1 << 16, 64 << 20
#: Bytes of messages that are handed over together at the most.
_BATCH_BYTES = 64 << 20


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes its place when made, answers from :meth:`start` until :meth:`close`.

    :raises ConfigError: the socket can't be made, or another agent answers on it.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, worker: Worker) -> None:
        self.worker = worker
        self._path = path
        self._closing = False
        self._lock: LockFile | None = None
        super().__init__(str(path), _Handler, bind_and_activate=False)
        self._take_place()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def _take_place(self) -> None:
        path = self._path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = LockFile(path.with_name(f"{path.name}.lock"))
            self._lock.renew()
            _remove_stale(path)
            mask = os.umask(0o177)  # from its first moment for the owner alone
            try:
                self.server_bind()
            finally:
                os.umask(mask)
            self._place = os.stat(path)
        except BlockingIOError as error:
            raise ConfigError(f"control_socket {path}: another agent uses it") from error
        except OSError as error:
            raise ConfigError(f"control_socket {path}: {error}") from error

    def keep_place(self) -> None:
        """Take the place again where somebody has taken the socket away, say with its directory.
        Nothing while it isn't open.

        :raises ConfigError: it can't be.
        """
        if self._closing or not self._thread.is_alive():
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), self._place):
                return
        old, self.socket = self.socket, socket.socket(self.address_family, self.socket_type)
        try:
            self._take_place()
            self.server_activate()
        except ConfigError:
            self.socket.close()
            self.socket = old
            raise
        LOG.warning("the control socket %s was taken away, and is there again", self._path)
        old.shutdown(socket.SHUT_RDWR)  # ends accept(), which goes on with the new one
        old.close()

    def start(self) -> None:
        """Let commands in."""
        self.server_activate()
        self._thread.start()

    def close(self) -> None:
        """Let none in any more, and leave the place to another agent."""
        self._closing = True
        if self._thread.is_alive():
            self.socket.shutdown(socket.SHUT_RDWR)  # ends accept()
            self._thread.join()
        self.server_close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._lock is not None:
            self._lock.close()

    def _serve(self) -> None:
        """Wait in accept(); socketserver's own loop wakes up all the time to see whether to end."""
        while not self._closing:
            listening = self.socket
            try:
                request, address = self.get_request()
            except OSError as error:
                if not self._closing and listening is self.socket:  # out of descriptors, say
                    LOG.warning("no command can come in: %s", error)
                    time.sleep(1)
                continue
            self.process_request(request, address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("a command went away", exc_info=True)


def _remove_stale(path: Path) -> None:
    """Take away the socket of an agent that was killed; refuse where one answers."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"control_socket {path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"control_socket {path}: another agent answers on it")


class _Handler(socketserver.StreamRequestHandler):
    server: ControlServer
    rbufsize = 0  # lines are cut here, so that a pause of the sender can be seen

    def handle(self) -> None:
        self._buffer = bytearray()
        try:
            lines = self._lines(block=True, limit=_MAX_REQUEST)
            request = json.loads(lines.pop(0) if lines else b"")
            command = request.get("command") if isinstance(request, dict) else None
            answer = self._send(lines) if command == "send" else self._ask(command, request)
        except (ValueError, RecursionError) as error:
            answer = {"error": f"request is not JSON: {error}"}
        except L2popError as error:
            answer = {"error": str(error)}
        except OSError:  # who asked went away
            return
        except Exception as error:
            LOG.exception("a command failed")
            answer = {"error": f"internal error: {error!r}"}
        self.wfile.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")

    def _ask(self, command: object, request: object) -> dict[str, Any]:
        worker = self.server.worker
        what = request.get("what") if isinstance(request, dict) else None
        if command == "show" and what == "health":
            result = views.health(worker)
        elif command == "show" and what == "entries":
            only, limit = _filter(request)
            result = worker.call(lambda: views.entries(worker, only, limit)).result()
        elif command == "show" and isinstance(what, str) and what in views.SHOW:
            view = views.SHOW[what]
            result = worker.call(lambda: view(worker)).result()
        elif command == "dump":
            told = worker.call(lambda: list(worker.table.messages())).result()
            result = {"local_ip": worker.local_ip, "messages": told}
        elif command == "why":
            address = request.get("address") if isinstance(request, dict) else None
            if not isinstance(address, str):
                raise ControlError(f"no address: {address!r:.80}")
            result = worker.call(lambda: views.why(worker, address)).result() | _history(worker)
        elif command == "history":
            result = _history(worker)
        elif command in ("check", "repair"):
            view = views.check if command == "check" else views.repair
            result = worker.call(lambda: view(worker)).result()
        else:
            return {"error": f"unknown request {request!r:.80}"}
        assert isinstance(result, dict)
        return result

    def _send(self, lines: list[bytes]) -> dict[str, Any]:
        """Hand messages over as they come; answer when all are written."""
        futures: list[Future[Outcome]] = []
        first = 1
        size = sum(map(len, lines))
        more = True
        while more:
            waiting = bool(lines)
            if not waiting or (size < _BATCH_BYTES and self._arrives(_PAUSE)):
                new = self._lines(block=not waiting)
                more = bool(new) or not self._closed
                lines += new
                size += sum(map(len, new))
            else:
                futures.append(self._submit(lines, first))
                first += len(lines)
                lines, size = [], 0
        if lines or not futures:  # also who sends nothing learns whether the switch is in line
            futures.append(self._submit(lines, first))
        return _summary(future.result() for future in futures)

    def _submit(self, lines: list[bytes], first: int) -> "Future[Outcome]":
        worker = self.server.worker
        return worker.submit(*read(lines, Parser(worker.local_ip), first))

    _closed = False

    def _arrives(self, timeout: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    def _lines(self, block: bool, limit: int = _MAX_LINE) -> list[bytes]:
        """Whole lines that have arrived, empty ones too; the last may lack its end when the sender
        is done.

        :raises ControlError: one is longer than *limit*.
        """
        while True:
            data = self.connection.recv(1 << 20)
            self._closed = not data
            self._buffer += data
            if self._closed or b"\n" in data:
                break
            if len(self._buffer) > limit:
                raise ControlError(f"a line of more than {limit} bytes")
            if not block and not self._arrives(_PAUSE):
                break
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = b"" if self._closed else rest
        if self._closed and rest:
            lines.append(rest)
        return lines


def _history(worker: Worker) -> dict[str, Any]:
    return {"history": str(worker.history.path) if worker.history else None}


def _summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    refused: list[str] = []
    count = 0
    pending: str | None = None
    unkept: str | None = None
    for outcome in outcomes:
        count += len(outcome.refusals)
        room = _MAX_LISTED - len(refused)
        refused += [str(refusal) for refusal in outcome.refusals[:room]]
        pending = outcome.pending or pending
        unkept = outcome.unkept or unkept
    answer = {"refused": refused, "refused_count": count, "pending": pending}
    return answer | ({"unkept": unkept} if unkept else {})


def _filter(request: Any) -> tuple[dict[str, str], int]:
    """Which entries are asked for.

    :raises ControlError: that can't be.
    """
    only, limit = request.get("only") or {}, request.get("limit") or 0
    if not isinstance(only, dict) or not all(isinstance(value, str) for value in only.values()):
        raise ControlError(f"no mapping of columns to values: {only!r:.80}")
    if unknown := only.keys() - set(views.ENTRY_COLUMNS):
        raise ControlError(f"entries have no column {min(unknown)!r:.80}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ControlError(f"no number of entries: {limit!r:.80}")
    return only, limit

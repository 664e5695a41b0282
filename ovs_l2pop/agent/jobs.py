"""What others hand to the worker: messages to take in, functions to run, its end."""

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ovs_l2pop.core.messages import Refusal, Told

#: Bytes of messages that wait for the worker at the most: who submits more waits too. What is read
#: of them takes some five times as much memory.
_BACKLOG = 64 << 20


@dataclass(slots=True)
class Outcome:
    """What became of a batch of messages."""

    refusals: list[Refusal] = field(default_factory=list)
    #: Why what was taken in is not in the dataplane yet, or not on disk; it is tried again.
    pending: str | None = None
    #: Why it is not on disk.
    unkept: str | None = None


@dataclass(slots=True)
class Messages:
    told: list[Told]
    size: int  #: in bytes
    outcome: Outcome
    future: "Future[Outcome]"


@dataclass(slots=True)
class Call:
    function: Callable[[], Any]
    future: "Future[Any]"

    def run(self) -> None:
        try:
            self.future.set_result(self.function())
        except Exception as error:  # noqa: BLE001 - belongs to who asked
            self.future.set_exception(error)


Job = Messages | Call | None  #: None: the end


class Jobs:
    """A queue with a descriptor to wait for."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        #: Readable while there may be jobs.
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._backlog = 0
        self._room = threading.Condition()

    def submit(self, told: list[Told], refusals: Iterable[Refusal]) -> "Future[Outcome]":
        """Messages; waits while too many are there already.

        :param refusals: what was refused of them when they were read.
        """
        size = sum(one.size for one in told)
        with self._room:
            self._room.wait_for(lambda: not self._backlog or self._backlog + size <= _BACKLOG)
            self._backlog += size
        future: Future[Outcome] = Future()
        self._put(Messages(told, size, Outcome(list(refusals)), future))
        return future

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._put(Call(function, future))
        return future

    def end(self) -> None:
        self._put(None)

    def fileno(self) -> int:
        """Readable while there may be jobs."""
        return self._bell

    def take(self) -> list[Job]:
        """All that wait."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        jobs: list[Job] = []
        with suppress(queue.Empty):
            while True:
                jobs.append(self._queue.get_nowait())
        return jobs

    def done(self, batch: list[Messages]) -> None:
        """These need no room any more."""
        with self._room:
            self._backlog -= sum(job.size for job in batch)
            self._room.notify_all()

    def _put(self, job: Job) -> None:
        self._queue.put(job)
        os.eventfd_write(self._bell, 1)

"""The dataplane as the worker has it: in line, or why not, and when that is tried again."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from ovs_l2pop.agent.telling import Causes
from ovs_l2pop.core.backoff import Backoff
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError, brief
from ovs_l2pop.core.messages import Refusal
from ovs_l2pop.core.reconciler import Reconciler

LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds until the dataplane is tried again, and until rows that it refused are; from the first to
#: the last. Looked at every poll interval.
_RETRY = 0.25, 8.0
_REFUSED_RETRY = 5.0, 60.0


class Dataplane:
    """The connection, through a reconciler.

    :param connected: called when it is in line again.
    """

    def __init__(self, reconciler: Reconciler, connected: Callable[[], None]) -> None:
        self._reconciler = reconciler
        self._connected = connected
        #: Why it can't be written at the moment.
        self.trouble: str | None = "not connected yet"
        #: When it is tried again by itself.
        self.next_try = 0.0
        #: Not before, whoever asks: a dataplane that doesn't answer takes many seconds to fail, and
        #: half of the time is for other work.
        self._earliest_try = 0.0
        self._retry = Backoff(*_RETRY)
        self._refused_retry = Backoff(*_REFUSED_RETRY)
        self._retry_refused_at = 0.0
        self._causes = Causes()
        self._refusing = False

    def in_line(self, now: bool = False) -> bool:
        """Whether it is; tries to get there if it is time to.

        :param now: somebody wants to write.
        """
        if self.trouble is None:
            return True
        started = time.monotonic()
        if started < (self._earliest_try if now else self.next_try):
            return False
        written = self._reconciler.written
        try:
            self.log(self.refusals(self._reconciler.resync()))
        except BackendError as error:
            ended = time.monotonic()
            self._earliest_try = ended + (ended - started)
            self.lost(error)
            return False
        LOG.info(
            "connected; %d rows in place, %d of them had to be written or deleted",
            len(self._reconciler.difference.installed),
            self._reconciler.written - written,
        )
        self.trouble = None
        self._retry.reset()
        self._connected()
        return True

    def lost(self, error: BackendError) -> None:
        """It can't be written any more."""
        if self.trouble != str(error):
            LOG.warning("the dataplane can't be written, will try again: %s", error)
        self.trouble = str(error)
        self.next_try = time.monotonic() + self._retry.pause()

    def do(self, step: Callable[[], _T]) -> _T:
        """Do something with it, once more where the connection turns out to be lost.

        :raises BackendError: it can't be reached.
        """
        for _ in range(2):
            if not self.in_line(now=True):
                break
            try:
                return step()
            except BackendError as error:
                self.lost(error)
        raise BackendError(self.trouble or "not connected")

    def retry_refused(self) -> None:
        """Try what it refused again if it is time to.

        :raises BackendError: it can't be reached.
        """
        if self._reconciler.refused and time.monotonic() >= self._retry_refused_at:
            self._reconciler.retry_refused()
            self.refusals(self._reconciler.apply())

    def refusals(self, refused: Mapping[Row, str]) -> list[Refusal]:
        """What it refused, as what it is told to people."""
        if refused:
            self._retry_refused_at = time.monotonic() + self._refused_retry.pause()
            self._refusing = True
        elif not self._reconciler.refused:
            self._refused_retry.reset()
            if self._refusing:
                LOG.info("the dataplane refuses nothing any more")
            self._refusing = False
        texts = ((self._reconciler.describe(row), reason) for row, reason in refused.items())
        return [
            Refusal("switch", brief(f"{text.kind} {text.place} {text.what}"), brief(reason))
            for text, reason in texts
        ]

    def log(self, refusals: list[Refusal]) -> None:
        """Each cause once a minute; a hostile sender must not fill the disk."""
        for line in self._causes.lines(refusals):
            LOG.warning("%s", line)

"""The worker: takes messages in, keeps the table, has the dataplane follow.

One thread owns table, reconciler and backend, so none of them needs a lock. Others hand it jobs
and wait for a future. All messages that wait when it comes to them are taken in together and
written once: a burst costs what its outcome costs.
"""

import contextlib
import itertools
import json
import logging
import os
import queue
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.watch import Watch
from ovs_l2pop.backends.interface import Backend, Health
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError, ConfigError, brief
from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Change,
    Detach,
    Parser,
    Refusal,
    RemoveEntries,
    quote,
    to_message,
    vtep_problem,
)
from ovs_l2pop.core.orphans import Hearing
from ovs_l2pop.core.reconciler import Drift, Reconciler
from ovs_l2pop.core.table import ForwardingTable, Limits

LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds between looks at an idle dataplane.
_POLL_INTERVAL = 1.0
#: Seconds from one look at what the dataplane tells to the next: machines that are learned are news
#: too, and there may be thousands a second.
_NEWS_PAUSE = 0.05
#: Seconds until the dataplane is tried again: doubled from the first to the last. Looked at every
#: poll interval.
_FIRST_RETRY, _LAST_RETRY = 0.25, 8.0
#: Seconds after which rows that the dataplane refused are tried again: doubled to the last.
_REFUSED_RETRY, _LAST_REFUSED_RETRY = 5.0, 60.0
#: Seconds between two looks after the file and this host's addresses, and how soon it is tried
#: again to keep what could not be kept.
_TEND_INTERVAL, _KEEP_RETRY = 1.0, 3.0
#: Rows that are logged of what one look found.
_LOGGED_DRIFT = 10
#: Bytes of messages that wait for the worker at the most: who submits more waits too. What is read
#: of them takes some five times as much memory.
_BACKLOG = 64 << 20
#: Seconds that an ending agent waits for what it is writing.
_STOP_TIMEOUT = 10.0


@dataclass(slots=True)
class Outcome:
    """What became of a batch of messages."""

    refusals: list[Refusal] = field(default_factory=list)
    #: Why what was taken in is not in the dataplane yet, or not on disk; it is tried again.
    pending: str | None = None
    #: Why it is not on disk.
    unkept: str | None = None


class _Message(NamedTuple):
    line: bytes | None  #: as it came; None where part of it was refused
    changes: list[Change]


@dataclass(slots=True)
class _Messages:
    messages: list[_Message]
    size: int  #: in bytes
    outcome: Outcome
    future: "Future[Outcome]"


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    future: "Future[Any]"


class Agent:
    """One agent. :meth:`start` it, hand it messages, :meth:`stop` it.

    :param orphan_time: seconds for which rows are kept that the table knows nothing of, where it
        may not be whole; 0: they go at once.
    :param addresses: tells the addresses of this host.
    :param limits: how much the table takes.
    """

    def __init__(
        self,
        local_ip: str,
        backend: Backend,
        store: Store,
        drift_interval: float = 60.0,
        *,
        orphan_time: float = 600.0,
        addresses: Callable[[], Collection[str]] = tuple,
        limits: Limits | None = None,
    ) -> None:
        self.local_ip = local_ip
        self.table = ForwardingTable(local_ip, limits)
        self.reconciler = Reconciler(self.table, backend)
        #: Called in the worker when networks have been attached or detached.
        self.networks_changed: Callable[[], None] = lambda: None
        #: Called in the worker, about once a second.
        self.housekeeping: Callable[[], None] = lambda: None
        #: How what belongs to the agent is; called in the worker.
        self.others_health: Callable[[], Iterable[Health]] = tuple
        self.watch = Watch(drift_interval)
        #: Who speaks for networks. Where somebody besides messages does, set
        #: :attr:`Hearing.awaited`.
        self.hearing = Hearing()
        #: Whether those who are awaited can't be reached: they are waited for. In the worker.
        self.out_of_reach: Callable[[], bool] = lambda: False
        self._orphan_time = orphan_time
        #: When what is kept of before goes.
        self._orphans_until = 0.0
        self._addresses = addresses
        self._known_addresses: Collection[str] = ()
        self._next_tending = 0.0
        self._backend = backend
        self._store = store
        self._jobs: queue.SimpleQueue[_Messages | _Call | None] = queue.SimpleQueue()
        #: Readable while there may be jobs.
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._backlog = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._trouble: str | None = "not connected yet"
        self._delay = _FIRST_RETRY
        self._next_try = 0.0
        #: Not before, whoever asks: a dataplane that doesn't answer takes many seconds to fail, and
        #: half of the time is for other work.
        self._earliest_try = 0.0
        self._busy_since: float | None = None
        self._retry_refused_at = 0.0
        self._refused_delay = _REFUSED_RETRY
        #: What the last look found, where something was refused then.
        self._stuck: set[tuple[str, Row]] = set()
        self._next_look = 0.0
        self._looked_at = 0.0
        #: Why the last messages may not survive a restart.
        self.unkept: str | None = None
        self._next_keeping = 0.0
        #: What this configuration refuses: kept, for another one may not.
        self._parked: list[dict[str, object]] = []
        self._logged: set[str] = set()

    # -- for other threads -------------------------------------------------------------------

    def start(self) -> "Future[None]":
        """Load the table and begin to bring the dataplane in line with it.

        :returns: ends when that was tried for the first time.
        """
        self._load()
        self._thread.start()
        return self.call(lambda: None)

    def stop(self) -> None:
        """Finish what was begun and leave the dataplane as it is."""
        self._put(None)
        self._thread.join(timeout=_STOP_TIMEOUT)  # it may be waiting for a switch that hangs
        self._backend.close()
        self._store.close()

    def submit(self, lines: Iterable[bytes]) -> "Future[Outcome]":
        """Take in messages, one JSON object a line; the future ends when they are written.

        Waits while too many are there already.
        """
        lines = list(lines)
        size = sum(map(len, lines))
        with self._room:
            self._room.wait_for(lambda: not self._backlog or self._backlog + size <= _BACKLOG)
            self._backlog += size
        outcome = Outcome()
        parser = Parser(self.local_ip)
        taken: list[_Message] = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as error:
                text = line[:60].decode(errors="backslashreplace")
                outcome.refusals.append(Refusal(f"message ({error})", quote(text), "not JSON"))
                continue
            changes, refused = parser.parse(message)
            outcome.refusals += refused
            if changes:
                taken.append(_Message(None if refused else line, changes))
        future: Future[Outcome] = Future()
        self._put(_Messages(taken, size, outcome, future))
        return future

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the worker: it may look at table and reconciler."""
        future: Future[Any] = Future()
        self._put(_Call(function, future))
        return future

    def reconnect(self) -> None:
        """The dataplane is known to have lost something: read it back and mend it."""

        def step() -> None:
            self._trouble = "the dataplane was restarted"
            self._connected(now=True)

        self.call(step).result()

    def spoken(self, network_ids: Iterable[str]) -> None:
        """Somebody who knows has said all that there is to these networks, and it was submitted:
        what was kept of before for want of that goes."""
        spoken = list(network_ids)
        self.call(lambda: self._guarded(lambda: self._speak(spoken)))

    @property
    def busy(self) -> float:
        """Seconds since the worker began what it does now; 0: it waits for something to do."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    # -- for functions that run in the worker ------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why the dataplane can't be written at the moment, or None."""
        return self._trouble

    def noteworthy(self) -> list[Health]:
        """What the dataplane has to tell."""
        if self._trouble is not None:
            return []
        try:
            return list(self._backend.health())
        except BackendError:
            return []  # the next look finds out

    @property
    def forgetful(self) -> str | None:
        """Why the table may lack what is installed; None: it doesn't, or all is spoken for."""
        return self._store.lost if self.reconciler.forgetful else None

    @property
    def orphans_left(self) -> float:
        """Seconds until rows go that nobody has spoken for."""
        return max(0.0, self._orphans_until - time.monotonic())

    def drift(self) -> Drift:
        """Wanted against installed, read back now.

        :raises BackendError: the dataplane can't be read.
        """
        return self._in_line(self.reconciler.drift)

    def repair(self) -> tuple[Drift, dict[Row, str]]:
        """Write what differs; what it was, and what of it was refused."""
        drift = self.drift()
        self.reconciler.observe(drift)
        return drift, dict(self._in_line(self.reconciler.apply))

    # -- the worker --------------------------------------------------------------------------

    def _load(self) -> None:
        # Of either family: what another local_ip would take is kept for it.
        parser, mine = Parser(), Parser(self.local_ip)
        self._find_addresses()
        for message in self._store.load():
            changes, refusals = parser.parse(message)
            for refusal in refusals:
                if _never(refusal):
                    LOG.warning("on disk, and dropped: %s", refusal)
                else:
                    self._store.damaged(str(refusal))
            for change in changes:
                self._load_change(change, mine)
        self._store.loaded()
        self.table.flaps.forget()
        if self._store.lost and self._orphan_time:
            self.reconciler.adopt()
        try:
            self._store.rewrite(self._messages())
        except OSError as error:
            LOG.error("the table's file could not be written anew: %s", error)

    def _load_change(self, change: Change, mine: Parser) -> None:
        refusals = mine.parse(to_message(change))[1]
        done = None if refusals else self._apply(change, refusals)
        if not refusals:
            return
        LOG.warning("kept on disk, refused now: %s", refusals[0])
        # A place that another network has is no other configuration's either.
        if isinstance(change, Attachment) and not self._backend.refuse(change):
            return
        if isinstance(done, AddEntries) and isinstance(change, AddEntries):
            taken = set(done.entries)
            change = change._replace(
                entries=[entry for entry in change.entries if entry not in taken],
                flooding=change.flooding and not done.flooding,
            )
        self._parked.append(to_message(change))

    def _messages(self) -> Iterator[dict[str, object]]:
        """What the file is to hold."""
        yield from self.table.messages()
        yield from self._parked

    def _put(self, job: "_Messages | _Call | None") -> None:
        self._jobs.put(job)
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        self._busy_since = time.monotonic()
        self._guarded(lambda: self._connected(now=True))
        while True:
            # By the clock, not when there is nothing else to do: there may always be something.
            self._busy_since = None
            news = self._wait()
            self._busy_since = time.monotonic()
            if self._busy_since >= self._next_tending:
                self._guarded(self._tend)
                self._next_tending = time.monotonic() + _TEND_INTERVAL
            if news or self._busy_since >= self._next_look:
                self._guarded(self._look)
                self._looked_at = time.monotonic()
                self._next_look = self._looked_at + _POLL_INTERVAL
            jobs: list[_Messages | _Call | None] = []
            with contextlib.suppress(queue.Empty):
                while True:
                    jobs.append(self._jobs.get_nowait())
            for kind, group in itertools.groupby(jobs, type):
                if kind is _Messages:
                    self._take_in([job for job in group if isinstance(job, _Messages)])
                    continue
                for job in group:
                    if not isinstance(job, _Call):
                        if self.unkept or not self._store.intact:
                            self._guarded(lambda: self._keep([]))
                        return
                    _resolve(job)

    def _guarded(self, step: Callable[[], object]) -> None:
        """A fault of ours must not end the agent: it is told, and the dataplane read anew."""
        try:
            step()
        except Exception as error:
            LOG.exception("internal error")
            self._lost(BackendError(f"internal error: {error!r}"))

    def _wait(self) -> bool:
        """Until there is a job or it is time to look; whether the dataplane has news."""
        news = -1 if self._trouble else self._backend.fileno()
        deaf = self._looked_at + _NEWS_PAUSE - time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            if news >= 0 and deaf <= 0:
                selector.register(news, selectors.EVENT_READ)
            pause = max(0.0, self._next_look - time.monotonic())
            if news >= 0 and deaf > 0:
                pause = min(pause, deaf)
            ready = {key.fd for key, _ in selector.select(pause)}
        if self._bell in ready:
            os.eventfd_read(self._bell)
        return news in ready

    def _look(self) -> None:
        """Is the dataplane still there, and as we left it?"""
        if not self._connected():
            return
        try:
            self._poll()
            for text in self._backend.settle(self.table.machine):
                LOG.warning("not where it was announced: %s", text)
            if self.watch.due:
                self._mend()
            if self.reconciler.refused and time.monotonic() >= self._retry_refused_at:
                self.reconciler.retry_refused()
                self._refusals(self.reconciler.apply())
        except BackendError as error:
            self._lost(error)

    def _tend(self) -> None:
        """What nobody tells of: this host's addresses, the file, and who has said enough."""
        now = time.monotonic()
        if self._find_addresses():
            self._log(self._follow())
        try:
            self.housekeeping()
        except ConfigError as error:
            LOG.debug("%s", error)
        if now >= self._next_keeping and (self.unkept or not self._store.intact):
            self._keep([])
        if not self.reconciler.forgetful:
            self._remember()
            return
        attached = {attachment.network_id: attachment for attachment in self.table.attachments()}
        self._speak(self.hearing.settled(attached, now))
        if self.reconciler.orphans is None:
            return
        if self.out_of_reach():
            self._orphans_until = now + self._orphan_time
        elif now >= self._orphans_until:
            self._end_orphans()

    def _find_addresses(self) -> bool:
        """Take over what this host's addresses are; whether they are others than before."""
        try:
            found = self._addresses()
        except BackendError as error:
            LOG.debug("%s", error)
            return False
        if found == self._known_addresses:
            return False
        self._known_addresses = found
        self.table.set_own(found)
        return True

    def _speak(self, network_ids: Iterable[str]) -> None:
        spoken = list(network_ids)
        if not spoken or not self.reconciler.forgetful:
            return
        if gone := self.reconciler.speak(spoken):
            LOG.info(
                "%d rows go that were kept until networks were spoken for: %s",
                *(gone, brief(", ".join(sorted(spoken)), 200)),
            )
        self._log(self._follow())
        self._remember()

    def _end_orphans(self) -> None:
        if gone := self.reconciler.end():
            kinds = Counter(self.reconciler.describe(row).kind for row in gone)
            LOG.warning(
                "nobody has spoken for networks whose rows were kept for %g s; deleted: %s",
                self._orphan_time,
                ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
            )
        self._log(self._follow())
        self._remember()

    def _remember(self) -> None:
        """The file is all that there is, from now on."""
        if not self.reconciler.forgetful and not self.unkept:
            self._store.mark(None)

    def _take_in(self, batch: list[_Messages]) -> None:
        written: list[Refusal] = []
        kept: list[bytes] = []

        def take_in() -> None:
            self._find_addresses()  # one that was given to this host just now may be among them
            for job in batch:
                for message in job.messages:
                    kept.extend(self._apply_all(message, job.outcome))
            self._keep(kept)
            written.extend(self._follow())
            changes = (one for job in batch for message in job.messages for one in message.changes)
            if any(isinstance(change, Attachment | Detach) for change in changes):
                self.networks_changed()
            for flap in self.table.flaps.news():
                LOG.warning("two claim one address: %s", flap)

        self._guarded(take_in)
        with self._room:
            self._backlog -= sum(job.size for job in batch)
            self._room.notify_all()
        for job in batch:
            job.outcome.refusals += written
            job.outcome.unkept = self.unkept
            job.outcome.pending = self._trouble or self.unkept
            self._log(job.outcome.refusals)
            job.future.set_result(job.outcome)

    def _apply_all(self, message: _Message, outcome: Outcome) -> list[bytes]:
        """Take one message in; the lines to keep of it. What is refused is not kept: it must not
        come to life when the table or the configuration is another one."""
        count = len(outcome.refusals)
        taken: list[Change] = []
        for change in message.changes:
            if (done := self._apply(change, outcome.refusals)) is not None:
                taken.append(done)
        if message.line is not None and len(outcome.refusals) == count:
            return [message.line]
        return [json.dumps(to_message(change)).encode() for change in taken]

    def _apply(self, change: Change, refusals: list[Refusal]) -> Change | None:
        """Apply what of a change can be; that."""
        if isinstance(change, Attachment) and (reason := self._backend.refuse(change)):
            refusals.append(Refusal("attach_network", f"network {change.network_id}", reason))
            return None
        admitted, refused = self.table.admit(change)
        refusals += refused
        if admitted is None:
            return None
        if self.reconciler.forgetful and self._thread.ident:  # no message of before speaks
            entries = isinstance(change, AddEntries | RemoveEntries)
            self.hearing.said(change.network_id, time.monotonic(), entries=entries)
            if isinstance(change, Detach):
                self.reconciler.speak([change.network_id])
        if (refusal := self.table.apply(admitted)) is not None:
            refusals.append(refusal)
            return None
        return admitted

    def _follow(self) -> list[Refusal]:
        """Bring the dataplane in line; what it refused."""
        try:
            return self._refusals(self._in_line(self._poll_and_follow))
        except BackendError:
            return []  # it is written as soon as there is a connection

    def _poll(self) -> None:
        if self._backend.poll():
            self.watch.disturbed()

    def _mend(self) -> None:
        """Look for what somebody else changed, and write it again."""
        started = time.monotonic()
        drift = self.reconciler.drift()
        cost = time.monotonic() - started
        refused = self.reconciler.refused
        found = [("missing", row) for row in drift.missing if row not in refused]
        found += [("surplus", row) for row in drift.surplus if row not in refused]
        # What stays wrong because of what is refused is told once.
        told = bool(refused) and self._stuck == set(found)
        texts = [] if told else [(what, self.reconciler.describe(row)) for what, row in found]
        self.watch.looked(((what, text.kind) for what, text in texts), cost)
        for what, text in texts[:_LOGGED_DRIFT]:
            LOG.warning("somebody changed the dataplane: %s %s", what, brief(" ".join(text)))
        if len(texts) > _LOGGED_DRIFT:
            LOG.warning("… and %d rows more", len(texts) - _LOGGED_DRIFT)
        if found:
            self.reconciler.observe(drift)
            self._log(self._refusals(self.reconciler.apply()))
        self._stuck = set(found) if self.reconciler.refused else set()

    def _poll_and_follow(self) -> Mapping[Row, str]:
        self._poll()  # else a write of nothing would not notice that the switch is gone
        return self.reconciler.follow()

    def _in_line(self, step: Callable[[], _T]) -> _T:
        """Do something with the dataplane, once more where the connection turns out to be lost.

        :raises BackendError: it can't be reached.
        """
        for _ in range(2):
            if not self._connected(now=True):
                break
            try:
                return step()
            except BackendError as error:
                self._lost(error)
        raise BackendError(self._trouble or "not connected")

    def _refusals(self, refused: Mapping[Row, str]) -> list[Refusal]:
        """What the dataplane refused, as what it is told to people."""
        if refused:
            self._retry_refused_at = time.monotonic() + self._refused_delay
            self._refused_delay = min(2 * self._refused_delay, _LAST_REFUSED_RETRY)
        elif not self.reconciler.refused:
            self._refused_delay = _REFUSED_RETRY
        texts = ((self.reconciler.describe(row), reason) for row, reason in refused.items())
        return [
            Refusal("switch", brief(f"{text.kind} {text.place} {text.what}"), brief(reason))
            for text, reason in texts
        ]

    def _keep(self, lines: list[bytes]) -> None:
        """On disk before anything is acknowledged."""
        self._next_keeping = time.monotonic() + _KEEP_RETRY
        try:
            if self._store.intact:
                self._store.append(lines)
            else:
                LOG.warning("the table's file is not as it was left, and is written anew")
                self._store.rewrite(self._messages())
        except OSError as error:
            unkept = f"not kept on disk: {error}"
            if self.unkept != unkept:
                LOG.error("the table could not be kept on disk, will try again: %s", error)
            self.unkept = unkept
            return
        if self.unkept:
            LOG.info("the table is kept on disk again")
        self.unkept = None
        self._remember()
        if self._store.bloated:
            try:
                self._store.rewrite(self._messages())
            except OSError as error:
                LOG.error("the table's file could not be written anew: %s", error)

    def _connected(self, now: bool = False) -> bool:
        """Whether the dataplane is in line; tries to get there if it is time to."""
        if self._trouble is None:
            return True
        started = time.monotonic()
        if started < (self._earliest_try if now else self._next_try):
            return False
        written = self.reconciler.written
        try:
            self._log(self._refusals(self.reconciler.resync()))
        except BackendError as error:
            ended = time.monotonic()
            self._earliest_try = ended + (ended - started)
            self._lost(error)
            return False
        LOG.info(
            "connected; %d rows in place, %d of them had to be written or deleted",
            len(self.reconciler.difference.installed),
            self.reconciler.written - written,
        )
        self._trouble = None
        self._delay = _FIRST_RETRY
        if self.reconciler.orphans is not None and not self._orphans_until:
            self._orphans_until = time.monotonic() + self._orphan_time
            if kept := self.reconciler.kept:
                LOG.warning("%d rows of networks that nobody has spoken for are kept", kept)
        self._remember()
        return True

    def _lost(self, error: BackendError) -> None:
        if self._trouble != str(error):
            LOG.warning("the dataplane can't be written, will try again: %s", error)
        self._trouble = str(error)
        self._next_try = time.monotonic() + self._delay
        self._next_look = min(self._next_look, self._next_try)
        self._delay = min(2 * self._delay, _LAST_RETRY)

    def _log(self, refusals: list[Refusal]) -> None:
        """Each cause once; a hostile sender must not fill the disk."""
        for refusal in refusals:
            if refusal.reason not in self._logged and len(self._logged) < 1000:
                self._logged.add(refusal.reason)
                LOG.warning("refused: %s (further ones of this cause are not logged)", refusal)


def _never(refusal: Refusal) -> bool:
    """Whether it is refused by a rule that releases before didn't have, and isn't damage."""
    try:
        return vtep_problem(refusal.offender) is not None
    except ValueError:
        return False


def _resolve(job: _Call) -> None:
    try:
        job.future.set_result(job.function())
    except Exception as error:  # noqa: BLE001 - belongs to who asked
        job.future.set_exception(error)

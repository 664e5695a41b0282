"""The worker: takes messages in, keeps the table, has the dataplane follow.

One thread owns table, reconciler and backend, so none of them needs a lock. Others hand it jobs
and wait for a future. All messages that wait when it comes to them are taken in together and
written once: a burst costs what its outcome costs.
"""

import itertools
import logging
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from ovs_l2pop.agent.counters import Counters
from ovs_l2pop.agent.dataplane import Dataplane
from ovs_l2pop.agent.history import History
from ovs_l2pop.agent.jobs import Call, Jobs, Messages, Outcome
from ovs_l2pop.agent.keeping import Keeping, as_line
from ovs_l2pop.agent.probing import Prober
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.telling import changed
from ovs_l2pop.agent.watch import Watch
from ovs_l2pop.core.backend import Backend, Health
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError, ConfigError, brief
from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Change,
    Detach,
    Refusal,
    RemoveEntries,
    Told,
)
from ovs_l2pop.core.orphans import Hearing
from ovs_l2pop.core.reconciler import Drift, Reconciler
from ovs_l2pop.core.table import ForwardingTable, Limits

LOG = logging.getLogger(__name__)

#: Seconds between looks at an idle dataplane.
_POLL_INTERVAL = 1.0
#: Seconds from one look at what the dataplane tells to the next: machines that are learned are news
#: too, and there may be thousands a second.
_NEWS_PAUSE = 0.05
#: Seconds between two looks after the file and this host's addresses.
_TEND_INTERVAL = 1.0
#: Rows that are logged of what one look found.
_LOGGED_DRIFT = 10
#: Seconds that an ending agent waits for what it is writing.
_STOP_TIMEOUT = 10.0


class Speaker(Protocol):
    """Somebody besides messages who speaks for networks. All methods are called in the worker."""

    def networks_changed(self) -> None:
        """Networks have been attached or detached."""

    def health(self) -> Health:
        """Whether it can be asked."""

    def awaited(self, network_id: str, told: bool) -> bool:
        """Whether it is going to speak for a network.

        :param told: messages have told entries of it.
        """

    def out_of_reach(self) -> bool:
        """Whether it speaks for networks and can't be asked: it is waited for."""


class Worker:
    """One agent. :meth:`start` it, hand it messages, :meth:`stop` it.

    :param orphan_time: seconds for which rows are kept that the table knows nothing of, where it
        may not be whole; 0: they go at once.
    :param addresses: tells the addresses of this host.
    :param limits: how much the table takes.
    :param holds: as of :class:`.core.table.ForwardingTable`.
    :param prober: tells which VTEPs are dead; None: nobody asks.
    :param speaker: tells who speaks for networks besides messages; None: nobody does.
    :param housekeeping: called in the worker, about once a second.
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
        holds: bool = False,
        prober: Prober | None = None,
        history: History | None = None,
        speaker: Callable[[], Speaker | None] = lambda: None,
        housekeeping: Callable[[], None] = lambda: None,
    ) -> None:
        self.local_ip = local_ip
        self.table = ForwardingTable(local_ip, limits, holds=holds)
        self.reconciler = Reconciler(self.table, backend)
        self.watch = Watch(drift_interval)
        self.counters = Counters()
        self.history = history
        self.prober = prober
        self._speaker = speaker
        self._housekeeping = housekeeping
        self._hearing = Hearing(self._awaited)
        self._orphan_time = orphan_time
        #: When what is kept of before goes.
        self._orphans_until = 0.0
        self._addresses = addresses
        self._known_addresses: Collection[str] = ()
        self._backend = backend
        self._dataplane = Dataplane(self.reconciler, self._connected)
        self._keeping = Keeping(store, self.table, backend.refuse)
        self._jobs = Jobs()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._busy_since: float | None = None
        #: What the last look found, where something was refused then.
        self._stuck: set[tuple[str, Row]] = set()
        #: When the last look began, and whether somebody else has changed something since.
        self._look_began = 0.0
        self._disturbed = False
        self._next_tending = self._next_look = self._looked_at = 0.0

    # -- for other threads -------------------------------------------------------------------

    def start(self) -> "Future[None]":
        """Load the table and begin to bring the dataplane in line with it.

        :returns: ends when that was tried for the first time.
        """
        self._find_addresses()
        self._keeping.load(self._apply)
        self.table.flaps.forget()
        if self._keeping.lost and self._orphan_time:
            self.reconciler.adopt()
        self._keeping.rewrite()
        self._thread.start()
        return self.call(lambda: None)

    def stop(self) -> None:
        """Finish what was begun and leave the dataplane as it is."""
        self._jobs.end()
        if self.prober is not None:
            self.prober.stop()
        self._thread.join(timeout=_STOP_TIMEOUT)  # it may be waiting for a switch that hangs
        self._backend.close()
        self._keeping.close()

    def submit(self, told: Iterable[Told], refusals: Iterable[Refusal] = ()) -> "Future[Outcome]":
        """Take in messages; the future ends when they are written.

        Waits while too many are there already.

        :param refusals: what was refused of them when they were read.
        """
        return self._jobs.submit(list(told), refusals)

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the worker: it may look at table and reconciler."""
        return self._jobs.call(function)

    def reconnect(self) -> None:
        """The dataplane is known to have lost something: read it back and mend it."""

        def step() -> None:
            self._dataplane.trouble = "the dataplane was restarted"
            self._dataplane.in_line(now=True)

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
        return self._dataplane.trouble

    @property
    def unkept(self) -> str | None:
        """Why the last messages may not survive a restart, or None."""
        return self._keeping.unkept

    def noteworthy(self) -> list[Health]:
        """What the dataplane has to tell."""
        if self.trouble is not None:
            return []
        try:
            return list(self._backend.health())
        except BackendError:
            return []  # the next look finds out

    def speaker_health(self) -> list[Health]:
        """What who speaks for networks has to tell."""
        speaker = self._speaker()
        return [] if speaker is None else [speaker.health()]

    @property
    def forgetful(self) -> str | None:
        """Why the table may lack what is installed; None: it doesn't, or all is spoken for."""
        return self._keeping.lost if self.reconciler.forgetful else None

    @property
    def orphans_left(self) -> float:
        """Seconds until rows go that nobody has spoken for."""
        return max(0.0, self._orphans_until - time.monotonic())

    def drift(self) -> Drift:
        """Wanted against installed, read back now.

        :raises BackendError: the dataplane can't be read.
        """
        return self._dataplane.do(self.reconciler.drift)

    def repair(self) -> tuple[Drift, dict[Row, str]]:
        """Write what differs; what it was, and what of it was refused."""
        drift = self.drift()
        self.reconciler.observe(drift)
        return drift, dict(self._dataplane.do(self.reconciler.apply))

    # -- the worker --------------------------------------------------------------------------

    def _run(self) -> None:
        self._busy_since = time.monotonic()
        self._guarded(lambda: self._dataplane.in_line(now=True))
        while True:
            # By the clock, not when there is nothing else to do: there may always be something.
            self._busy_since = None
            news = self._wait()
            self._busy_since = time.monotonic()
            if self._busy_since >= self._next_tending:
                self._guarded(self._tend)
                self._next_tending = time.monotonic() + _TEND_INTERVAL
            if news or self._busy_since >= self._look_at:
                self._guarded(self._look)
                self._looked_at = time.monotonic()
                self._next_look = self._looked_at + _POLL_INTERVAL
            for kind, group in itertools.groupby(self._jobs.take(), type):
                if kind is Messages:
                    self._take_in([job for job in group if isinstance(job, Messages)])
                    continue
                for job in group:
                    if not isinstance(job, Call):
                        if self._keeping.owed:
                            self._guarded(lambda: self._keep([]))
                        return
                    job.run()

    def _guarded(self, step: Callable[[], object]) -> None:
        """A fault of ours must not end the agent: it is told, and the dataplane read anew."""
        try:
            step()
        except Exception as error:
            LOG.exception("internal error")
            self._dataplane.lost(BackendError(f"internal error: {error!r}"))

    def _wait(self) -> bool:
        """Until there is a job or it is time to look; whether the dataplane has news."""
        now = time.monotonic()
        news = -1 if self.trouble else self._backend.fileno()
        deaf = self._looked_at + _NEWS_PAUSE - now
        with selectors.DefaultSelector() as selector:
            selector.register(self._jobs, selectors.EVENT_READ)
            if news >= 0 and deaf <= 0:
                selector.register(news, selectors.EVENT_READ)
            pause = max(0.0, self._look_at - now)
            if news >= 0 and deaf > 0:
                pause = min(pause, deaf)
            return news in {key.fd for key, _ in selector.select(pause)}

    @property
    def _look_at(self) -> float:
        """When the dataplane is looked at next."""
        if self.trouble is None:
            return self._next_look
        return min(self._next_look, self._dataplane.next_try)

    def _look(self) -> None:
        """Is the dataplane still there, and as we left it?"""
        if not self._dataplane.in_line():
            return
        try:
            self._poll()
            for text in self._backend.settle(self.table.machine):
                LOG.warning("not where it was announced: %s", text)
            if self.watch.due and not self.reconciler.looking:
                self._begin_look()
            self._dataplane.retry_refused()
        except BackendError as error:
            self._dataplane.lost(error)

    def _tend(self) -> None:
        """What nobody tells of: this host's addresses, the file, and who has said enough."""
        now = time.monotonic()
        held = self._hold()
        dead = self.prober is not None and self.table.set_dead(self.prober.dead(self.table.peers()))
        if self._find_addresses() or held or dead:
            self._dataplane.log(self._follow())
        try:
            self._housekeeping()
        except ConfigError as error:
            LOG.debug("%s", error)
        if self._keeping.due:
            self._keep([])
        self._keeping.renew()
        if not self.reconciler.forgetful:
            self._keeping.whole()
            return
        attached = {attachment.network_id: attachment for attachment in self.table.attachments()}
        self._speak(self._hearing.settled(attached, now))
        if self.reconciler.orphans is None:
            return
        speaker = self._speaker()
        if speaker is not None and speaker.out_of_reach():
            self._orphans_until = now + self._orphan_time
        elif now >= self._orphans_until:
            self._end_orphans()

    def _hold(self) -> bool:
        """Tell of who claims an address in turn; whether it stays where it was, or no longer."""
        began, changed = self.table.hold()
        for flap in began:
            LOG.warning("two claim one address: %s", flap)
        return changed

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

    def _awaited(self, network_id: str, told: bool) -> bool:
        speaker = self._speaker()
        return speaker is not None and speaker.awaited(network_id, told)

    def _speak(self, network_ids: Iterable[str]) -> None:
        spoken = list(network_ids)
        if not spoken or not self.reconciler.forgetful:
            return
        if gone := self.reconciler.speak(spoken):
            LOG.info(
                "%d rows go that were kept until networks were spoken for: %s",
                *(gone, brief(", ".join(sorted(spoken)), 200)),
            )
        self._dataplane.log(self._follow())
        self._remember()

    def _end_orphans(self) -> None:
        if gone := self.reconciler.end():
            kinds = Counter(self.reconciler.describe(row).kind for row in gone)
            LOG.warning(
                "nobody has spoken for networks whose rows were kept for %g s; deleted: %s",
                self._orphan_time,
                ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
            )
        self._dataplane.log(self._follow())
        self._remember()

    def _keep(self, lines: list[bytes]) -> None:
        self._keeping.keep(lines)
        self._remember()

    def _remember(self) -> None:
        """The file is all that there is, from now on."""
        if not self.reconciler.forgetful:
            self._keeping.whole()

    def _take_in(self, batch: list[Messages]) -> None:
        written: list[Refusal] = []
        kept: list[bytes] = []
        taken: list[Change] = []
        noted: list[tuple[str, list[bytes]]] = []
        began = time.monotonic()

        def take_in() -> None:
            self._find_addresses()  # one that was given to this host just now may be among them
            for job in batch:
                for told in job.told:
                    lines = self._apply_all(told, job.outcome.refusals, taken)
                    noted.append(("server" if told.line is None else "socket", lines))
                    kept.extend(lines)
            for text in changed(taken):
                LOG.info("%s", text)
            self._hold()
            self._keep(kept)
            written.extend(self._follow())
            if self.history is not None:
                self.history.note(noted)
            changes = (change for job in batch for told in job.told for change in told.changes)
            speaker = self._speaker()
            if speaker and any(isinstance(change, Attachment | Detach) for change in changes):
                speaker.networks_changed()

        self._guarded(take_in)
        self._jobs.done(batch)
        self.counters.taken_in(batch, time.monotonic() - began)
        for job in batch:
            job.outcome.refusals += written
            job.outcome.unkept = self.unkept
            job.outcome.pending = self.trouble or self.unkept
            self._dataplane.log(job.outcome.refusals)
            job.future.set_result(job.outcome)

    def _apply_all(self, told: Told, refusals: list[Refusal], taken: list[Change]) -> list[bytes]:
        """Take one message in; the lines to keep of it. What is refused is not kept: it must not
        come to life when the table or the configuration is another one.

        :param taken: gets what was applied.
        """
        count, before = len(refusals), len(taken)
        done = (self._apply(change, refusals) for change in told.changes)
        taken += (change for change in done if change is not None)
        refusals[count:] = [refusal._replace(line=told.number) for refusal in refusals[count:]]
        if told.line is not None and len(refusals) == count:
            return [told.line]
        return [as_line(change) for change in taken[before:]]

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
            self._hearing.said(change.network_id, time.monotonic(), entries=entries)
            if isinstance(change, Detach):
                self.reconciler.speak([change.network_id])
        if (refusal := self.table.apply(admitted)) is not None:
            refusals.append(refusal)
            return None
        return admitted

    def _follow(self) -> list[Refusal]:
        """Bring the dataplane in line; what it refused."""
        try:
            return self._dataplane.refusals(self._dataplane.do(self._poll_and_follow))
        except BackendError:
            return []  # it is written as soon as there is a connection

    def _poll(self) -> None:
        if self._backend.poll():
            self.watch.disturbed()
            self._disturbed = True

    def _poll_and_follow(self) -> Mapping[Row, str]:
        self._poll()  # else a write of nothing would not notice that the switch is gone
        return self.reconciler.follow()

    def _begin_look(self) -> None:
        """Look for what somebody else changed, beside other work where the backend can."""
        self._look_began = began = time.monotonic()
        self._disturbed = False

        def ready() -> None:
            self.call(lambda: self._end_look(began))

        if not self.reconciler.look(ready):
            self._mend(self.reconciler.drift())

    def _end_look(self, began: float) -> None:
        """:param began: when the look did that has come to its end."""

        def end() -> None:
            try:
                self._mend(self.reconciler.looked())
            except BackendError as error:
                self._dataplane.lost(error)

        # Else the connection was lost meanwhile, and all is read anew, or about to be.
        if self.reconciler.looking and self._look_began == began and self.trouble is None:
            self._guarded(end)

    def _mend(self, drift: Drift) -> None:
        """Write again what somebody else changed."""
        cost = time.monotonic() - self._look_began
        self.counters.looks += 1
        refused = self.reconciler.refused
        found = [("missing", row) for row in drift.missing if row not in refused]
        found += [("surplus", row) for row in drift.surplus if row not in refused]
        # What stays wrong because of what is refused is told once.
        told = bool(refused) and self._stuck == set(found)
        texts = [] if told else [(what, self.reconciler.describe(row)) for what, row in found]
        self.watch.looked(((what, text.kind) for what, text in texts), cost)
        if self._disturbed:  # it may have been where the look had passed
            self.watch.disturbed()
        for what, text in texts[:_LOGGED_DRIFT]:
            LOG.warning("somebody changed the dataplane: %s %s", what, brief(" ".join(text)))
        if len(texts) > _LOGGED_DRIFT:
            LOG.warning("… and %d rows more", len(texts) - _LOGGED_DRIFT)
        if found:
            self.reconciler.observe(drift)
            self._dataplane.log(self._dataplane.refusals(self.reconciler.apply()))
        self._stuck = set(found) if self.reconciler.refused else set()

    def _connected(self) -> None:
        """The dataplane is in line again."""
        if self.reconciler.orphans is not None and not self._orphans_until:
            self._orphans_until = time.monotonic() + self._orphan_time
            if kept := self.reconciler.kept:
                LOG.warning("%d rows of networks that nobody has spoken for are kept", kept)
        self._remember()

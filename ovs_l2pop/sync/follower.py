"""Keeps an agent's table in line with what the server says.

Updates come when something changes; :meth:`Follower.sync` asks whether that was all: at first use
of a network, when something may have been missed, and every so often. Both go through a
:class:`ovs_l2pop.sync.replica.Replica`, which orders them, and reach the table as changes.

Before it asks, a follower looks at what the table holds. Whoever told that, the answer settles it.

Which networks are on this host it is told by who plugs ports in, and by nobody else.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Protocol

from ovs_l2pop.agent.jobs import Outcome
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.backend import Health
from ovs_l2pop.core.backoff import Backoff
from ovs_l2pop.core.errors import first_line
from ovs_l2pop.core.messages import Attachment, Change, Detach, Entry, Told, quote
from ovs_l2pop.sync.protocol import (
    MAX_NETWORKS,
    Answer,
    Cursor,
    OldServerError,
    ProtocolError,
    Update,
)
from ovs_l2pop.sync.replica import Replica

LOG = logging.getLogger(__name__)

#: Seconds to wait for an answer of the server; without one things go on with what is known.
SYNC_TIMEOUT = 20

#: Seconds until a failed sync is tried again, doubled up to the interval.
_FIRST_RETRY = 2.0
#: Seconds until the next sync after an answer that was too old.
_BEHIND_PAUSE = 1.0
#: Seconds after the first use of a network (and whatever else may have cost us casts) at which to
#: ask once more. Casts go to hosts with a port that is up, and ours is not before the agent has
#: reported it and the server has noted that.
_ONCE_MORE = (2.0, 6.0, 20.0)
#: Seconds until a sync that one port of a thousand hosts' network may cause: no picture that the
#: server has is then older than what caused it, and not all hosts ask at once.
_DOUBT = (5.0, 10.0)
#: Seconds until a sync that the server itself, or somebody in its name, may cause at any rate.
_HINTED = (0.2, 1.0)
#: Seconds after which a wait for the next sync looks whether that is earlier by now.
_STEP = 0.2


class SyncCall(Protocol):
    """The call of ``sync`` on the server."""

    def __call__(self, networks: Mapping[str, str], cursor: Cursor | None, own: bool) -> object:
        """The answer as it came.

        :raises OldServerError: the server can't tell own ports.
        """


class Follower:
    """One host's side of :mod:`ovs_l2pop.sync.protocol`. All methods from any thread.

    :param interval: seconds between two syncs when nothing else asks for one; each host waits for
        between half and nine tenths of it: many don't come at once, and nothing waits for longer.
    :param attaches: whether networks are on this host by :meth:`use` and :meth:`leave`. What is
        attached from before a restart and not used since goes where the server knows no port of
        this host. If not, they are those that somebody else has attached, and stay so; of one in
        which the server knows no port of this host, what others told stays too.
    """

    def __init__(
        self, worker: Worker, call: SyncCall, interval: float = 60.0, *, attaches: bool = True
    ) -> None:
        self._worker = worker
        self._call = call
        self._interval = interval
        self._attaches = attaches
        self._replica = Replica(worker.local_ip)
        # What the replica says must reach the table in that order.
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        # Of the times below. The worker asks for a sync by soon(), and who holds the lock
        # above may be waiting for the worker.
        self._times = threading.Lock()
        self._wanted = threading.Event()
        self._stopped = False
        #: Until when casts may have been missed, and whether the last answer was older.
        self._deaf_until = 0.0
        self._behind = False
        #: When to ask once more.
        self._again: list[float] = []
        #: Whether the server answered the last time; None before the first.
        self._answered: bool | None = None
        self._answered_at = 0.0
        self._failure = ""
        #: Networks whose segment here is not the server's, which has been logged.
        self._astray: set[str] = set()
        #: Networks in which the server knows no port of this host, and leaves to others.
        self._left: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="ovs-l2pop-sync", daemon=True)

    def start(self) -> None:
        """Take over what the table holds from before a restart, and begin to follow."""
        self._look()
        self._missed_some()
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wanted.set()

    def updated(self, value: object) -> None:
        """An ``update_ports`` came, maybe to all hosts that there are.

        :raises ProtocolError: it can't be read.
        """
        if isinstance(value, dict) and value.get("ports"):
            network_id = value.get("network_id")
            if isinstance(network_id, str) and not self._replica.has(network_id):
                return
        update = Update.from_wire(value)
        with self._lock:
            unserved = self._replica.unserved(update.network_id)
            self._submit(self._replica.updated(update))
            doubtful = self._replica.take_doubt()
        if not update.ports or (unserved and update.network_id in self._replica.network_ids):
            self.hinted()
        elif doubtful:
            self._ask_within(_DOUBT)
        if update.refused:
            raise ProtocolError(update.refused[0])

    def use(self, attachment: Attachment) -> bool:
        """This host has a port in the network; returns when that is in the dataplane.

        :returns: whether nothing is known of the network, so that a :meth:`sync` is due.
        """
        with self._lock:
            new = self._replica.use(attachment.network_id)
            if new:
                self._missed_some()
                self._wanted.set()
            # Neutron gives a local VLAN away as soon as the last port is gone; if that happened
            # while we were down, the network that had it is still attached here.
            others = self._worker.call(lambda: self._in_the_way(attachment)).result()
            stale = [change for network_id in others for change in self._leave(network_id)]
            future = self._submit([*stale, attachment])
        if future is not None:
            future.result()
        return new

    def unserved(self, network_id: str) -> bool:
        """Whether the network is not in use here, or the server knew no port of this host in it."""
        return self._replica.unserved(network_id)

    def leave(self, network_id: str) -> None:
        """This host has no port in the network any more; returns when all of it is gone."""
        with self._lock:
            future = self._submit(self._leave(network_id))
        if future is not None:
            future.result()

    def sync(self) -> bool:
        """Ask the server for all that differs, and take it in.

        :returns: whether it answered.
        """
        done = self._sync()
        if self._behind:
            self._wanted.set()
        return done

    def soon(self) -> None:
        """Something may have been missed until now."""
        self._missed_some()
        self._wanted.set()

    def hinted(self) -> None:
        """The same, by a message that may come at any rate."""
        self._ask_within(_HINTED)

    def health(self) -> Health:
        """Whether the server answers."""
        if self._answered is None:
            return Health("server", "ok", "not asked yet")
        if not self._answered:
            return Health("server", "trouble", self._failure)
        return Health("server", "ok", f"answered {time.monotonic() - self._answered_at:.0f} s ago")

    # -- as a speaker, in the worker --------------------------------------------------------------

    def networks_changed(self) -> None:
        if not self._attaches:
            self.soon()

    def awaited(self, network_id: str, told: bool) -> bool:
        if self._attaches:
            return True
        serves = self._answered is not False or self._answered_at > 0 or not told
        return serves and network_id not in self._left

    def out_of_reach(self) -> bool:
        ours = self._attaches or self._answered is None or self._answered_at > 0
        return ours and not self._answered

    # -- inside ------------------------------------------------------------------------------

    def _look(self) -> list[Change]:
        """Compare with the table; what is to be told because a network is not here any more."""
        held: list[tuple[Attachment, set[Entry]]] = self._worker.call(self._held).result()
        for attachment, claims in held:
            self._replica.held(attachment.network_id, attachment.segment, claims)
        if self._attaches:
            return []
        here = {attachment.network_id for attachment, _ in held}
        for network_id in here:
            self._replica.use(network_id)
        left = sorted(self._replica.network_ids - here)
        return [gone for one in left for gone in self._replica.drop(one, all_of_it=False)]

    def _held(self) -> list[tuple[Attachment, set[Entry]]]:
        table = self._worker.table
        return [(here, table.announced(here.network_id)) for here in table.attachments()]

    def _in_the_way(self, attachment: Attachment) -> list[str]:
        return [
            held.network_id
            for held in self._worker.table.attachments()
            if held.network_id != attachment.network_id
            and (held.local_vlan == attachment.local_vlan or held.segment == attachment.segment)
        ]

    def _leave(self, network_id: str) -> list[Change]:
        return [Detach(network_id), *self._replica.drop(network_id)]

    def _submit(self, changes: list[Change]) -> "Future[Outcome] | None":
        refusals = self._replica.take_refusals()
        if not changes and not refusals:
            return None
        return self._worker.submit([Told(changes)], refusals)

    def _sync(self) -> bool:
        with self._syncing:
            try:
                try:
                    self._ask()
                except OldServerError:
                    self._speak(with_own=False)
                    self._ask()
            except Exception as error:  # noqa: BLE001 - whatever RPC raises: it is tried again
                if self._answered is not False:
                    LOG.warning("no sync with the server, will go on trying: %s", first_line(error))
                self._answered = False
                self._failure = f"no answer: {first_line(error)}"
                self._behind = True
                return False
        return True

    def _ask(self) -> None:
        self._behind = False
        with self._lock:
            self._submit(self._look())
            with_own = self._replica.with_own
            digests = self._replica.digests()
        # Networks of which the answers did not say all.
        cut: set[str] = set()
        refused: set[str] = set()
        left: set[str] = set()
        # Where nothing is used yet, whether the server is there says how long to wait for it.
        for part in [*_parts(digests)] or ([{}] if self._worker.forgetful else []):
            cursor: Cursor | None = None
            while True:
                asked_at = time.monotonic()
                answer = Answer.from_wire(self._call(part, cursor, with_own))
                if self._answered is False:
                    LOG.info("the server answers again")
                self._answered = True
                self._answered_at = time.monotonic()
                for chunk in answer.chunks:
                    (cut.discard if chunk.until is None else cut.add)(chunk.network_id)
                    if chunk.refused:
                        refused.add(chunk.network_id)
                if not self._attaches:
                    left.update(answer.gone)
                last, cursor = cursor, self._take_in(answer, asked_at)
                if cursor is None:
                    break
                if last is not None and cursor <= last:
                    raise ProtocolError("the server's answers come to no end")
            if answer.own and not with_own:
                self._speak(with_own=True)
                self.hinted()
        self._left = left
        if not self._behind:
            self._worker.spoken(digests.keys() - cut - refused - left)
        if refused:
            LOG.warning("ports of networks %s can't be read", quote(", ".join(sorted(refused))))

    def _speak(self, *, with_own: bool) -> None:
        """What the server can tell. While it is upgraded, that changes from call to call."""
        with self._lock:
            self._replica.with_own = with_own

    def _take_in(self, answer: Answer, asked_at: float) -> Cursor | None:
        """An answer, into the table; where to go on."""
        with self._lock:
            # The server may answer from a picture that is some seconds old. What was cast
            # after that, and before we listened for the network, is in neither.
            self._behind = self._behind or asked_at - answer.age < self._deaf_until
            changes, cursor = self._replica.synced(answer, asked_at, all_of_it=self._attaches)
            if self._attaches:
                left = set(answer.gone) - self._replica.network_ids
                changes += [Detach(network_id) for network_id in sorted(left)]
            future = self._submit(changes)
        if future is not None:
            future.result()
        if not self._attaches:
            self._compare_segments(answer)
        return cursor

    def _compare_segments(self, answer: Answer) -> None:
        """Who attaches a network may have mistaken its segment: nothing would reach it."""
        attachments = self._worker.call(lambda: list(self._worker.table.attachments())).result()
        here = {attachment.network_id: attachment.segment for attachment in attachments}
        for chunk in answer.chunks:
            segment = here.get(chunk.network_id)
            if segment in (None, chunk.segment):
                self._astray.discard(chunk.network_id)
            elif chunk.network_id not in self._astray:
                self._astray.add(chunk.network_id)
                LOG.warning(
                    "network %s is attached as %s here, the server has it as %s: nobody is reached",
                    *(chunk.network_id, segment, chunk.segment),
                )

    def _run(self) -> None:
        retry = Backoff(_FIRST_RETRY, self._interval)
        while not self._stopped:
            self._wanted.clear()
            if not self._sync():
                self._wanted.wait(retry.pause() * random.uniform(0.5, 1.5))
                continue
            retry.reset()
            if self._behind:
                time.sleep(_BEHIND_PAUSE)
            else:
                self._pause()

    def _missed_some(self) -> None:
        with self._times:
            now = self._deaf_until = time.monotonic()
            self._again = [now + delay for delay in _ONCE_MORE]

    def _ask_within(self, delays: tuple[float, float]) -> None:
        """Ask between so many seconds from now, unless that will be anyway."""
        with self._times:
            now = self._deaf_until = time.monotonic()
            if not any(now < at <= now + delays[1] for at in self._again):
                self._again.append(now + random.uniform(*delays))

    def _pause(self) -> None:
        """Until the next sync."""
        started = time.monotonic()
        due = started + self._interval * random.uniform(0.5, 0.9)
        while not self._wanted.is_set():
            now = time.monotonic()
            with self._times:
                at = min([due, *(again for again in self._again if again > started)])
                if at <= now:
                    self._again = [again for again in self._again if again > now]
                    return
            self._wanted.wait(min(at - now, _STEP))


def _parts(digests: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """As many as one call may ask for."""
    left = iter(digests.items())
    while part := dict(itertools.islice(left, MAX_NETWORKS)):
        yield part

"""The table is on disk before anything is acknowledged, and comes back from there."""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from ovs_l2pop.agent.store import Store
from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Change,
    Parser,
    Refusal,
    unreachable,
    vtep_problem,
)
from ovs_l2pop.core.table import ForwardingTable
from ovs_l2pop.core.wire import Message, to_message

LOG = logging.getLogger(__name__)

#: Seconds until it is tried again to keep what could not be kept.
_RETRY = 3.0

#: How much larger than a fresh one the file may be before it is written anew: what it has grown by
#: until that is done comes on top. And bytes that aren't worth it.
_GROWTH, _SLACK = 1.25, 1 << 18
#: Bytes of an entry in a fresh file, until one was written.
_ENTRY = 60

#: Applies what of a change can be, notes what can't; that.
Apply = Callable[[Change, list[Refusal]], Change | None]


class Keeping:
    """One table and its file.

    :param elsewhere: why this configuration has no place for a network, which another may.
    """

    def __init__(
        self,
        store: Store,
        table: ForwardingTable,
        elsewhere: Callable[[Attachment], str | None],
    ) -> None:
        self._store = store
        self._table = table
        self._elsewhere = elsewhere
        #: Why the last messages may not survive a restart.
        self.unkept: str | None = None
        self._next = 0.0
        #: Bytes of a fresh file, for each entry and network.
        self._fresh: float = _ENTRY
        #: What this configuration refuses.
        self._parked: list[Message] = []

    @property
    def lost(self) -> str | None:
        """Why the file may have lacked what was known; None: it was whole."""
        return self._store.lost

    @property
    def owed(self) -> bool:
        """Whether something is not kept that should be."""
        return bool(self.unkept) or not self._store.intact

    @property
    def due(self) -> bool:
        """Whether it is time to try that again."""
        return time.monotonic() >= self._next and self.owed

    def load(self, apply: Apply) -> None:
        """Apply all that is in the file. What this configuration refuses is kept for another."""
        parser = Parser()  # of either family: what another local_ip would take is kept for it
        for message in self._store.load():
            changes, refusals = parser.parse(message)
            for refusal in refusals:
                if _never(refusal):
                    LOG.warning("on disk, and dropped: %s", refusal)
                else:
                    self._store.damaged(str(refusal))
            for change in changes:
                self._load(change, apply)
        self._store.loaded()

    def rewrite(self) -> None:
        """Write the file anew, as short as it can be."""
        try:
            self._rewrite()
        except OSError as error:
            LOG.error("the table's file could not be written anew: %s", error)

    def renew(self) -> None:
        """The same without waiting for it, where the file is much longer than that: begin or end
        it."""
        try:
            if self._store.succeeded():
                self._note()
            elif self._bloated and not self._store.succeeding:
                self._store.succeed(self._messages(self._table.frozen()))
        except OSError as error:
            LOG.error("the table's file could not be written anew: %s", error)
            self._fresh *= 2  # not at once again

    def keep(self, lines: Iterable[bytes]) -> None:
        """On disk before anything is acknowledged."""
        self._next = time.monotonic() + _RETRY
        try:
            if self._store.intact:
                self._store.append(lines)
            else:
                LOG.warning("the table's file is not as it was left, and is written anew")
                self._rewrite()
        except OSError as error:
            unkept = f"not kept on disk: {error}"
            if self.unkept != unkept:
                LOG.error("the table could not be kept on disk, will try again: %s", error)
            self.unkept = unkept
            return
        if self.unkept:
            LOG.info("the table is kept on disk again")
        self.unkept = None
        self.renew()

    def whole(self) -> None:
        """The file is all that there is, from now on."""
        if not self.unkept:
            self._store.mark(None)

    def close(self) -> None:
        self._store.close()

    def _load(self, change: Change, apply: Apply) -> None:
        refusals: list[Refusal] = []
        done: Change | None = None
        if (refusal := unreachable(change, self._table.local_ip)) is not None:
            refusals.append(refusal)
        else:
            done = apply(change, refusals)
        if not refusals:
            return
        LOG.warning("kept on disk, refused now: %s", refusals[0])
        # A place that another network has is no other configuration's either.
        if isinstance(change, Attachment) and not self._elsewhere(change):
            return
        if isinstance(done, AddEntries) and isinstance(change, AddEntries):
            taken = set(done.entries)
            change = change._replace(
                entries=[entry for entry in change.entries if entry not in taken],
                flooding=change.flooding and not done.flooding,
            )
        self._parked.append(to_message(change))

    def _rewrite(self) -> None:
        """:raises OSError: it could not be."""
        self._store.rewrite(self._messages(self._table))
        self._note()

    def _messages(self, table: ForwardingTable) -> Iterator[Message]:
        """What the file is to hold."""
        return itertools.chain(table.messages(), tuple(self._parked))

    @property
    def _bloated(self) -> bool:
        return self._store.size > _GROWTH * self._fresh * self._table.size + _SLACK

    def _note(self) -> None:
        """The file is a fresh one."""
        self._fresh = self._store.size / self._table.size if self._table.size else _ENTRY


def as_line(change: Change) -> bytes:
    """A change as the file has it."""
    return json.dumps(to_message(change)).encode()


def _never(refusal: Refusal) -> bool:
    """Whether it is refused by a rule that releases before didn't have, and isn't damage."""
    try:
        return vtep_problem(refusal.offender) is not None
    except ValueError:
        return False

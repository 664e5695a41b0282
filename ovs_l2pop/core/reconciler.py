"""Makes the dataplane what the table says: the loop that all backends share."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ovs_l2pop.core.backend import Backend, Batch, Look, OutdatedRowsError, RowText
from ovs_l2pop.core.difference import Difference, Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.orphans import Orphans
from ovs_l2pop.core.table import (
    FLOOD,
    NEIGHBOUR,
    NETWORK,
    UNICAST,
    Fact,
    FloodFact,
    ForwardingTable,
    Key,
    NetworkFact,
)

#: Kinds of facts of which there may be very many.
_OF_ENTRIES = frozenset({UNICAST, NEIGHBOUR})

#: Kinds of facts that say how things are with a whole network, as far as it is known.
_AS_KNOWN = (NETWORK, FLOOD)

#: Keys rendered before what they need is handed to the backend: small enough that the dataplane
#: begins early, large enough that what a hand-over costs does not matter.
_SLICE = 10_000

#: How often in a row the dataplane may give other numbers than rows were rendered with.
_MAX_RENUMBERINGS = 3


class Drift(NamedTuple):
    """What a read-back found: rows that should be there and are not, and the other way round."""

    missing: list[Row]
    surplus: list[Row]


class Reconciler:
    """Renders what changed in the table, and has the backend write rows wanted minus installed.

    After any :class:`ovs_l2pop.core.errors.BackendError` the dataplane's state is unknown:
    :meth:`resync` must come before anything else.
    """

    def __init__(self, table: ForwardingTable, backend: Backend) -> None:
        self._table = table
        self._backend = backend
        self.difference = Difference()
        #: Rows that the dataplane refused, with its reason. Not tried again before
        #: :meth:`retry_refused`: one bad row must not cost every later batch its time.
        self.refused: dict[Row, str] = {}
        #: Rows written since the start, added and removed.
        self.written = 0
        #: What is kept of before; None: the table is known to be whole.
        self.orphans: Orphans | None = None
        self._adopts = False
        #: Networks that somebody has spoken for since the rows were found.
        self._spoken: set[str] = set()
        self._renumberings = 0
        self._look: Look | None = None
        #: Rows written, or found to be otherwise, since a look began: it may have met them before
        #: that or after it.
        self._touched: set[Row] = set()

    def adopt(self) -> None:
        """The table may lack what the dataplane has: keep what the next read-back finds."""
        self._adopts = True

    def resync(self) -> Mapping[Row, str]:
        """Connect, render everything, read back what is there, and write the difference.

        :returns: the rows that were refused.
        """
        self._look = None
        self._backend.connect()
        self._table.take_dirty()
        installed = self._backend.installed()
        if self._adopts:
            self._adopts = False
            self.orphans = Orphans(filter(None, map(self._backend.found, installed)))
            self.difference.hold(self.orphans)
        elif self.orphans is not None and self._renumberings:
            # With other numbers they can't be made again as they were.
            self.difference.drop(self.orphans.missing(installed))
        self.difference.want(None, self._backend.base())
        keys = dict.fromkeys((*self._table.keys(), *self.difference))
        self._render(key for key in keys if key is not None)
        self.difference.observed(installed)
        self.refused.clear()
        return self.apply()

    def follow(self) -> Mapping[Row, str]:
        """Take over what changed in the table and write it.

        :returns: the rows that were refused just now.
        """
        keys = self._table.take_dirty()
        # Only what had rows before can lose some: with those rendered, all removes are known. With
        # them the tunnels, in one transaction before the many flows: one that a network gives up
        # and another takes over must not be among the removes.
        rendered = _OF_ENTRIES - self._backend.unused()
        known: list[Key] = []
        fresh: list[Key] = []
        for key in keys:
            if key in self.difference or key[0] not in _OF_ENTRIES or self.orphans:
                known.append(key)
            elif key[0] in rendered:
                fresh.append(key)
        self._render(known)
        return self.apply(fresh)

    def apply(self, fresh: Sequence[Key] = ()) -> Mapping[Row, str]:
        """Write the difference, and the rows of ``fresh`` keys as they are rendered.

        :returns: the rows that were refused just now.
        """
        try:
            refused = self._backend.write(self._batches(fresh))
        except OutdatedRowsError as error:
            self._renumberings += 1
            if self._renumberings > _MAX_RENUMBERINGS:
                self._renumberings = 0
                raise BackendError("the dataplane gives other numbers each time") from error
            return self.resync()
        self._renumberings = 0
        self.refused.update(refused)
        if refused:
            # A refused row may have been meant to replace another: look what is there.
            if (there := self._backend.present(refused)) is None:
                self.difference.observed(self._backend.installed())
            else:
                self._found(refused, there)
        return refused

    def drift(self) -> Drift:
        """Read back and compare; changes nothing."""
        return self._compared(self._backend.installed())

    def look(self, ready: Callable[[], None]) -> bool:
        """Begin to read back beside other work; :meth:`looked` ends that, unless there is a
        :meth:`resync` before.

        :param ready: called, from any thread, when it can be ended.
        :returns: whether the backend can do that.
        """
        self._touched = set()
        self._look = self._backend.look(ready)
        return self._look is not None

    @property
    def looking(self) -> bool:
        """Whether a look is under way."""
        return self._look is not None

    def looked(self) -> Drift:
        """What the look has found, but for rows that were written meanwhile."""
        assert self._look is not None
        look, self._look = self._look, None
        return self._compared(look(), self._touched)

    def observe(self, drift: Drift) -> None:
        """Take over what :meth:`drift` or :meth:`looked` found: the next :meth:`apply` mends it.

        What was refused is tried again with it: it may have been for lack of what is mended.
        """
        self._found(drift.missing, drift.surplus)
        self.retry_refused()

    def _found(self, rows: Collection[Row], there: Collection[Row]) -> None:
        self.difference.found(rows, there)
        if self._look is not None:  # it may have met them as they were before that
            self._touched.update(rows, there)

    def _compared(self, installed: set[Row], unknown: Collection[Row] = ()) -> Drift:
        wanted = self.difference.wanted
        missing, surplus = wanted - installed, installed.difference(wanted)
        if not missing and not surplus:
            return Drift([], [])
        # In the order in which they are written.
        return Drift(
            [row for row in wanted if row in missing and row not in unknown],
            [row for row in surplus if row not in unknown],
        )

    def retry_refused(self) -> None:
        """Let the next :meth:`apply` try refused rows again."""
        self.refused.clear()

    # -- what is kept of before ----------------------------------------------------------------

    @property
    def forgetful(self) -> bool:
        """Whether the table may lack what is installed."""
        return self._adopts or bool(self.orphans)

    @property
    def kept(self) -> int:
        """Rows that are there only because nobody has spoken for their networks."""
        return sum(map(self.difference.held_only, self.orphans or ()))

    def speak(self, network_ids: Iterable[str]) -> int:
        """Somebody who knows has said all that there is to these networks.

        :returns: how many rows go with the next :meth:`follow` or :meth:`apply`.
        """
        if self.orphans is None:
            return 0
        new = set(network_ids) - self._spoken
        self._spoken |= new
        gone: list[Row] = []
        for network_id in new:
            if (attachment := self._table.attachment(network_id)) is not None:
                gone += self.orphans.spoken(self._backend.scope(attachment))
        # With the last of them all is as it is known, of whomever.
        return self._let_go(gone, new if self.orphans else self._table.network_ids())

    def end(self) -> list[Row]:
        """Nobody is going to speak for the rest; the rows that go for it."""
        if self.orphans is None:
            return []
        gone = [row for row in self.orphans if self.difference.held_only(row)]
        rest, self.orphans = self.orphans.end(), None
        self._let_go(rest, self._table.network_ids())
        return gone

    def _let_go(self, rows: Collection[Row], network_ids: Iterable[str]) -> int:
        count = sum(map(self.difference.held_only, rows))
        self.difference.drop(rows)
        self._render_as_known(network_ids)
        return count

    def _render_as_known(self, network_ids: Iterable[str]) -> None:
        self._render([(kind, network_id, "") for network_id in network_ids for kind in _AS_KNOWN])

    def _rendered(self, key: Key, fact: Fact | None, orphans: Orphans) -> tuple[Row, ...]:
        """The rows of a fact beside what is kept."""
        kind, network_id, _ = key
        if kind in _AS_KNOWN and network_id not in self._spoken:
            attachment = self._table.attachment(network_id)
            if attachment is not None:
                scope = self._backend.scope(attachment)
                if isinstance(fact, NetworkFact):
                    self.difference.drop(orphans.attached(scope))
                    fact = fact._replace(closed=False)
                elif copies := set(orphans.copies(scope)) - self._table.own:
                    copies.update(fact.vteps if isinstance(fact, FloodFact) else ())
                    fact = FloodFact(attachment, tuple(sorted(copies)))
        rows = () if fact is None else self._backend.render(fact)
        for row in rows:
            if (gone := orphans.known(self._backend.slot(row), row)) is not None:
                self.difference.drop([gone])
        return rows

    # ------------------------------------------------------------------------------------------

    def hits(self, rows: Collection[Row]) -> Mapping[Row, int]:
        """How many packets each row has served, as far as that is counted.

        :raises BackendError: the dataplane can't be read.
        """
        return self._backend.hits(rows)

    def describe(self, row: Row) -> RowText:
        """The row for people."""
        return self._backend.describe(row)

    def _batches(self, fresh: Sequence[Key]) -> Iterator[Batch]:
        for start in range(0, max(len(fresh), 1), _SLICE):
            self._render(fresh[start : start + _SLICE])
            # Counted as written already; a read-back finds what was refused.
            add, remove = self.difference.take(self.refused.keys())
            if add or remove:
                self.written += len(add) + len(remove)
                if self._look is not None:
                    self._touched.update(add, remove)
                yield Batch(add, remove)

    def _render(self, keys: Iterable[Key]) -> None:
        render, want, orphans = self._backend.render, self.difference.want, self.orphans
        if not orphans:
            for key, fact in self._table.facts(keys):
                want(key, () if fact is None else render(fact))
            return
        for key, fact in self._table.facts(keys):
            want(key, self._rendered(key, fact, orphans))
        if not orphans:
            self._render_as_known(self._table.network_ids())

"""Makes the dataplane what the table says: the loop that all backends share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ovs_l2pop.backends import Backend, Batch, RenumberedError, RowText
from ovs_l2pop.difference import Difference, Row
from ovs_l2pop.errors import BackendError
from ovs_l2pop.table import ForwardingTable, Key

_BASE: Key = ("base", "", "")

#: Kinds of facts of which there may be very many.
_OF_ENTRIES = frozenset({"unicast", "neighbour"})

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

    After any :class:`ovs_l2pop.errors.BackendError` the dataplane's state is unknown:
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
        self._renumberings = 0

    def resync(self) -> Mapping[Row, str]:
        """Connect, render everything, read back what is there, and write the difference.

        :returns: the rows that were refused.
        """
        self._backend.connect()
        self._table.take_dirty()
        self.difference.want(_BASE, self._backend.base())
        keys = dict.fromkeys((*self._table.keys(), *self.difference))
        self._render(key for key in keys if key != _BASE)
        self.difference.observed(self._backend.installed())
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
            if key in self.difference or key[0] not in _OF_ENTRIES:
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
        except RenumberedError as error:
            self._renumberings += 1
            if self._renumberings > _MAX_RENUMBERINGS:
                self._renumberings = 0
                raise BackendError("the dataplane gives other numbers each time") from error
            return self.resync()
        self._renumberings = 0
        self.refused.update(refused)
        if refused:
            # A refused row may have been meant to replace another: look what is there.
            self.difference.observed(self._backend.installed())
        return refused

    def drift(self) -> Drift:
        """Read back and compare; changes nothing."""
        installed = self._backend.installed()
        wanted = self.difference.wanted
        return Drift(
            [row for row in wanted if row not in installed],
            [row for row in installed if row not in wanted],
        )

    def observe(self, drift: Drift) -> None:
        """Take over what :meth:`drift` found: the next :meth:`apply` mends it.

        What was refused is tried again with it: it may have been for lack of what is mended.
        """
        installed = set(self.difference.wanted).difference(drift.missing).union(drift.surplus)
        self.difference.observed(installed)
        self.retry_refused()

    def retry_refused(self) -> None:
        """Let the next :meth:`apply` try refused rows again."""
        self.refused.clear()

    def describe(self, row: Row) -> RowText:
        """The row for people."""
        return self._backend.describe(row)

    def troubles(self) -> Iterable[tuple[str, str]]:
        """See :meth:`ovs_l2pop.backends.Backend.troubles`."""
        return self._backend.troubles()

    def _batches(self, fresh: Sequence[Key]) -> Iterator[Batch]:
        for start in range(0, max(len(fresh), 1), _SLICE):
            self._render(fresh[start : start + _SLICE])
            # Counted as written already; a read-back finds what was refused.
            add, remove = self.difference.take(self.refused.keys())
            if add or remove:
                self.written += len(add) + len(remove)
                yield Batch(add, remove)

    def _render(self, keys: Iterable[Key]) -> None:
        render, want = self._backend.render, self.difference.want
        for key, fact in self._table.facts(keys):
            want(key, () if fact is None else render(fact))

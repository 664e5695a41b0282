"""The difference engine: rows wanted minus rows installed.

Pure: a row is any hashable value. Several facts may want the same row (a tunnel port serves every
machine behind it), so wanted rows are counted; a row goes when nobody wants it any more.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, KeysView

from ovs_l2pop.core.table import Key

Row = Hashable

#: Who wants rows: a fact, or (None) the backend, whatever the table holds.
Wanter = Key | None


class Difference:
    """Keeps ``to_add`` and ``to_remove`` up to date while either side changes.

    Costs are proportional to what changes, not to what is there, but for :meth:`observed`.
    """

    def __init__(self) -> None:
        self._rows: dict[Wanter, tuple[Row, ...]] = {}
        self._wanted: dict[Row, int] = {}
        self._installed: set[Row] = set()
        #: Rows wanted and not installed. Ordered, so that writes are reproducible.
        self.to_add: dict[Row, None] = {}
        #: Rows installed and not wanted.
        self.to_remove: dict[Row, None] = {}

    @property
    def wanted(self) -> KeysView[Row]:
        return self._wanted.keys()

    @property
    def installed(self) -> Collection[Row]:
        return self._installed

    def __iter__(self) -> Iterator[Wanter]:
        """Those that have rows."""
        return iter(self._rows)

    def __contains__(self, key: Wanter) -> bool:
        return key in self._rows

    def rows(self, key: Wanter) -> tuple[Row, ...]:
        """The rows that ``key`` wants."""
        return self._rows.get(key, ())

    def want(self, key: Wanter, rows: tuple[Row, ...]) -> None:
        """``key`` wants exactly these rows from now on."""
        before = self._rows.get(key, ())
        if rows == before:
            return
        if rows:
            self._rows[key] = rows
        else:
            del self._rows[key]
        self.hold(rows)
        if before:
            self.drop(before)

    def held_only(self, row: Row) -> bool:
        """Whether the row is wanted once: of one held by :meth:`hold`, that no key wants it."""
        return self._wanted.get(row) == 1

    def hold(self, rows: Iterable[Row]) -> None:
        """Want these rows, without a key, until they are dropped."""
        wanted, installed = self._wanted, self._installed
        for row in rows:
            count = wanted.get(row, 0)
            wanted[row] = count + 1
            if not count:
                if row in installed:
                    self.to_remove.pop(row, None)
                else:
                    self.to_add[row] = None

    def drop(self, rows: Iterable[Row]) -> None:
        """The reverse of :meth:`hold`."""
        wanted, installed = self._wanted, self._installed
        for row in rows:
            count = wanted[row] - 1
            if count:
                wanted[row] = count
                continue
            del wanted[row]
            if row in installed:
                self.to_remove[row] = None
            else:
                self.to_add.pop(row, None)

    def observed(self, installed: set[Row]) -> None:
        """A read-back: this is what is really there."""
        self._installed = installed
        self.to_add = {row: None for row in self._wanted if row not in installed}
        self.to_remove = {row: None for row in installed if row not in self._wanted}

    def found(self, rows: Iterable[Row], there: Collection[Row]) -> None:
        """A read-back of some rows: which of ``rows`` are there, and all of ``there`` are."""
        for row in rows:
            if row not in there:
                self._installed.discard(row)
                self.to_remove.pop(row, None)
                if row in self._wanted:
                    self.to_add[row] = None
        for row in there:
            self._installed.add(row)
            self.to_add.pop(row, None)
            if row not in self._wanted:
                self.to_remove[row] = None

    def take(self, kept_back: Collection[Row] = ()) -> tuple[list[Row], list[Row]]:
        """What is to be added and what to be removed, counted as done from now on.

        Rows of ``kept_back`` stay due. What turns out not to be done is found by a read-back.
        """
        added = [row for row in self.to_add if row not in kept_back]
        removed = [row for row in self.to_remove if row not in kept_back]
        self.to_add = {row: None for row in self.to_add if row in kept_back}
        self.to_remove = {row: None for row in self.to_remove if row in kept_back}
        self._installed.update(added)
        self._installed.difference_update(removed)
        return added, removed

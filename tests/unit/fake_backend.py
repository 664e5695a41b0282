"""A dataplane of our own in memory, that fails when it is told to."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Self

from ovs_l2pop.core.backend import Batch, Health, Look, OutdatedRowsError, RowText
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact, VtepFact


class FakeBackend:
    """Rows are tuples (kind, …). A tunnel's row is shared by all networks and has a number."""

    def __init__(self) -> None:
        self.rows: set[Row] = set()
        #: Batches of each write, as they were taken.
        self.writes: list[list[Batch]] = []
        self.connects = 0
        self.down = False
        self.descriptor = -1
        #: Somebody has changed rows, and the next poll tells of it.
        self.disturbed = False
        #: Rows that the next writes refuse.
        self.refuses: Callable[[Row], bool] = lambda row: False
        #: Rows until a write breaks off; None: none does.
        self.breaks_after: int | None = None
        #: Writes that find the tunnels' numbers changed.
        self.renumberings = 0
        self.number = 1000
        self.refused_attachment: str | None = None
        #: What the rows were since a look began; at which of these times it meets a row (None:
        #: looks can't be made beside other work).
        self.moments: list[set[Row]] = []
        self.meets: Callable[[], int] | None = None

    def connect(self) -> None:
        if self.down:
            raise BackendError("the switch is down")
        self.connects += 1

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return self.descriptor

    def poll(self) -> bool:
        if self.down:
            raise BackendError("the switch went away")
        disturbed, self.disturbed = self.disturbed, False
        return disturbed

    def settle(self, where: Callable[[int, str], Fact | None]) -> Iterable[str]:
        return ()

    def health(self) -> Iterable[Health]:
        return ()

    def refuse(self, attachment: Attachment) -> str | None:
        return self.refused_attachment

    @classmethod
    def from_config(cls, conf: Any) -> Self:
        return cls()

    def base(self) -> tuple[Row, ...]:
        return (("base", "patch"), ("base", "learn"))

    def unused(self) -> frozenset[str]:
        return frozenset()

    def render(self, fact: Fact) -> tuple[Row, ...]:
        if isinstance(fact, VtepFact):
            return (("tunnel", fact.vtep, self.number), ("from tunnel", fact.vtep, self.number))
        return ((type(fact).__name__, *fact),)

    def installed(self) -> set[Row]:
        self.poll()
        return set(self.rows)

    def present(self, asked: Collection[Row]) -> set[Row] | None:
        slots = set(map(self.slot, asked))
        return {row for row in self.rows if self.slot(row) in slots}

    def hits(self, rows: Collection[Row]) -> Mapping[Row, int]:
        return {}

    def look(self, ready: Callable[[], None]) -> Look | None:
        if self.meets is None:
            return None
        self.moments = [set(self.rows)]
        return self._met

    def passed(self) -> None:
        """Rows have changed: a look that is under way meets each before or after."""
        self.moments.append(set(self.rows))

    def _met(self) -> set[Row]:
        assert self.meets is not None
        self.poll()
        rows = set[Row]().union(*self.moments)
        return {row for row in sorted(rows, key=str) if row in self.moments[self.meets()]}

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        taken: list[Batch] = []
        self.writes.append(taken)
        refused: dict[Row, str] = {}
        for batch in batches:
            taken.append(batch)
            self.poll()
            if self.renumberings:
                self.renumberings -= 1
                self.number += 1
                raise OutdatedRowsError
            for row, change in [(row, self.rows.discard) for row in batch.remove] + [
                (row, self.rows.add) for row in batch.add
            ]:
                if self.breaks_after is not None:
                    self.breaks_after -= 1
                    if self.breaks_after < 0:
                        self.breaks_after = None
                        raise BackendError("the switch went away while it was written")
                if self.refuses(row):
                    refused[row] = "table full"
                else:
                    change(row)
            self.passed()
        return refused

    def scope(self, attachment: Attachment) -> Scope:
        return Scope(attachment.local_vlan, attachment.segment)

    def slot(self, row: Row) -> Hashable:
        """Facts differ in what they say, tunnels in their numbers."""
        assert isinstance(row, tuple)
        match row:
            case ("UnicastFact" | "NeighbourFact" as kind, Attachment(local_vlan=vlan), what, _):
                return kind, vlan, what
            case ("NetworkFact" | "FloodFact" as kind, Attachment(local_vlan=vlan), _):
                return kind, vlan
            case ("tunnel" | "from tunnel" as kind, vtep, _):
                return kind, vtep
        return row

    def found(self, row: Row) -> Found | None:
        match row:
            case ("base", _):
                return None
            case ("FloodFact", Attachment() as attachment, tuple(vteps)):
                return Found(row, self.scope(attachment), self.slot(row), vteps)
            case (_, Attachment() as attachment, *_):
                return Found(row, self.scope(attachment), self.slot(row))
        return Found(row, Scope(), self.slot(row))

    def describe(self, row: Row) -> RowText:
        assert isinstance(row, tuple)
        kind, *rest = map(str, row)
        if kind == "tunnel":
            return RowText("tunnel", f"port-{rest[0]}", f"vxlan to {rest[0]}", f"ofport={rest[1]}")
        return RowText("flow", kind, " ".join(rest), "")

"""The interface between what should be and the dataplane that has it.

A backend renders facts into rows, tells which rows are installed, and writes rows. What is the
same for every dataplane (comparing, counting, retrying, showing) is above it, in
:mod:`ovs_l2pop.core.reconciler`.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, Self

from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.messages import Attachment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact


class OutdatedRowsError(L2popError):
    """The dataplane is another one than rows were rendered and read for: both anew, then write."""


class Batch(NamedTuple):
    """Rows to write together. No row is in both."""

    add: list[Row]
    remove: list[Row]


class RowText(NamedTuple):
    """A row as people read it."""

    kind: str  #: "flow", "group", "tunnel", …
    place: str  #: table, bridge or device
    what: str  #: what it is about: match, address
    does: str  #: what it does: actions, attributes


class Health(NamedTuple):
    """How something is."""

    what: str
    state: str  #: "ok" or "trouble"
    detail: str


class Look(Protocol):
    """A read-back under way."""

    def __call__(self) -> set[Row]:
        """All rows of ours, each as it was at some time since the look began. Called once."""


class Backend(Protocol):
    """One dataplane. All methods are called from one thread.

    Every method may raise :class:`ovs_l2pop.core.errors.BackendError` where the dataplane can't be
    reached; the caller then calls :meth:`connect` again, and rows must be read back.
    """

    @classmethod
    def from_config(cls, conf: Any) -> Self:
        """Made from the options of ``conf``, of which each backend registers its own.

        :raises ovs_l2pop.core.errors.ConfigError: names the option.
        """

    def connect(self) -> None:
        """Reach the dataplane and make what every row needs. Changes nothing that is there."""

    def close(self) -> None:
        """Let go of the dataplane and leave it as it is."""

    def fileno(self) -> int:
        """A descriptor that is readable when the dataplane has something to tell; -1: none."""

    def poll(self) -> bool:
        """Notice that the dataplane went away; called about once a second, and when it tells.

        :returns: whether somebody else may have changed rows of ours since the last read-back or
            poll, as far as the dataplane tells of it. It need not tell of everything.
        """

    def settle(self, where: Callable[[int, str], Fact | None]) -> Iterable[str]:
        """Put right where the dataplane, by what it learned itself, believes machines to be
        elsewhere than announced. Called about once a second while connected.

        :param where: what is announced of a MAC in a local VLAN.
        :returns: what was otherwise, for people.
        """

    def health(self) -> Iterable[Health]:
        """What of the dataplane is worth telling while connected, and none of the rest."""

    def refuse(self, attachment: Attachment) -> str | None:
        """Why this backend can't have such a network, or None."""

    def base(self) -> tuple[Row, ...]:
        """Rows that are wanted whatever the table holds."""

    def unused(self) -> frozenset[str]:
        """Kinds of facts, as keys name them, that have no rows while connected."""

    def render(self, fact: Fact) -> tuple[Row, ...]:
        """The rows that make a fact true. The same for equal facts while connected."""

    def installed(self) -> set[Row]:
        """All rows of ours that the dataplane has, read back."""

    def present(self, asked: Collection[Row]) -> set[Row] | None:
        """What is installed in the slots of these rows, which were refused, read back.

        :returns: None where :meth:`installed` takes less, or more may be otherwise than written.
        """

    def look(self, ready: Callable[[], None]) -> Look | None:
        """Begin to read back all rows beside other work.

        :param ready: called, from any thread, when the look can be ended.
        :returns: None where there is no other way than :meth:`installed`.
        """

    def hits(self, rows: Collection[Row]) -> Mapping[Row, int]:
        """How many packets each of these rows has served, as far as the dataplane counts that."""

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        """Write, and return when everything is in place.

        ``batches`` may be made while they are taken: a backend that sends one on its way before
        it takes the next lets both sides work at once. All removes of a write come in its first
        batch, before anything is added.

        :returns: the rows that were refused, each with the reason.
        :raises OutdatedRowsError: rows must be rendered again and read back.
        """

    def scope(self, attachment: Attachment) -> Scope:
        """Where this network's rows are, and what names it in them."""

    def slot(self, row: Row) -> Hashable:
        """What the dataplane has room for one of: of rows with equal slots, one is installed."""

    def found(self, row: Row) -> Found | None:
        """What an installed row tells of itself; None: of nothing that may be anybody's need."""

    def describe(self, row: Row) -> RowText:
        """The row for people."""

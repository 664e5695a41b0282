"""A backend in a file: its dataplane is a list of lines, one for each row."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from oslo_config import cfg

from ovs_l2pop.core.backend import Batch, Health, Look, RowText
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact, FloodFact, LocalFact, NeighbourFact, UnicastFact, VtepFact

OPTS = [cfg.StrOpt("path", default="/var/lib/ovs-l2pop/toy", help="The file that is programmed.")]


class ToyBackend:
    """See :class:`ovs_l2pop.core.backend.Backend`. A row is a line of three words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def from_config(cls, conf: Any) -> Self:
        conf.register_opts(OPTS, group="toy")
        return cls(Path(conf.toy.path))

    def connect(self) -> None:
        try:
            self._path.touch()
        except OSError as error:
            raise BackendError(str(error)) from error

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def poll(self) -> bool:
        return False

    def settle(self, where: Callable[[int, str], Fact | None]) -> Iterable[str]:
        return ()

    def health(self) -> Iterable[Health]:
        yield Health("toy", "ok", f"{len(self.installed())} lines in {self._path}")

    def refuse(self, attachment: Attachment) -> str | None:
        return None

    def base(self) -> tuple[Row, ...]:
        return ()

    def unused(self) -> frozenset[str]:
        return frozenset()

    def render(self, fact: Fact) -> tuple[Row, ...]:
        vni = str(fact.attachment.segment.segment_id)
        match fact:
            case UnicastFact(_, mac, vtep):
                return ((vni, mac, vtep),)
            case LocalFact(_, mac):
                return ((vni, mac, "here"),)
            case NeighbourFact(_, ip, mac):
                return ((vni, ip, mac),)
            case VtepFact(_, vtep):
                return (("tunnel", vtep, "up"),)  # one, however many networks need it
            case FloodFact(_, vteps):
                return tuple((vni, "everybody", vtep) for vtep in vteps)
        return ((vni, "network", fact.attachment.network_id),)

    def installed(self) -> set[Row]:
        try:
            return {tuple(line.split()) for line in self._path.read_text().splitlines()}
        except OSError as error:
            raise BackendError(str(error)) from error

    def present(self, asked: Collection[Row]) -> set[Row] | None:
        return None

    def hits(self, rows: Collection[Row]) -> Mapping[Row, int]:
        return {}

    def look(self, ready: Callable[[], None]) -> Look | None:
        return None

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        rows = self.installed()
        for add, remove in batches:
            rows = rows.difference(remove).union(add)
        lines = sorted(" ".join(map(str, row)) for row in rows if isinstance(row, tuple))
        self._path.write_text("".join(f"{line}\n" for line in lines))
        return {}

    def scope(self, attachment: Attachment) -> Scope:
        return Scope(str(attachment.segment.segment_id))

    def slot(self, row: Row) -> Hashable:
        return row

    def found(self, row: Row) -> Found | None:
        assert isinstance(row, tuple)
        return Found(row, Scope() if row[0] == "tunnel" else Scope(row[0]), row)

    def describe(self, row: Row) -> RowText:
        assert isinstance(row, tuple)
        return RowText("line", str(self._path), " ".join(row[:2]), row[2])

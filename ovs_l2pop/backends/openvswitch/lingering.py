"""Flows and groups that nothing leads to any more, and packets on their way still meet.

A packet of a large flood is started anew for each shard, with the flows as they are then. And the
datapath goes by what it has cached until Open vSwitch has looked through that again. So the shards
of a flood that one flow has replaced stay for a moment, and the group that starts packets anew.
"""

from collections.abc import Iterable

from ovs_l2pop.backends.openvswitch.rows import Group, OvsRow

#: Seconds. Open vSwitch goes through its cache when flows change, and at the latest after 0.5 s
#: (max-revalidator); that takes the longer the more is cached: some 0.1 s for 10,000 flows.
LINGER = 2.0

Place = bytes | None  #: a flow's local VLAN, encoded; None: a group


class Lingering:
    """Which rows are still there, and until when."""

    def __init__(self) -> None:
        self._rows: dict[OvsRow, tuple[Place, float]] = {}

    def rows(self) -> Iterable[OvsRow]:
        return self._rows.keys()

    def keep(self, place: Place, row: OvsRow, now: float) -> None:
        """The row stays for now."""
        self._rows[row] = place, now + LINGER

    def wanted(self, row: OvsRow) -> bool:
        """It is somebody's again; whether it is still there."""
        return self._rows.pop(row, None) is not None

    def take(self, places: Iterable[Place]) -> list[OvsRow]:
        """Those of these places, which linger no longer."""
        return self._take([row for row, (place, _) in self._rows.items() if place in places])

    def due(self, now: float) -> list[OvsRow]:
        """Those whose time is over, groups last; they linger no longer."""
        due = [row for row, (_, until) in self._rows.items() if until <= now]
        return self._take(sorted(due, key=lambda row: isinstance(row, Group)))

    def clear(self) -> None:
        """What is there is read back."""
        self._rows.clear()

    def _take(self, rows: list[OvsRow]) -> list[OvsRow]:
        for row in rows:
            del self._rows[row]
        return rows

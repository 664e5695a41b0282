"""What the log says of messages: what they changed, and what was refused of them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovs_l2pop.core.errors import brief
from ovs_l2pop.core.messages import AddEntries, Attachment, Change, Detach, Refusal, RemoveEntries

#: Seconds between two lines of one cause.
_INTERVAL = 60.0
#: Causes that are told apart; a hostile sender must not fill memory or disk.
_MAX_CAUSES = 1000


def changed(changes: Iterable[Change]) -> list[str]:
    """Lines for a batch of changes: a network that was attached or detached each, and one for all
    entries."""
    lines: list[str] = []
    added = removed = 0
    networks: set[str] = set()
    vteps: set[str] = set()
    for change in changes:
        if isinstance(change, Attachment):
            segment = change.segment
            what = f"{segment.network_type} {segment.segment_id}"
            lines.append(f"attached network {change.network_id}: {what}")
        elif isinstance(change, Detach):
            lines.append(f"detached network {change.network_id}")
        elif isinstance(change, AddEntries | RemoveEntries):
            count = len(change.entries) + change.flooding
            if not count:  # all of it was refused
                continue
            if isinstance(change, AddEntries):
                added += count
            else:
                removed += count
            networks.add(change.network_id)
            vteps.add(change.vtep)
    if networks:
        lines.append(
            f"told of {added} entries and that {removed} go, behind VTEPs"
            f" {brief(', '.join(sorted(vteps)), 200)}, in networks"
            f" {brief(', '.join(sorted(networks)), 200)}"
        )
    return lines


@dataclass(slots=True)
class _Cause:
    told: float
    since: int = 0


class Causes:
    """Says each cause once a minute, and how often it was there in between.

    :param clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Cause] = {}

    def lines(self, refusals: Iterable[Refusal]) -> list[str]:
        """What to say of these now."""
        now = self._clock()
        lines = []
        for refusal in refusals:
            cause = self._known.get(refusal.reason)
            if cause is not None and now - cause.told < _INTERVAL:
                cause.since += 1
                continue
            if cause is None and not self._room(now):
                continue
            more = f" ({cause.since} more of this cause since)" if cause and cause.since else ""
            self._known[refusal.reason] = _Cause(now)
            lines.append(f"refused: {refusal}{more}")
        return lines

    def _room(self, now: float) -> bool:
        if len(self._known) >= _MAX_CAUSES:
            known = self._known.items()
            self._known = {k: cause for k, cause in known if now - cause.told < _INTERVAL}
        return len(self._known) < _MAX_CAUSES

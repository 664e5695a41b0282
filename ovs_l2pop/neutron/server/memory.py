"""Which hosts this process has brought into which networks.

A stock host is to be sent a network's whole table, and its flooding entry to be announced, when
it comes into the network. Neutron runs several processes, each sees only some of the events, and
counting ACTIVE ports misleads when several come up at once. So the question is turned round: who
vouches that a host *is* in the network already? A port of it that

* this process announced, as it is now (its revision is still the same); or
* has not been touched for so long that whoever announced it is certainly done.

If none does, host and flooding entry are dealt with (again: doing so twice is harmless). One table
serves all ports that were there when it was made: a burst of any size costs one per process.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

#: Seconds after which whoever brought a port up has told others of it. Clocks of servers may
#: differ by some of it.
SETTLED = 60.0

#: Seconds from one port's request to another's for which one table answers both: an agent reports
#: up to 20 in one call. Not longer: after a restart it asks again, and in earnest.
_SERVED = 5.0

#: (host, network) pairs to remember. A pair that is forgotten costs one table too many.
_SIZE = 50_000


class KnownPort(NamedTuple):
    """A port at a host, as far as vouching goes."""

    key: str
    revision: int
    active: bool
    #: Seconds since the port was last changed.
    age: float


@dataclass(slots=True)
class _HostNetwork:
    #: Key → revision of ports that were announced.
    announced: dict[str, int] = field(default_factory=dict)
    tabled: bool = False
    #: Ports that the last table serves, until when.
    served: set[str] = field(default_factory=set)
    served_until: float = 0.0


class Memory:
    """Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._places: OrderedDict[tuple[str, str], _HostNetwork] = OrderedDict()

    def is_in(self, host: str, network_id: str, present: Iterable[KnownPort], but: str) -> bool:
        """Whether a port other than ``but`` vouches that the host is in the network."""
        with self._lock:
            place = self._places.get((host, network_id), _HostNetwork())
            return any(
                port.age > SETTLED or place.announced.get(port.key) == port.revision
                for port in present
                if port.active and port.key != but
            )

    def owes_table(self, host: str, network_id: str) -> bool:
        """Whether the network was empty elsewhere when the host came in."""
        with self._lock:
            place = self._places.get((host, network_id))
            return place is not None and not place.tabled

    def has_announced(self, host: str, network_id: str, port: KnownPort) -> bool:
        """Whether this process announced the port as it is now."""
        with self._lock:
            place = self._places.get((host, network_id))
            return place is not None and place.announced.get(port.key) == port.revision

    def announced(
        self, host: str, network_id: str, own: Iterable[KnownPort], others: Iterable[KnownPort]
    ) -> None:
        """A port has been told to others, and with it that the host is there with those."""
        with self._lock:
            place = self._place(host, network_id)
            place.announced.update((port.key, port.revision) for port in others if port.active)
            place.announced.update((port.key, port.revision) for port in own)

    def sent_table(self, host: str, network_id: str, present: Iterable[KnownPort]) -> None:
        """The host has got the table, made when these were there."""
        with self._lock:
            place = self._place(host, network_id)
            place.tabled = True
            place.served = {port.key for port in present}
            place.served_until = self._clock() + _SERVED

    def take_served(self, host: str, network_id: str, key: str) -> bool:
        """Whether a port that asks for the table has just got it with another's. Once a table."""
        with self._lock:
            place = self._places.get((host, network_id))
            if place is None or place.served_until < self._clock() or key not in place.served:
                return False
            place.served.discard(key)
            place.served_until = self._clock() + _SERVED
            return True

    def forget(self, host: str, network_id: str, key: str) -> None:
        """The port is being wired anew, or gone."""
        with self._lock:
            place = self._places.get((host, network_id))
            if place is not None:
                place.announced.pop(key, None)
                if not place.announced:
                    del self._places[host, network_id]

    def leave(self, host: str, network_id: str) -> None:
        """The host is out of the network."""
        with self._lock:
            self._places.pop((host, network_id), None)

    def _place(self, host: str, network_id: str) -> _HostNetwork:
        place = self._places.setdefault((host, network_id), _HostNetwork())
        self._places.move_to_end((host, network_id))
        if len(self._places) > _SIZE:
            self._places.popitem(last=False)
        return place

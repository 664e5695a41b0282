"""Where the integration bridge believes machines to be, against what was announced.

The bridge learns: one frame that a guest sends from the address of a machine elsewhere, and for the
guest's neighbours that machine is behind the guest's port, until it speaks itself. No flow of the
tunnel bridge can help it, for such frames need not come there. So the bridge's MAC table is looked
at, and what is announced elsewhere and believed to be at a port of this host is pinned to the patch
port (``fdb/add``, Open vSwitch 2.16) until the announcement goes. The other way round, what is
announced to be here and believed to be behind the tunnel, from the time before, is forgotten.

A machine that has just moved here and whose message has not come yet looks like such a guest; with
its message the pin goes.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ovs_l2pop.backends.openvswitch.appctl import Appctl
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.table import Fact, LocalFact, UnicastFact

#: Seconds from one look to the next.
_PERIOD = 1.0
#: Of the time, what looking may take.
_SHARE = 0.1
#: Seconds until a look that failed is tried again.
_PAUSE = 5.0
#: Pins that are told by name.
_TOLD = 3

Where = Callable[[int, str], Fact | None]  #: what is announced of a MAC in a local VLAN


class _Entry(NamedTuple):
    port: str  #: OpenFlow number, or LOCAL
    vlan: int
    mac: str
    static: bool


class Sightings:
    """One integration bridge.

    :param appctl: the switch that it is in.
    :param bridge: its name.
    :param patch: its port towards the tunnel bridge.
    """

    def __init__(self, appctl: Appctl, bridge: str, patch: str) -> None:
        self._appctl, self._bridge, self._patch = appctl, bridge, patch
        #: Machines that were seen elsewhere than announced, by local VLAN and MAC; for people.
        self._pins: dict[tuple[int, str], str] = {}
        self._next_look = 0.0
        #: Why the bridge's table can't be looked at or changed.
        self.trouble: str | None = None

    def close(self) -> None:
        self._appctl.close()

    def look(self, where: Where, ports: Mapping[str, int]) -> list[str]:
        """Compare and put right, unless the last look was just now.

        :param ports: port name → OpenFlow number on the bridge.
        :returns: what was found otherwise than announced, each once while it lasts.
        """
        started = time.monotonic()
        if started < self._next_look or self._patch not in ports:
            return []
        found: list[str] = []
        try:
            self._compare(where, ports, found)
            self.trouble = None
        except BackendError as error:
            self.trouble = str(error)
        pause = _PAUSE if self.trouble else _PERIOD
        self._next_look = started + max((time.monotonic() - started) / _SHARE, pause)
        return found

    def released(self, vlan: int, mac: str) -> None:
        """The announcement that a pin keeps is gone. At once: the machine may be here now."""
        if (vlan, mac) in self._pins:
            with contextlib.suppress(BackendError):  # the next look does it
                self._forget(_Entry("", vlan, mac, True))
                del self._pins[vlan, mac]

    def told(self) -> str | None:
        """What is kept where it was announced, for people."""
        if not self._pins:
            return None
        texts = list(self._pins.values())
        more = [f"{len(texts) - _TOLD} more"] if len(texts) > _TOLD else []
        return "kept where they were announced: " + "; ".join([*texts[:_TOLD], *more])

    def _compare(self, where: Where, ports: Mapping[str, int], found: list[str]) -> None:
        patch = str(ports[self._patch])
        names = {str(number): name for name, number in ports.items()}
        pins: dict[tuple[int, str], str] = {}
        for entry in _entries(self._appctl.command("fdb/show", self._bridge)):
            key = entry.vlan, entry.mac
            fact = where(*key)
            if isinstance(fact, UnicastFact):
                if entry.port == patch and entry.static:
                    pins[key] = self._pins.get(key) or f"{_whose(fact)}, pinned before this start"
                elif entry.port != patch and not entry.static:  # static: somebody's own word
                    port = names.get(entry.port, entry.port)
                    pins[key] = f"{_whose(fact)}, but {port} of {self._bridge} sent from it"
                    if self._pins.get(key) != pins[key]:
                        found.append(pins[key])
                        self._pins[key] = pins[key]
                    self._pin(entry)
            elif entry.port == patch and (isinstance(fact, LocalFact) or key in self._pins):
                self._forget(entry)
        self._pins = pins

    def _pin(self, entry: _Entry) -> None:
        self._appctl.command("fdb/add", self._bridge, self._patch, str(entry.vlan), entry.mac)

    def _forget(self, entry: _Entry) -> None:
        if not entry.static:  # only such can be deleted
            self._pin(entry)
        self._appctl.command("fdb/del", self._bridge, str(entry.vlan), entry.mac)


def _whose(fact: UnicastFact) -> str:
    network = fact.attachment
    return (
        f"{fact.mac} of network {network.network_id} (local VLAN {network.local_vlan}) is announced"
        f" at {fact.vtep}"
    )


def _entries(text: str) -> Iterator[_Entry]:
    """The lines of ``fdb/show``: port, VLAN, MAC, age or "static" (negative where the bridge's
    aging time was changed since)."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) == 4 and words[1].isdecimal():
            port, vlan, mac, age = words
            yield _Entry(port, int(vlan), mac, age == "static" or age.startswith("-"))

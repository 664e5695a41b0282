"""What frames take at a host, and when the switch has cached nothing: ours, Neutron's flows and,
with `make bench AGAINST=<commit>`, that version, in one run and by turns."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from conftest import Report
from test_against import OTHER

from l2pop_lab.compare.dataplanes import LinuxBridge, Openvswitch
from l2pop_lab.compare.responders import NeighSuppress, NeutronFlows
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.streams import BLUE, machine_addresses, machine_mac
from l2pop_lab.compare.traffic import question
from l2pop_lab.topology import Host, Lab, craft
from l2pop_lab.topology.capture import Capture
from l2pop_lab.topology.frames import decode

ROUNDS = 40
PAUSE = 0.002


class Released(Side):
    """Hosts with agents of another version."""

    def launch_agents(self, **options: object) -> None:
        for host in self.hosts:
            self.agents[host.name] = host.start_agent(source=Path(OTHER), wait=False)


def ours(kind: type[Side], dataplane: type[Openvswitch | LinuxBridge], lab: Lab) -> Side:
    side = kind(lab, lab.hosts, dataplane())
    side.launch_agents()
    side.wait_for_agents()
    return side


Make = Callable[[Lab], Side]
SIDES: dict[str, dict[str, Make]] = {
    "openvswitch": {
        "ours": partial(ours, Side, Openvswitch),
        "other version": partial(ours, Released, Openvswitch),
        "Neutron's flows": NeutronFlows,
    },
    "linuxbridge": {
        "ours": partial(ours, Side, LinuxBridge),
        "other version": partial(ours, Released, LinuxBridge),
        "neigh_suppress": NeighSuppress,
    },
}


def until(capture: Capture, wanted: Callable[[bytes], bool], since: int) -> float:
    """When the first such frame was seen, of those after *since*; NaN: none was."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        for frame in capture.frames[since:]:
            if wanted(frame.data):
                return frame.time
        time.sleep(0.0005)
    return float("nan")


class Measured:
    """One side: h1 is looked at, h2 is a machine elsewhere."""

    def __init__(self, side: Side, stack: ExitStack) -> None:
        side.populate(BLUE, (1, 2))
        self._host: Host = side.hosts[0]
        self._one, self._two = side.machine(1), side.machine(2)
        self._guest = stack.enter_context(self._one.capture("both"))
        self._wire = stack.enter_context(self._host.capture(direction="both"))
        self._number = 0

    def forget(self) -> None:
        """Have the switch cache nothing."""
        self._host.appctl("revalidator/purge")

    def question(self, six: bool) -> float:
        """From a question on the machine's port to the answer on it."""
        address = machine_addresses(2)[six]
        since = len(self._guest.frames)
        self._one.send(question(self._one, address))
        mac = machine_mac(2)

        def answered(data: bytes) -> bool:
            return decode(data).source == mac and data[:6] != b"\xff" * 6

        end = until(self._guest, answered, since)
        start = until(self._guest, lambda data: bool(data[0] & 1), since)
        return end - start

    def out(self) -> float:
        """From a machine's port to the wire."""
        text = self._text()
        since, sent = len(self._wire.frames), len(self._guest.frames)
        self._one.send(craft.text(machine_mac(2), self._one.mac, text.decode()))
        end = until(self._wire, lambda data: text in data, since)
        return end - until(self._guest, lambda data: text in data, sent)

    def into(self, to_all: bool) -> float:
        """From the wire to a machine's port."""
        text = self._text()
        since, came = len(self._guest.frames), len(self._wire.frames)
        to = "ff:ff:ff:ff:ff:ff" if to_all else self._one.mac
        self._two.send(craft.text(to, self._two.mac, text.decode()))
        end = until(self._guest, lambda data: text in data, since)
        return end - until(self._wire, lambda data: text in data, came)

    def announced(self) -> float:
        """The same of a gratuitous ARP."""
        since, came = len(self._guest.frames), len(self._wire.frames)
        self._number += 1
        address = f"10.1.{self._number >> 8}.{self._number & 255}"
        frame = craft.arp_request(self._two.mac, address, address)
        self._two.send(frame)
        end = until(self._guest, lambda data: frame[:42] in data, since)
        return end - until(self._wire, lambda data: frame[:42] in data, came)

    def _text(self) -> bytes:
        self._number += 1
        return b"frame %06d." % self._number


@pytest.fixture(params=["openvswitch", "linuxbridge"])
def measured(request: pytest.FixtureRequest) -> Iterator[dict[str, Measured]]:
    linux = request.param == "linuxbridge"
    with ExitStack() as stack:
        found = {}
        for name, make in SIDES[request.param].items():
            if name == "other version" and not OTHER:
                continue
            lab = stack.enter_context(Lab(2, linuxbridge=[1, 2] if linux else []))
            side = make(lab)
            if hasattr(side, "close"):
                stack.enter_context(closing(side))
            found[name] = Measured(side, stack)
        yield found


def test_what_frames_take(
    request: pytest.FixtureRequest, measured: dict[str, Measured], report: Report
) -> None:
    kind = request.node.callspec.params["measured"]
    steps: dict[str, Callable[[Measured], float]] = {
        "ARP question": lambda side: side.question(six=False),
        "ND question": lambda side: side.question(six=True),
        "unicast into a tunnel": Measured.out,
        "unicast out of a tunnel": lambda side: side.into(to_all=False),
        "broadcast out of a tunnel": lambda side: side.into(to_all=True),
        "announcement out of a tunnel": Measured.announced,
    }
    for cached in (True, False) if kind == "openvswitch" else (True,):
        for what, step in steps.items():
            times: dict[str, list[float]] = {name: [] for name in measured}
            for turn in range(ROUNDS):
                for name in list(measured) if turn % 2 else reversed(measured):
                    if not cached:
                        measured[name].forget()
                    time.sleep(PAUSE)
                    took = 1e6 * step(measured[name])
                    if turn > 3:
                        times[name].append(took)
            told = ", ".join(f"{name} {statistics.median(t):.0f} µs" for name, t in times.items())
            report(f"{kind}, {'cached' if cached else 'not cached'}, {what}: {told}")

"""What goes wrong between the backend and a real kernel: lost, refused, half written.

The backend runs here, in a host's namespace, behind the shared reconciler; the fault is put between
it and the kernel.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest
from feed_helpers import FLOODING, Net
from linuxbridge_helpers import attach, bridge_of, flooding, link, neighbours, unicast

from l2pop_lab.topology import Host, Lab, namespaces
from ovs_l2pop.backends.linuxbridge import probe
from ovs_l2pop.backends.linuxbridge.backend import LinuxBridgeBackend
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings
from ovs_l2pop.backends.linuxbridge.probe import Missing
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Parser
from ovs_l2pop.core.reconciler import Drift, Reconciler
from ovs_l2pop.core.table import ForwardingTable
from ovs_l2pop.core.wire import Message
from ovs_l2pop.netlink.messages import Message as Request
from ovs_l2pop.netlink.socket import Failure, Netlink

T = TypeVar("T")

NET = Net(1, 77)
A, B, C = "10.200.0.11", "10.200.0.12", "10.200.0.13"
NEWNEIGH = 28


class Node:
    """Table, reconciler and backend of a host, each call in its namespace."""

    def __init__(self, host: Host, missing: Callable[[], Missing] = probe.missing) -> None:
        self.host = host
        settings = LinuxBridgeSettings(host.vtep, ("vxlan",), True, True, 4789, 0, 0, ())
        self.backend = LinuxBridgeBackend(settings, missing)
        self.table = ForwardingTable(host.vtep)
        self.reconciler = Reconciler(self.table, self.backend)

    def resync(self) -> dict[Row, str]:
        return self._call(lambda: dict(self.reconciler.resync()))

    def tell(self, *messages: Message) -> dict[str, str]:
        """What was refused, as people read it."""
        for message in messages:
            changes, refusals = Parser(self.host.vtep).parse(message)
            assert refusals == []
            for change in changes:
                assert self.table.apply(change) is None
        refused = self._call(self.reconciler.follow)
        texts = ((self.backend.describe(row), why) for row, why in refused.items())
        return {f"{text.kind} {text.what} {text.does}": why for text, why in texts}

    def drift(self) -> Drift:
        return self._call(self.reconciler.drift)

    def _call(self, function: Callable[[], T]) -> T:
        return namespaces.call(self.host.namespace, function)


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(1, linuxbridge=[1]).hosts[0]


@pytest.fixture
def node(host: Host) -> Iterator[Node]:
    node = Node(host)
    assert node.resync() == {}
    yield node
    node.backend.close()


def entries(count: int) -> list[list[str]]:
    return [
        [f"fa:16:3e:00:{n >> 8:02x}:{n & 255:02x}", f"10.1.{n >> 8}.{n & 255}"]
        for n in range(1, count)
    ]


Write = Callable[[Netlink, Iterable[Request]], list[Failure]]
real_write: Write = Netlink.write


def swallow(monkeypatch: pytest.MonkeyPatch, lost: Callable[[int], bool], times: int) -> None:
    """Have messages about entries get lost, by their number, in the first *times* large writes."""
    left = [times]

    def write(self: Netlink, messages: Iterable[Request]) -> list[Failure]:
        given = list(messages)
        new = [message.kind == NEWNEIGH for message in given]
        if sum(new) > 20 and left[0]:
            left[0] -= 1
            given = [m for n, m in enumerate(given) if not (new[n] and lost(n))]
        return real_write(self, given)

    monkeypatch.setattr(Netlink, "write", write)


def test_lost_entries_are_written_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """FRR has seen it: the kernel acknowledges, and doesn't have them."""
    node.tell(attach(NET))
    swallow(monkeypatch, lambda n: n % 7 == 3, times=1)
    assert node.tell(NET.add({A: [FLOODING, *entries(500)]})) == {}
    monkeypatch.undo()
    assert len(unicast(node.host, "vxlan-77")) == 499
    assert len(neighbours(node.host, bridge_of(NET))) == 499
    assert node.drift() == Drift([], [])


def test_entries_that_are_lost_again_are_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.tell(attach(NET))
    swallow(monkeypatch, lambda n: n < 60, times=2)
    refused = node.tell(NET.add({A: [FLOODING, *entries(500)]}))
    assert set(refused.values()) == {"written, but the kernel doesn't have it"}
    assert 0 < len(refused) <= 60
    monkeypatch.undo()
    node.reconciler.retry_refused()
    node.tell(NET.add({B: [FLOODING]}))
    assert len(unicast(node.host, "vxlan-77")) == 499
    assert node.drift() == Drift([], [])


def test_an_answer_gets_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known then; to read back and to write the difference puts it right."""
    node.tell(attach(NET))
    real = Netlink._receive
    calls = []

    def receive(self: Netlink) -> bytes:
        calls.append(1)
        if len(calls) == 4:
            raise BackendError("the kernel's answer got lost: No buffer space available")
        return real(self)

    monkeypatch.setattr(Netlink, "_receive", receive)
    with pytest.raises(BackendError, match="got lost"):
        node.tell(NET.add({A: [FLOODING, *entries(500)]}))
    assert node.resync() == {}
    assert len(unicast(node.host, "vxlan-77")) == 499
    assert node.drift() == Drift([], [])


def refuse(monkeypatch: pytest.MonkeyPatch, bad: Callable[[Request], bool]) -> None:
    """Have the kernel refuse some messages."""

    def write(self: Netlink, messages: Iterable[Request]) -> list[Failure]:
        given = list(messages)
        failures = [Failure(n, errno.ENOMEM, "no room") for n, m in enumerate(given) if bad(m)]
        places = [n for n, message in enumerate(given) if not bad(message)]
        done = real_write(self, [given[n] for n in places])
        failures += [failure._replace(place=places[failure.place]) for failure in done]
        return sorted(failures)

    monkeypatch.setattr(Netlink, "write", write)


def address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def test_one_vtep_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get their copies, and keep them over later writes; then it is taken."""
    node.tell(attach(NET), NET.add({A: [FLOODING]}))
    refuse(monkeypatch, lambda message: message.kind == NEWNEIGH and address(B) in message.body)
    refused = node.tell(NET.add({B: [FLOODING], C: [FLOODING]}))
    assert any("Cannot allocate memory: no room" in why for why in refused.values())
    assert flooding(node.host, "vxlan-77") == [A, C]
    node.tell(NET.add({C: [["fa:16:3e:00:00:01", "10.0.0.1"]]}))
    assert flooding(node.host, "vxlan-77") == [A, C]
    monkeypatch.undo()
    node.reconciler.retry_refused()
    assert node.tell(NET.add({C: [["fa:16:3e:00:00:02", "10.0.0.2"]]})) == {}
    assert flooding(node.host, "vxlan-77") == [A, B, C]
    assert node.drift() == Drift([], [])


def test_one_entry_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.tell(attach(NET))
    refuse(monkeypatch, lambda m: m.kind == NEWNEIGH and bytes.fromhex("fa163e000005") in m.body)
    refused = node.tell(NET.add({A: [FLOODING, *entries(100)]}))
    assert sorted(refused) == [
        "neighbour 10.1.0.5 fa:16:3e:00:00:05",
        f"unicast fa:16:3e:00:00:05 to {A}, known to the bridge",
    ]
    assert len(unicast(node.host, "vxlan-77")) == len(neighbours(node.host, bridge_of(NET))) == 98


def test_a_change_that_an_old_kernel_cannot_make(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device takes the tunnel's place, with all its entries."""
    node.tell(attach(NET), NET.add({A: [FLOODING, *entries(100)]}))
    before = unicast(node.host, "vxlan-77"), neighbours(node.host, bridge_of(NET))
    number = link(node.host, "vxlan-77")["ifindex"]
    ttl = b"\x05\0\x05\0\x09"  # IFLA_VXLAN_TTL

    def write(self: Netlink, messages: Iterable[Request]) -> list[Failure]:
        given = list(messages)
        for place, message in enumerate(given):
            if ttl in message.body and not message.flags:  # no NLM_F_CREATE: a change
                return [Failure(place, errno.EOPNOTSUPP, "Cannot change")]
        return real_write(self, given)

    monkeypatch.setattr(Netlink, "write", write)
    node.backend._settings = LinuxBridgeSettings(
        node.host.vtep, ("vxlan",), True, True, 4789, 9, 0, ()
    )
    assert node.resync() == {}
    assert link(node.host, "vxlan-77")["ifindex"] != number
    assert link(node.host, "vxlan-77")["linkinfo"]["info_data"]["ttl"] == 9
    assert (unicast(node.host, "vxlan-77"), neighbours(node.host, bridge_of(NET))) == before
    assert node.drift() == Drift([], [])


def test_the_bridge_answers_where_the_kernel_has_no_programs(host: Host) -> None:
    """Announcements that it keeps are the price, and it is said."""
    node = Node(host, lambda: Missing(programs="clsact"))
    node.resync()
    node.tell(attach(NET), NET.add({A: [["fa:16:3e:00:00:01", "10.0.0.1"]]}))
    assert link(host, "vxlan-77")["linkinfo"]["info_slave_data"]["neigh_suppress"] is True
    assert host.exec("tc", "filter", "show", "dev", "vxlan-77", "ingress") == ""
    assert node.drift() == Drift([], [])
    node.backend.close()


def test_filters_of_others(node: Node) -> None:
    """Beside ours they stay, also when ours go; a bridge of somebody else's is used."""
    run, name = node.host.exec, "br-op"
    run("ip", "link", "add", name, "type", "bridge")
    node.tell(attach(NET, name))
    places = (("vxlan-77", "ingress"), ("vxlan-77", "egress"))
    theirs = ("pref", "10", "bpf", "da", "bytecode", "1,6 0 0 4294967295,")
    for device, way in places:
        run("tc", "filter", "add", "dev", device, way, *theirs)
    assert node.drift() == Drift([], [])
    node.backend._settings = LinuxBridgeSettings(
        node.host.vtep, ("vxlan",), True, False, 4789, 0, 0, ()
    )
    assert node.resync() == {}
    for device, way in places:
        left = run("tc", "filter", "show", "dev", device, way)
        assert "pref 10" in left
        assert "l2pop" not in left


def test_a_place_for_filters_that_has_one_way_only(node: Node) -> None:
    """A qdisc of somebody else's on the tunnel: nothing is answered."""
    node.tell(attach(NET), NET.add({A: entries(3)}))
    run = node.host.exec
    run("tc", "qdisc", "del", "dev", "vxlan-77", "clsact")
    run("tc", "qdisc", "add", "dev", "vxlan-77", "ingress")
    reasons = [*node.resync().values()]
    assert "no responder: Invalid argument" in reasons[0]
    assert reasons[1:] == ["kept, though it is not as it should be"]
    assert run("tc", "filter", "show", "dev", "vxlan-77", "ingress") == ""
    assert node.tell(NET.add({A: entries(5)})) == {}
    assert len(unicast(node.host, "vxlan-77")) == 4
    run("tc", "qdisc", "del", "dev", "vxlan-77", "ingress")
    assert node.resync() == {}
    assert node.drift() == Drift([], [])


def test_a_device_vanishes_between_two_writes(node: Node) -> None:
    node.tell(attach(NET), NET.add({A: [FLOODING]}))
    node.host.exec("ip", "link", "delete", "vxlan-77")
    with pytest.raises(BackendError, match="the tunnel vxlan-77 was taken away"):
        node.tell(NET.add({A: entries(3)}))
    assert node.resync() == {}
    assert len(unicast(node.host, "vxlan-77")) == 2


def test_the_probe_finds_everything_here_and_leaves_nothing(host: Host) -> None:
    before = host.exec("ip", "-o", "link")
    assert namespaces.call(host.namespace, probe.missing) == Missing()
    assert host.exec("ip", "-o", "link") == before


@pytest.mark.parametrize(
    ("pattern", "field", "said"),
    [
        (b"bridge\0", "tunnels", "devices of the kind bridge"),
        (b"vxlan\0", "tunnels", "devices of the kind vxlan"),
        (bytes(map(int, (192, 0, 2, 2))), "unicast", "several flooding entries"),
        (bytes(map(int, (192, 0, 2, 3))), "neighbours", "neighbours of bridges"),
        (bytes(map(int, (239, 0, 0, 1))), "multicast", "groups of vxlan devices"),
        (b"clsact\0", "programs", "clsact and bpf"),
        (b"l2pop_leave\0", "programs", "clsact and bpf"),
    ],
)
def test_the_probe_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, pattern: bytes, field: str, said: str
) -> None:
    refuse(monkeypatch, lambda message: pattern in message.body)
    missing = probe.missing()
    assert said in getattr(missing, field)
    assert "Cannot allocate memory" in getattr(missing, field)
    others = {name: text for name, text in missing._asdict().items() if name != field}
    assert set(others.values()) == {""}

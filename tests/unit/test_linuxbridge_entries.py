"""What the kernel lists, as rows: in the layout that it has, and in any other."""

import struct
from ipaddress import ip_address

import pytest
from builders import IP1, IP6, MAC1, MAC2, MAC3, A, B

from ovs_l2pop.backends.linuxbridge import entries
from ovs_l2pop.backends.linuxbridge.rows import (
    LOOSE,
    PROTOCOL,
    Flood,
    Neighbour,
    Unicast,
    address_attribute,
    mac_attribute,
)
from ovs_l2pop.netlink.messages import Message, attribute

TUNNEL, BRIDGE = 7, 6
SELF, EXTERN_LEARN, STICKY = 0x02, 0x10, 0x40
PERMANENT, REACHABLE, STATIC = 0x80, 0x02, 0x40
TUNNELS = {TUNNEL: "vxlan-1"}
NOBODY = "00:00:00:00:00:00"
CACHE_INFO, PROBES = attribute(3, bytes(16)), attribute(4, bytes(4))


class Listing:
    """A kernel that lists what it is given."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = bodies
        self.asked = 0

    def dump(self, message: Message) -> list[bytes]:
        self.asked += 1
        family = message.body[0]
        return [body for body in self.bodies if body[0] == family]


def entry(
    mac: str,
    vtep: str | None = None,
    flags: int = SELF | EXTERN_LEARN,
    state: int = PERMANENT,
    index: int = TUNNEL,
    turned: bool = False,
) -> bytes:
    head = struct.pack("=BxxxiHBB", 7, index, state, flags, 1)
    parts = [mac_attribute(mac), *([address_attribute(vtep)] if vtep else []), CACHE_INFO]
    return head + b"".join(reversed(parts) if turned else parts)


def bridged(mac: str, flags: int = EXTERN_LEARN | STICKY, state: int = STATIC) -> bytes:
    return entry(mac, None, flags, state) + attribute(9, struct.pack("=I", BRIDGE))


def unicast(mac: str, vtep: str, known: bool) -> Unicast:
    return Unicast("vxlan-1", mac_attribute(mac) + address_attribute(vtep), known)


def read(*bodies: bytes) -> set[Flood | Unicast]:
    return entries.forwarding(Listing(*bodies), TUNNELS)  # type: ignore[arg-type]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("vtep", [A, "2001:db8::2"])
def test_entries(vtep: str, turned: bool) -> None:
    assert read(entry(MAC1, vtep, turned=turned)) == {unicast(MAC1, vtep, False)}
    found = read(entry(MAC1, vtep, turned=turned), bridged(MAC1), bridged(MAC2))
    half = Unicast("vxlan-1", mac_attribute(MAC2), True)
    assert found == {unicast(MAC1, vtep, True), half}
    assert (half.mac, half.vtep) == (MAC2, "")


ODD = {
    "not permanent": entry(MAC1, A, state=REACHABLE),
    "flags 0x92": entry(MAC1, A, flags=SELF | EXTERN_LEARN | 0x80),
    "port 4790": entry(MAC1, A) + attribute(6, struct.pack("!H", 4790)),
    "vni 5 device 3": (
        struct.pack("=BxxxiHBB", 7, TUNNEL, PERMANENT, SELF | EXTERN_LEARN, 1)
        + mac_attribute(MAC1)
        + address_attribute(A)
        + attribute(7, struct.pack("=I", 5))
        + attribute(8, struct.pack("=I", 3))
        + CACHE_INFO
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_about_an_entry_of_ours(odd: str) -> None:
    body = ODD[odd]
    if odd == "port 4790":  # where the kernel has it
        body = body[:32] + body[52:] + body[32:52]
    assert read(body) == {unicast(MAC1, A, False)._replace(odd=odd)}


def test_an_entry_that_the_bridge_would_let_move() -> None:
    for half in (bridged(MAC1, EXTERN_LEARN, REACHABLE), bridged(MAC1, EXTERN_LEARN | STICKY, 2)):
        assert read(entry(MAC1, A), half) == {unicast(MAC1, A, True)._replace(odd=LOOSE)}
        assert read(half) == {Unicast("vxlan-1", mac_attribute(MAC1), True, LOOSE)}


def test_an_attribute_between_mac_and_vtep() -> None:
    """As a device has that was moved to another namespace."""
    head = struct.pack("=BxxxiHBB", 7, TUNNEL, PERMANENT, SELF | EXTERN_LEARN, 1)
    body = head + mac_attribute(MAC1) + attribute(10, bytes(4)) + address_attribute(A)
    assert read(body) == {unicast(MAC1, A, False)}


def test_flooding_entries() -> None:
    for addresses in ((A, B), ("239.1.1.1",), ("2001:db8::2", "2001:db8::3"), ("ff05::1",)):
        bodies = [entry(NOBODY, address, SELF) for address in reversed(addresses)]
        assert read(*bodies) == {Flood("vxlan-1", addresses)}
    assert read(entry(NOBODY, None, SELF)) == set()
    odd = entry(NOBODY, A, SELF) + attribute(7, struct.pack("=I", 5))
    assert read(odd, entry(NOBODY, B, SELF)) == {Flood("vxlan-1", (f"{A} vni 5", B))}
    # What ages, or is marked as what can be replaced one by one, is not as ours.
    assert read(entry(NOBODY, A, SELF, REACHABLE), entry(NOBODY, B)) == set()


def test_a_copy_is_deleted_as_it_was_listed() -> None:
    one = entries.delete_flood(f"{A} port 4790 vni 5", TUNNEL)
    assert one.body.endswith(
        address_attribute(A)
        + attribute(6, struct.pack("!H", 4790))
        + attribute(7, struct.pack("=I", 5))
    )


@pytest.mark.parametrize(
    "body",
    [
        entry(MAC1, A, SELF),  # written by somebody else
        entry(MAC1, A, SELF, REACHABLE),  # learned
        entry(MAC1, A, index=99),  # on somebody else's device
        entry(NOBODY, A, SELF, index=99),
        bridged(MAC1, flags=0, state=REACHABLE),  # learned by the bridge
        bridged(MAC1, flags=STICKY),  # pinned by somebody else
    ],
)
def test_what_is_not_ours(body: bytes) -> None:
    assert read(body) == set()


def neighbour(
    ip: str,
    mac: str = MAC1,
    protocol: int | None = PROTOCOL,
    state: int = PERMANENT,
    index: int = BRIDGE,
    turned: bool = False,
) -> bytes:
    head = struct.pack("=BxxxiHBB", 10 if ":" in ip else 2, index, state, 0, 1)
    parts = [address_attribute(ip), mac_attribute(mac), PROBES, CACHE_INFO]
    parts += [] if protocol is None else [attribute(12, bytes([protocol]))]
    return head + b"".join(reversed(parts) if turned else parts)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("ip", [IP1, IP6])
def test_neighbours(ip: str, turned: bool) -> None:
    places = {BRIDGE: ("vxlan-1", "brq1")}
    listing = Listing(
        neighbour(ip, turned=turned),
        neighbour(str(ip_address(ip) + 1), protocol=None, turned=turned),
        neighbour(str(ip_address(ip) + 2), protocol=11, turned=turned),
        neighbour(str(ip_address(ip) + 4), index=99, turned=turned),
    )
    (found,) = entries.neighbours(listing, places)  # type: ignore[arg-type]
    assert found == Neighbour("vxlan-1", "brq1", address_attribute(ip) + mac_attribute(MAC1))
    assert (found.ip, found.mac) == (ip, MAC1)
    listing = Listing(neighbour(ip, state=REACHABLE, turned=turned))
    (odd,) = entries.neighbours(listing, places)  # type: ignore[arg-type]
    assert odd == found._replace(odd="not permanent")


@pytest.mark.parametrize("vtep", [A, "2001:db8::2"])
def test_what_was_lost(vtep: str) -> None:
    """Of rows that were just written: none, its VTEP is another one, or its half is missing."""
    good, gone, wrong, half = (
        Unicast("vxlan-1", mac_attribute(mac) + address_attribute(vtep), True)
        for mac in (MAC1, MAC2, MAC3, "fa:16:3e:00:00:04")
    )
    other = B if vtep == A else "2001:db8::3"
    listing = Listing(
        entry(MAC1, vtep),
        bridged(MAC1),
        entry(MAC3, other),
        bridged(MAC3),
        entry("fa:16:3e:00:00:04", vtep),
    )
    lost = entries.lost_unicasts(listing, {TUNNEL: [good, gone, wrong, half]})  # type: ignore[arg-type]
    assert lost == [gone, wrong, half]


def test_neighbours_that_were_lost() -> None:
    rows = [
        Neighbour("vxlan-1", "brq1", address_attribute(ip) + mac_attribute(mac))
        for ip, mac in ((IP1, MAC1), (IP6, MAC1), ("10.0.0.9", MAC1), ("10.0.0.8", MAC1))
    ]
    listing = Listing(neighbour(IP1), neighbour(IP6), neighbour("10.0.0.8", MAC2))
    assert entries.lost_neighbours(listing, {BRIDGE: rows}) == rows[2:]  # type: ignore[arg-type]


def test_many_tables_are_listed_at_once() -> None:
    """To ask for one device, the kernel goes through all: for thousands that takes minutes."""
    unicasts = {index: [unicast(MAC1, A, False)] for index in range(10, 30)}
    neighbours = {
        index: [Neighbour("vxlan-1", "brq1", address_attribute(IP1) + mac_attribute(MAC1))]
        for index in range(40, 60)
    }
    listing = Listing(
        *(entry(MAC1, A, index=index) for index in unicasts if index != 17),
        *(neighbour(IP1, index=index) for index in neighbours if index != 44),
        entry(MAC1, A, index=99),
    )
    assert entries.lost_unicasts(listing, unicasts) == unicasts[17]  # type: ignore[arg-type]
    assert entries.lost_neighbours(listing, neighbours) == neighbours[44]  # type: ignore[arg-type]
    assert listing.asked == 2  # no IPv6 neighbour was written

"""What is written, and in which order, asked of the plan."""

import struct
from typing import Any

import pytest

from ovs_l2pop.backends.linuxbridge import entries, news, rows
from ovs_l2pop.backends.linuxbridge.links import Link, Vxlan
from ovs_l2pop.backends.linuxbridge.plan import (
    Place,
    RefusedError,
    addition,
    deletion,
    intruders,
    is_deserted,
    is_strangers,
    key,
    plan,
    replaces,
)
from ovs_l2pop.backends.linuxbridge.rows import (
    LOOSE,
    Bridge,
    Flood,
    Neighbour,
    Tunnel,
    Unicast,
    alias,
    mac_attribute,
    vtep_attribute,
)
from ovs_l2pop.backends.linuxbridge.writing import Write
from ovs_l2pop.core.difference import Row
from ovs_l2pop.netlink.messages import Message, attribute

N, M = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
T, BR = "vxlan-77", "brq11111111-11"
MAC, A, B = "fa:16:3e:00:00:01", "192.0.2.2", "192.0.2.3"
PLACE = Place(tunnel=3, bridge=2, bridge_name=BR, device=1)
TUNNEL = Tunnel(T, 77, N, BR, "192.0.2.1", "", "eth0", 4789, 0, 0, 1450, "on")
VXLAN = Vxlan(77, "192.0.2.1", "", 1, 4789, 0, 0, True, False)


def unicast(vtep: str = A, bridged: bool = True, odd: str = "") -> Unicast:
    return Unicast(T, mac_attribute(MAC) + (vtep_attribute(vtep) if vtep else b""), bridged, odd)


def link(number: int, name: str, owner: str | None = None, **more: Any) -> Link:
    values: dict[str, Any] = {
        "number": number,
        "name": name,
        "kind": "vxlan",
        "address": b"",
        "up": True,
        "loopback": False,
        "mtu": 1450,
        "master": 0,
        "group": 0,
        "suppress": False,
        "flood": True,
        "odd": (),
        "odd_port": (),
        "odd_sysctls": (),
        "port_forwards": True,
        "alias": "" if owner is None else alias(owner),
        "spanning": False,
        "bits": b"",
        "vxlan": VXLAN,
    }
    return Link(**values | more)


def bridge(owner: str | None = N) -> Link:
    return link(2, BR, owner, kind="bridge", vxlan=None)


class Marks(entries.Marked):
    """All that is asked for is there, with our mark or without."""

    def __init__(self, ours: bool = True) -> None:
        self._ours = ours

    def _ask(self, family: int, device: int, flags: int, key: bytes) -> bool:
        return self._ours


# -- batches -----------------------------------------------------------------------------------


def test_a_multicast_group_is_kept_until_there_are_vteps() -> None:
    before = TUNNEL._replace(group="239.0.0.77")
    planned = plan([TUNNEL, Flood(T, (A,))], [before])
    assert planned.tunnels == [before._replace(group="239.0.0.77")]
    assert planned.late == [TUNNEL], "given up behind the entries"
    assert planned.gone == []


def test_a_multicast_group_that_comes_is_there_at_once() -> None:
    planned = plan([TUNNEL._replace(group="239.0.0.77")], [TUNNEL])
    assert [row.group for row in planned.tunnels] == ["239.0.0.77"]
    assert planned.late == []


def test_devices_that_stay_are_not_deleted() -> None:
    gone = TUNNEL._replace(name="vxlan-78", vni=78)
    planned = plan([TUNNEL], [TUNNEL._replace(mtu=9000), gone, Bridge("brq2")])
    assert planned.gone == [gone, Bridge("brq2")]
    assert planned.kept == {BR}


def test_an_entry_that_takes_anothers_place_is_not_deleted_whole() -> None:
    before, after = unicast(A), unicast(B)
    planned = plan([after], [before])
    assert planned.replaced == {(T, before.key): before}
    assert planned.deleted == [(before, after)]


def test_what_is_no_row_is_told() -> None:
    with pytest.raises(TypeError, match="no row of this backend"):
        plan(["nonsense"], [])


# -- entries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "replace"),
    [
        (None, False),
        (unicast(B), True),
        (unicast(B, odd=LOOSE), True),
        (unicast(B, odd="not permanent"), False),
        (unicast(""), False),
    ],
)
def test_only_a_whole_entry_of_ours_is_replaced_in_place(
    before: Unicast | None, replace: bool
) -> None:
    first, hold = addition(unicast(A), PLACE, before)
    assert first == entries.add_unicast(unicast(A), PLACE.tunnel, replace=replace)
    assert hold == entries.hold(unicast(A), PLACE.tunnel)


def test_copies_that_are_there_are_not_written_again() -> None:
    assert list(addition(Flood(T, (A, B)), PLACE, Flood(T, (A,)))) == [
        entries.add_flood(B, PLACE.tunnel, PLACE.device)
    ]


def test_an_entry_is_deleted_where_it_leads_to_its_vtep_alone() -> None:
    """Whatever else there is of the MAC by now is somebody's who was told later."""
    own, half = deletion(unicast(A), None, PLACE, Marks(), populate=True)
    assert own.body.endswith(mac_attribute(MAC) + vtep_attribute(A))
    assert half == entries.delete_bridged(unicast(A), PLACE.tunnel)


def test_what_is_not_marked_as_ours_is_left() -> None:
    assert list(deletion(unicast(A), None, PLACE, Marks(ours=False), populate=True)) == []


def test_entries_that_are_no_longer_written_serve_until_others_are_learned() -> None:
    _, learned, _ = deletion(unicast(A), None, PLACE, Marks(), populate=False)
    assert learned == entries.keep_learned(unicast(A), PLACE.tunnel)


def test_a_half_that_another_entry_has_too_stays() -> None:
    assert list(deletion(unicast(A), unicast(B), PLACE, Marks(), populate=True)) == []


def test_copies_that_stay_are_not_deleted() -> None:
    gone = deletion(Flood(T, (A, B)), Flood(T, (A,)), PLACE, Marks(), populate=True)
    assert list(gone) == [entries.delete_flood(B, PLACE.tunnel, PLACE.device)]


# -- devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "master", "strangers"),
    [
        (link(3, T), None, True),
        (link(3, T), bridge(owner=None), True),
        (link(3, T), bridge(owner=M), True),
        (link(3, T), bridge(), False),
        (link(3, T, N), None, False),
        (link(3, T, N, vxlan=None), bridge(), True),
    ],
)
def test_a_device_of_somebody_elses_is_not_taken_over(
    device: Link, master: Link | None, strangers: bool
) -> None:
    assert is_strangers(device, master, TUNNEL) is strangers


def test_two_networks_are_not_in_one_bridge() -> None:
    other = link(4, "vxlan-78", M)
    with pytest.raises(RefusedError, match=f"has vxlan-78 of network {M} in it"):
        intruders(TUNNEL, bridge(), [link(3, T, N), other], {})
    with pytest.raises(RefusedError):
        intruders(TUNNEL, bridge(), [other], {"vxlan-78": BR})


def test_a_tunnel_that_goes_elsewhere_is_taken_out() -> None:
    other = link(4, "vxlan-78", M)
    beside = [link(3, T, N), link(5, "l2p-77", N), link(6, "tap1"), other]
    assert intruders(TUNNEL, bridge(), beside, {"vxlan-78": "brq2"}) == [other]
    assert intruders(TUNNEL, bridge(), beside, {"vxlan-78": ""}) == [other]


def test_only_an_empty_bridge_of_ours_is_deserted() -> None:
    tunnel, tap = link(3, T, N), link(6, "tap1")
    assert is_deserted(bridge(), [tunnel], {3})
    assert not is_deserted(bridge(), [tunnel, tap], {3})
    assert not is_deserted(bridge(owner=None), [tunnel], {3})


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({"vni": 78}, True),
        ({"port": 8472}, True),
        ({"proxy": True}, True),
        ({"local": "2001:db8::1"}, True),
        ({"network_id": M}, True),
        ({"network_id": ""}, False),
        ({"odd": ("udp6zerocsumrx",)}, True),
        ({"odd": ("txqueuelen",)}, False),
        ({"ttl": 9, "tos": 1, "local": "192.0.2.9", "mtu": 9000, "learning": False}, False),
    ],
)
def test_what_can_be_changed_is_not_replaced(change: dict[str, Any], another: bool) -> None:
    assert replaces(TUNNEL._replace(**change), TUNNEL) is another


# -- what is carried out -----------------------------------------------------------------------


class Kernel:
    """Takes all messages, and holds of the entries what it has not lost."""

    def __init__(self, loses: int) -> None:
        self.written: list[Message] = []
        self.loses = loses

    def write(self, messages: Any) -> list[Any]:
        self.written += messages
        return []


@pytest.mark.parametrize(("loses", "refused"), [(0, False), (1, False), (2, True)])
def test_what_the_kernel_lost_is_written_once_more(
    loses: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(loses)

    def lost(netlink: Kernel, by_tunnel: dict[int, list[Unicast]]) -> list[Unicast]:
        netlink.loses -= 1
        return by_tunnel[PLACE.tunnel] if netlink.loses >= 0 else []

    monkeypatch.setattr(entries, "lost_unicasts", lost)
    monkeypatch.setattr(entries, "lost_neighbours", lambda *_: [])
    write = Write(kernel, None, "", set())  # type: ignore[arg-type]
    write._places[T] = PLACE
    wanted: list[Row] = [unicast(A)]
    write._add(plan(wanted, []))
    before = len(kernel.written)
    write.read_back()
    assert (len(kernel.written) > before) is bool(loses)
    assert (unicast(A) in write.refused) is refused


# -- news --------------------------------------------------------------------------------------

_NEWNEIGH = 28
_AF_BRIDGE = 7
_SELF, _MASTER, _EXTERN_LEARN = 0x02, 0x04, 0x10
_REACHABLE, _PERMANENT = 0x02, 0x80


@pytest.mark.parametrize(
    ("state", "flags", "mac", "ours"),
    [
        (_REACHABLE, _SELF, MAC, False),  # learned by a tunnel
        (_REACHABLE, _MASTER, MAC, False),  # learned by a bridge
        (_PERMANENT, _SELF, MAC, True),
        (_PERMANENT, _SELF | _EXTERN_LEARN, MAC, True),
        (_REACHABLE, _SELF, "00:00:00:00:00:00", True),
    ],
)
def test_what_is_learned_is_no_news(state: int, flags: int, mac: str, ours: bool) -> None:
    body = struct.pack("=BxxxiHBB", _AF_BRIDGE, 3, state, flags, 0) + mac_attribute(mac)
    assert news.concerns(_NEWNEIGH, body) is ours


@pytest.mark.parametrize("protocol", [rows.PROTOCOL, 2])
def test_neighbours_of_ours_are_news(protocol: int) -> None:
    body = struct.pack("=BxxxiHBB", 2, 3, _PERMANENT, 0, 0) + attribute(12, bytes([protocol]))
    assert news.concerns(_NEWNEIGH, body) is (protocol == rows.PROTOCOL)


def test_neighbours_are_keyed_by_their_bridge() -> None:
    row = Neighbour(T, BR, b"\x08\x00\x01\x00" + bytes(4) + mac_attribute(MAC))
    assert plan([row], []).entries == [row]
    assert key(row) == (BR, row.key)


# -- found by mutants --------------------------------------------------------------------------


def test_each_kind_of_row_has_its_place_in_the_plan() -> None:
    guards = rows.Member(77, A), rows.Closed(77)
    big = rows.Oversized("tap1", BR, 1500, 1450)
    made = plan([guards[0], TUNNEL], [guards[1], TUNNEL._replace(mtu=1400), big, Bridge("brq2")])
    assert made.guards == ([guards[0]], [guards[1]])
    assert (made.tunnels, made.leaving) == ([TUNNEL], [TUNNEL._replace(mtu=1400)])
    assert (made.gone, made.kept, made.oversized) == ([Bridge("brq2")], {BR}, [big])


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("router", [False, True])
def test_a_neighbour_takes_the_place_of_ours_alone(before: bool, router: bool) -> None:
    row = Neighbour(T, BR, rows.address_attribute("fd00::1") + mac_attribute(MAC), "", router)
    (message,) = addition(row, PLACE, row if before else None)
    assert message == entries.add_neighbour(row, PLACE.bridge, replace=before)
    assert struct.unpack_from("=BxxxiHB", message.body) == (10, 2, 0x80, 0x80 if router else 0)

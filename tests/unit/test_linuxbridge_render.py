"""Facts as rows of a Linux bridge host."""

import json
import subprocess
import sys
from typing import Any

import pytest
from builders import IP1, IP6, MAC1, A, B, M, N
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.backends.linuxbridge import rows
from ovs_l2pop.backends.linuxbridge.render import LinkRenderer, Ways
from ovs_l2pop.backends.linuxbridge.rows import Flood, Neighbour, Tunnel, Unicast
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.table import (
    FloodFact,
    LocalFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)

WAYS = Ways(
    local="192.0.2.1",
    device="eth1",
    mtu=1450,
    port=4789,
    ttl=0,
    tos=0,
    populate=True,
    multicast=False,
    responder="on",
    nd=True,
    guarded=False,
)
HERE = Attachment(N, Segment("vxlan", 1001), None)
TUNNEL = Tunnel(
    name="vxlan-1001",
    vni=1001,
    network_id=N,
    bridge="brq11111111-11",
    local="192.0.2.1",
    group="",
    device="eth1",
    port=4789,
    ttl=0,
    tos=0,
    mtu=1450,
    responder="on",
)


def renderer(**changes: Any) -> LinkRenderer:
    ways = WAYS._replace(**changes)
    return LinkRenderer(ways, lambda vni: f"239.0.{vni >> 8}.{vni & 255}", rows.BridgeNames().of)


def test_a_network_and_its_vteps_are_one_device() -> None:
    one = renderer()
    assert one.rows(NetworkFact(HERE)) == one.rows(VtepFact(HERE, A)) == (TUNNEL,)


def test_who_may_send() -> None:
    one = renderer(guarded=True)
    assert one.rows(NetworkFact(HERE)) == (TUNNEL,)
    assert one.rows(NetworkFact(HERE, closed=True)) == (TUNNEL, rows.Closed(1001))
    assert one.rows(VtepFact(HERE, A)) == (TUNNEL, rows.Member(1001, A))


def test_unicast_mode() -> None:
    one = renderer()
    (entry,) = one.rows(UnicastFact(HERE, MAC1, A))
    assert isinstance(entry, Unicast)
    assert (entry.tunnel, entry.mac, entry.vtep, entry.bridged) == ("vxlan-1001", MAC1, A, True)
    assert one.rows(FloodFact(HERE, (A, B))) == (Flood("vxlan-1001", (A, B)),)
    for ip in (IP1, IP6):
        (neighbour,) = one.rows(NeighbourFact(HERE, ip, MAC1))
        assert isinstance(neighbour, Neighbour)
        assert (neighbour.bridge, neighbour.ip, neighbour.mac) == ("brq11111111-11", ip, MAC1)
        assert neighbour.tunnel == "vxlan-1001"


@pytest.mark.parametrize(("local", "nowhere"), [("192.0.2.1", "0.0.0.0"), ("2001:db8::1", "::")])
def test_a_machine_of_this_host(local: str, nowhere: str) -> None:
    (entry,) = renderer(local=local).rows(LocalFact(HERE, MAC1))
    assert isinstance(entry, Unicast)
    assert (entry.mac, entry.vtep, entry.bridged, entry.here) == (MAC1, nowhere, False, True)
    assert renderer(populate=False, multicast=True).rows(LocalFact(HERE, MAC1)) == ()


def test_without_responder() -> None:
    one = renderer(responder="off")
    assert one.rows(NetworkFact(HERE)) == (TUNNEL._replace(responder="off"),)
    (entry,) = one.rows(UnicastFact(HERE, MAC1, A))
    assert isinstance(entry, Unicast)
    assert entry.bridged  # no machine of this host takes it over
    assert one.rows(NeighbourFact(HERE, IP1, MAC1)) == ()


@pytest.mark.parametrize(
    ("everywhere", "said", "dropped"),
    [
        ("flood", None, False),
        ("flood", "drop", True),
        ("drop", None, True),
        ("drop", "flood", False),
    ],
)
def test_who_is_not_known(everywhere: str, said: str | None, dropped: bool) -> None:
    """What a network says comes first."""
    drops = everywhere == "drop"
    one = renderer(drop_unicast=drops, drop_neighbour=drops)
    network = HERE._replace(unknown_unicast=said, unknown_neighbour=said)
    there = one.rows(NetworkFact(network))[0]
    assert there == TUNNEL._replace(flood=not dropped, responder="alone" if dropped else "on")


@pytest.mark.parametrize("how", [{"responder": "answers"}, {"multicast": True}])
def test_who_is_not_known_must_be_asked_for(how: dict[str, Any]) -> None:
    """Where announcements don't go through, or a group is all that is known."""
    there = renderer(drop_neighbour=True, **how).rows(NetworkFact(HERE))[0]
    assert isinstance(there, Tunnel)
    assert there.responder == how.get("responder", "on")


def test_without_ipv6_in_the_kernel() -> None:
    one = renderer(nd=False)
    assert one.rows(NeighbourFact(HERE, IP6, MAC1)) == ()
    assert len(one.rows(NeighbourFact(HERE, IP1, MAC1))) == 1


def test_multicast_mode() -> None:
    one = renderer(multicast=True, populate=False, responder="off")
    assert one.rows(NetworkFact(HERE)) == (
        TUNNEL._replace(group="239.0.3.233", responder="off"),
        Flood("vxlan-1001", ("239.0.3.233",)),
    )
    assert one.rows(FloodFact(HERE, (A,))) == ()
    assert one.rows(UnicastFact(HERE, MAC1, A)) == ()
    assert one.rows(NeighbourFact(HERE, IP1, MAC1)) == ()


def test_multicast_with_population() -> None:
    """Where a kernel has no list of VTEPs for BUM traffic: only that goes to the group."""
    one = renderer(multicast=True)
    assert one.rows(FloodFact(HERE, (A,))) == ()
    assert len(one.rows(UnicastFact(HERE, MAC1, A))) == 1
    assert len(one.rows(NeighbourFact(HERE, IP1, MAC1))) == 1


def test_a_named_bridge() -> None:
    named = HERE._replace(bridge="br-prod")
    one = renderer()
    assert one.rows(NetworkFact(named)) == (TUNNEL._replace(bridge="br-prod"),)
    (neighbour,) = one.rows(NeighbourFact(named, IP1, MAC1))
    assert isinstance(neighbour, Neighbour)
    assert neighbour.bridge == "br-prod"


def test_facts_of_networks_mixed() -> None:
    """What is kept of the last network must not slip into the next one's rows."""
    there = Attachment(M, Segment("vxlan", 1002), None)
    one = renderer()
    for attachment, tunnel, bridge in [
        (HERE, "vxlan-1001", "brq11111111-11"),
        (there, "vxlan-1002", "brq22222222-22"),
    ] * 2:
        (entry,) = one.rows(UnicastFact(attachment, MAC1, A))
        (neighbour,) = one.rows(NeighbourFact(attachment, IP1, MAC1))
        assert isinstance(entry, Unicast)
        assert isinstance(neighbour, Neighbour)
        assert (entry.tunnel, neighbour.tunnel, neighbour.bridge) == (tunnel, tunnel, bridge)


@given(st.integers(1, 2**24 - 1), st.uuids())
def test_names_fit_a_device(vni: int, network_id: object) -> None:
    names = rows.tunnel_name(vni), rows.new_tunnel_name(vni), *rows.bridge_names(str(network_id))
    assert all(len(name) <= 15 for name in names)
    assert len(set(names)) == 4


def test_networks_whose_ids_begin_alike_have_a_bridge_each() -> None:
    """Whatever order they come in, and once they have it, for good."""
    ids = [f"00000000-0000-4000-8000-{number:012x}" for number in range(50)]
    names = rows.BridgeNames()
    first = {network_id: names.of(network_id) for network_id in ids}
    assert first[ids[0]] == "brq00000000-00"
    assert len(set(first.values())) == 50
    assert {network_id: names.of(network_id) for network_id in reversed(ids)} == first
    # After a restart they are found where they are.
    again = rows.BridgeNames()
    for network_id in ids[1:]:
        again.learn(network_id, first[network_id])
    again.learn(ids[0], "br-of-the-operator")
    assert {network_id: again.of(network_id) for network_id in reversed(ids)} == first


def test_whose_a_device_is() -> None:
    assert rows.owner(rows.alias(N)) == N
    assert rows.owner("ovs-l2pop") == ""
    assert rows.owner("ovs-l2pop and more words") == ""
    for text in ("", "ovs-l2population", "my ovs-l2pop", "network ovs-l2pop"):
        assert rows.owner(text) is None


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "255.0.0.7", "2001:db8::1", "fe80::1:2", "::ffff:1"]
)
def test_addresses_as_attributes(address: str) -> None:
    attribute = rows.address_attribute(address)
    assert len(attribute) % 4 == 0
    assert rows.address_text(attribute) == address


@pytest.mark.parametrize("module", ["rows", "render"])
def test_rendering_is_pure(module: str) -> None:
    """But for inet_pton()."""
    script = (
        "import importlib, json, sys\nbefore = set(sys.modules)\n"
        f"importlib.import_module('ovs_l2pop.backends.linuxbridge.{module}')\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    loaded = json.loads(done.stdout)
    impure = ("oslo_config", "pyroute2", "threading", "subprocess", "logging", "ctypes")
    assert [name for name in loaded if name.partition(".")[0] in impure] == []
    ours = {name.rpartition(".")[2] for name in loaded if ".linuxbridge." in name}
    assert ours <= {"rows", "render"}

"""The messages of ``ovs-l2pop compare``: what both sides get."""

import json

import pytest

from l2pop_lab.compare.streams import (
    BLUE,
    GENEVE,
    GRE,
    GREEN,
    QUICK,
    Sizes,
    bulk,
    bulk_networks,
    bulk_vteps_of_first,
    changes,
    encode,
    no_bulk,
    no_small,
    small,
    small_networks,
)
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.messages import FLOODING_MAC, Parser
from ovs_l2pop.core.wire import Message

SIZES = Sizes(entries=3000, networks=7, vteps=30)


def pairs(messages: list[Message]) -> list[tuple[str, str, str]]:
    """Network, MAC and IP of all machines."""
    return [
        (network, mac, ip)
        for message in messages
        if message["method"] == "add_fdb_entries"
        for network, body in message["fdb_entries"].items()
        for told in body["ports"].values()
        for mac, ip in told
        if mac != FLOODING_MAC
    ]


@pytest.mark.parametrize("entries", [1, 7, 1000, 3000])
def test_so_many_machines_each_once(entries: int) -> None:
    found = pairs(bulk(SIZES, entries))
    assert len(found) == entries
    assert len({mac for _, mac, _ in found}) == entries
    assert len({ip for _, _, ip in found}) == entries


def test_they_are_spread_over_all_networks_and_vteps() -> None:
    messages = bulk(SIZES, SIZES.entries)
    attached = [m["network_id"] for m in messages if m["method"] == "attach_network"]
    assert attached == [network.network_id for network in bulk_networks(SIZES)]
    for message in messages:
        for body in message.get("fdb_entries", {}).values():
            assert sorted(body["ports"]) == sorted(SIZES.bulk_vteps)
            assert all(told[0][0] == FLOODING_MAC for told in body["ports"].values())


def test_the_same_bytes_each_time() -> None:
    """A side that is written to for the second time gets what the other got at first."""
    assert encode(bulk(SIZES, 500)) == encode(bulk(SIZES, 500))
    assert encode(list(changes(SIZES, 5, 9))) == encode(list(changes(SIZES, 5, 9)))


@pytest.mark.parametrize("sizes", [SIZES, QUICK, Sizes(), Sizes(20_000, 1000, 240)])
def test_an_agent_accepts_all_of_it(sizes: Sizes) -> None:
    parser = Parser("10.200.0.1")
    messages = [*bulk(sizes, sizes.entries), *changes(sizes, 0, 300), *no_bulk(sizes)]
    messages += [*small(sizes), *no_small(sizes)]
    messages += [network.attach() for network in (BLUE, GREEN, GRE, GENEVE)]
    for line in encode(messages).splitlines():
        _, refusals = parser.parse(json.loads(line))
        assert list(refusals) == []


def test_networks_share_no_name_number_or_vlan() -> None:
    sizes = Sizes(networks=1000)
    networks = [BLUE, GREEN, GRE, GENEVE, *bulk_networks(sizes), *small_networks(sizes)]
    for seen in (
        {network.network_id[:11] for network in networks},  # a bridge's name
        {network.number for network in networks},
        {network.local_vlan for network in networks},
    ):
        assert len(seen) == len(networks)


def test_a_change_is_none_of_the_bulk() -> None:
    there = {(mac, ip) for _, mac, ip in pairs(bulk(SIZES, SIZES.entries))}
    changed = [(mac, ip) for _, mac, ip in pairs(list(changes(SIZES, 0, 1000)))]
    assert len(set(changed)) == 1000
    assert not there & set(changed)


def test_steps_grow_to_the_whole() -> None:
    assert SIZES.steps == (375, 750, 1500, 3000)
    assert bulk_vteps_of_first(SIZES, 3000) == 30
    assert bulk_vteps_of_first(SIZES, 14) == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(entries=0), "--entries 0: must be 1 to 200000"),
        (Sizes(vteps=241), "--vteps 241: must be 1 to 240"),
        (Sizes(networks=0), "--networks 0: must be 1 to 1000"),
        (Sizes(repeat=-1), "--repeat -1: must be 1 to 100"),
        (Sizes(entries=79), "--entries 79: must be 8 or more for each network"),
    ],
)
def test_impossible_sizes_are_refused(sizes: Sizes, message: str) -> None:
    with pytest.raises(L2popError, match=message):
        sizes.check()

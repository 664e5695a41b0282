"""Two OpenFlow libraries, one result: os-ken and ryu give the same bytes for the whole pipeline.

ryu is part of the test environment (see Makefile); without it these tests fail.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.codec import LIBRARIES, Codec
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_BASE, METER_BASE, REPEATED, Pipeline
from ovs_l2pop.backends.openvswitch.rows import flow_key
from ovs_l2pop.backends.openvswitch.stamps import Stamps, encode
from ovs_l2pop.core.errors import ConfigError

#: Of what is repeated.
REMOTE = {"ports": "1{:03}", "remotes4": "192.0.{0}.{0}", "remotes6": "2001:db8::{}"}

Compiled = dict[str, tuple[Codec, Stamps]]

PARAMETERS: list[dict[str, Any]] = [
    {
        "vlan": 1,
        "segment": 1,
        "mac": "00:00:00:00:00:01",
        "ip4": "0.0.0.1",
        "ip6": "::1",
        "port": 1,
        "patch": 1,
        "shard": 1,
        "group": GROUP_BASE + 1,
        "meter": METER_BASE + 1,
        "size": 1468,
        "remote4": "192.0.2.9",
        "remote6": "2001:db8::9",
    },
    {
        "vlan": 4094,
        "segment": 2**32 - 1,
        "mac": "fe:ff:ff:ff:ff:ff",
        "ip4": "255.255.255.254",
        "ip6": "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "port": 0xFEFF,
        "patch": 0xFEFF,
        "shard": 2**32 - 1,
        "group": 0xFFFFFEFF,
        "meter": METER_BASE + 4094,
        "size": 1468,
        "remote4": "192.0.2.9",
        "remote6": "2001:db8::9",
    },
    {
        "vlan": 0x123,
        "segment": 0xABCDEF,
        "mac": "fa:16:3e:12:34:56",
        "ip4": "192.0.2.99",
        "ip6": "2001:db8::abcd",
        "port": 1234,
        "patch": 1234,
        "shard": 7,
        "group": GROUP_BASE + 7,
        "meter": METER_BASE + 7,
        "size": 1468,
        "remote4": "192.0.2.9",
        "remote6": "2001:db8::9",
    },
]


@pytest.fixture(scope="module")
def loaded() -> Pipeline:
    return pipeline.load(resources.flows())


@pytest.fixture(scope="module")
def compiled(loaded: Pipeline) -> Compiled:
    codecs = {library: Codec(loaded, library) for library in LIBRARIES}
    return {library: (codec, Stamps(loaded, codec)) for library, codec in codecs.items()}


def values(names: Iterable[str], parameters: dict[str, Any]) -> dict[str, bytes]:
    return {name: encode(name, parameters[name]) for name in names if name not in REPEATED}


def rows(stamps: Stamps) -> dict[str, bytes]:
    """Every row that can be made, by name."""
    found: dict[str, bytes] = {}
    templates = stamps.pipeline.templates
    for name, static in (stamps.static | stamps.misses).items():
        for place, row in enumerate(static):
            found[f"static {name} {place}"] = row
    for number, parameters in enumerate(PARAMETERS):
        for name, stamp in stamps.flows.items():
            found[f"{name} {number}"] = stamp(**values(templates[name].params, parameters))
        for name, flood in stamps.floods.items():
            filled = values(templates[name].params, parameters)
            for count in (1, 2, 200):
                vteps = [encode(flood.each, REMOTE[flood.each].format(n)) for n in range(count)]
                found[f"{name} {number} to {count}"] = flood(vteps, **filled)
    for span in (range(1, 2), range(3, 7)):
        for group in stamps.groups(span):
            found[f"group {group.group_id:#x} {span}"] = group.buckets
    return found


def test_libraries_give_the_same_bytes(compiled: Compiled) -> None:
    os_ken, ryu = (rows(stamps) for _, stamps in compiled.values())
    assert len(os_ken) > 100
    assert os_ken == ryu


def test_libraries_stamp_the_same(compiled: Compiled) -> None:
    (_, os_ken), (_, ryu) = compiled.values()
    assert os_ken.flows == ryu.flows
    assert os_ken.floods == ryu.floods


def test_libraries_build_in_full_what_is_stamped(compiled: Compiled) -> None:
    """Each library builds the flow for itself, with no stamp in between."""
    for codec, stamps in compiled.values():
        for name, stamp in stamps.flows.items():
            template = stamps.pipeline.templates[name]
            for parameters in PARAMETERS:
                filled = {
                    name: parameters[name] | (0x1000 if name == "vlan" else 0)
                    if name in ("vlan", "segment")
                    else parameters[name]
                    for name in template.params
                }
                row = stamp(**values(template.params, parameters))
                actions = b"".join(codec.actions(template, template.actions, filled))
                assert flow_key(row)[3:] == codec.match(template, {}, filled)
                assert actions in row


def test_libraries_read_the_same(compiled: Compiled) -> None:
    (os_ken, stamps), (ryu, _) = compiled.values()
    for name, row in rows(stamps).items():
        if name.startswith("group"):
            assert os_ken.group_text(row) == ryu.group_text(row), name
        else:
            assert os_ken.flow_text(row) == ryu.flow_text(row), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_fields_that_the_libraries_lack_are_taught_once(library: str, loaded: Pipeline) -> None:
    for _ in range(2):
        names = [known.name for known in Codec(loaded, library).ofproto.oxm_types]
        assert names.count("nd_reserved") == names.count("nd_options_type") == 1


def test_library_that_is_not_there(loaded: Pipeline) -> None:
    with pytest.raises(ConfigError, match="openflow_library no_such can't be imported"):
        Codec(loaded, "no_such")


UNREADABLE = [
    bytes.fromhex("14000a0001000400000000") + bytes(8),  # an instruction of length 0
    bytes.fromhex("14000a0001000400000000") + bytes.fromhex("0001000014000000"),
    bytes.fromhex("14000a0001000c80000a0208"),  # a match that breaks off
    bytes.fromhex("14000a0001000c800106020000000000"),  # a field that nobody knows
    bytes.fromhex("14000a00010004000000000009000800000000"),  # an instruction that nobody knows
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("row", UNREADABLE, ids=bytes.hex)
def test_flow_that_can_not_be_read_is_shown_all_the_same(
    library: str, row: bytes, compiled: Compiled
) -> None:
    table, priority, match, actions = compiled[library][0].flow_text(row)
    assert (table, priority) == ("UCAST_TO_TUN", 10)
    assert match or actions


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("buckets", [bytes(16), bytes(5), b"\x00\x20" + bytes(14)], ids=bytes.hex)
def test_group_that_can_not_be_read_is_shown_all_the_same(
    library: str, buckets: bytes, compiled: Compiled
) -> None:
    assert compiled[library][0].group_text(buckets) == buckets.hex()

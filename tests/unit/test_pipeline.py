"""flows/: what it must hold, what a bad file is refused with, and every byte it compiles to.

The compiled pipeline is in ``golden/pipeline.txt``, so that a review sees each byte that changes.
To write it anew: ``UPDATE_GOLDEN=1 python -m pytest tests/unit/test_pipeline.py``.
"""

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import (
    GROUP_BASE,
    METER_BASE,
    PARAM_SIZES,
    REPEATED,
    SETTINGS,
    Pipeline,
)
from ovs_l2pop.backends.openvswitch.render import FlowRenderer, PortNumbers
from ovs_l2pop.backends.openvswitch.stamps import Stamps, encode
from ovs_l2pop.core.errors import PipelineError

GOLDEN = Path(__file__).parent / "golden" / "pipeline.txt"

FILES = ("tables.yaml", "skeleton.yaml", "l2pop.yaml")
Content = dict[str, Any]
Files = dict[str, Content]


@pytest.fixture(scope="module")
def loaded() -> Pipeline:
    return pipeline.load(resources.flows())


@pytest.fixture(scope="module")
def original() -> Files:
    flows = resources.flows()
    return {name: yaml.safe_load((flows / name).read_text()) for name in FILES}


def compile_all(directory: Path) -> None:
    """All that is done with flows/ when the agent starts."""
    found = pipeline.load(directory)
    stamps = Stamps(found, Codec(found))
    options: dict[str, tuple[tuple[str, str], ...]] = {"vxlan": (), "gre": (), "geneve": ()}
    FlowRenderer(stamps, PortNumbers(), options, SETTINGS)


# -- what it must hold -------------------------------------------------------------------------


def test_it_loads_and_compiles() -> None:
    compile_all(resources.flows())


def test_every_template_says_why(loaded: Pipeline) -> None:
    assert all(len(template.why) > 10 for template in loaded.templates.values())


def test_every_table_has_a_purpose(loaded: Pipeline) -> None:
    assert all(len(table.purpose) > 10 for table in loaded.tables.values())


def test_tables_have_neutrons_numbers(loaded: Pipeline) -> None:
    """constants.py of Neutron's Open vSwitch agent."""
    neutron = {table.name: table.id for table in loaded.tables.values() if not table.own}
    assert neutron == {
        "LOCAL_SWITCHING": 0,
        "PATCH_LV_TO_TUN": 2,
        "GRE_TUN_TO_LV": 3,
        "VXLAN_TUN_TO_LV": 4,
        "GENEVE_TUN_TO_LV": 6,
        "DVR_NOT_LEARN": 9,
        "LEARN_FROM_TUN": 10,
        "UCAST_TO_TUN": 20,
        "ARP_RESPONDER": 21,
        "FLOOD_TO_TUN": 22,
    }
    assert all(table.id >= 23 for table in loaded.tables.values() if table.own)


def test_ours_never_overwrites_a_flow_of_neutrons_agent(loaded: Pipeline) -> None:
    """Its priorities are 0 to 3; equal table, priority and match would replace its flow."""
    for template in loaded.templates.values():
        if not template.skeleton and not template.table.own:
            assert template.priority >= 5, template.name


def test_announced_machines_are_above_learned_ones(loaded: Pipeline) -> None:
    ((_, learn),) = (a for a in loaded.templates["learn"].actions if a[0] == "NXActionLearn2")
    assert learn["priority"] < loaded.templates["unicast"].priority
    assert learn["cookie"] == "$learned_cookie"


def test_no_two_static_flows_have_one_key(loaded: Pipeline) -> None:
    from ovs_l2pop.backends.openvswitch.rows import flow_key

    stamps = Stamps(loaded, Codec(loaded))
    rows = [row for rows in (stamps.static | stamps.misses).values() for row in rows]
    assert len({flow_key(row) for row in rows}) == len(rows)


def test_responders_answer_requests_only(loaded: Pipeline) -> None:
    """A25: upstream's answered any ARP packet."""
    assert loaded.templates["arp"].match["arp_op"] == 1
    assert loaded.templates["nd"].match["icmpv6_type"] == 135


def test_table_name(loaded: Pipeline) -> None:
    assert loaded.table_name(20) == "UCAST_TO_TUN"
    assert loaded.table_name(99) == "99"


# -- bad files ---------------------------------------------------------------------------------


def template(files: Files, name: str) -> Content:
    templates: list[Content] = files["l2pop.yaml"]["templates"]
    return next(t for t in templates if t["name"] == name)


def table(files: Files, name: str) -> Content:
    both: list[Content] = [
        *files["tables.yaml"]["neutron_tables"],
        *files["tables.yaml"]["own_tables"],
    ]
    return next(t for t in both if t["name"] == name)


def in_template(name: str, /, **changes: Any) -> Callable[[Files], None]:
    """Keys to set; None takes one away."""

    def spoil(files: Files) -> None:
        found = template(files, name)
        for key, value in changes.items():
            found[key] = value
            if value is None:
                del found[key]

    return spoil


def in_table(name: str, /, **changes: Any) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        found = table(files, name)
        for key, value in changes.items():
            found[key] = value
            if value is None:
                del found[key]

    return spoil


def in_group(name: str, /, **changes: Any) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        next(g for g in files["l2pop.yaml"]["groups"] if g["name"] == name).update(changes)

    return spoil


def top(file: str, **changes: Any) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        files[file].update(changes)

    return spoil


def copied(file: str, group: str, place: int = 0) -> Callable[[Files], None]:
    """Something that is there twice."""

    def spoil(files: Files) -> None:
        files[file][group].append(copy.deepcopy(files[file][group][place]))

    return spoil


def without(*templates: tuple[str, str]) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        for file, name in templates:
            kept = [item for item in files[file]["templates"] if item["name"] != name]
            files[file]["templates"] = kept

    return spoil


OUTPUT = {"OFPActionOutput": {"port": "$port", "max_len": 0}}
FLOOD_OUTPUT = {"OFPActionOutput": {"port": "$ports", "max_len": 0}}

#: How flows/ is spoiled, and what the error names.
SPOILED: dict[str, tuple[Callable[[Files], None], str]] = {
    # tables.yaml
    "cookie 0": (top("tables.yaml", cookie=0), "tables.yaml: cookie: 0 is not an integer in 1"),
    "cookie of text": (top("tables.yaml", cookie="x"), "tables.yaml: cookie: 'x' is not an int"),
    "spare table in use": (top("tables.yaml", spare_table=20), "spare_table: 20 is another table"),
    "unknown key": (top("tables.yaml", cookies=1), "tables.yaml: file: unknown key cookies"),
    "one cookie for both": (
        top("tables.yaml", learned_cookie=0x6C32706F70),
        "tables.yaml: learned_cookie: must differ from cookie",
    ),
    "no tables": (top("tables.yaml", own_tables=None), "tables.yaml: own_tables: must be a list"),
    "tables of numbers": (top("tables.yaml", own_tables=[1]), "own_tables: must be a list of map"),
    "table twice": (copied("tables.yaml", "own_tables"), "table ND_RESPONDER: id or name is used"),
    "table id twice": (in_table("ND_REPLY", id=20), "table ND_REPLY: id or name is used twice"),
    "table id 254": (in_table("ND_REPLY", id=254), "table ND_REPLY: 254 is not an integer in 0"),
    "table id true": (in_table("ND_REPLY", id=True), "table ND_REPLY: True is not an integer"),
    "table without id": (in_table("ND_REPLY", id=None), "table ND_REPLY: None is not an integer"),
    "table without purpose": (in_table("ND_REPLY", purpose=None), "ND_REPLY: purpose is missing"),
    "table without name": (in_table("ND_REPLY", name=None), "tables.yaml: table: name is missing"),
    "miss to nowhere": (in_table("ND_REPLY", miss="NOWHERE"), "ND_REPLY: miss names no table: NO"),
    "miss that is empty": (in_table("ND_REPLY", miss=[]), "table ND_REPLY: miss is missing"),
    "unknown key of a table": (in_table("ND_REPLY", misses="x"), "ND_REPLY: unknown key misses"),
    # templates
    "no templates": (top("l2pop.yaml", templates={}), "l2pop.yaml: templates: must be a list"),
    "template twice": (
        copied("l2pop.yaml", "templates", 0),
        "template from_vxlan_tunnel: name is used twice",
    ),
    "template of both files": (
        in_template("unicast", name="learn"),
        "l2pop.yaml: template learn: name is used twice",
    ),
    "no name": (in_template("unicast", name=None), "l2pop.yaml: template: name is missing"),
    "no why": (in_template("unicast", why=None), "template unicast: why is missing"),
    "empty why": (in_template("unicast", why=""), "template unicast: why is missing"),
    "why of numbers": (in_template("unicast", why=3), "template unicast: why is missing"),
    "no table": (in_template("unicast", table=None), "template unicast: table is missing"),
    "unknown table": (in_template("unicast", table="X"), "unicast: table names no table: X"),
    "unknown goto": (in_template("arp", goto="X"), "template arp: goto names no table: X"),
    "goto back": (
        in_template("arp", goto="UCAST_TO_TUN"),
        "template arp: goto must name a later table than ARP_RESPONDER",
    ),
    "goto itself": (in_template("arp", goto="ARP_RESPONDER"), "arp: goto must name a later"),
    "unknown key of a template": (in_template("arp", prio=3), "template arp: unknown key prio"),
    "unknown key of numbers": (in_template("arp", **{"1": 3}), "template arp: unknown key 1"),
    "no priority": (in_template("arp", priority=None), "arp priority: None is not an integer"),
    "priority too high": (in_template("arp", priority=65536), "65536 is not an integer in 0..6553"),
    "match of a list": (in_template("arp", match=["eth_dst"]), "arp: match must be a mapping"),
    "match on what is none": (
        in_template("arp_reply", match={"eth_typo": 5}),
        "template arp_reply: match {'eth_typo': 5}",
    ),
    "match on a number": (in_template("arp_reply", match={7: 5}), "template arp_reply: match {7"),
    "match on a bad value": (
        in_template("arp_reply", match={"eth_dst": "fa:16"}),
        "template arp_reply: match {'eth_dst': 'fa:16'}",
    ),
    "match on an unknown port": (
        in_template("arp_reply", match={"in_port": "OFPP_NOWHERE"}),
        "template arp_reply: match {'in_port': 'OFPP_NOWHERE'}",
    ),
    "unknown action": (
        in_template("arp_reply", actions=[{"OFPActionMagic": {}}]),
        "template arp_reply: the OpenFlow library has no OFPActionMagic",
    ),
    "unknown argument": (
        in_template("arp_reply", actions=[{"OFPActionOutput": {"prot": 1}}]),
        "template arp_reply: action OFPActionOutput",
    ),
    "unknown port": (
        in_template("arp_reply", actions=[{"OFPActionOutput": {"port": "OFPP_NOWHERE"}}]),
        "template arp_reply: action OFPActionOutput",
    ),
    "unknown field to set": (
        in_template("arp_reply", actions=[{"OFPActionSetField": {"eth_typo": 1}}]),
        "template arp_reply: action OFPActionSetField",
    ),
    "action of text": (
        in_template("arp_reply", actions=["drop"]),
        "template arp_reply: each action must be one class with its arguments",
    ),
    "two actions in one": (
        in_template("arp_reply", actions=[{**OUTPUT, "OFPActionPopVlan": {}}]),
        "template arp_reply: each action must be one class",
    ),
    "action without arguments": (
        in_template("arp_reply", actions=[{"OFPActionPopVlan": None}]),
        "template arp_reply: action OFPActionPopVlan: arguments must be a mapping",
    ),
    # facts, conditions, parameters
    "no fact": (in_template("arp", **{"for": None}), "template arp: for is missing"),
    "unknown fact": (
        in_template("arp", **{"for": "machine"}),
        "template arp: for must be one of bridge, network, strangers, vtep, unicast",
    ),
    "unknown condition": (
        in_template("arp", when={"wide": True}),
        "template arp: no condition of neighbour: wide; there are",
    ),
    "condition of text": (
        in_template("arp", when={"shared": "yes"}),
        "template arp: when must be a mapping of conditions to true or false",
    ),
    "conditions of a list": (in_template("arp", when=["shared"]), "arp: when must be a mapping"),
    "parameter that the fact lacks": (
        in_template("arp", **{"for": "unicast"}),
        "template arp: $ip4: there are $mac, $port, $remote4, $remote6, $segment, $vlan",
    ),
    "shard of a narrow flood": (
        in_template("flood_shard", when={"wide": False}),
        "template flood_shard: $shard and $group are of wide floods",
    ),
    "both addresses of a neighbour": (
        in_template("arp", match={"arp_tpa": "$ip4", "ipv6_nd_target": "$ip6"}),
        "template arp: a neighbour has one address: $ip4 or $ip6",
    ),
    # one for each type of tunnel
    "no table for a type": (
        in_template("{type}_in", table={"vxlan": "VXLAN_TUN_TO_LV"}),
        "template {type}_in: table must have one for each of vxlan, gre, geneve",
    ),
    "table for a type that is none": (
        in_template("{type}_in", table=dict.fromkeys(("vxlan", "gre", "geneve", "stt"), "X")),
        "template {type}_in: table must have one for each of vxlan, gre, geneve",
    ),
    "one table for all types": (
        in_template("{type}_in", table="VXLAN_TUN_TO_LV"),
        "template {type}_in: {type} in the name and a table or goto for each go together",
    ),
    "one name for all types": (
        in_template("{type}_in", name="in"),
        "template in: {type} in the name and a table or goto for each go together",
    ),
    "types of the bridge": (
        in_template("{type}_in", **{"for": "bridge"}, match=None, actions=None),
        "template vxlan_in: a bridge has tunnels of all types",
    ),
    # equal
    "equal of one field": (
        in_template("arp_announcement", equal=["arp_spa"]),
        "template arp_announcement: equal must be a list of two fields",
    ),
    "equal of lists": (
        in_template("arp_announcement", equal=[["arp_spa"], ["arp_tpa"]]),
        "template arp_announcement: equal must be a list of two fields",
    ),
    "equal with parameters": (
        in_template(
            "arp_announcement",
            match={"eth_type": 0x0806, "in_port": "$patch"},
        ),
        "template arp_announcement: equal can't be combined with params",
    ),
    "equal of unknown fields": (
        in_template("arp_announcement", equal=["arp_x", "arp_y"]),
        "template arp_announcement: match",
    ),
    # floods
    "ports in the match": (
        in_template(
            "flood",
            match={"vlan_vid": "$vlan", "in_port": "$ports"},
            actions=None,
        ),
        "template flood: one of $ports or $remotes4 or $remotes6 must be once",
    ),
    "ports not in the last action": (
        in_template(
            "flood",
            actions=[FLOOD_OUTPUT, {"OFPActionPopVlan": {}}],
        ),
        "template flood: one of $ports or $remotes4 or $remotes6 must be once",
    ),
    "flood that goes on": (
        in_template("flood", goto="FLOOD_SHARD"),
        "template flood: one of $ports or $remotes4 or $remotes6 must be once",
    ),
    # groups
    "group twice": (copied("l2pop.yaml", "groups"), "group recirculate: name is used twice"),
    "group of a bad type": (
        in_group("shards", type="indirect"),
        "group shards: type must be all or select",
    ),
    "group without buckets": (
        in_group("shards", buckets=None),
        "group shards: buckets must be a list of mappings",
    ),
    "weight too high": (
        in_group("recirculate", buckets=[{"weight": 65536}]),
        "group recirculate weight: 65536 is not an integer",
    ),
    "unknown key of a group": (in_group("shards", kind="all"), "group shards: unknown key kind"),
    "parameter that a group lacks": (
        in_group(
            "recirculate", buckets=[{"actions": [{"OFPActionGroup": {"group_id": "$group"}}]}]
        ),
        "group recirculate: $group: there are $shard",
    ),
    "unknown key of a bucket": (
        in_group("recirculate", buckets=[{"wait": 3}]),
        "group recirculate: unknown key wait",
    ),
    "a second group with shards": (
        in_group("recirculate", buckets=[{"actions": [{"OFPActionSetField": {"reg6": "$shard"}}]}]),
        "group shards: a second group with $shard",
    ),
    "a group of shards by name": (
        in_template("large_flood", actions=[{"OFPActionGroup": {"group_id": "shards"}}]),
        "template large_flood: group shards is another for each flood: $group",
    ),
    "unknown action of a group": (
        in_group("recirculate", buckets=[{"actions": {"OFPActionMagic": {}}}]),
        "template recirculate: the OpenFlow library has no OFPActionMagic",
    ),
    "learn is missing": (
        without(("skeleton.yaml", "learn"), ("l2pop.yaml", "learn_the_vtep")),
        "nothing is learned into",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_file(name: str, original: Files, tmp_path: Path) -> None:
    spoil, reason = SPOILED[name]
    files = copy.deepcopy(original)
    spoil(files)
    for file, content in files.items():
        (tmp_path / file).write_text(yaml.safe_dump(content))
    with pytest.raises(PipelineError) as error:
        compile_all(tmp_path)
    assert reason in str(error.value)
    assert str(error.value).startswith("flows/")


#: The text of l2pop.yaml, and what the error names.
SPOILED_TEXT = {
    "empty": (b"", "must be a mapping"),
    "a list": (b"- a\n", "must be a mapping"),
    "no YAML": (b"templates: [", "file: "),
    "tabs": (b"templates:\n\t- name: x\n", "file: "),
    "not UTF-8": (b"templates: \xff\xfe", "file: "),
    "an impossible date": (b"templates: 2026-13-45\n", "file: "),
    "unhashable key": (b"{[a]: b}\n", "file: "),
    "an object of Python": (b"templates: !!python/object/apply:os.getpid []\n", "file: "),
    "deep nesting": (b"[" * 5000, "file: "),
}


@pytest.mark.parametrize("name", SPOILED_TEXT)
def test_spoiled_text(name: str, tmp_path: Path) -> None:
    text, reason = SPOILED_TEXT[name]
    for file in FILES:
        (tmp_path / file).write_bytes((resources.flows() / file).read_bytes())
    (tmp_path / "l2pop.yaml").write_bytes(text)
    with pytest.raises(PipelineError, match=r"^flows/l2pop\.yaml: ") as error:
        compile_all(tmp_path)
    assert reason in str(error.value)


@pytest.mark.parametrize("file", FILES)
def test_missing_file(file: str, tmp_path: Path) -> None:
    for other in FILES:
        if other != file:
            (tmp_path / other).write_bytes((resources.flows() / other).read_bytes())
    with pytest.raises(PipelineError, match=rf"^flows/{file}: file: .*No such file"):
        compile_all(tmp_path)


# -- every byte --------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "vlan": 5,
    "segment": 1001,
    "mac": "fa:16:3e:aa:bb:cc",
    "ip4": "10.0.0.5",
    "ip6": "2001:db8::5",
    "port": 1000,
    "patch": 1,
    "shard": 2,
    "group": GROUP_BASE + 3,
    "meter": METER_BASE + 100,
    "size": 1468,
    "remote4": "192.0.2.9",
    "remote6": "2001:db8::9",
}

#: Of what is repeated.
TWO: dict[str, Any] = {
    "ports": (1000, 1001),
    "remotes4": ("192.0.2.1", "192.0.2.2"),
    "remotes6": ("2001:db8::1", "2001:db8::2"),
}


def compiled(stamps: Stamps, codec: Codec) -> Iterator[str]:
    """Every row: what it is, as people read it, as it lies in OpenFlow messages."""

    def flow(name: str, row: bytes) -> str:
        where, priority, match, actions = codec.flow_text(row)
        return f"{name}\n  {where} {priority} | {match} | {actions}\n  {row.hex()}\n"

    assert set(VALUES) == set(PARAM_SIZES) - REPEATED
    for own, misses in stamps.misses.items():
        for row in misses:
            yield flow(f"miss of {'our' if own else 'Neutron'} table", row)
    for name, rows in stamps.static.items():
        for row in rows:
            yield flow(name, row)
    values = {name: encode(name, value) for name, value in VALUES.items()}
    for name, stamp in stamps.flows.items():
        yield flow(name, stamp(**values))
    for name, flood in stamps.floods.items():
        vteps = [encode(flood.each, TWO[flood.each][n]) for n in (0, 1)]
        yield flow(name, flood(vteps, **values))
    for group in stamps.groups(range(1, 4)):
        text = codec.group_text(group.buckets)
        yield f"group {group.group_id:#x} {group.type}\n  {text}\n  {group.buckets.hex()}\n"


def test_compiled_rows_are_those_of_the_golden_file(loaded: Pipeline) -> None:
    codec = Codec(loaded)
    text = "\n".join(compiled(Stamps(loaded, codec), codec))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text, (
        "run: UPDATE_GOLDEN=1 python -m pytest tests/unit/test_pipeline.py, and review the change"
    )

"""``flows/`` as values: tables, flow templates and groups, checked as far as no OpenFlow library is
needed. ``flows/tables.yaml`` and ``flows/skeleton.yaml`` tell the form.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from ovs_l2pop.core.errors import PipelineError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

#: Parameter → bytes that a value takes in a flow.
PARAM_SIZES = {
    "vlan": 2,
    "segment": 8,
    "mac": 6,
    "ip4": 4,
    "ip6": 16,
    "port": 4,
    "ports": 4,
    "patch": 4,
    "shard": 4,
    "group": 4,
    "meter": 4,
    "size": 2,
    "remote4": 4,
    "remote6": 16,
    "remotes4": 4,
    "remotes6": 16,
}

#: Those of which a flood has many: the actions from there on are repeated for each.
REPEATED = frozenset({"ports", "remotes4", "remotes6"})

#: When a parameter tells a VTEP.
_TELLS_A_VTEP: Mapping[str, Mapping[str, bool]] = {
    "ports": {"flow_tunnels": False},
    **{
        f"remote{many}{version}": {"flow_tunnels": True, "underlay_ipv6": version == 6}
        for version in (4, 6)
        for many in ("", "s")
    },
}

_OF_NETWORK = frozenset({"vlan", "segment"})

#: Fact → the parameters that it fills in.
FACTS = {
    "bridge": frozenset({"patch", "meter"}),
    "network": _OF_NETWORK | {"meter", "size"},
    "strangers": _OF_NETWORK,
    "vtep": _OF_NETWORK | {"port", "remote4", "remote6"},
    "unicast": _OF_NETWORK | {"mac", "port", "remote4", "remote6"},
    "local": _OF_NETWORK | {"mac"},
    "neighbour": _OF_NETWORK | {"mac", "ip4", "ip6"},
    "local_neighbour": _OF_NETWORK | {"ip4", "ip6"},
    "flood": _OF_NETWORK | {"port", "shard", "group"} | REPEATED,
}

#: Conditions that a host's settings decide, those that a network does, and those that a fact does.
SETTINGS = frozenset(
    {
        "arp_responder",
        "distributed",
        "flow_tunnels",
        "known_vteps_only",
        "limit_broadcast",
        "packet_too_big",
        "shared",
        "underlay_ipv6",
    }
)
OF_NETWORK = frozenset({"drop_unknown_neighbour", "drop_unknown_unicast"})
_OF_FACT = {
    "flood": OF_NETWORK | {"wide"},
    "neighbour": OF_NETWORK | {"override", "router"},
    "bridge": frozenset(),
}

#: ofp_group_type
GROUP_TYPES = {"all": 0, "select": 1}

#: Group ids of ours: "l2" in ASCII in the upper half. Groups carry no cookie.
GROUP_BASE = 0x6C320000
#: The first are those of groups without shards; see :meth:`.stamps.Stamps.groups` for the others.
FIXED_GROUPS = 2

#: Meter ids of ours: this is the bridge's; this and the local VLAN, a network's. Meters carry no
#: cookie, and user space has 65,536.
METER_BASE = 0x6000

Actions = tuple[tuple[str, Mapping[str, Any]], ...]  #: (class of the library, arguments)


@dataclass(frozen=True, slots=True)
class Table:
    """One OpenFlow table."""

    id: int
    name: str
    purpose: str
    miss: str | None  #: table that unmatched packets go on to, or "drop"; None: no flow for them
    own: bool  #: not one of Neutron's


@dataclass(frozen=True, slots=True)
class FlowTemplate:
    """One kind of flow. ``match`` and ``actions`` hold ``$name`` where a parameter goes."""

    name: str
    file: str
    fact: str  #: a key of :data:`FACTS`
    when: Mapping[str, bool]
    network_type: str | None  #: of the tunnels that it is for; None: of any
    table: Table
    priority: int
    why: str
    params: frozenset[str]
    match: Mapping[str, Any]
    metered: bool  #: by the network's meter, before the actions
    actions: Actions
    goto: Table | None
    equal: tuple[str, str] | None

    @property
    def skeleton(self) -> bool:
        """Part of what Neutron's agent lays out by itself."""
        return self.file == "skeleton.yaml"

    def holds(self, conditions: Collection[str], but: Collection[str] = ()) -> bool:
        """Whether the conditions of ``when`` hold.

        :param conditions: those that do.
        :param but: those that are not looked at.
        """
        return all((c in conditions) is held for c, held in self.when.items() if c not in but)


@dataclass(frozen=True, slots=True)
class Bucket:
    weight: int
    actions: Actions


@dataclass(frozen=True, slots=True)
class GroupTemplate:
    """One kind of group."""

    name: str
    file: str
    type: int  #: a value of :data:`GROUP_TYPES`
    params: frozenset[str]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """All of ``flows/``."""

    cookie: int
    learned_cookie: int
    spare_table: int
    tables: Mapping[str, Table]
    templates: Mapping[str, FlowTemplate]
    groups: Mapping[str, GroupTemplate]
    #: Where the switch puts what it learns: first of all, where machines are.
    learned: tuple[Table, ...]
    #: Priorities of what is learned into the first of them.
    learned_priorities: tuple[int, ...]

    def table_name(self, table_id: int) -> str:
        """The table's name, or its number where it is none of ours."""
        return next((t.name for t in self.tables.values() if t.id == table_id), str(table_id))

    def of(self, fact: str) -> Iterator[FlowTemplate]:
        """The templates of a fact."""
        return (template for template in self.templates.values() if template.fact == fact)

    @property
    def group_ids(self) -> dict[str, int]:
        """Ids of the groups that have one for good, by name."""
        fixed = (name for name, group in self.groups.items() if not group.params)
        return {name: GROUP_BASE + number for number, name in enumerate(fixed)}


def load(directory: Traversable) -> Pipeline:
    """Read the pipeline.

    :raises PipelineError: names the file, the table or template, and the reason.
    """
    file = _File(directory, "tables.yaml")
    file.only("file", file.content, {"cookie", "learned_cookie", "spare_table", *_TABLES})
    tables: dict[str, Table] = {}
    for group, own in _TABLES.items():
        for raw in file.list(group):
            table = _table(file, raw, own)
            if table.name in tables or table.id in {t.id for t in tables.values()}:
                raise file.error(f"table {table.name}", "id or name is used twice")
            tables[table.name] = table
    for table in tables.values():
        if table.miss not in (None, "drop", *tables):
            raise file.error(f"table {table.name}", f"miss names no table: {table.miss}")
    cookie, learned = (
        file.number(key, file.content.get(key), 1, 2**64 - 1)
        for key in ("cookie", "learned_cookie")
    )
    if learned == cookie:
        raise file.error("learned_cookie", "must differ from cookie")
    spare = file.number("spare_table", file.content.get("spare_table"), 0, 252)
    if spare in {table.id for table in tables.values()}:
        raise file.error("spare_table", f"{spare} is another table's")

    templates: dict[str, FlowTemplate] = {}
    groups: dict[str, GroupTemplate] = {}
    for name in ("skeleton.yaml", "l2pop.yaml"):
        file = _File(directory, name)
        file.only("file", file.content, {"templates", "groups"})
        for raw in file.list("templates"):
            for template in _templates(file, raw, tables):
                if template.name in templates:
                    raise file.error(f"template {template.name}", "name is used twice")
                templates[template.name] = template
        for raw in file.list("groups", required=False):
            made = _group(file, raw)
            if made.name in groups:
                raise file.error(f"group {made.name}", "name is used twice")
            groups[made.name] = made
    sharded = [group for group in groups.values() if group.params]
    if len(sharded) > 1:
        raise file.error(f"group {sharded[1].name}", "a second group with $shard")
    if len(groups) - len(sharded) > FIXED_GROUPS:
        raise file.error("groups", f"more than {FIXED_GROUPS} without $shard")
    found = _learned(templates, tables)
    return Pipeline(cookie, learned, spare, tables, templates, groups, *found)


def _learned(
    templates: Mapping[str, FlowTemplate], tables: Mapping[str, Table]
) -> tuple[tuple[Table, ...], tuple[int, ...]]:
    """The tables that flows are learned into, and priorities of those in the first, which is the
    one of where machines are."""
    found: dict[str, Table] = {}
    priorities: dict[str, set[int]] = {}
    for template in templates.values():
        for name, arguments in template.actions:
            if name in ("NXActionLearn", "NXActionLearn2"):
                into = tables.get(str(arguments.get("table_id")))
                if into is None:
                    where = f"flows/{template.file}: template {template.name}"
                    raise PipelineError(f"{where}: learns into no table")
                found[into.name] = into
                priorities.setdefault(into.name, set()).add(int(arguments.get("priority", 0)))
    unicast = {t.table.name for t in templates.values() if t.fact == "unicast"}
    if not unicast & found.keys():
        raise PipelineError("flows/: nothing is learned into the table of unicast")
    ordered = sorted(found.values(), key=lambda table: table.name not in unicast)
    return tuple(ordered), tuple(sorted(priorities[ordered[0].name]))


_TABLES = {"neutron_tables": False, "own_tables": True}  #: key of the file → ours alone


class _File:
    """One YAML file, and errors that name it."""

    def __init__(self, directory: Traversable, name: str) -> None:
        self.name = name
        try:
            content = yaml.load(  # the C loader where there is one: 10 times faster
                (directory / name).read_text("utf-8"),
                getattr(yaml, "CSafeLoader", yaml.SafeLoader),
            )
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise self.error("file", str(error)) from error
        if not isinstance(content, dict):
            raise self.error("file", "must be a mapping")
        self.content = content

    def error(self, where: str, reason: str) -> PipelineError:
        return PipelineError(f"flows/{self.name}: {where}: {reason}")

    def list(self, key: str, required: bool = True) -> "list[dict[str, Any]]":
        value = self.content.get(key, None if required else [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "must be a list of mappings")
        return value

    def number(self, where: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(where, f"{value!r} is not an integer in {low}..{high}")
        return value

    def text(self, where: str, raw: dict[str, Any], key: str) -> str:
        value = raw.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(where, f"{key} is missing")
        return value

    def only(self, where: str, raw: dict[str, Any], allowed: set[str]) -> None:
        if unknown := set(raw) - allowed:
            raise self.error(where, f"unknown key {', '.join(sorted(map(str, unknown)))}")


def _table(file: _File, raw: dict[str, Any], own: bool) -> Table:
    name = file.text("table", raw, "name")
    where = f"table {name}"
    file.only(where, raw, {"id", "name", "miss", "purpose"})
    return Table(
        id=file.number(where, raw.get("id"), 0, 253),  # 254 is OVS's own, 255 means all
        name=name,
        purpose=file.text(where, raw, "purpose"),
        miss=file.text(where, raw, "miss") if "miss" in raw else None,
        own=own,
    )


_KEYS = {
    *("name", "for", "when", "table", "priority", "why", "match", "meter", "actions"),
    *("goto", "equal"),
}


def _templates(
    file: _File, raw: dict[str, Any], tables: Mapping[str, Table]
) -> Iterator[FlowTemplate]:
    """The template, or where it is for each type of tunnel, those."""
    name = file.text("template", raw, "name")
    by_type = [key for key in ("table", "goto") if isinstance(raw.get(key), dict)]
    if ("{type}" in name) != bool(by_type):
        raise file.error(
            f"template {name}", "{type} in the name and a table or goto for each go together"
        )
    if not by_type:
        yield _template(file, raw, name, None, tables)
        return
    for key in by_type:
        if set(raw[key]) != set(MAX_SEGMENT_ID):
            types = ", ".join(MAX_SEGMENT_ID)
            raise file.error(f"template {name}", f"{key} must have one for each of {types}")
    for kind in MAX_SEGMENT_ID:
        of_type = raw | {key: raw[key][kind] for key in by_type}
        yield _template(file, of_type, name.replace("{type}", kind), kind, tables)


def _template(
    file: _File,
    raw: dict[str, Any],
    name: str,
    network_type: str | None,
    tables: Mapping[str, Table],
) -> FlowTemplate:
    where = f"template {name}"
    file.only(where, raw, _KEYS)

    def table(key: str) -> Table:
        value = file.text(where, raw, key)
        if value not in tables:
            raise file.error(where, f"{key} names no table: {value}")
        return tables[value]

    own_table = table("table")
    goto = table("goto") if "goto" in raw else None
    if goto is not None and goto.id <= own_table.id:
        raise file.error(where, f"goto must name a later table than {own_table.name}")
    equal = raw.get("equal")
    if equal is not None and not (
        isinstance(equal, list) and len(equal) == 2 and all(isinstance(f, str) for f in equal)
    ):
        raise file.error(where, "equal must be a list of two fields")
    match = raw.get("match") or {}
    if not isinstance(match, dict):
        raise file.error(where, "match must be a mapping")
    for field, value in match.items():
        match value:
            case [int(number), int(mask)] if number & ~mask:
                raise file.error(where, f"{field}: {number:#x} has bits that the mask lacks")
    fact = file.text(where, raw, "for")
    if fact not in FACTS:
        raise file.error(where, f"for must be one of {', '.join(FACTS)}: {fact}")
    when = _when(file, where, raw, fact)
    actions = _actions(file, where, raw.get("actions"))
    meter = raw.get("meter")
    if meter not in (None, "$meter"):
        raise file.error(where, "meter must be $meter")
    params = _params(file, where, [match, meter, actions], FACTS[fact])
    if equal is not None and (params or fact != "bridge"):
        raise file.error(where, "equal can't be combined with params")
    if {"shard", "group"} & params and not when.get("wide"):
        raise file.error(where, "$shard and $group are of wide floods")
    for param in params:
        if (needs := _TELLS_A_VTEP.get(param)) and not needs.items() <= when.items():
            raise file.error(where, f"${param} is told only when {dict(needs)}")
    if {"ip4", "ip6"} <= params:
        raise file.error(where, "a neighbour has one address: $ip4 or $ip6")
    if network_type is not None and fact == "bridge":
        raise file.error(where, "a bridge has tunnels of all types")
    return FlowTemplate(
        name=name,
        file=file.name,
        fact=fact,
        when=when,
        network_type=network_type,
        table=own_table,
        priority=file.number(f"{where} priority", raw.get("priority"), 0, 65535),
        why=file.text(where, raw, "why"),
        params=params,
        match=match,
        metered=meter is not None,
        actions=actions,
        goto=goto,
        equal=None if equal is None else (equal[0], equal[1]),
    )


def _when(file: _File, where: str, raw: dict[str, Any], fact: str) -> dict[str, bool]:
    when = raw.get("when") or {}
    if not isinstance(when, dict) or not all(isinstance(held, bool) for held in when.values()):
        raise file.error(where, "when must be a mapping of conditions to true or false")
    known = SETTINGS | _OF_FACT.get(fact, OF_NETWORK)
    if unknown := set(when) - known:
        names = ", ".join(sorted(map(str, unknown)))
        raise file.error(where, f"no condition of {fact}: {names}; there are {', '.join(known)}")
    return when


def _group(file: _File, raw: dict[str, Any]) -> GroupTemplate:
    name = file.text("group", raw, "name")
    where = f"group {name}"
    file.only(where, raw, {"name", "type", "buckets"})
    if raw.get("type") not in GROUP_TYPES:
        raise file.error(where, f"type must be {' or '.join(GROUP_TYPES)}")
    buckets = raw.get("buckets")
    if not isinstance(buckets, list) or not all(isinstance(b, dict) for b in buckets):
        raise file.error(where, "buckets must be a list of mappings")
    for bucket in buckets:
        file.only(where, bucket, {"weight", "actions"})
    made = tuple(
        Bucket(
            weight=file.number(f"{where} weight", bucket.get("weight", 0), 0, 65535),
            actions=_actions(file, where, bucket.get("actions")),
        )
        for bucket in buckets
    )
    return GroupTemplate(
        name=name,
        file=file.name,
        type=GROUP_TYPES[raw["type"]],
        params=_params(file, where, [b.actions for b in made], frozenset({"shard"})),
        buckets=made,
    )


def _params(file: _File, where: str, values: list[Any], offered: frozenset[str]) -> frozenset[str]:
    """The parameters that ``values`` use, all of which are offered."""
    used = frozenset(_used(values)) - {"learned_cookie"}
    if unknown := used - offered:
        names, there = (", ".join(f"${name}" for name in sorted(s)) for s in (unknown, offered))
        raise file.error(where, f"{names}: there are {there}")
    return used


def _actions(file: _File, where: str, raw: object) -> Actions:
    result = []
    for action in raw if isinstance(raw, list) else [] if raw is None else [raw]:
        if not isinstance(action, dict) or len(action) != 1:
            raise file.error(where, "each action must be one class with its arguments")
        ((name, arguments),) = action.items()
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise file.error(where, f"action {name}: arguments must be a mapping")
        result.append((name, arguments))
    return tuple(result)


def _used(value: object) -> set[str]:
    """Names of all ``$name`` in a nested value."""
    if isinstance(value, str):
        return {value[1:]} if value.startswith("$") else set()
    if isinstance(value, dict):
        return set().union(*map(_used, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_used, value))
    return set()

"""``flows/`` as values: tables, flow templates and groups, checked as far as no OpenFlow library is
needed. ``flows/tables.yaml`` and ``flows/skeleton.yaml`` tell the form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any, cast

import yaml

from ovs_l2pop.core.errors import PipelineError

#: Parameter type → bytes that a value takes in a flow.
PARAM_SIZES = {
    "vlan": 2,
    "segment": 8,
    "mac": 6,
    "ip4": 4,
    "ip6": 16,
    "port": 4,
    "ports": 4,
    "shard": 4,
    "group": 4,
}


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
    table: Table
    priority: int
    why: str
    params: Mapping[str, str]
    match: Mapping[str, Any]
    actions: tuple[tuple[str, Mapping[str, Any]], ...]  #: (class of the library, arguments)
    goto: Table | None
    equal: tuple[str, str] | None

    @property
    def skeleton(self) -> bool:
        """Part of what Neutron's agent lays out by itself."""
        return self.file == "skeleton.yaml"


@dataclass(frozen=True, slots=True)
class Bucket:
    weight: int
    actions: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class GroupTemplate:
    """One kind of group."""

    name: str
    file: str
    type: str  #: "all" or "select"
    params: Mapping[str, str]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """All of ``flows/``."""

    cookie: int
    learned_cookie: int
    tables: Mapping[str, Table]
    templates: Mapping[str, FlowTemplate]
    groups: Mapping[str, GroupTemplate]
    #: What ``$name`` stands for besides parameters.
    constants: Mapping[str, int] = field(default_factory=dict)

    def table_name(self, table_id: int) -> str:
        """The table's name, or its number where it is none of ours."""
        return next((t.name for t in self.tables.values() if t.id == table_id), str(table_id))


def load(directory: Traversable) -> Pipeline:
    """Read the pipeline.

    :raises PipelineError: names the file, the table or template, and the reason.
    """
    tables_file = _File(directory, "tables.yaml")
    tables: dict[str, Table] = {}
    for group, own in (("neutron_tables", False), ("own_tables", True)):
        for raw in tables_file.list(group):
            table = _table(tables_file, raw, own)
            if table.name in tables or table.id in {t.id for t in tables.values()}:
                raise tables_file.error(f"table {table.name}", "id or name is used twice")
            tables[table.name] = table
    for table in tables.values():
        if table.miss not in (None, "drop", *tables):
            raise tables_file.error(f"table {table.name}", f"miss names no table: {table.miss}")

    templates: dict[str, FlowTemplate] = {}
    groups: dict[str, GroupTemplate] = {}
    for name in ("skeleton.yaml", "l2pop.yaml"):
        file = _File(directory, name)
        for raw in file.list("templates"):
            template = _template(file, raw, tables)
            if template.name in templates:
                raise file.error(f"template {template.name}", "name is used twice")
            templates[template.name] = template
        for raw in file.list("groups", required=False):
            group_template = _group(file, raw)
            if group_template.name in groups:
                raise file.error(f"group {group_template.name}", "name is used twice")
            groups[group_template.name] = group_template
    cookie = tables_file.integer("cookie", 1, 2**64 - 1)
    learned = tables_file.integer("learned_cookie", 1, 2**64 - 1)
    if learned == cookie:
        raise tables_file.error("learned_cookie", "must differ from cookie")
    return Pipeline(
        cookie=cookie,
        learned_cookie=learned,
        tables=tables,
        templates=templates,
        groups=groups,
        constants={"learned_cookie": learned},
    )


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

    def integer(self, key: str, low: int, high: int) -> int:
        return self.number(key, self.content.get(key), low, high)

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


def _template(file: _File, raw: dict[str, Any], tables: Mapping[str, Table]) -> FlowTemplate:
    name = file.text("template", raw, "name")
    where = f"template {name}"
    file.only(
        where,
        raw,
        {"name", "table", "priority", "why", "params", "match", "actions", "goto", "equal"},
    )

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
    actions = _actions(file, where, raw.get("actions"))
    params = _params(file, where, raw, [match, *(arguments for _, arguments in actions)])
    if equal is not None and params:
        raise file.error(where, "equal can't be combined with params")
    return FlowTemplate(
        name=name,
        file=file.name,
        table=own_table,
        priority=file.number(f"{where} priority", raw.get("priority"), 0, 65535),
        why=file.text(where, raw, "why"),
        params=params,
        match=match,
        actions=actions,
        goto=goto,
        equal=None if equal is None else (equal[0], equal[1]),
    )


def _group(file: _File, raw: dict[str, Any]) -> GroupTemplate:
    name = file.text("group", raw, "name")
    where = f"group {name}"
    file.only(where, raw, {"name", "type", "params", "buckets"})
    if raw.get("type") not in ("all", "select"):
        raise file.error(where, "type must be all or select")
    buckets = raw.get("buckets")
    if not isinstance(buckets, list) or not all(isinstance(b, dict) for b in buckets):
        raise file.error(where, "buckets must be a list of mappings")
    made = tuple(
        Bucket(
            weight=file.number(f"{where} weight", bucket.get("weight", 0), 0, 65535),
            actions=_actions(file, where, bucket.get("actions")),
        )
        for bucket in buckets
    )
    arguments = [arguments for bucket in made for _, arguments in bucket.actions]
    return GroupTemplate(
        name=name,
        file=file.name,
        type=raw["type"],
        params=_params(file, where, raw, arguments),
        buckets=made,
    )


def _params(file: _File, where: str, raw: dict[str, Any], values: Sequence[Any]) -> dict[str, str]:
    """The parameters, which must be those that ``values`` use."""
    params = raw.get("params") or {}
    if not isinstance(params, dict) or not all(
        isinstance(name, str) and isinstance(kind, str) and kind in PARAM_SIZES
        for name, kind in params.items()
    ):
        raise file.error(where, f"params must have a type each, of {', '.join(PARAM_SIZES)}")
    if len(set(params.values())) < len(params):
        raise file.error(where, "two parameters of one type can't be told apart")
    used = _used(list(values))
    if unknown := used - set(params) - {"learned_cookie"}:
        raise file.error(where, f"${', $'.join(sorted(unknown))} is not among params")
    if unused := set(params) - used:
        raise file.error(where, f"parameter {', '.join(sorted(unused))} is not used")
    return cast(dict[str, str], params)


def _actions(file: _File, where: str, raw: object) -> tuple[tuple[str, Mapping[str, Any]], ...]:
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
    if isinstance(value, list):
        return set().union(*map(_used, value))
    return set()

"""``ovs-l2pop pipeline``: the tables and flow templates, readable."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ovs_l2pop.cli.base import Lister

if TYPE_CHECKING:  # reading flows/ is not for commands that only talk to an agent
    from ovs_l2pop.backends.openvswitch.pipeline import FlowTemplate, GroupTemplate, Pipeline, Table

_COLUMNS = ["table", "id", "priority", "flow", "match", "does", "why"]


class ShowPipeline(Lister):
    """List the tables of the tunnel bridge and the flow templates in each, from flows/.

    Names with a dollar sign are filled in for each flow.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        from ovs_l2pop import resources
        from ovs_l2pop.backends.openvswitch import pipeline

        return _COLUMNS, list(rows(pipeline.load(resources.flows())))


def rows(pipeline: "Pipeline") -> Iterator[list[Any]]:
    """One row a template in the order a packet meets them, groups at the end."""
    for table in sorted(pipeline.tables.values(), key=lambda table: table.id):
        for template in _templates(pipeline, table):
            yield [
                table.name,
                table.id,
                template.priority,
                template.name,
                _match(template),
                _does(template),
                template.why,
            ]
        if table.miss is not None:
            yield [table.name, table.id, 0, "miss", "any", _miss(table), "below everything"]
    for group in pipeline.groups.values():
        does = " | ".join(
            " ".join(_action(name, arguments) for name, arguments in bucket.actions)
            for bucket in group.buckets
        )
        yield ["group", None, None, group.name, _type(group), does, ""]


def markdown(pipeline: "Pipeline") -> Iterator[str]:
    """The lines of ``doc/pipeline.md``."""
    yield "# The pipeline of the tunnel bridge"
    yield ""
    yield "Made from `flows/` by `make doc`; don't edit. `ovs-l2pop pipeline` prints the same."
    for table in sorted(pipeline.tables.values(), key=lambda table: table.id):
        yield from (
            "",
            f"## {table.id} {table.name}",
            "",
            f"{table.purpose[0].upper()}{table.purpose[1:]}.",
        )
        templates = _templates(pipeline, table)
        if not templates and table.miss is None:
            continue
        yield from ("", "| priority | flow | match | does | why |", "|---|---|---|---|---|")
        for template in templates:
            cells = (template.name, _match(template), _does(template))
            code = " | ".join(f"`{cell}`" for cell in cells)
            yield f"| {template.priority} | {code} | {template.why} |"
        if table.miss is not None:
            yield f"| 0 | `miss` | `any` | `{_miss(table)}` | below everything |"
    yield from ("", "## Groups", "", "| group | type | each bucket |", "|---|---|---|")
    for group in pipeline.groups.values():
        for bucket in group.buckets:
            does = " ".join(_action(name, arguments) for name, arguments in bucket.actions)
            yield f"| `{group.name}` | {_type(group)} | `{does}` |"


def _templates(pipeline: "Pipeline", table: "Table") -> list["FlowTemplate"]:
    here = (template for template in pipeline.templates.values() if template.table is table)
    return sorted(here, key=lambda template: (-template.priority, template.name))


def _match(template: "FlowTemplate") -> str:
    fields = [f"{name}={_text(value)}" for name, value in template.match.items()]
    if template.equal:
        fields.append("=".join(template.equal))
    return " ".join(fields) or "any"


def _does(template: "FlowTemplate") -> str:
    does = ["meter"] if template.metered else []
    does += [_action(name, arguments) for name, arguments in template.actions]
    if template.goto is not None:
        does.append(f"goto({template.goto.name})")
    return " ".join(does) or "drop"


def _miss(table: "Table") -> str:
    return "drop" if table.miss == "drop" else f"goto({table.miss})"


def _action(name: str, arguments: Any) -> str:
    short = name.removeprefix("OFPAction").removeprefix("NXAction")
    if short == "RegMove":
        return f"move({arguments['src_field']}->{arguments['dst_field']})"
    if short in ("Learn", "Learn2"):
        return f"learn({arguments['table_id']})"
    shown = ",".join(f"{k}={_text(v)}" for k, v in arguments.items() if k != "max_len")
    return f"{short[0].lower()}{short[1:]}" + (f"({shown})" if shown else "")


def _type(group: "GroupTemplate") -> str:
    from ovs_l2pop.backends.openvswitch.pipeline import GROUP_TYPES

    return next(name for name, number in GROUP_TYPES.items() if number == group.type)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    return f"{value:#x}" if isinstance(value, int) and value > 255 else str(value)

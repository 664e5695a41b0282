"""``ovs-l2pop pipeline``: the tables and flow templates, readable."""

import argparse
from typing import Any

from ovs_l2pop.cli.base import Lister


class Pipeline(Lister):
    """List the tables of the tunnel bridge and the flow templates in each, from flows/."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        from ovs_l2pop import resources
        from ovs_l2pop.backends.openvswitch import pipeline

        return pipeline_rows(pipeline.load(resources.flows()))


def pipeline_rows(pipeline: Any) -> tuple[list[str], list[list[Any]]]:
    """One row a template, the table's miss behind them, in the order of tables and priorities."""
    columns = ["table", "id", "priority", "flow", "match", "does", "why"]
    rows: list[list[Any]] = []
    for table in sorted(pipeline.tables.values(), key=lambda t: t.id):
        templates = [t for t in pipeline.templates.values() if t.table is table]
        for template in sorted(templates, key=lambda t: (-t.priority, t.name)):
            match = [f"{name}={_text(value)}" for name, value in template.match.items()]
            if template.equal:
                match.append("=".join(template.equal))
            does = [_action(name, arguments) for name, arguments in template.actions]
            if template.goto:
                does.append(f"goto {template.goto.name}")
            rows.append(
                [
                    table.name,
                    table.id,
                    template.priority,
                    template.name,
                    " ".join(match) or "any",
                    " ".join(does) or "drop",
                    template.why,
                ]
            )
        if table.miss is not None:
            miss = "drop" if table.miss == "drop" else f"goto {table.miss}"
            rows.append([table.name, table.id, 0, "miss", "any", miss, table.purpose])
    return columns, rows


def _action(name: str, arguments: Any) -> str:
    short = name.removeprefix("OFPAction").removeprefix("NXAction")
    if short == "RegMove":
        return f"move({arguments['src_field']}->{arguments['dst_field']})"
    if short == "Learn":
        return f"learn({arguments['table_id']})"
    shown = [f"{k}={_text(v)}" for k, v in arguments.items() if k != "max_len"]
    return f"{short[0].lower()}{short[1:]}({','.join(shown)})"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(_text(item) for item in value)
    return f"{value:#x}" if isinstance(value, int) and value > 255 else str(value)

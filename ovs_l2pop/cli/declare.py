"""``ovs-l2pop dump`` and ``apply``: all that an agent holds, as one document."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from ovs_l2pop.agent.client import ask
from ovs_l2pop.cli.base import Command, Lister
from ovs_l2pop.cli.sending import tell
from ovs_l2pop.core import declared
from ovs_l2pop.core.errors import CommandError


class Dump(Command):
    """Print all that the agent was told, networks and entries, as `apply` takes it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        answer = ask(self.socket_path(parsed_args), {"command": "dump"})
        found = declared.document(answer["messages"])
        if parsed_args.json:
            self.app.stdout.write(json.dumps(found, indent=1) + "\n")
        else:
            yaml.safe_dump(found, self.app.stdout, sort_keys=False, default_flow_style=None)
        return 0


class Apply(Lister):
    """Make the agent hold exactly what a file says, and list what that changes.

    YAML or JSON, as `dump` prints it. What is not in it goes. With --dry-run nothing is changed,
    and the exit code is 1 where something would be. Nothing is sent of a file with an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", help="the file, or - for stdin")
        parser.add_argument("--dry-run", action="store_true", help="list it, and change nothing")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        socket = self.socket_path(parsed_args)
        wanted = list(declared.messages(_read(parsed_args.file)))
        answer = ask(socket, {"command": "dump"})
        changes = declared.difference(answer["messages"], wanted, answer["local_ip"])
        if parsed_args.dry_run:
            self.success = 1 if changes else 0
        elif changes:
            lines = [json.dumps(change).encode() + b"\n" for change in changes]
            self.success = tell(ask(socket, {"command": "send"}, lines))
        return ["change", "network_id", "vtep", "what"], list(map(tuple, _rows(changes)))


def _rows(changes: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each network and each entry that changes."""
    rows = []
    for change in changes:
        verb = change["method"].partition("_")[0]
        if "fdb_entries" not in change:
            what = f"local VLAN {change['local_vlan']}" if change.get("local_vlan") else ""
            rows.append([verb, change["network_id"], "", what])
            continue
        for network_id, body in change["fdb_entries"].items():
            for vtep, pairs in body["ports"].items():
                rows += [[verb, network_id, vtep, " ".join(pair)] for pair in pairs]
    return rows


def _read(name: str) -> object:
    """:raises CommandError: it can't be read, or is neither YAML nor JSON."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
        return yaml.load(text, _Loader)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CommandError(f"{name}: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 10:20:30:40:50:01 for a number to the base of 60, and not for a MAC."""


_INT = "tag:yaml.org,2002:int"
_LEFT_OUT = (_INT, "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_OUT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"^-?[0-9]+$"), list("-0123456789"))

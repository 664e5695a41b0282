"""``ovs-l2pop check``, ``diff`` and ``repair``: wanted rows against installed ones."""

import argparse
from typing import Any

from ovs_l2pop.agent.client import ask
from ovs_l2pop.cli.base import Lister


class Check(Lister):
    """Compare what should be in the switch with what is.

    Exit code 0: the same. 1: they differ; what is missing and what is surplus is listed. 2: it
    can't be told, because the agent or the switch does not answer.
    """

    failure = 2

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        answer = ask(self.socket_path(parsed_args), {"command": "check"})
        self.success = 1 if answer["rows"] else 0
        if not answer["rows"] and parsed_args.formatter == "table":
            self.app.stderr.write("no drift\n")
        return answer["columns"], answer["rows"]


class Diff(Lister):
    """List what repair would write: add what is missing, delete what is surplus.

    Exit code 2 where it can't be told.
    """

    failure = 2

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        answer = ask(self.socket_path(parsed_args), {"command": "check"})
        return _writes(answer)


class Repair(Lister):
    """Write what differs, and list it. Exit code 1 where the switch refused some of it."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        answer = ask(self.socket_path(parsed_args), {"command": "repair"})
        for refusal in answer["refused"]:
            self.app.stderr.write(f"refused: {refusal}\n")
        self.success = 1 if answer["refused"] else 0
        return _writes(answer)


def _writes(answer: dict[str, Any]) -> tuple[list[str], list[Any]]:
    verbs = {"missing": "add", "surplus": "delete"}
    columns = ["write", *answer["columns"][1:]]
    return columns, [[verbs[drift], *row] for drift, *row in answer["rows"]]

"""``ovs-l2pop why``, ``history``, ``watch``: who told an agent what, and what follows."""

import argparse
import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ovs_l2pop.agent.client import ask
from ovs_l2pop.agent.history import Event, follow, read
from ovs_l2pop.cli.base import Command, Lister, address
from ovs_l2pop.core.errors import ControlError

#: Seconds between two looks at a file in which nothing new was.
_PAUSE = 0.1
_ASK = {"command": "history"}


Found = TypeVar("Found")


def _events(answer: dict[str, Any], how: Callable[[Path], Iterator[Found]]) -> Iterator[Found]:
    """What is kept, by a function of :mod:`.agent.history`.

    :raises ControlError: it can't be read.
    """
    if answer["history"] is None:
        raise ControlError("this agent keeps no history")
    try:
        yield from how(Path(answer["history"]))
    except OSError as error:
        raise ControlError(f"{answer['history']}: {error.strerror}") from error


def _is_about(event: Event, about: str | None) -> bool:
    return not about or about in event[4:] or event.network_id.startswith(about)


def _row(row: list[Any]) -> str:
    state, packets, *texts = row
    counted = [] if packets is None else [f"({packets} packets)"]
    return " ".join([state, *texts, *counted])


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")


class History(Lister):
    """List what the agent was told lately, the oldest first.

    As far as it is kept: 8 to 16 MiB of messages.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "about",
            nargs="?",
            type=address,
            help="a MAC or IP address, a VTEP, or the beginning of a network's id",
        )
        parser.add_argument(
            "--limit", metavar="N", type=int, default=0, help="the last N; 0: all (default)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        about = parsed_args.about
        found = [
            event
            for event in _events(ask(self.socket_path(parsed_args), _ASK), read)
            if _is_about(event, about)
        ]
        rows = [[_time(event.at), *event[1:]] for event in found[-parsed_args.limit :]]
        return ["time", "told by", "what", "network_id", "vtep", "mac", "ip"], rows


class Watch(Command):
    """Tell live what the agent is told, until Ctrl-C."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("about", nargs="?", type=address, help="as of `history`")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        try:
            for event in _events(ask(self.socket_path(parsed_args), _ASK), follow):
                if event is None:
                    time.sleep(_PAUSE)
                elif _is_about(event, parsed_args.about):
                    print(_time(event.at), *(word for word in event[1:] if word), flush=True)
        except KeyboardInterrupt:
            pass
        return 0


class Why(Lister):
    """Say who claims an address, since when, who wins, and which rows follow.

    Exit code 1: nobody claims it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("address", type=address, help="a MAC or IP address")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        request = {"command": "why", "address": parsed_args.address}
        answer = ask(self.socket_path(parsed_args), request)
        told = {event[3:]: event for event in _events(answer, read) if event.what == "add"}
        rows = []
        for claim in answer["claims"]:
            who = tuple(claim[name] for name in ("network_id", "vtep", "mac", "ip"))
            event = told.get(who)
            rows.append(
                [
                    *who,
                    *((_time(event.at), event.by) if event else ("before the history", "")),
                    self._wins(claim, "wins_mac"),
                    self._wins(claim, "wins_ip"),
                    "\n".join(map(_row, claim["rows"])),
                ]
            )
        if not rows:
            self.app.stderr.write(f"ovs-l2pop: nobody claims {parsed_args.address}\n")
            self.success = 1
        columns = ["network_id", "vtep", "mac", "ip", "told", "by", "mac wins", "ip wins", "rows"]
        return columns, rows

    @staticmethod
    def _wins(claim: dict[str, Any], what: str) -> str:
        if not claim["attached"]:
            return "not attached"
        if not claim[what]:
            return "no"
        return "yes, here" if claim["here"] else "yes"

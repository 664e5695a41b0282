"""The command ``ovs-l2pop`` as cliff's application."""

import argparse
import itertools
from importlib.metadata import version
from typing import Any, cast

from cliff.app import App
from cliff.commandmanager import CommandManager

from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.paths import CONTROL_SOCKET

#: Commands that the distribution l2pop-lab brings.
LABORATORY = ("compare", "demo")


class Commands(CommandManager):
    """Commands by their whole names: cliff takes "cl" for "clean" as long as no other begins so."""

    def find_command(self, argv: list[str]) -> tuple[Any, str, list[str]]:
        words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
        if not any(" ".join(words[:n]) in self.commands for n in range(1, len(words) + 1)):
            raise ValueError(f"Unknown command {argv!r}")
        return cast(tuple[Any, str, list[str]], super().find_command(argv))


class Main(App):
    """Options that all commands share."""

    # What a command logs goes to stderr without a prefix.
    CONSOLE_MESSAGE_FORMAT = "%(message)s"

    def __init__(self) -> None:
        super().__init__(
            description="L2 population for Open vSwitch: an agent, and commands to feed it, look"
            " into it, check it and mend it.",
            version=version("ovs-l2pop"),
            command_manager=Commands("ovs_l2pop.commands"),
            deferred_help=True,
        )

    def build_option_parser(
        self, description: str, version: str, argparse_kwargs: object = None
    ) -> argparse.ArgumentParser:
        whole = {"allow_abbrev": False}
        parser: argparse.ArgumentParser = super().build_option_parser(description, version, whole)
        add_socket_option(parser, CONTROL_SOCKET)
        return parser

    def run_subcommand(self, argv: list[str]) -> int:
        name = argv[0] if argv else ""
        if name in LABORATORY and name not in self.command_manager.commands:
            self.stderr.write(
                f"ovs-l2pop: {name} is of the laboratory, a distribution of its own:"
                " pip install l2pop-lab\n"
            )
            return 2
        try:
            return int(super().run_subcommand(argv) or 0)
        except L2popError as error:  # raised while a command is being made
            self.stderr.write(f"ovs-l2pop: {error}\n")
            return 1


def add_socket_option(parser: argparse.ArgumentParser, default: str) -> None:
    """``--socket``, before the command's name or behind it."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=default,
        help=f"control socket of the agent to speak to (default: {CONTROL_SOCKET})",
    )

"""What commands have in common: options, and errors."""

import argparse
import re
from ipaddress import ip_address
from pathlib import Path

from cliff.command import Command as CliffCommand
from cliff.lister import Lister as CliffLister

from ovs_l2pop.cli.app import add_socket_option
from ovs_l2pop.core.errors import L2popError

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


class Command(CliffCommand):
    """A command whose errors are one line on stderr and an exit code.

    ``take_action`` returns the exit code, or raises :class:`L2popError`.
    """

    #: Exit code where the command fails.
    failure = 1

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.allow_abbrev = False
        add_socket_option(parser, argparse.SUPPRESS)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        try:
            return int(super().run(parsed_args) or 0)
        except L2popError as error:
            self.app.stderr.write(f"ovs-l2pop: {error}\n")
            return self.failure
        except BrokenPipeError:  # who reads our output has seen enough
            return self.failure

    def get_epilog(self) -> str:
        # cliff would name the package that a command is from: it reads the files of all that are
        # installed for that, and all commands are ours.
        return ""

    def socket_path(self, parsed_args: argparse.Namespace) -> Path:
        return Path(getattr(parsed_args, "socket", None) or self.app.options.socket)


class Lister(Command, CliffLister):
    """A listing; ``-f json`` and the other formats come from cliff."""

    #: Exit code where the listing was given.
    success = 0

    def run(self, parsed_args: argparse.Namespace) -> int:
        return super().run(parsed_args) or self.success


def address(text: str) -> str:
    """An IP or MAC address as the agent writes it; whatever is neither, as it is."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text.lower() if _MAC.fullmatch(text) else text


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Where the configuration is, for commands that read it."""
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        action="append",
        default=[],
        help="configuration, also more than once (default: ovs-l2pop.conf in"
        " ~/.ovs-l2pop, ~, /etc/ovs-l2pop, /etc)",
    )
    parser.add_argument("--config-dir", metavar="DIR", action="append", default=[])


def config_arguments(parsed_args: argparse.Namespace) -> list[str]:
    """What :func:`ovs_l2pop.config.load` takes."""
    files = [f"--config-file={path}" for path in parsed_args.config_file]
    return files + [f"--config-dir={path}" for path in parsed_args.config_dir]

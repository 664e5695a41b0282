"""``ovs-l2pop send``: messages to the agent."""

import argparse
import sys
from collections.abc import Iterator
from typing import BinaryIO

from ovs_l2pop.cli.base import Command, ask
from ovs_l2pop.errors import ControlError


class Send(Command):
    """Send messages to the agent and wait until they are in the switch.

    JSON Lines, one message a line: {"method": "add_fdb_entries", "fdb_entries": {...}} in
    Neutron's form, remove_fdb_entries and update_fdb_entries likewise, and {"method":
    "attach_network", "network_id": ..., "network_type": "vxlan", "segment_id": 1001,
    "local_vlan": 5} or {"method": "detach_network", "network_id": ...}. What is refused is told
    on stderr, with the reason, and makes the exit code 1; everything else is applied.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", nargs="?", default="-", help="file, or - for stdin (default)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        path = self.socket_path(parsed_args)
        if parsed_args.file == "-":
            answer = ask(path, {"command": "send"}, _chunks(sys.stdin.buffer))
        else:
            try:
                with open(parsed_args.file, "rb") as file:
                    answer = ask(path, {"command": "send"}, _chunks(file))
            except OSError as error:
                raise ControlError(f"{parsed_args.file}: {error.strerror}") from error
        for refusal in answer["refused"]:
            self.app.stderr.write(f"refused: {refusal}\n")
        if (more := answer["refused_count"] - len(answer["refused"])) > 0:
            self.app.stderr.write(f"refused: {more} more\n")
        if answer["pending"]:
            self.app.stderr.write(f"kept, and written as soon as it can be: {answer['pending']}\n")
        return 1 if answer["refused_count"] or answer["pending"] else 0


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """What there is, as soon as it is there: a pipe may stay open for long."""
    read = getattr(file, "read1", file.read)
    return iter(lambda: read(1 << 20), b"")

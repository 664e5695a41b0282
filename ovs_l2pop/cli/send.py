"""``ovs-l2pop send``: messages to the agent."""

import argparse

from ovs_l2pop.cli.base import Command
from ovs_l2pop.cli.sending import send


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
        return send(str(self.socket_path(parsed_args)), parsed_args.file)

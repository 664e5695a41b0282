"""``ovs-l2pop clean``: take everything of ours out of the dataplane."""

import argparse
from contextlib import closing
from typing import Any

from ovs_l2pop.cli.base import Lister, add_config_options, config_arguments


class Clean(Lister):
    """Remove everything of ours from the dataplane, and list it: for a host that is given up.

    The agent must not be running. On a host that has gone back to Neutron's own agent, take
    --keep-tunnels: that agent uses the tunnel ports that it found.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        parser.add_argument("--keep-tunnels", action="store_true", help="leave tunnel ports alone")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        # Imported here: other commands start in half the time without.
        from ovs_l2pop import config
        from ovs_l2pop.backends import loader
        from ovs_l2pop.core.backend import Batch

        conf = config.load(config_arguments(parsed_args), need_local_ip=False)
        kept = {"wiring"} | ({"tunnel"} if parsed_args.keep_tunnels else set())
        with closing(loader.load(conf)) as backend:
            backend.connect()
            rows = {row: backend.describe(row) for row in backend.installed()}
            gone = [row for row, text in rows.items() if text.kind not in kept]
            refused = backend.write([Batch([], gone)])
        for row, reason in refused.items():
            self.app.stderr.write(f"refused: {rows[row].what}: {reason}\n")
        self.success = 1 if refused else 0
        return ["removed", "place", "what", "does"], [rows[r] for r in gone if r not in refused]

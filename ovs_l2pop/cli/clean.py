"""``ovs-l2pop clean``: take everything of ours out of the dataplane."""

import argparse
from collections import Counter
from contextlib import closing
from typing import Any

from ovs_l2pop.cli.base import Lister, add_config_options, config_arguments
from ovs_l2pop.core.errors import CommandError

_COLUMNS = ["place", "what", "does"]


class Clean(Lister):
    """Remove everything of ours from the dataplane, and list it: for a host that is given up.

    Asks before it does so, or wants --yes where there is nobody to ask. The agent must not be
    running. On a host that has gone back to Neutron's own agent, take --keep-tunnels: that agent
    uses the tunnel ports that it found.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--yes", action="store_true", help="don't ask")
        how.add_argument("--dry-run", action="store_true", help="list it, and remove nothing")
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
            if parsed_args.dry_run:
                return ["kind", *_COLUMNS], [rows[row] for row in gone]
            if gone and not parsed_args.yes:
                self._ask(Counter(rows[row].kind for row in gone))
            refused = backend.write([Batch([], gone)])
        for row, reason in refused.items():
            self.app.stderr.write(f"refused: {rows[row].what}: {reason}\n")
        self.success = 1 if refused else 0
        return ["removed", *_COLUMNS], [rows[row] for row in gone if row not in refused]

    def _ask(self, kinds: Counter[str]) -> None:
        """:raises CommandError: unless a person says yes."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        if not self.app.stdin.isatty():
            raise CommandError(f"would remove {counts}: take --yes to do so, or --dry-run to see")
        self.app.stderr.write(
            f"Machines here lose their way to other hosts. Remove {counts}? [y/N] "
        )
        self.app.stderr.flush()
        if self.app.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was removed")

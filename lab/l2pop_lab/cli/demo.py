"""``ovs-l2pop demo``."""

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from ovs_l2pop.cli.base import Command

if TYPE_CHECKING:
    from l2pop_lab.demo.play import Played


class Demo(Command):
    """Show what L2 population does, on real switches, and compare it with flood-and-learn.

    Builds hosts (network namespaces, each with its own agent; the last one has Linux bridges, the
    others an Open vSwitch each) with an underlay between them, two networks with overlapping
    addresses, and machines; feeds the agents as a server would; measures; and removes everything it
    made, also on Ctrl-C or failure. Needs root and Open vSwitch; nothing of the machine's own
    network or Open vSwitch is touched. Exit code 0: all that is promised was seen.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--hosts",
            metavar="N",
            type=int,
            default=3,
            help="2 to 20 hosts (default: 3; 20 take a minute)",
        )
        parser.add_argument(
            "--keep", action="store_true", help="leave everything running, and print how to look"
        )
        parser.add_argument(
            "--remove",
            metavar="PATH",
            nargs="?",
            const="",
            help="remove what --keep left; without PATH list what there is",
        )
        parser.add_argument(
            "-f",
            "--format",
            choices=("table", "json"),
            default="table",
            help="json: all measurements (default: table)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.remove is not None:
            return self._remove(parsed_args.remove)
        # Imported here: commands that only talk to an agent start fast without.
        from l2pop_lab.demo import report
        from l2pop_lab.demo.results import as_json, promises

        begin = time.monotonic()
        played = self._play(parsed_args, begin)
        results, seconds = played.results, time.monotonic() - begin
        if parsed_args.format == "json":
            content = as_json(results, seconds) | {"kept": [asdict(hint) for hint in played.hints]}
            self.app.stdout.write(json.dumps(content, indent=1) + "\n")
        else:
            end = report.hints(played.hints) if played.hints else "Everything made was removed."
            self.app.stdout.write(f"\n{report.report(results)}\n\n{seconds:.1f} s. {end}\n")
        broken = [promise for promise in promises(results) if not promise.kept]
        for promise in broken:
            self.app.stderr.write(f"ovs-l2pop: not seen: {promise.text}\n")
        return 1 if broken else 0

    def _play(self, parsed_args: argparse.Namespace, begin: float) -> "Played":
        from l2pop_lab.demo.play import play
        from l2pop_lab.topology.interrupts import ended_by_signals

        def progress(text: str) -> None:
            if self.app.options.verbose_level:
                self.app.stderr.write(f"{time.monotonic() - begin:5.1f} s  {text}\n")
                self.app.stderr.flush()

        try:
            with ended_by_signals():
                return play(parsed_args.hosts, progress, keep=parsed_args.keep)
        except SystemExit:
            self.app.stderr.write("ovs-l2pop: interrupted; everything made was removed\n")
            raise

    def _remove(self, path: str) -> int:
        from l2pop_lab.topology import Lab, left_behind

        if path:
            Lab.remove(path)
            return 0
        for manifest in left_behind():
            self.app.stdout.write(f"{manifest}\n")
        return 0

"""``ovs-l2pop compare``."""

import argparse
import io
import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from ovs_l2pop.cli.base import Command
from ovs_l2pop.core.errors import L2popError

if TYPE_CHECKING:
    from l2pop_lab.compare.results import Results
    from l2pop_lab.compare.streams import Sizes


class Compare(Command):
    """Compare the backends openvswitch and linuxbridge, side by side in one run.

    Builds three hosts of each kind in network namespaces, hands the same messages to both, sends
    the same traffic between their machines, the sides taking turns; and removes everything it made,
    also on Ctrl-C or failure. Needs root and Open vSwitch; nothing of the machine's own network or
    Open vSwitch is touched. Open vSwitch runs with its userspace datapath, which decides
    throughput and latency. Exit code 1: something could not be measured; it is told on stderr.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--report", metavar="FILE", type=Path, help="write a report with plots there, HTML"
        )
        parser.add_argument(
            "-f",
            "--format",
            choices=("table", "json"),
            default="table",
            help="json: all that was measured (default: table)",
        )
        for name, text in (
            ("entries", "machines of a network that are programmed (default: 20000)"),
            ("networks", "networks over which they are spread (default: 10)"),
            ("vteps", "VTEPs behind which they are, up to 240 (default: 100)"),
            ("repeat", "rounds of each measurement (default: 5)"),
        ):
            parser.add_argument(f"--{name}", metavar="N", type=int, help=text)
        parser.add_argument(
            "--quick",
            action="store_true",
            help="small sizes, half a minute: to see whether all works (sizes can still be given)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # Imported here: commands that only talk to an agent start fast without.
        from l2pop_lab.compare import words
        from l2pop_lab.compare.results import as_json

        target: Path | None = parsed_args.report
        if target is not None:
            _require_report(target)
        results = self._run(_sizes(parsed_args))
        if parsed_args.format == "json":
            self.app.stdout.write(json.dumps(as_json(results), indent=1) + "\n")
        else:
            self.app.stdout.write("\n".join(words.text(results)) + "\n")
        if target is not None:  # last: whatever becomes of it, the figures have been shown
            _write_report(target, results)
        failures = list(results.failures())
        for failure in failures:
            self.app.stderr.write(f"ovs-l2pop: failed: {failure}\n")
        return 1 if failures else 0

    def _run(self, sizes: "Sizes") -> "Results":
        from l2pop_lab.compare.run import run
        from l2pop_lab.topology.interrupts import ended_by_signals

        progress = Progress(self.app.stderr if self.app.options.verbose_level else None)
        try:
            with ended_by_signals(), progress:
                return run(sizes, shlex.join(["ovs-l2pop", *sys.argv[1:]]), progress)
        except SystemExit:
            self.app.stderr.write("ovs-l2pop: interrupted; everything made was removed\n")
            raise


class Progress:
    """On a terminal a bar; else a line for each step."""

    SILENCE = 5.0
    """Seconds after which also a part of a step is worth a line."""

    def __init__(self, stream: TextIO | None) -> None:
        in_place = stream is not None and stream.isatty()
        self._stream = None if in_place else stream
        self._bar = tqdm(
            file=stream if in_place else io.StringIO(),
            disable=not in_place,
            bar_format="{elapsed}  {n_fmt} of {total_fmt}  {desc}",
            dynamic_ncols=True,
            leave=False,
        )
        self._begin = self._shown = time.monotonic()
        self._count = self._number = 0
        self._what = ""

    def total(self, count: int) -> None:
        self._bar.total = self._count = count

    def start(self, what: str) -> None:
        self._number += 1
        self._what = what
        self._bar.update()
        self._show("")

    def detail(self, text: str) -> None:
        self._show(f": {text}", self.SILENCE)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _show(self, more: str, silence: float = 0.0) -> None:
        self._bar.set_description_str(f"{self._what}{more}")
        now = time.monotonic()
        if self._stream is not None and now - self._shown >= silence:
            self._shown = now
            step = f"{self._number:2} of {self._count}"
            self._stream.write(f"{now - self._begin:6.1f} s  {step}  {self._what}{more}\n")
            self._stream.flush()


def _sizes(parsed_args: argparse.Namespace) -> "Sizes":
    from l2pop_lab.compare.streams import QUICK, Sizes

    given = {
        name: value
        for name in ("entries", "networks", "vteps", "repeat")
        if (value := getattr(parsed_args, name)) is not None
    }
    sizes = replace(QUICK if parsed_args.quick else Sizes(), **given)
    sizes.check()
    return sizes


def _write_report(target: Path, results: "Results") -> None:
    from l2pop_lab.compare.report import html

    try:
        target.write_text(html(results))
    except OSError as error:
        raise L2popError(f"--report {target}: {error.strerror}") from error


def _require_report(target: Path) -> None:
    """Fail before anything is measured.

    :raises L2popError: the file can't be written.
    """
    if target.is_dir():
        raise L2popError(f"--report {target}: is a directory")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise L2popError(f"--report {target}: can't be written there")

"""Where the command ``ovs-l2pop`` begins."""

import sys
from collections.abc import Sequence

from ovs_l2pop.cli.sending import send
from ovs_l2pop.paths import CONTROL_SOCKET


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A plain "[--socket PATH] send [FILE]" may be run for each of many events. cliff, which reads
    # everything else, takes longer to import than the rest of such a run.
    socket, rest = CONTROL_SOCKET, arguments
    if rest[:1] == ["--socket"] and len(rest) > 1:
        socket, rest = rest[1], rest[2:]
    if rest[:1] == ["send"] and len(rest) <= 2 and (rest[-1] == "-" or rest[-1][:1] != "-"):
        return send(socket, *rest[1:])
    from ovs_l2pop.cli.app import Main

    return int(Main().run(arguments or ["--help"]))

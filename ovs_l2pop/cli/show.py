"""``ovs-l2pop show``: what the agent holds."""

import argparse
from ipaddress import ip_address
from typing import Any

from ovs_l2pop.agent.client import ask
from ovs_l2pop.cli.base import Lister


def _address(text: str) -> str:
    """As the agent writes it."""
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Show(Lister):
    what = ""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        answer = ask(self.socket_path(parsed_args), {"command": "show", "what": self.what})
        return answer["columns"], answer["rows"]


class ShowNetworks(_Show):
    """List networks: attached to this host, or only heard of."""

    what = "networks"


class ShowVteps(_Show):
    """List VTEPs and what is behind them."""

    what = "vteps"


class ShowEntries(_Show):
    """List entries in the order of their claims, and which of them hold."""

    what = "entries"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--network", dest="network_id", metavar="ID", help="of the networks whose id begins so"
        )
        parser.add_argument("--mac", type=str.lower, help="with this MAC address")
        parser.add_argument("--ip", type=_address, help="with this IP address")
        parser.add_argument("--vtep", metavar="IP", type=_address, help="behind this VTEP")
        parser.add_argument("--state", help="in this state, such as active or waiting")
        parser.add_argument(
            "--limit", metavar="N", type=int, default=0, help="the first N; 0: all (default)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        columns = ("network_id", "mac", "ip", "vtep", "state")
        asked = {name: getattr(parsed_args, name) for name in columns}
        request = {
            "command": "show",
            "what": self.what,
            "only": {name: value for name, value in asked.items() if value is not None},
            "limit": parsed_args.limit,
        }
        answer = ask(self.socket_path(parsed_args), request)
        if left := answer.get("left"):
            self.app.stderr.write(f"ovs-l2pop: {left} more\n")
        return answer["columns"], answer["rows"]


class ShowTunnels(_Show):
    """List tunnels and in how many networks each is needed."""

    what = "tunnels"


class ShowHealth(_Show):
    """List what may need attention. Exit code 0: nothing does. 1: something does."""

    what = "health"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        columns, rows = super().take_action(parsed_args)
        self.success = int(any(state != "ok" for _, state, _ in rows))
        return columns, rows

"""``ovs-l2pop show``: what the agent holds."""

import argparse
from typing import Any

from ovs_l2pop.agent.client import ask
from ovs_l2pop.cli.base import Lister


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

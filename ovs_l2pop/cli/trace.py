"""``ovs-l2pop trace``: where a machine's frame goes."""

import argparse
from typing import Any

from ovs_l2pop.cli.base import Lister, add_config_options, address, config_arguments


class Trace(Lister):
    """Follow a frame from a machine's port to the tunnel, and the route it leaves by.

    Nothing is sent. The last row says how it ends. Exit code 0: it arrives, leaves or is answered.
    1: it is lost. 2: that can't be told.
    """

    failure = 2

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        parser.add_argument(
            "who", metavar="FROM", type=address, help="a port, or a machine's MAC or IP address"
        )
        parser.add_argument(
            "to", metavar="TO", type=address, help="a MAC or IP address, or broadcast"
        )
        parser.add_argument(
            "--kind",
            choices=["unicast", "arp", "nd"],
            default="unicast",
            help="arp, nd: ask for TO's address; default: a frame to TO",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        # Imported here: other commands start in half the time without.
        from ovs_l2pop import config
        from ovs_l2pop.cli.doctor import where
        from ovs_l2pop.doctor import gather, tracing

        conf = config.load(config_arguments(parsed_args), need_local_ip=False)
        place = where(conf, self.socket_path(parsed_args))
        seen = gather.machines(place)
        asked = parsed_args.who, parsed_args.to, parsed_args.kind
        sent = tracing.frame(seen.networks, seen.claims, seen.ports, *asked)
        if place.backend == "openvswitch":
            steps, end = tracing.switch(place, sent, seen.ports)
        else:
            steps, end = tracing.kernel(sent)
        self.success = 0 if end.arrives else 1
        return ["where", "what", "does"], [*map(list, steps), ["end", "", end.text]]

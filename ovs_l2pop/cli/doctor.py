"""``ovs-l2pop doctor``: what is wrong at this host."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovs_l2pop.cli.base import Lister, add_config_options, config_arguments
from ovs_l2pop.paths import CONTROL_SOCKET

if TYPE_CHECKING:
    from ovs_l2pop.doctor.gather import Where


class Doctor(Lister):
    """List what is wrong at this host, each with the evidence and what to do.

    Looks at what the agent knows, the switch or the bridges, the kernel, and the way to each VTEP,
    which is sent pings and a datagram for no network. Changes nothing. Exit code 0: nothing is
    wrong. 1: something is. 2: nothing was found, and not everything could be looked at.
    """

    failure = 2

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[list[str], list[Any]]:
        # Imported here: other commands start in half the time without.
        from ovs_l2pop import config
        from ovs_l2pop.doctor import findings, gather

        conf = config.load(config_arguments(parsed_args), need_local_ip=False)
        seen = gather.gather(where(conf, self.socket_path(parsed_args)))
        found = findings.find(seen)
        rows = [["finding", *finding] for finding in found]
        remedy = "run it as root" if gather.may_look() else "mend that, and look again"
        rows += [["can't tell", f"{what}: {why}", what, why, remedy] for what, why in seen.unseen]
        self.success = 1 if found else 2 if seen.unseen else 0
        if not rows and parsed_args.formatter == "table":
            self.app.stderr.write("nothing is wrong\n")
        return ["kind", "what", "offender", "evidence", "remedy"], rows


def where(conf: Any, socket: Path) -> "Where":
    """Where things are.

    :raises ConfigError: names the option.
    """
    from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings
    from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
    from ovs_l2pop.core.errors import ConfigError
    from ovs_l2pop.doctor.gather import Where

    common = conf.ovs_l2pop
    if str(socket) == CONTROL_SOCKET:
        socket = Path(common.control_socket)
    if common.backend == "linuxbridge":
        port = LinuxBridgeSettings.from_config(conf).port
        return Where(common.backend, common.local_ip, port, socket)
    if common.backend != "openvswitch":
        raise ConfigError(f"[ovs_l2pop] backend {common.backend}: doctor doesn't know it")
    ovs = OpenvswitchSettings.from_config(conf)
    return Where(
        common.backend,
        common.local_ip,
        ovs.vxlan_udp_port,
        socket,
        ovs.bridges.integration,
        ovs.bridges.tunnel,
        str(ovs.rundir),
        ovs.ovsdb_connection,
    )

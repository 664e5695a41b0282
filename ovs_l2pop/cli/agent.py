"""``ovs-l2pop agent``: the daemon, in the foreground."""

import argparse
import gc
import logging
import signal
import threading
from pathlib import Path
from typing import Any

from ovs_l2pop.cli.base import Command

LOG = logging.getLogger("ovs_l2pop")


class Agent(Command):
    """Run the agent in the foreground until SIGTERM or SIGINT.

    The dataplane stays as it is when the agent ends; started again, it goes on from the table
    that it keeps on disk (state_path).
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--config-file",
            metavar="FILE",
            action="append",
            default=[],
            help="configuration, also more than once (default: ovs-l2pop.conf in"
            " ~/.ovs-l2pop, ~, /etc/ovs-l2pop, /etc)",
        )
        parser.add_argument("--config-dir", metavar="DIR", action="append", default=[])
        parser.add_argument("--debug", action="store_true", help="log more")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # Imported here: commands that only talk to an agent start in half the time without.
        from stevedore.driver import DriverManager
        from stevedore.exception import NoMatches

        from ovs_l2pop import config
        from ovs_l2pop.agent.control import ControlServer
        from ovs_l2pop.agent.service import Agent as Service
        from ovs_l2pop.agent.store import Store
        from ovs_l2pop.errors import ConfigError

        _log_to_stderr(logging.DEBUG if parsed_args.debug else logging.INFO)
        arguments = [f"--config-file={path}" for path in parsed_args.config_file]
        arguments += [f"--config-dir={path}" for path in parsed_args.config_dir]
        conf = config.load(arguments)
        options = conf.ovs_l2pop
        try:
            backend: Any = DriverManager("ovs_l2pop.backends", options.backend).driver
        except NoMatches as error:
            raise ConfigError(f"[ovs_l2pop] backend {options.backend} is not installed") from error

        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        # State first: its lock keeps a second agent off the dataplane.
        store = Store(Path(options.state_path))
        service = Service(options.local_ip, backend.from_config(conf), store)
        # The table is millions of small objects that live long and hold no cycles: looking
        # through them for garbage at the usual pace takes a third of a large write's time.
        gc.set_threshold(200_000, 50, 1000)
        service.start()
        try:
            # --socket wins over the option: one configuration can serve two agents in a test.
            path = getattr(parsed_args, "socket", None) or options.control_socket
            control = ControlServer(Path(path), service)
            LOG.info("ready: VTEP %s, control socket %s", options.local_ip, path)
            ended.wait()
            LOG.info("ending; the dataplane stays as it is")
            control.close()
        finally:
            service.stop()
        return 0


def _log_to_stderr(level: int) -> None:
    root = logging.getLogger()
    for handler in root.handlers:
        root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    for chatty in ("ovsdbapp", "stevedore", "os_ken"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

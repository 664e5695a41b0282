"""``ovs-l2pop agent``: the daemon, in the foreground."""

import argparse
import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

from ovs_l2pop.cli.base import Command
from ovs_l2pop.paths import CONTROL_SOCKET

LOG = logging.getLogger("ovs_l2pop")

_ENDING = (signal.SIGTERM, signal.SIGINT)


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

        # --socket wins over the option: one configuration can serve two agents in a test.
        given = getattr(parsed_args, "socket", None) or self.app.options.socket
        path = Path(options.control_socket if given == CONTROL_SOCKET else given).absolute()
        # What happens comes through a pipe, signals as their numbers. A handler in Python could
        # run too late: a signal may come just before the main thread waits.
        events, tell = os.pipe()
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell)
        for number in _ENDING:
            signal.signal(number, lambda *_: None)
        # The table is millions of small objects that live long and hold no cycles: looking
        # through them for garbage at the usual pace takes a third of a large write's time.
        gc.set_threshold(200_000, 50, 1000)
        # State and socket first: a second agent must fail before it touches the dataplane.
        store = Store(Path(options.state_path).absolute())
        service = Service(options.local_ip, backend.from_config(conf), store)
        control = ControlServer(path, service)
        try:
            service.start().add_done_callback(lambda _: os.write(tell, b"\0"))
            while os.read(events, 1)[0] not in _ENDING:  # else the dataplane was tried
                control.start()
                LOG.info("ready: VTEP %s, control socket %s", options.local_ip, path)
            LOG.info("ending; the dataplane stays as it is")
        finally:
            control.close()
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
    for chatty in ("stevedore", "os_ken"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It logs, with a traceback, what it raises as well.
    logging.getLogger("ovsdbapp").setLevel(logging.CRITICAL)

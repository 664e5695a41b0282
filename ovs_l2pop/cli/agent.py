"""``ovs-l2pop agent``: the daemon, in the foreground."""

import argparse
import gc
import logging
import os
import select
import signal
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovs_l2pop.cli.base import Command, add_config_options, config_arguments
from ovs_l2pop.cli.service import ServiceManager
from ovs_l2pop.cli.stderr import JsonFormatter, StderrHandler
from ovs_l2pop.paths import CONTROL_SOCKET

if TYPE_CHECKING:
    from ovs_l2pop.agent.worker import Worker

LOG = logging.getLogger("ovs_l2pop")

_ENDING = (signal.SIGTERM, signal.SIGINT)
#: What would end or stop a process that doesn't expect it: a terminal that is closed, or that
#: wants nothing written (SIGTTOU); log rotation, which sends HUP or USR1 to whoever it knows.
_IGNORED = (
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM),
    *(signal.SIGPROF, signal.SIGIO, signal.SIGPWR, signal.SIGTTOU, signal.SIGTTIN, signal.SIGPIPE),
)


class RunAgent(Command):
    """Run the agent in the foreground until SIGTERM or SIGINT.

    The dataplane stays as it is when the agent ends; started again, it goes on from the table
    that it keeps on disk (state_path). It takes no notice of SIGHUP and SIGUSR1: a new
    configuration is read at the next start.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        parser.add_argument("--debug", action="store_true", help="log more")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # Imported here: commands that only talk to an agent start in half the time without.
        from ovs_l2pop import config
        from ovs_l2pop.agent.control import ControlServer
        from ovs_l2pop.agent.history import History
        from ovs_l2pop.agent.probing import Prober
        from ovs_l2pop.agent.store import Store
        from ovs_l2pop.agent.worker import Worker
        from ovs_l2pop.backends import loader
        from ovs_l2pop.netlink.addresses import HostAddresses

        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        handler = _log_to_stderr(logging.DEBUG if parsed_args.debug else logging.INFO)
        arguments = config_arguments(parsed_args)
        conf = config.load(arguments)
        options = conf.ovs_l2pop
        if options.log_format == "json":
            handler.setFormatter(JsonFormatter())
        backend = loader.load(conf)
        for slip in config.unknown(conf):
            LOG.warning("%s", slip)
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
        # through them for garbage at the usual pace takes a third of a large write's time. The
        # young ones few at a time, as changes wait for that (200,000: a tenth of a second).
        gc.set_threshold(20_000, 500, 1000)
        # State and socket first: a second agent must fail before it touches the dataplane.
        store = Store(Path(options.state_path).absolute())
        worker = Worker(
            *(options.local_ip, backend, store, options.drift_interval),
            orphan_time=options.orphan_time,
            addresses=HostAddresses(),
            limits=config.limits(options),
            holds=options.hold_moving_addresses,
            prober=Prober.every(options.vtep_probe_interval, options.local_ip),
            history=History(Path(options.state_path).absolute()),
            speaker=lambda: listener,
            housekeeping=lambda: control.keep_place(),
        )
        listener = _listener(conf, arguments, worker)
        control = ControlServer(path, worker)
        manager = ServiceManager()
        metrics = _metrics(options, worker)
        try:
            tried = worker.start()
            tried.add_done_callback(lambda _: os.write(tell, b"\0"))
            while _next(events, manager, worker, tried) not in _ENDING:  # else it was tried
                control.start()
                state = "ready" if worker.trouble is None else "waiting for the dataplane"
                LOG.info("%s: VTEP %s, control socket %s", state, options.local_ip, path)
                manager.tell("READY=1", f"STATUS={state}: VTEP {options.local_ip}")
                if listener is not None:
                    listener.start()
            LOG.info("ending; the dataplane stays as it is")
            manager.tell("STOPPING=1")
        finally:
            if listener is not None:
                listener.stop()
            if metrics is not None:
                metrics.shutdown()
            control.close()
            worker.stop()
        return 0


def _next(events: int, manager: ServiceManager, worker: "Worker", alive: "Future[None]") -> int:
    """The number of a signal, or 0 once the dataplane was tried.

    As long as none comes, the service manager hears that the worker goes on: this thread would
    wait here also for a worker that hangs.

    :param alive: ends with what the worker does now.
    """
    while not select.select([events], [], [], manager.interval)[0]:
        if alive.done():
            manager.tell("WATCHDOG=1")
            alive = worker.call(lambda: None)
    return os.read(events, 1)[0]


def _listener(conf: Any, arguments: list[str], worker: Any) -> Any:
    """What listens to a Neutron server, or None; without one oslo.messaging is not needed."""
    if not conf.transport_url:
        return None
    from ovs_l2pop.core.errors import ConfigError

    try:
        from ovs_l2pop.daemon.listener import Listener
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[DEFAULT] transport_url needs oslo.messaging ({error}): pip install 'ovs-l2pop[rpc]'"
        ) from error
    return Listener(conf, arguments, worker)


def _metrics(options: Any, worker: Any) -> Any:
    """What answers Prometheus, or None."""
    if not options.metrics_port:
        return None
    from ovs_l2pop.core.errors import ConfigError

    try:
        from ovs_l2pop.agent import metrics
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[ovs_l2pop] metrics_port needs prometheus-client ({error}):"
            " pip install 'ovs-l2pop[metrics]'"
        ) from error
    return metrics.serve(worker, options.backend, options.metrics_port)


def _log_to_stderr(level: int) -> StderrHandler:
    root = logging.getLogger()
    for handler in root.handlers:
        root.removeHandler(handler)
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    for chatty in ("stevedore", "os_ken"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns of what comes for a channel that is being closed.
    logging.getLogger("amqp").setLevel(logging.ERROR)
    # They log, with a traceback, what they raise as well.
    for chatty in ("ovsdbapp", "oslo_service"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    return handler

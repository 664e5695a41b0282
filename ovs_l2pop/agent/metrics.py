"""What Prometheus is told of an agent: every metric, with its labels and its help text.

Few labels, each with few values: neither networks nor addresses nor VTEPs. Needs prometheus-client
(the extra ``metrics``).
"""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ovs_l2pop.agent import views
from ovs_l2pop.agent.counters import BOUNDS
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.errors import ConfigError

#: Where it is listened: who wants more puts something before it that knows who may ask.
_ADDRESS = "127.0.0.1"
#: Seconds that the worker is given: less than Prometheus waits (10).
_PATIENCE = 4.0


class Metrics(Collector):
    """Measures an agent whenever it is asked.

    :param backend: its name.
    """

    def __init__(self, worker: Worker, backend: str) -> None:
        self._worker = worker
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        try:
            found = self._worker.call(lambda: list(_measured(self._worker))).result(_PATIENCE)
        except TimeoutError:  # it waits for a dataplane that hangs
            found = [_up(False)]
        yield from found
        yield GaugeMetricFamily(
            "ovs_l2pop_busy_seconds",
            "How long the agent is at what it does now; much of it: the dataplane hangs.",
            self._worker.busy,
        )
        build = GaugeMetricFamily(
            "ovs_l2pop_build_info", "Always 1.", labels=["version", "backend"]
        )
        build.add_metric([version("ovs-l2pop"), self._backend], 1)
        yield build


def serve(worker: Worker, backend: str, port: int) -> Any:
    """Answer Prometheus, in threads of their own.

    :returns: what ``shutdown()`` ends.
    :raises ConfigError: the port can't be listened to.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(worker, backend))
    try:
        server, _ = start_http_server(port, _ADDRESS, registry)
    except OSError as error:
        raise ConfigError(f"[ovs_l2pop] metrics_port {port}: {error.strerror}") from error
    return server


def _up(up: bool) -> Metric:
    return GaugeMetricFamily(
        "ovs_l2pop_dataplane_up", "Whether the dataplane can be read and written.", int(up)
    )


def _measured(worker: Worker) -> Iterator[Metric]:
    """In the worker."""
    yield _up(worker.trouble is None)
    yield from _health(worker)
    yield from _rows(worker)
    yield from _table(worker)
    yield from _counted(worker)


def _health(worker: Worker) -> Iterator[Metric]:
    health = GaugeMetricFamily(
        "ovs_l2pop_health_ok",
        "0 where `ovs-l2pop show health` says trouble, and why.",
        labels=["what"],
    )
    states: dict[str, bool] = {}
    for what, state, _ in views.health_rows(worker):
        states[what] = states.get(what, True) and state != "trouble"
    for what, ok in states.items():
        health.add_metric([what], int(ok))
    yield health


def _rows(worker: Worker) -> Iterator[Metric]:
    difference = worker.reconciler.difference
    rows = GaugeMetricFamily(
        "ovs_l2pop_rows",
        "Rows of ours in the dataplane (installed), that should be there (missing) or not be there"
        " (surplus).",
        labels=["kind", "state"],
    )
    for state, found in (
        ("installed", difference.installed),
        ("missing", difference.to_add),
        ("surplus", difference.to_remove),
    ):
        # All rows of a type are of a kind, and there may be very many.
        samples = {type(row): row for row in found}
        kinds = {of: worker.reconciler.describe(row).kind for of, row in samples.items()}
        counts: Counter[str] = Counter()
        for of, count in Counter(map(type, found)).items():
            counts[kinds[of]] += count
        for kind, count in counts.items():
            rows.add_metric([kind, state], count)
    yield rows
    yield GaugeMetricFamily(
        "ovs_l2pop_refused_rows",
        "Rows that the dataplane doesn't take; they are tried again.",
        len(worker.reconciler.refused),
    )
    yield GaugeMetricFamily(
        "ovs_l2pop_kept_rows",
        "Rows from before of networks that nobody has spoken for.",
        worker.reconciler.kept,
    )


def _table(worker: Worker) -> Iterator[Metric]:
    table = worker.table
    networks = GaugeMetricFamily("ovs_l2pop_networks", "Networks that are known.", labels=["state"])
    attached = sum(table.attachment(n) is not None for n in table.network_ids())
    networks.add_metric(["attached"], attached)
    networks.add_metric(["waiting"], len(list(table.network_ids())) - attached)
    yield networks
    yield GaugeMetricFamily(
        "ovs_l2pop_entries",
        "Entries that are known: machines behind VTEPs.",
        sum(count for n in table.network_ids() for *_, count in table.vteps(n)),
    )
    vteps = GaugeMetricFamily("ovs_l2pop_vteps", "Remote VTEPs.", labels=["state"])
    known, dead = len(table.peers()), len(table.dead)
    vteps.add_metric(["alive"], known - dead)
    vteps.add_metric(["dead"], dead)
    yield vteps
    yield GaugeMetricFamily(
        "ovs_l2pop_moving_addresses",
        "Addresses that two VTEPs claim in turn.",
        len(table.flaps.current()),
    )


def _counted(worker: Worker) -> Iterator[Metric]:
    counters = worker.counters
    messages = CounterMetricFamily(
        "ovs_l2pop_messages",
        "Messages taken in, from the control socket or a server; refused: in part or all.",
        labels=["source", "result"],
    )
    for source in ("socket", "server"):
        for result in ("applied", "refused"):
            messages.add_metric([source, result], counters.messages[source, result])
    yield messages
    times = HistogramMetricFamily(
        "ovs_l2pop_apply_seconds", "From messages being taken in until they were written."
    )
    buckets = [(str(bound), float(counters.below[bound])) for bound in BOUNDS]
    times.add_metric([], [*buckets, ("+Inf", counters.batches)], counters.seconds)
    yield times
    mended = CounterMetricFamily(
        "ovs_l2pop_mended_rows",
        "Rows that somebody else took away (missing) or added (surplus), put right.",
        labels=["kind", "state"],
    )
    for (state, kind), count in worker.watch.mended.items():
        mended.add_metric([kind, state], count)
    yield mended
    yield CounterMetricFamily("ovs_l2pop_looks", "Read-backs of what is installed.", counters.looks)

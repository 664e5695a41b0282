"""What an agent shows of itself: plain rows for tables and JSON. Runs in the agent's worker
but for :func:`health`."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.core.backend import Health, RowText
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError, brief
from ovs_l2pop.core.table import NEIGHBOUR, UNICAST, VTEP, Key

View = dict[str, Any]

_HEALTH_COLUMNS = ["what", "state", "detail"]
#: Seconds that the worker may take for an answer before that is worth telling by itself. Writing
#: 100,000 entries takes it one or two.
_PATIENCE = 3.0


def _view(columns: list[str], rows: Iterable[list[Any]]) -> View:
    return {"columns": columns, "rows": list(rows)}


def _networks(worker: Worker) -> View:
    table = worker.table

    def rows() -> Iterable[list[Any]]:
        for network_id in sorted(table.network_ids()):
            attachment = table.attachment(network_id)
            vteps = list(table.vteps(network_id))
            counts = [len(vteps), sum(entries for _, _, entries in vteps)]
            if attachment is None:
                yield [network_id, None, None, None, *counts, "not attached"]
            else:
                segment = attachment.segment
                yield [
                    network_id,
                    segment.network_type,
                    segment.segment_id,
                    attachment.local_vlan,
                    *counts,
                    "attached",
                ]

    columns = ["network_id", "network_type", "segment_id", "local_vlan", "vteps", "entries"]
    return _view([*columns, "state"], rows())


def _vteps(worker: Worker) -> View:
    networks: Counter[str] = Counter()
    flooding: Counter[str] = Counter()
    entries: Counter[str] = Counter()
    for network_id in worker.table.network_ids():
        for vtep, floods, count in worker.table.vteps(network_id):
            networks[vtep] += 1
            flooding[vtep] += floods
            entries[vtep] += count
    return _view(
        ["vtep", "networks", "flooding_networks", "entries", "local"],
        (
            [vtep, networks[vtep], flooding[vtep], entries[vtep], vtep in worker.table.own]
            for vtep in sorted(networks)
        ),
    )


ENTRY_COLUMNS = ("network_id", "mac", "ip", "vtep", "state")


def entries(worker: Worker, only: Mapping[str, str], limit: int) -> View:
    """Entries in the order of their claims.

    :param only: those with these values, by column; of ``network_id`` its beginning.
    :param limit: so many at the most, 0: all. ``left`` says how many more there are.
    """
    exact = [(ENTRY_COLUMNS.index(n), value) for n, value in only.items() if n != "network_id"]
    rows_of = (
        [network_id, *known.entry, known.state]
        for network_id in sorted(worker.table.network_ids())
        if network_id.startswith(only.get("network_id", ""))
        for known in worker.table.entries(network_id)
    )
    found = (row for row in rows_of if all(row[at] == value for at, value in exact))
    rows = list(itertools.islice(found, limit or None))
    return _view(list(ENTRY_COLUMNS), rows) | {"left": sum(1 for _ in found)}


def _tunnels(worker: Worker) -> View:
    difference = worker.reconciler.difference
    networks: Counter[tuple[Row, str, str]] = Counter()
    for key in difference:
        kind, network_id, vtep = key or ("", "", "")
        attachment = worker.table.attachment(network_id) if kind == VTEP else None
        if attachment is not None:
            for row in difference.rows(key):
                networks[row, attachment.segment.network_type, vtep] += 1
    rows = []
    for (row, network_type, vtep), count in networks.items():
        text = worker.reconciler.describe(row)
        if text.kind == "tunnel":
            state = "installed" if row in difference.installed else "missing"
            if worker.trouble is not None:  # what was last known of it says nothing
                state = "unknown"
            rows.append([text.place, network_type, vtep, count, state, text.does])
    return _view(["name", "type", "vtep", "networks", "state", "attributes"], sorted(rows))


def health(worker: Worker) -> View:
    """Whether something needs a person's attention: rows of what, "ok" or "trouble", and why.

    For another thread than the worker, which may be waiting for a dataplane that hangs.
    """
    try:
        rows = worker.call(lambda: health_rows(worker)).result(_PATIENCE)
        return _view(_HEALTH_COLUMNS, [list(row) for row in rows])
    except TimeoutError:
        busy = f"no answer for {worker.busy:.0f} s"
        detail = f"{busy}; before: {worker.trouble}" if worker.trouble else busy
        return _view(_HEALTH_COLUMNS, [["dataplane", "trouble", detail]])


def health_rows(worker: Worker) -> list[Health]:
    """The rows of :func:`health`, in the worker."""
    return [
        _state("dataplane", worker.trouble, f"{len(worker.reconciler.difference.installed)} rows"),
        _state("refused rows", _refused(worker), "none"),
        _state("table on disk", worker.unkept or worker.forgetful, "kept"),
        _state("drift", None, _mended(worker)),
        *worker.noteworthy(),
        *_orphans(worker),
        *_flaps(worker),
        *_answering(worker),
        *worker.speaker_health(),
    ]


def _state(what: str, trouble: str | None, well: str) -> Health:
    return Health(what, "trouble", trouble) if trouble else Health(what, "ok", well)


def _answering(worker: Worker) -> Iterable[Health]:
    """Who answers, and who is left out of floods."""
    if (prober := worker.prober) is None:
        return
    of = f"of {len(worker.table.peers())}"
    if prober.trouble:
        yield Health("VTEPs", "trouble", f"they can't be asked: {prober.trouble}")
    elif dead := worker.table.dead:
        names = brief(", ".join(sorted(dead)), 200)
        text = f"{len(dead)} {of} don't answer, and get no floods: {names}"
        yield Health("VTEPs", "trouble", text)
    else:
        yield Health("VTEPs", "ok", f"{prober.alive} {of} answer")


def _orphans(worker: Worker) -> Iterable[Health]:
    """What is kept of before."""
    if kept := worker.reconciler.kept:
        yield Health(
            "kept of before",
            "trouble",
            f"{kept} rows of networks that nobody has spoken for are kept;"
            f" what nobody speaks for goes in {worker.orphans_left:.0f} s",
        )


def _flaps(worker: Worker) -> Iterable[Health]:
    """Addresses that two claim."""
    if flaps := worker.table.flaps.current():
        yield Health("moving addresses", "trouble", f"{len(flaps)}; the last: {flaps[-1]}")


def _refused(worker: Worker) -> str | None:
    refused = worker.reconciler.refused
    if not refused:
        return None
    row, reason = next(iter(refused.items()))
    first = " ".join(worker.reconciler.describe(row)[:3])
    return f"{len(refused)}, tried again every so often; the first: {first}: {reason}"


def _mended(worker: Worker) -> str:
    watch = worker.watch
    if watch.last_found is None:
        return "none found"
    parts = [f"{count} {state} {kind}" for (state, kind), count in sorted(watch.mended.items())]
    last = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(watch.last_found))
    return f"mended so far: {', '.join(parts)}; last {last}"


def why(worker: Worker, address: str) -> View:
    """Who claims an address, who wins, and which rows follow: ``claims``, the oldest first, each
    with ``rows`` of ("installed", "missing" or "refused", packets or None, then as
    :class:`.RowText`)."""
    reconciler = worker.reconciler

    def rows(key: Key) -> Iterable[list[Any]]:
        found = reconciler.difference.rows(key)
        hits: Mapping[Row, int] = {}
        with contextlib.suppress(BackendError):
            hits = reconciler.hits(found) if worker.trouble is None else {}
        for row in found:
            state = "installed" if row in reconciler.difference.installed else "missing"
            if row in reconciler.refused:
                state = "refused"
            yield [state, hits.get(row), *reconciler.describe(row)]

    claims = []
    for network_id, entry, wins_mac, wins_ip in worker.table.claims(address):
        follows = [
            *(rows((UNICAST, network_id, entry.mac)) if wins_mac else ()),
            *(rows((NEIGHBOUR, network_id, entry.ip)) if wins_ip else ()),
        ]
        claims.append(
            {
                "network_id": network_id,
                **entry._asdict(),
                "here": entry.vtep in worker.table.own,
                "attached": worker.table.attachment(network_id) is not None,
                "wins_mac": wins_mac,
                "wins_ip": wins_ip,
                "rows": follows,
            }
        )
    return {"claims": claims}


SHOW: Mapping[str, Callable[[Worker], View]] = {
    "networks": _networks,
    "vteps": _vteps,
    "tunnels": _tunnels,
}

_DRIFT_COLUMNS = ["drift", *RowText._fields]


def check(worker: Worker) -> View:
    """Rows that are missing (wanted, not installed) and surplus (the other way round)."""
    try:
        drift = worker.drift()
    except BackendError as error:
        return {"error": str(error)}
    return _view(
        _DRIFT_COLUMNS,
        [*_drift(worker, "missing", drift.missing), *_drift(worker, "surplus", drift.surplus)],
    )


def repair(worker: Worker) -> View:
    """As :func:`check`, and written; refused rows are listed under ``refused``."""
    try:
        drift, refused = worker.repair()
    except BackendError as error:
        return {"error": str(error)}
    rows = [*_drift(worker, "missing", drift.missing), *_drift(worker, "surplus", drift.surplus)]
    texts = [
        f"{' '.join(worker.reconciler.describe(row)[:3])}: {why}" for row, why in refused.items()
    ]
    return {**_view(_DRIFT_COLUMNS, rows), "refused": texts}


def _drift(worker: Worker, state: str, rows: Iterable[Row]) -> Iterable[list[Any]]:
    return sorted([state, *worker.reconciler.describe(row)] for row in rows)

"""All steps in order; the bulk is on h1 from one of them on."""

import signal

from l2pop_lab.compare import measure_programming, measure_restarts, measure_traffic
from l2pop_lab.compare.steps import Step
from l2pop_lab.compare.streams import Sizes


def steps(sizes: Sizes) -> list[Step]:
    """Return all steps for these sizes, in order."""
    return [
        measure_programming.change_step(
            sizes, "change-empty", "one change in an almost empty table", 0
        ),
        measure_programming.footprint_step(sizes),
        measure_programming.growth_step(sizes),
        measure_programming.bulk_step(),
        measure_programming.change_step(
            sizes, "change", f"one change beside {sizes.entries:,} entries", sizes.entries
        ),
        measure_programming.check_step(sizes),
        measure_programming.networks_step(sizes),
        measure_traffic.answers_step(sizes),
        measure_traffic.ping_step(sizes),
        measure_traffic.throughput_step(sizes),
        measure_traffic.copies_step(sizes),
        measure_restarts.idle_step(sizes),
        measure_restarts.restart_step(sizes, "term", signal.SIGTERM),
        measure_restarts.restart_step(sizes, "kill", signal.SIGKILL),
        measure_restarts.switch_step(),
    ]

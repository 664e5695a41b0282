"""Figures of restarts, and of doing nothing, on one side."""

import signal
import time

from l2pop_lab.compare import traffic, usage
from l2pop_lab.compare.sides import CompareError, Side
from l2pop_lab.compare.steps import (
    COST,
    KERNEL_TIME,
    RESTARTS,
    Context,
    Kind,
    Readings,
    Step,
    processes,
)
from l2pop_lab.compare.streams import Sizes
from ovs_l2pop.core.errors import ControlError

PING_SECONDS = 0.01


def idle_step(sizes: Sizes) -> Step:
    """Nothing happens."""
    seconds = 2 * sizes.seconds

    def take(context: Context, side: Side) -> Readings:
        agent, daemons = processes(side)
        before = usage.processor(agent), usage.processor(daemons)
        begin = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - begin
        busy = [
            100 * (usage.processor(pids) - was) / passed
            for pids, was in zip((agent, daemons), before, strict=True)
        ]
        return {"idle-agent": [busy[0]], "idle-switch": [busy[1]] if daemons else KERNEL_TIME}

    how = f"user and system time in {seconds:g} s without messages or traffic, steps of 10 ms"
    return Step(
        COST,
        "idle",
        {
            "idle-agent": Kind("idle agent", "% of a core", how),
            "idle-switch": Kind("idle switch", "% of a core", how),
        },
        take,
    )


def restart_step(sizes: Sizes, key: str, number: signal.Signals) -> Step:
    """The agent of h1 ends by a signal and comes back, under a ping."""

    def take(context: Context, side: Side) -> Readings:
        host, target = side.hosts[0], side.machine(2)
        with side.machine(1).ping_forever(target.ip, PING_SECONDS) as running:
            time.sleep(0.1)
            side.agent(host).stop(number)
            time.sleep(0.1)
            ready = side.start_agent(host)
            time.sleep(0.1)
        result = running.stop()
        if drift := side.drift(host):
            raise CompareError(f"{len(drift)} rows differ after it: {drift[0]}")
        return {f"{key}-lost": [result.lost], f"{key}-ready": [ready]}

    name = number.name
    how = (
        f"the agent of h1 is ended by {name} and started again, with {sizes.entries:,} entries,"
        f" while a machine there pings another host every {1000 * PING_SECONDS:g} ms"
    )
    return Step(
        RESTARTS,
        f"restart of the agent, {name}",
        {
            f"{key}-lost": Kind(f"lost in an agent's restart, {name}", "packets", how),
            f"{key}-ready": Kind(
                f"agent ready again, {name}", "s", f"{how}; from its start to its first answer"
            ),
        },
        take,
        sizes.long_rounds,
    )


def switch_step() -> Step:
    """The switch of h1 ends and comes back, under a ping."""

    def take(context: Context, side: Side) -> Readings:
        if reason := side.dataplane.restart_absent:
            return dict.fromkeys(("switch-out", "switch-whole"), reason)
        host = side.hosts[0]
        with side.machine(1).ping_forever(side.machine(2).ip, PING_SECONDS) as running:
            time.sleep(0.1)
            begin = time.monotonic()
            host.stop_vswitchd(signal.SIGTERM)
            host.start_vswitchd()
            traffic.waiting(lambda: _whole(side), "the agent has written all again")
            whole = time.monotonic() - begin
            time.sleep(0.3)
        result = running.stop()
        return {
            "switch-out": [result.longest_gap * PING_SECONDS],
            "switch-whole": [whole],
        }

    how = "ovs-vswitchd of h1 is ended by SIGTERM and started again, the agent stays; "
    return Step(
        RESTARTS,
        "restart of the switch",
        {
            "switch-out": Kind(
                "switch's restart: nothing forwarded",
                "s",
                f"{how}the longest gap of a ping every {1000 * PING_SECONDS:g} ms",
                datapath=True,
            ),
            "switch-whole": Kind(
                "switch's restart: all written again", "s", f"{how}until check finds no drift"
            ),
        },
        take,
    )


def _whole(side: Side) -> bool:
    try:
        return not side.drift(side.hosts[0])
    except ControlError:  # the agent says that its switch is away
        return False

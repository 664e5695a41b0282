"""Figures of what is written: time, memory and processor time, on one side."""

import time
from collections.abc import Sequence

from l2pop_lab.compare import streams, usage
from l2pop_lab.compare.sides import CompareError, Side, accepted
from l2pop_lab.compare.steps import (
    COST,
    KERNEL_TIME,
    NO_DAEMONS,
    PROGRAMMING,
    Context,
    Kind,
    Reading,
    Readings,
    Step,
    processes,
)
from l2pop_lab.compare.streams import Sizes
from ovs_l2pop.core.wire import FLOODING, Message


def _write(side: Side, messages: Sequence[Message]) -> float:
    """Hand messages to the agent of h1; the seconds until all is written."""
    data = streams.encode(messages)
    begin = time.perf_counter()
    answer = side.deliver(side.hosts[0], data)
    seconds = time.perf_counter() - begin
    accepted(answer)
    return seconds


def _write_bulk(context: Context, side: Side, entries: int) -> float:
    return _write(side, streams.bulk(context.sizes, entries))


def _clear_bulk(context: Context, side: Side) -> float:
    return _write(side, streams.no_bulk(context.sizes))


def footprint_step(sizes: Sizes) -> Step:
    """Memory before the bulk and with it, from the first time that it is written."""

    def take(context: Context, side: Side) -> Readings:
        agent, daemons = processes(side)
        before = usage.memory(agent), usage.memory(daemons)
        _write_bulk(context, side, sizes.entries)
        after = usage.memory(agent), usage.memory(daemons)
        if drift := side.drift(side.hosts[0]):
            raise CompareError(f"{len(drift)} rows are not as they should be: {drift[0]}")
        _clear_bulk(context, side)
        return {
            "memory-all": [sum(after)],
            "memory-agent-0": [before[0]],
            "memory-agent": [after[0]],
            "memory-switch-0": [before[1]] if daemons else NO_DAEMONS,
            "memory-switch": [after[1]] if daemons else NO_DAEMONS,
        }

    how = "VmRSS of /proc, {}; once, as memory that was used doesn't shrink"
    agent, switch = "the agent's process", "ovs-vswitchd and ovsdb-server together"
    few, count = "almost nothing there", f"{sizes.entries:,} entries"

    def kind(what: str, whose: str, entries: str) -> Kind:
        title = f"memory of {what}, {entries}"
        return Kind(title, "MiB", how.format(whose), once=True)

    return Step(
        COST,
        f"memory with {count}",
        {
            "memory-all": kind(
                "all processes, not the kernel's", f"{agent} and, where there are, {switch}", count
            ),
            "memory-agent-0": kind("the agent", agent, few),
            "memory-agent": kind("the agent", agent, count),
            "memory-switch-0": kind("the switch", switch, few),
            "memory-switch": kind("the switch", switch, count),
        },
        take,
    )


def growth_step(sizes: Sizes) -> Step:
    """Each size written and taken away."""

    def take(context: Context, side: Side) -> Readings:
        found: dict[str, Reading] = {}
        agent, daemons = processes(side)
        for entries in sizes.steps:
            before = usage.processor(agent), usage.processor(daemons)
            found[f"program-{entries}"] = [_write_bulk(context, side, entries)]
            if entries != sizes.entries:
                _clear_bulk(context, side)
                continue
            own = usage.processor(agent) - before[0]
            found["cpu-agent"] = [own]
            busy = usage.processor(daemons) - before[1]
            found["cpu-all"] = [own + busy]
            found["cpu-switch"] = [busy] if daemons else KERNEL_TIME
            found["clear"] = [_clear_bulk(context, side)]
        return found

    how = (
        f"from the first byte of the messages to the agent's answer that all is written;"
        f" {sizes.networks} networks and their tunnels to {sizes.vteps} VTEPs included"
    )
    count = f"{sizes.entries:,} entries"
    cpu = "user and system time of {} while the whole bulk is written, in steps of 10 ms"
    kinds = {
        f"program-{entries}": Kind(
            f"time to program {entries:,} entries", "s", how, group="program", size=entries
        )
        for entries in sizes.steps
    }
    kinds |= {
        "clear": Kind(
            f"time to take {count} away",
            "s",
            f"{sizes.networks} detach_network messages, until all is gone, tunnels included",
        ),
        "cpu-all": Kind(
            f"processor time of all processes to program {count}",
            "CPU s",
            cpu.format("the agent and, where there are, ovs-vswitchd and ovsdb-server"),
            section=COST,
        ),
        "cpu-agent": Kind(
            f"processor time of the agent to program {count}",
            "CPU s",
            cpu.format("the agent"),
            section=COST,
        ),
        "cpu-switch": Kind(
            f"processor time of the switch to program {count}",
            "CPU s",
            cpu.format("ovs-vswitchd and ovsdb-server"),
            section=COST,
        ),
    }
    return Step(PROGRAMMING, "time to program", kinds, take, sizes.long_rounds)


def bulk_step() -> Step:
    """The bulk stays for what follows."""

    def take(context: Context, side: Side) -> Readings:
        _write_bulk(context, side, context.sizes.entries)
        return {}

    return Step(PROGRAMMING, "the bulk for what follows", {}, take)


def change_step(sizes: Sizes, key: str, title: str, there: int) -> Step:
    """One new machine after the other, *there* entries beside them."""
    count = sizes.samples

    def take(context: Context, side: Side) -> Readings:
        host = side.hosts[0]
        first = context.changed.get(side.name, 0)
        context.changed[side.name] = first + count
        messages = list(streams.changes(sizes, first, count))
        network = streams.bulk_networks(sizes)[0]
        if not there:
            flooding = network.add({sizes.bulk_vteps[0]: [FLOODING]})
            side.tell(host, network.attach(), flooding)
        times = [1000 * _write(side, [message]) for message in messages]
        side.tell(host, *(m | {"method": "remove_fdb_entries"} for m in messages))
        if not there:
            # An entry of a network that isn't attached would be kept for when it is.
            side.tell(host, flooding | {"method": "remove_fdb_entries"}, network.detach())
        return {key: times}

    how = "one new machine: from connecting to the agent to its answer; written, on disk too"
    return Step(PROGRAMMING, title, {key: Kind(title, "ms", how)}, take, sizes.repeat)


def check_step(sizes: Sizes) -> Step:
    """What ``ovs-l2pop check`` does, without drift."""

    def take(context: Context, side: Side) -> Readings:
        begin = time.perf_counter()
        drift = side.drift(side.hosts[0])
        seconds = time.perf_counter() - begin
        if drift:
            raise CompareError(f"{len(drift)} rows are not as they should be: {drift[0]}")
        return {"check": [seconds]}

    title = f"check of {sizes.entries:,} entries"
    how = "all that is installed read back and compared with what should be"
    return Step(PROGRAMMING, title, {"check": Kind(title, "s", how)}, take, sizes.long_rounds)


def networks_step(sizes: Sizes) -> Step:
    """Many small networks made and taken away."""
    count = sizes.small_networks

    def take(context: Context, side: Side) -> Readings:
        made, gone = streams.small(sizes), streams.no_small(sizes)
        return {
            "network-made": [1000 * _write(side, made) / count],
            "network-gone": [1000 * _write(side, gone) / count],
        }

    how = f"{count} networks of one machine each in one go beside the bulk, divided by their number"
    return Step(
        PROGRAMMING,
        f"{count} networks more",
        {
            "network-made": Kind("time to make a network", "ms", how),
            "network-gone": Kind("time to take a network away", "ms", how),
        },
        take,
        sizes.long_rounds,
    )

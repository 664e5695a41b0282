"""Restarts, drift, what others write, bad input: checks on one side."""

from l2pop_lab.compare import streams, traffic
from l2pop_lab.compare.checking import Places, copied, count, text_to, yes_if
from l2pop_lab.compare.results import Cell
from l2pop_lab.compare.sides import CompareError
from l2pop_lab.compare.streams import BLUE
from l2pop_lab.compare.traffic import watch

UNASKED = 8.0
"""Seconds in which an agent may find by itself what was deleted."""


def agent_restart(places: Places) -> Cell:
    lost: dict[str, float] = {}
    for name, key in (("SIGTERM", "term-lost"), ("SIGKILL", "kill-lost")):
        outcome = places.outcomes[key]
        if not outcome.values:
            return Cell("failed", outcome.error or "not measured")
        lost[name] = sum(outcome.values)
    text = ", ".join(f"{name}: {packets:g}" for name, packets in lost.items())
    times = len(places.outcomes["term-lost"].values)
    return yes_if(not any(lost.values()), f"packets lost in {count(times, 'restart')} each: {text}")


def switch_restart(places: Places) -> Cell:
    outcome = places.outcomes["switch-whole"]
    if outcome.absent:
        return Cell("none", outcome.absent)
    if not outcome.values:
        return Cell("failed", outcome.error or "not measured")
    (seconds,) = outcome.values
    return Cell("yes", f"all written again after {seconds:.1f} s, by the running agent")


def works_without_agent(places: Places) -> Cell:
    side = places.side
    host, one = side.hosts[0], side.machine(1)
    address = streams.machine_addresses(3)[0]
    side.agent(host).stop()
    try:
        seen = watch(side, one, traffic.question(one, address))
        lost = one.ping(address).lost
    finally:
        side.start_agent(host)
    answered = any(traffic.is_answer(frame, address) for frame in seen.answers)
    return yes_if(
        answered and not lost,
        f"ARP {'answered' if answered else 'not answered'} on the host, {lost} of 3 pings lost",
    )


def finds_drift(places: Places) -> Cell:
    side = places.side
    host = side.hosts[0]
    command = side.dataplane.cut(host, BLUE, streams.machine_mac(2))
    rows = side.drift(host)
    side.repair(host)
    if not rows:
        return Cell("no", f"check said nothing after {command}")
    return Cell("yes", f"after {command}: " + " ".join(str(part) for part in rows[0] if part))


def repairs(places: Places) -> Cell:
    side = places.side
    host, one = side.hosts[0], side.machine(1)
    side.dataplane.cut(host, BLUE, streams.machine_mac(3))
    found = len(side.drift(host))
    side.repair(host)
    left = len(side.drift(host))
    seen = watch(side, one, text_to(one, streams.machine_mac(3)))
    return yes_if(
        found > 0 and not left and seen.copies == (side.hosts[2].vtep,),
        f"{count(found, 'row')} differed, {left} after repair; frames go to {copied(side, seen)}",
    )


def mends_itself(places: Places) -> Cell:
    """Deleted behind the agent's back, and nobody calls ``repair``."""
    side = places.side
    host = side.hosts[0]
    side.dataplane.cut(host, BLUE, streams.machine_mac(2))
    try:
        seconds = traffic.waiting(lambda: not side.drift(host), "mended", UNASKED)
    except CompareError:
        return Cell("no", f"still missing after {UNASKED:g} s")
    finally:
        side.repair(host)
    return Cell("yes", f"mended after {seconds:.1f} s")


def strangers(places: Places) -> Cell:
    side = places.side
    host = side.hosts[1]
    command = side.dataplane.plant(host, BLUE)
    side.repair(host)
    there = side.dataplane.planted(host, BLUE)
    return yes_if(there, f"{command}: {'there' if there else 'gone'} after repair")


def bad_entry(places: Places) -> Cell:
    """One bad entry beside a good one."""
    side = places.side
    host, one = side.hosts[0], side.machine(1)
    vtep = side.hosts[1].vtep
    mac = "fa:16:3e:00:00:7b"
    pairs = [(mac, "10.0.0.72"), ("fa:16:3e:zz:00:01", "10.0.0.73")]
    answer = side.deliver(host, streams.encode([BLUE.add({vtep: pairs})]))
    seen = watch(side, one, text_to(one, mac))
    side.tell(host, BLUE.remove({vtep: pairs[:1]}))
    refused = answer["refused"][0] if answer["refused_count"] else "nothing"
    return yes_if(
        answer["refused_count"] == 1 and seen.copies == (vtep,),
        f"refused: {refused}; the good one beside it was written",
    )

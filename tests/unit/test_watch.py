"""When the dataplane is looked at."""

from ovs_l2pop.agent.watch import Watch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def due_after(watch: Watch, clock: Clock, most: float = 10_000) -> float:
    """Seconds until a look is due."""
    start = clock.now
    while not watch.due and clock.now < start + most:
        clock.now += 0.25
    return clock.now - start


def test_every_so_often_and_not_all_hosts_at_once() -> None:
    pauses = set()
    for _ in range(20):
        clock = Clock()
        pauses.add(due_after(Watch(60, clock), clock))
    assert min(pauses) >= 30
    assert max(pauses) <= 55
    assert len(pauses) > 10


def test_soon_after_a_hint() -> None:
    clock = Clock()
    watch = Watch(60, clock)
    watch.disturbed()
    clock.now += 1
    watch.disturbed()  # one more does not put it off
    assert due_after(watch, clock) <= 1.25


def test_a_short_interval_makes_the_pause_short() -> None:
    clock = Clock()
    watch = Watch(0.5, clock)
    watch.disturbed()
    assert due_after(watch, clock) <= 0.75


def test_large_switches_are_looked_at_less_often() -> None:
    clock = Clock()
    watch = Watch(60, clock)
    watch.looked(cost=6.0)
    assert 150 <= due_after(watch, clock) <= 271
    watch.looked(cost=6.0)
    watch.disturbed()
    assert 59 <= due_after(watch, clock) <= 61


def test_off() -> None:
    clock = Clock()
    watch = Watch(0, clock)
    watch.disturbed()
    watch.looked()
    assert due_after(watch, clock, 1000) >= 1000


def test_what_was_mended_is_counted() -> None:
    watch = Watch(60)
    watch.looked([])
    assert watch.last_found is None
    watch.looked([("missing", "flow"), ("missing", "flow"), ("surplus", "tunnel")])
    watch.looked([("missing", "flow")])
    assert watch.mended == {("missing", "flow"): 3, ("surplus", "tunnel"): 1}
    assert watch.last_found is not None

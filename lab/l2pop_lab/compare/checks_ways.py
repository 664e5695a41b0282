"""Where frames go, what is learned and followed: checks on one side."""

import time

from l2pop_lab.compare import streams, traffic
from l2pop_lab.compare.checking import (
    Places,
    announced_for_now,
    copied,
    count,
    followed,
    text_to,
    yes_if,
)
from l2pop_lab.compare.results import Cell
from l2pop_lab.compare.streams import BLUE, GREEN
from l2pop_lab.compare.traffic import watch
from l2pop_lab.topology import craft
from l2pop_lab.topology.frames import BROADCAST
from ovs_l2pop.core import wire

UNKNOWN_MAC = "fa:16:3e:00:00:99"
GUEST_MAC, GUEST_IP = "fa:16:3e:00:00:77", "10.0.0.77"


def known_unicast(places: Places) -> Cell:
    side = places.side
    seen = watch(side, side.machine(1), text_to(side.machine(1), streams.machine_mac(2)))
    return yes_if(seen.copies == (side.hosts[1].vtep,), f"copied to {copied(side, seen)}")


def broadcast(places: Places) -> Cell:
    """In a network that two of the three hosts have."""
    side = places.side
    sender = side.machine(1, GREEN)
    seen = watch(side, sender, text_to(sender, BROADCAST), GREEN)
    return yes_if(
        seen.copies == (side.hosts[1].vtep,),
        f"network on h1 and h2: copied to {copied(side, seen)}, not to h3",
    )


def unknown_unicast(places: Places) -> Cell:
    side = places.side
    seen = watch(side, side.machine(1), text_to(side.machine(1), UNKNOWN_MAC))
    wanted = tuple(sorted(host.vtep for host in side.hosts[1:]))
    return yes_if(seen.copies == wanted, f"copied to {copied(side, seen)}")


def learned(places: Places) -> Cell:
    """A machine on h2 that nobody announced, before and after it has spoken."""
    side = places.side
    before = watch(side, side.machine(1), text_to(side.machine(1), GUEST_MAC))
    side.machine(2).send(craft.text(BROADCAST, GUEST_MAC, "I am at h2"))
    cell = followed(side, GUEST_MAC, 2)
    first = f"at first {count(len(before.copies), 'copy', 'copies')}; once it has spoken "
    return Cell(cell.answer, first + cell.seen)


def learned_moves(places: Places) -> Cell:
    """The same machine speaks from h3."""
    side = places.side
    side.machine(2).send(craft.text(BROADCAST, GUEST_MAC, "I am at h2"))
    before = followed(side, GUEST_MAC, 2)
    # Open vSwitch learns from packets that its cache has handled up to half a second late: two
    # places within that time may be taken in in the wrong order.
    time.sleep(1)
    side.machine(3).send(craft.arp_request(GUEST_MAC, GUEST_IP, GUEST_IP))
    after = followed(side, GUEST_MAC, 3)
    if before.answer != "yes":
        return before
    return Cell(after.answer, f"a second later a gratuitous ARP from h3: {after.seen}")


def announced_moves(places: Places) -> Cell:
    """By messages: h2, then h3, the old entry removed last."""
    side = places.side
    first, second = side.hosts[1:]
    mac = "fa:16:3e:00:00:78"
    pair = (mac, "10.0.0.78")
    with announced_for_now(side, {first.vtep: [pair]}):
        before = followed(side, mac, 2)
        side.tell_all(BLUE.add({second.vtep: [pair]}), BLUE.remove({first.vtep: [pair]}))
        after = followed(side, mac, 3)
        side.tell_all(BLUE.remove({second.vtep: [pair]}))
    if before.answer != "yes":
        return before
    return Cell(after.answer, f"announced on h2, then on h3: {after.seen}")


def moved_before_its_announcement(places: Places) -> Cell:
    """Announced on h2, its first frames already come from h3."""
    side = places.side
    mac = "fa:16:3e:00:00:79"
    with announced_for_now(side, {side.hosts[1].vtep: [(mac, "10.0.0.79")]}):
        frame = craft.text(side.machine(1).mac, mac, "I am at h3 now")
        seen = watch(side, side.machine(3), frame)
    arrived = side.machine(1).name in seen.receivers
    return yes_if(
        arrived,
        "its frames arrive"
        if arrived
        else "its frames are dropped at the receiver's host until the messages say where it is",
    )


def changed_address(places: Places) -> Cell:
    """``chg_ip``: the old address is asked for everywhere again, the new one answered here."""
    side = places.side
    one = side.machine(1)
    mac, old, new, vtep = "fa:16:3e:00:00:7a", "10.0.0.70", "10.0.0.71", side.hosts[1].vtep
    with announced_for_now(side, {vtep: [(mac, old)]}):
        change = wire.changed_ip(BLUE.network_id, vtep, [(mac, old)], [(mac, new)])
        side.tell_all(wire.update(change))
        to_old = watch(side, one, traffic.question(one, old))
        to_new = watch(side, one, traffic.question(one, new))
        side.tell_all(BLUE.remove({vtep: [(mac, new)]}))
    answered = any(traffic.is_answer(frame, new) for frame in to_new.answers)
    # Other machines may ask this one whether it is still there.
    silent = not any(traffic.is_answer(frame, old) for frame in to_old.answers)
    return yes_if(
        answered and silent,
        f"new address {'answered' if answered else 'not answered'}, old one"
        f" {'no longer answered' if silent else 'still answered'}",
    )


def same_addresses(places: Places) -> Cell:
    """Both networks have the same MAC and IP addresses on the same hosts."""
    side = places.side
    blue, green = side.machine(1, BLUE), side.machine(1, GREEN)
    address = streams.machine_addresses(2)[0]
    lost = sum(machine.ping(address, count=2).lost for machine in (blue, green))
    foreign = [
        name
        for sender, network in ((blue, BLUE), (green, GREEN))
        for name in watch(side, sender, text_to(sender, BROADCAST), network).receivers
        if not name.startswith(network.name)
    ]
    return yes_if(
        not lost and not foreign,
        f"{lost} of 4 pings lost, {count(len(foreign), 'frame')} in the wrong network",
    )

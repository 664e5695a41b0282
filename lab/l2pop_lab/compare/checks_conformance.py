"""What a responder may say, by RFC: checks on one side.

Who is asked for is announced and not there, so whatever answers is the host.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from l2pop_lab.compare import questions, traffic
from l2pop_lab.compare.checking import Places, copied, listed, text_to, yes_if
from l2pop_lab.compare.questions import Asker
from l2pop_lab.compare.results import Cell
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.streams import BLUE, machine_addresses, machine_mac
from l2pop_lab.compare.traffic import Seen, watch
from l2pop_lab.topology import craft
from l2pop_lab.topology.frames import BROADCAST, checksum_is_right
from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import Properties, Segment
from ovs_l2pop.core.wire import Message

GHOST = "fa:16:3e:00:0c:01"
GHOST4, GHOST6 = "10.0.0.201", "fd00::c9"
OTHER = "fa:16:3e:00:0c:02"
SEGMENT = Segment(BLUE.kind, BLUE.number)


def _asker(known4: str = GHOST4, known6: str = GHOST6) -> Asker:
    own4, own6 = machine_addresses(1)
    return Asker(machine_mac(1), own4, own6, known4, known6)


@contextmanager
def _ghost(
    places: Places, properties: Properties | None = None, host: int = 1
) -> Iterator[tuple[Side, Asker]]:
    """Somebody who is announced behind a host, by default h2, and is nowhere."""
    side = places.side
    vtep = side.hosts[host].vtep
    pairs = [(GHOST, GHOST4), (GHOST, GHOST6)]
    owners = dict.fromkeys(pairs, properties) if properties else None
    side.tell_all(wire.add(BLUE.network_id, SEGMENT, {vtep: pairs}, owners=owners))
    try:
        yield side, _asker()
    finally:
        side.tell_all(BLUE.remove({vtep: pairs}))


def _told(seen: Seen, address: str) -> list[str]:
    """The MAC addresses that the asker was told, in packets that it believes."""
    found = []
    for frame in seen.answers:
        if traffic.is_answer(frame, address):
            if frame.arp:
                found.append(frame.arp.sender_mac)
            elif frame.neighbour and frame.ip and checksum_is_right(frame.ip):
                found.append(str(frame.neighbour.link_layer))
    return found


def _verdict(side: Side, frames: Mapping[str, bytes], wrong: Callable[[Seen], str]) -> Cell:
    """Send each, and say what is wrong with what becomes of it."""
    found = {}
    for what, frame in frames.items():
        if said := wrong(watch(side, side.machine(1), frame)):
            found[what] = said
    if not found:
        return Cell("yes", listed(frames))
    text = "; ".join(f"{what}: {said}" for what, said in found.items())
    return Cell("no" if len(found) == len(frames) else "partly", text)


def _answered(seen: Seen) -> str:
    told = [*_told(seen, GHOST4), *_told(seen, GHOST6)]
    return f"answered with {listed(told)}" if told else ""


def _not_passed_on(side: Side) -> Callable[[Seen], str]:
    others = tuple(sorted(host.vtep for host in side.hosts[1:]))

    def wrong(seen: Seen) -> str:
        return _answered(seen) or ("" if seen.copies == others else f"went to {copied(side, seen)}")

    return wrong


def flags(places: Places) -> Cell:
    """RFC 4861 §4.4, §7.2.4: the owner's R and O; S, as it was asked."""
    wrong = []
    for properties in (
        Properties(),
        Properties(router=True),
        Properties(override=False),
        Properties(router=True, override=False),
    ):
        with _ghost(places, properties) as (side, asker):
            seen = watch(side, side.machine(1), questions.right(asker))
        told = [f.neighbour for f in seen.answers if traffic.is_answer(f, GHOST6) and f.neighbour]
        wanted = (properties.router, True, properties.override)
        if not told and seen.copies:
            wrong += [] if not properties.override else [f"{properties}: not answered"]
        elif [(t.router, t.solicited, t.override) for t in told] != [wanted]:
            wrong.append(f"R, S, O should be {wanted}: {told}")
    return yes_if(not wrong, "; ".join(wrong) or "as they were announced, or left to the owner")


def invalid(places: Places) -> Cell:
    with _ghost(places) as (side, asker):
        return _verdict(side, questions.invalid_solicitations(asker), _answered)


def checksum(places: Places) -> Cell:
    with _ghost(places) as (side, asker):
        return _verdict(side, questions.wrong_checksum(asker), _answered)


def incomplete(places: Places) -> Cell:
    with _ghost(places) as (side, asker):
        return _verdict(side, questions.incomplete_solicitations(asker), _not_passed_on(side))


def one_after_the_other(places: Places) -> Cell:
    """What was not to be answered leaves nothing behind in a cache."""
    with _ghost(places) as (side, asker):
        wrong = []
        for what, frame in questions.invalid_solicitations(asker).items():
            watch(side, side.machine(1), frame)
            seen = watch(side, side.machine(1), questions.right(asker))
            if _told(seen, GHOST6) != [GHOST] or seen.copies:
                wrong.append(f"after {what}: told {_told(seen, GHOST6)}, to {copied(side, seen)}")
    return yes_if(not wrong, "; ".join(wrong) or "a right one is answered after each wrong one")


def no_requests(places: Places) -> Cell:
    with _ghost(places) as (side, asker):
        return _verdict(side, questions.no_requests(asker), _answered)


def asks_for_another(places: Places) -> Cell:
    """RFC 826: the reply goes to the one that asks in the packet."""
    with _ghost(places) as (side, asker):
        seen = watch(side, side.machine(1), questions.arp(asker, sender=OTHER))
        told = [frame for frame in seen.answers if traffic.is_answer(frame, GHOST4)]
        right = [(f.destination, f.arp and f.arp.target_mac) for f in told] == [(OTHER, OTHER)]
        return yes_if(right, f"{[f.destination for f in told] or 'no answer'}")


def own_tags(places: Places) -> Cell:
    """RFC 7348 §6.1: behind a tag of the machine's own there is another network."""
    with _ghost(places) as (side, asker):
        frames: dict[str, bytes] = {}
        for kind, frame in {"ARP": questions.arp(asker), "ND": questions.right(asker)}.items():
            frames |= {
                f"{kind}, 802.1Q": questions.inside(frame, 7),
                f"{kind}, 802.1ad": questions.inside(frame, 7, service=True),
                f"{kind}, QinQ": questions.inside(frame, 7, 8, service=True),
            }

        def wrong(seen: Seen) -> str:
            if said := _answered(seen):
                return said
            return "" if all(carried.vlans for carried in seen.carried) else "lost its tag"

        return _verdict(side, frames, wrong)


def taken_over(places: Places) -> Cell:
    """RFC 9161 §3.6: after an announcement under another MAC the old one is not told."""
    wrong = []
    announcements: dict[str, Callable[[str], bytes]] = {
        "request": lambda mac: craft.arp_request(mac, GHOST4, GHOST4),
        "reply": lambda mac: craft.arp_reply_to_all(mac, GHOST4),
        "advertisement": lambda mac: craft.advertisement(mac, GHOST6),
    }
    for what, announce in announcements.items():
        for number in (1, 3):
            with _ghost(places) as (side, asker):
                machine = side.machine(number)
                watch(side, machine, announce(machine.mac))
                asked = questions.right(asker) if what == "advertisement" else questions.arp(asker)
                seen = watch(side, side.machine(1), asked)
                if told := _answered(seen):
                    wrong.append(f"{what} on {side.hosts[number - 1].name}: {told}")
                watch(side, side.machine(2), announce(GHOST))
                seen = watch(side, side.machine(1), asked)
                if not _answered(seen):
                    wrong.append(f"{what}: its owner's own announcement ended the answers")
    return yes_if(not wrong, "; ".join(wrong) or "the owner is asked, until the table agrees")


def unicast_questions(places: Places) -> Cell:
    """RFC 1122 §2.3.2.1, RFC 4861 §7.3.3: whether somebody is still there is asked of him."""
    side = places.side
    wrong = []
    for address in machine_addresses(2):
        asked = bytearray(traffic.question(side.machine(1), address))
        asked[:6] = bytes.fromhex(machine_mac(2).replace(":", ""))
        seen = watch(side, side.machine(1), bytes(asked))
        if seen.copies != (side.hosts[1].vtep,) or len(_told(seen, address)) != 1:
            wrong.append(f"{address}: to {copied(side, seen)}, told {_told(seen, address)}")
    return yes_if(not wrong, "; ".join(wrong) or "they went to the owner alone, who answered")


def same_host(places: Places) -> Cell:
    """Who is asked for is on the asker's host, and has heard it."""
    with _ghost(places, host=0) as (side, asker):
        frames = {"ARP": questions.arp(asker), "ND": questions.right(asker)}
        return _verdict(
            side, frames, lambda seen: f"went to {copied(side, seen)}" if seen.copies else ""
        )


def unknown_dropped(places: Places) -> Cell:
    """RFC 9161 §3.6: where a network says so, nobody else hears of who isn't known."""
    side = places.side
    one = side.machine(1)
    attach = wire.attach(
        BLUE.network_id,
        SEGMENT,
        BLUE.local_vlan,
        unknown_unicast="drop",
        unknown_neighbour="drop",
    )
    side.tell(side.hosts[0], attach)
    try:
        asker = _asker()
        dropped = {
            "unicast": text_to(one, OTHER),
            "ARP": questions.arp(asker),
            "ND": questions.right(asker),
        }
        first = _verdict(
            side, dropped, lambda seen: f"went to {copied(side, seen)}" if seen.copies else ""
        )
        passed = {
            "broadcast": text_to(one, BROADCAST),
            "gratuitous ARP": craft.arp_request(one.mac, GHOST4, GHOST4),
            **questions.probes(asker),
        }
        second = _verdict(side, passed, _not_passed_on(side))
    finally:
        side.tell(side.hosts[0], BLUE.attach())
    if first.answer == "yes":
        return second if second.answer != "yes" else Cell("yes", f"dropped: {first.seen}")
    return first


def group_source(places: Places) -> Cell:
    """IEEE 802-2014 §8.2.2: a group sends nothing."""
    side = places.side
    group = "01:00:5e:00:00:01"
    frames = {to: craft.text(to, group, f"to {to}") for to in (BROADCAST, machine_mac(2))}
    return _verdict(
        side, frames, lambda seen: f"went to {copied(side, seen)}" if seen.copies else ""
    )


def duplicate(places: Places) -> Cell:
    """RFC 7432 §15.1: five moves, and it stays where it was."""
    side = places.side
    one, (two, three) = side.machine(1), side.hosts[1:]

    def claim(vtep: str) -> Message:
        return BLUE.add({vtep: [(OTHER, "10.0.0.202")]})

    side.tell_all(claim(two.vtep))
    try:
        for host in (three, two, three, two, three):
            side.tell_all(claim(host.vtep))
        seen = watch(side, one, text_to(one, OTHER))
        return yes_if(seen.copies == (two.vtep,), f"to {copied(side, seen)} after five moves")
    finally:
        side.tell_all(*(BLUE.remove({h.vtep: [(OTHER, "10.0.0.202")]}) for h in (two, three)))


def sticky(places: Places) -> Cell:
    """RFC 7432 §15.2: what is sticky never moves."""
    with _ghost(places, Properties(sticky=True)) as (side, asker):
        three = side.hosts[2]
        side.tell_all(BLUE.add({three.vtep: [(GHOST, GHOST4), (OTHER, GHOST6)]}))
        time.sleep(0.6)  # what the switch has cached follows
        one = side.machine(1)
        seen = watch(side, one, text_to(one, GHOST))
        told = _told(watch(side, one, questions.right(asker)), GHOST6)
        side.tell_all(BLUE.remove({three.vtep: [(GHOST, GHOST4), (OTHER, GHOST6)]}))
        right = seen.copies == (side.hosts[1].vtep,) and told == [GHOST]
        return yes_if(right, f"to {copied(side, seen)}, told {told}")


def padded(places: Places) -> Cell:
    """A question with more behind it than its own length says: the length counts (RFC 894)."""
    with _ghost(places) as (side, asker):
        seen = watch(side, side.machine(1), questions.arp(asker) + bytes(20))
        return yes_if(_told(seen, GHOST4) == [GHOST], f"{len(seen.answers)} answers")

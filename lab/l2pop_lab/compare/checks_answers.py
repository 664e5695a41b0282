"""Who answers ARP and neighbour discovery: checks on one side."""

from collections.abc import Mapping

from l2pop_lab.compare import streams, traffic
from l2pop_lab.compare.checking import Places, copied, count, listed, yes_if
from l2pop_lab.compare.results import Answer, Cell
from l2pop_lab.compare.traffic import Seen, watch
from l2pop_lab.topology import craft
from l2pop_lab.topology.frames import decode

UNKNOWN_IP, UNKNOWN_IP6 = "10.0.0.99", "fd00::99"


def _answered_here(places: Places, address: str) -> Cell:
    side = places.side
    one = side.machine(1)
    seen = watch(side, one, traffic.question(one, address))
    told = [frame for frame in seen.answers if traffic.is_answer(frame, address)]
    right = bool(told) and told[0].source == side.machine(2).mac
    return yes_if(
        right and not seen.copies,
        f"{count(len(told), 'answer')}{' with the right MAC' if right else ''},"
        f" {count(len(seen.copies), 'copy', 'copies')} of the request on the underlay",
    )


def arp_known(places: Places) -> Cell:
    return _answered_here(places, streams.machine_addresses(2)[0])


def nd_known(places: Places) -> Cell:
    return _answered_here(places, streams.machine_addresses(2)[1])


def _forwarded(places: Places, frames: Mapping[str, bytes], holders: int = 0) -> Cell:
    """Each frame must get to all hosts of the network once, and be answered by no host.

    :param holders: machines that answer for themselves.
    """
    side = places.side
    wanted = tuple(sorted(host.vtep for host in side.hosts[1:]))
    wrong = []
    for what, frame in frames.items():
        seen = watch(side, side.machine(1), frame)
        if seen.copies != wanted or len(seen.receivers) != len(wanted):
            wrong.append(f"{what}: to {copied(side, seen)}")
        elif (answers := _answers(seen, frame)) > holders:
            wrong.append(f"{what}: {count(answers, 'answer')}")
    if wrong:
        answer: Answer = "no" if len(wrong) == len(frames) else "partly"
        return Cell(answer, "; ".join(wrong))
    return Cell("yes", f"{listed(frames)} came to each host of the network, once")


def _answers(seen: Seen, frame: bytes) -> int:
    """How many came back for the address that *frame* asks for."""
    asked = decode(frame)
    address = (
        asked.arp.target_ip if asked.arp else asked.neighbour.target if asked.neighbour else ""
    )
    return sum(traffic.is_answer(answer, address) for answer in seen.answers)


def unknown_asked(places: Places) -> Cell:
    mac = streams.machine_mac(1)
    own4, own6 = streams.machine_addresses(1)
    return _forwarded(
        places,
        {
            "ARP request": craft.arp_request(mac, own4, UNKNOWN_IP),
            "solicitation": craft.solicitation(mac, own6, UNKNOWN_IP6),
        },
    )


def announcements(places: Places) -> Cell:
    mac = streams.machine_mac(1)
    return _forwarded(
        places,
        {
            "gratuitous ARP": craft.arp_request(mac, UNKNOWN_IP, UNKNOWN_IP),
            "unsolicited advertisement": craft.advertisement(mac, UNKNOWN_IP6),
        },
    )


def probes(places: Places) -> Cell:
    """For known addresses: an answer by the host would be wrong, only the holder may give it."""
    mac = streams.machine_mac(1)
    known4, known6 = streams.machine_addresses(2)
    return _forwarded(
        places,
        {
            "ARP probe": craft.arp_request(mac, "0.0.0.0", known4),
            "duplicate address detection": craft.solicitation(mac, "::", known6),
        },
        holders=1,
    )


def tagged(places: Places) -> Cell:
    """A machine's own VLAN tag, in a request for a known address."""
    side = places.side
    one = side.machine(1)
    address = streams.machine_addresses(2)[0]
    frame = craft.tagged(traffic.question(one, address), 7)
    seen = watch(side, one, frame)
    answers = [answer for answer in seen.answers if traffic.is_answer(answer, address)]
    tags = {frame.vlans for frame in seen.carried}
    if any(7 in answer.vlans for answer in answers):
        return Cell("yes", "answered with the tag")
    if answers:
        return Cell("no", "answered without the tag, as if the machine had no VLAN of its own")
    if seen.copies:
        kept = "with its tag" if tags == {(7,)} else "without its tag"
        return Cell("partly", f"not answered; copied to {copied(side, seen)}, {kept}")
    return Cell("no", "dropped at the machine's port: neither answered nor copied")

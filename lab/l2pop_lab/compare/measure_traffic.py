"""Figures of what machines see: answers, pings, throughput, copies, on one side."""

from collections.abc import Sequence

from l2pop_lab.compare import streams, traffic
from l2pop_lab.compare.sides import CompareError, Side
from l2pop_lab.compare.steps import TRAFFIC, Context, Kind, Readings, Step
from l2pop_lab.compare.streams import BLUE, GREEN, Sizes
from l2pop_lab.topology import Machine, namespaces
from l2pop_lab.topology.machine import DEVICE

VIP = ("10.0.0.50", "fd00::50")
"""Addresses that h2's machine has besides its own and that nobody announces."""


def answers_step(sizes: Sizes) -> Step:
    """A known address is answered on the host, one that nobody announced by its machine."""
    holder = {4: streams.machine_addresses(2)[0], 6: streams.machine_addresses(2)[1]}
    asked = {
        "arp-known": holder[4],
        "nd-known": holder[6],
        "arp-remote": VIP[0],
        "nd-remote": VIP[1],
    }

    def take(context: Context, side: Side) -> Readings:
        one, two = side.machine(1), side.machine(2)
        _give(two, VIP)
        return {key: traffic.answer_times(one, ip, sizes.samples) for key, ip in asked.items()}

    how = (
        "from the request on the machine's device to the answer on it, by the kernel's clock, one"
        " after the other with a pause of 2 ms; {};"
        f" {sizes.entries:,} entries of other networks on the host"
    )
    here = how.format("a known address of a machine on another host, answered on the asker's host")
    there = how.format(
        "an address that nobody announced: the request is copied to all hosts of the network, and"
        " the machine on another host answers"
    )
    return Step(
        TRAFFIC,
        "ARP and ND replies",
        {
            "arp-known": Kind("ARP reply, known address", "µs", here, datapath=True),
            "nd-known": Kind("ND reply, known address", "µs", here, datapath=True),
            "arp-remote": Kind("ARP reply, unannounced address", "µs", there, datapath=True),
            "nd-remote": Kind("ND reply, unannounced address", "µs", there, datapath=True),
        },
        take,
        sizes.repeat,
    )


def _give(machine: Machine, addresses: Sequence[str]) -> None:
    """Have a machine have more addresses, without a word to anybody."""
    lines = [
        f"address replace {ip}/{'64' if ':' in ip else '24'} dev {DEVICE}"
        + (" nodad" if ":" in ip else "")
        for ip in addresses
    ]
    namespaces.ip_batch(lines, machine.namespace)


def ping_step(sizes: Sizes) -> Step:
    """Round trips between hosts, and the first one from empty neighbour tables."""

    def take(context: Context, side: Side) -> Readings:
        one, two = side.machine(1), side.machine(2)
        first = []
        for _ in range(3):
            for machine in (one, two):
                machine.forget_neighbours()
            first += _answered(one, two.ip, 1)
        return {"ping": _answered(one, two.ip, sizes.samples), "ping-first": first}

    how = "iputils' ping between machines on two hosts"
    return Step(
        TRAFFIC,
        "ping",
        {
            "ping": Kind("ping round trip", "ms", f"{how}, every 5 ms", datapath=True),
            "ping-first": Kind(
                "first ping, nothing resolved",
                "ms",
                f"{how}, neighbour tables empty",
                datapath=True,
            ),
        },
        take,
        sizes.repeat,
    )


def _answered(machine: Machine, address: str, count: int) -> list[float]:
    result = machine.ping(address, count=count, interval=0.005)
    if result.lost or result.duplicates:
        raise CompareError(f"{result.lost} of {count} lost, {result.duplicates} came twice")
    return result.rtts


def throughput_step(sizes: Sizes) -> Step:
    """One TCP stream between hosts."""

    def take(context: Context, side: Side) -> Readings:
        return {"throughput": [traffic.throughput(side.machine(1), side.machine(2), sizes.seconds)]}

    how = (
        f"one TCP stream of {sizes.seconds:g} s between machines on two hosts, by a sender and a"
        " receiver of this program (Python sockets, writes of 256 KiB), payload that arrived;"
        " MTU 1,450 and no segmentation or checksum offload"
    )
    kind = Kind("TCP throughput", "Mbit/s", how, better="more", datapath=True)
    return Step(TRAFFIC, "TCP throughput", {"throughput": kind}, take, sizes.repeat)


def copies_step(sizes: Sizes) -> Step:
    """Networks with one, two and many other VTEPs."""
    many = streams.bulk_vteps_of_first(sizes, sizes.entries)

    def take(context: Context, side: Side) -> Readings:
        host = side.hosts[0]
        host.know_peers(
            [
                *((other.vtep, other.mac) for other in side.hosts[1:]),
                # Nobody has these: the copies end on the underlay, where they are counted.
                *((v, f"02:c8:00:00:01:{n:02x}") for n, v in enumerate(sizes.bulk_vteps)),
            ]
        )
        if side.name not in context.probes:
            network = streams.bulk_networks(sizes)[0]
            mac = "fa:16:3e:00:01:01"
            context.probes[side.name] = side.plug(host, "probe", mac, [], network)
        senders = {
            1: side.machine(1, GREEN),
            2: side.machine(1, BLUE),
            many: context.probes[side.name],
        }
        return {
            f"copies-{count}": [traffic.flood_copies(side, sender, count)]
            for count, sender in senders.items()
        }

    how = "copies of one broadcast frame on the underlay, where the sender's host hands them over"
    return Step(
        TRAFFIC,
        "copies of a broadcast",
        {
            f"copies-{count}": Kind(
                f"copies of a broadcast, {count} other VTEP{'' if count == 1 else 's'}",
                "",
                how,
                better="",
                group="copies",
                size=count,
            )
            for count in sorted({1, 2, many})
        },
        take,
    )

"""Questions for an address: the right ones, and all ways in which one isn't right. Pure; no I/O.

Each is an Ethernet frame of one asker. Sections are those of the RFC that decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from l2pop_lab.topology.frames import BROADCAST

SHORTEST = 60
NONCE, CGA, TIMESTAMP = 14, 11, 13
"""Options of neighbour discovery: RFC 3971 and RFC 7527."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and for whom."""

    mac: str
    ip4: str
    ip6: str
    known4: str
    known6: str


def option(kind: int, content: bytes = b"\1\2\3\4\5\6") -> Packet:
    """An option of neighbour discovery, its length in units of 8 bytes filled in."""
    return ICMPv6NDOptUnknown(type=kind, data=content)


def solicitation(
    asker: Asker,
    *options: Packet,
    source: str | None = None,
    hop_limit: int = 255,
    before: Packet | None = None,
    **fields: object,
) -> bytes:
    """A neighbour solicitation (RFC 4861 §4.3) to the solicited-node group.

    :param before: extension headers.
    :param fields: of ICMPv6, say ``code`` and ``cksum``.
    """
    last = asker.known6.rpartition(":")[2].zfill(6)
    low = bytes.fromhex(last[-6:])
    group = f"ff02::1:ff{low[0]:02x}:{low[1]:02x}{low[2]:02x}"
    packet = Ether(src=asker.mac, dst=f"33:33:ff:{low.hex(':')}")
    packet /= IPv6(src=asker.ip6 if source is None else source, dst=group, hlim=hop_limit)
    if before is not None:
        packet /= before
    packet /= ICMPv6ND_NS(tgt=asker.known6, **fields)
    for one in options:
        packet /= one
    return bytes(packet)


def right(asker: Asker) -> bytes:
    """A solicitation that any host may answer."""
    return solicitation(asker, ICMPv6NDOptSrcLLAddr(lladdr=asker.mac))


def arp(asker: Asker, sender: str | None = None, **fields: object) -> bytes:
    """An ARP request (RFC 826) by broadcast.

    :param sender: the MAC address that asks in the packet, where it is another than the frame's.
    """
    values: dict[str, object] = {
        "hwsrc": sender or asker.mac,
        "psrc": asker.ip4,
        "pdst": asker.known4,
        "hwdst": "00:00:00:00:00:00",
    }
    packet = Ether(src=asker.mac, dst=BROADCAST) / ARP(**({"op": 1} | values | fields))
    return bytes(packet).ljust(SHORTEST, b"\0")


def invalid_solicitations(asker: Asker) -> Mapping[str, bytes]:
    """What is silently discarded by whom it reaches: RFC 4861 §7.1.1."""
    sll = ICMPv6NDOptSrcLLAddr(lladdr=asker.mac)
    good = right(asker)
    return {
        "hop limit 254": solicitation(asker, sll, hop_limit=254),
        "hop limit 1": solicitation(asker, sll, hop_limit=1),
        "code 1": solicitation(asker, sll, code=1),
        "code 2": solicitation(asker, sll, code=2),
        "from :: with an address": solicitation(asker, sll, source="::"),
        "an option of no length": good[:-7] + b"\0" + good[-6:],
        "an option beyond the end": good[:-7] + b"\2" + good[-6:],
        "a cut packet": good[:70],
    }


def wrong_checksum(asker: Asker) -> Mapping[str, bytes]:
    """Apart from the others, as a switch that matches fields doesn't add them up."""
    return {
        "a wrong checksum": solicitation(asker, ICMPv6NDOptSrcLLAddr(lladdr=asker.mac), cksum=4660)
    }


def incomplete_solicitations(asker: Asker) -> Mapping[str, bytes]:
    """What somebody else could only answer in part: RFC 3971, RFC 7527, RFC 9161 §3.2.1."""
    sll = ICMPv6NDOptSrcLLAddr(lladdr=asker.mac)
    return {
        "a nonce": solicitation(asker, sll, option(NONCE)),
        "a nonce first": solicitation(asker, option(NONCE), sll),
        "a nonce alone": solicitation(asker, option(NONCE)),
        "a CGA option first": solicitation(asker, option(CGA, bytes(22)), sll),
        "a timestamp": solicitation(asker, sll, option(TIMESTAMP, bytes(14))),
        "an unknown option": solicitation(asker, sll, option(253)),
        "a target address too": solicitation(
            asker, sll, ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:09")
        ),
        "no address": solicitation(asker),
        "a hop-by-hop header": solicitation(asker, sll, before=IPv6ExtHdrHopByHop()),
        "destination options": solicitation(asker, sll, before=IPv6ExtHdrDestOpt()),
        "a fragment header": solicitation(asker, sll, before=IPv6ExtHdrFragment(nh=58)),
    }


def no_requests(asker: Asker) -> Mapping[str, bytes]:
    """What is no ARP request for an IPv4 address: RFC 826, RFC 5227."""
    good = arp(asker)
    return {
        "RARP's operation": arp(asker, op=3),
        "InARP's operation": arp(asker, op=8),
        "operation 0": arp(asker, op=0),
        "hardware type 6": arp(asker, hwtype=6),
        "hardware type 7": arp(asker, hwtype=7),
        "protocol type IPv6": arp(asker, ptype=0x86DD),
        "a hardware length of 8": good[:18] + b"\x08" + good[19:],
        "a protocol length of 16": good[:19] + b"\x10" + good[20:],
        "a cut packet": good[:36],
        "an asker without address": arp(asker, sender="00:00:00:00:00:00"),
        "a group that asks": arp(asker, sender="01:00:5e:00:00:01"),
    }


def probes(asker: Asker) -> Mapping[str, bytes]:
    """Who asks whether an address is free: only its holder may answer."""
    return {
        "ARP probe": arp(asker, psrc="0.0.0.0"),
        "duplicate address detection": solicitation(asker, source="::"),
        "the same with a nonce": solicitation(asker, option(NONCE), source="::"),
    }


def inside(frame: bytes, *tags: int, service: bool = False) -> bytes:
    """The frame with VLAN tags of the machine's own.

    :param service: the outermost is of IEEE 802.1ad.
    """
    packet = Ether(frame)
    kind, payload = packet.type, bytes(packet.payload)
    layers: list[Packet] = []
    for number, tag in enumerate(tags):
        layers.append((Dot1AD if service and number == 0 else Dot1Q)(vlan=tag))
    made = Ether(src=packet.src, dst=packet.dst)
    for layer in layers:
        made /= layer
    made.lastlayer().type = kind
    return bytes(made / Raw(payload))

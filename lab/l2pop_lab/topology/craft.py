"""Ethernet frames to send from a machine, byte by byte. Pure; no I/O.

``Machine.send`` takes them. :mod:`l2pop_lab.topology.frames` reads what comes of them.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from l2pop_lab.topology.frames import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    PROTOCOL_ICMPV6,
    ArpOperation,
    NeighbourType,
)

ETHERTYPE_EXPERIMENTAL = 0x88B5
"""For local experiments (IEEE 802): no kernel answers it."""
ALL_NODES = "33:33:00:00:00:01"
"""The Ethernet group of ff02::1, all nodes on the link."""

_UNKNOWN = "00:00:00:00:00:00"
_SHORTEST = 60


def text(destination: str, source: str, content: str) -> bytes:
    """Return a frame that no kernel answers, to be found again by its content."""
    return _ethernet(destination, source, ETHERTYPE_EXPERIMENTAL, content.encode())


def arp_request(source: str, sender_ip: str, target_ip: str) -> bytes:
    """Return a broadcast ARP request.

    With one address as sender and target it is an announcement (gratuitous ARP), with the sender
    0.0.0.0 a probe (RFC 5227).
    """
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ArpOperation.REQUEST)
    body += _mac(source) + IPv4Address(sender_ip).packed
    body += _mac(_UNKNOWN) + IPv4Address(target_ip).packed
    return _ethernet(BROADCAST, source, ETHERTYPE_ARP, body)


def arp_reply_to_all(source: str, address: str) -> bytes:
    """Return a gratuitous ARP reply by broadcast (RFC 5227 §3)."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ArpOperation.REPLY)
    body += 2 * (_mac(source) + IPv4Address(address).packed)
    return _ethernet(BROADCAST, source, ETHERTYPE_ARP, body)


def solicitation(source: str, sender_ip: str, target_ip: str) -> bytes:
    """Return a neighbour solicitation to the target's solicited-node group (RFC 4861 §4.3).

    With the sender ``::`` it is duplicate address detection, without link-layer option.
    """
    target = IPv6Address(target_ip).packed
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]
    body = struct.pack("!BBHI", NeighbourType.SOLICITATION, 0, 0, 0) + target
    if sender_ip != "::":
        body += b"\x01\x01" + _mac(source)
    return _icmpv6("33:33:" + group[12:].hex(":"), source, IPv6Address(sender_ip), group, body)


def advertisement(source: str, address: str) -> bytes:
    """Return an unsolicited neighbour advertisement with the override flag (RFC 4861 §4.4)."""
    target = IPv6Address(address)
    body = struct.pack("!BBHI", NeighbourType.ADVERTISEMENT, 0, 0, 1 << 29) + target.packed
    body += b"\x02\x01" + _mac(source)
    return _icmpv6(ALL_NODES, source, target, IPv6Address("ff02::1").packed, body)


def tagged(frame: bytes, vlan: int) -> bytes:
    """Return the frame with a VLAN tag (IEEE 802.1Q)."""
    return frame[:12] + struct.pack("!HH", ETHERTYPE_VLAN, vlan) + frame[12:]


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    frame = _mac(destination) + _mac(source) + struct.pack("!H", ethertype) + payload
    return frame.ljust(_SHORTEST, b"\0")


def _icmpv6(
    destination: str, source: str, sender: IPv6Address, receiver: bytes, body: bytes
) -> bytes:
    """Fill the checksum in (RFC 4443 §2.3); neighbour discovery wants hop limit 255."""
    covered = sender.packed + receiver + struct.pack("!II", len(body), PROTOCOL_ICMPV6) + body
    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", total ^ 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), PROTOCOL_ICMPV6, 255)
    return _ethernet(destination, source, ETHERTYPE_IPV6, header + sender.packed + receiver + body)

"""Frames to send, made by hand: what a test sends must not come from the code under test. Pure."""

import struct
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
NO_MAC = "00:00:00:00:00:00"

ETHERTYPE_TEST = 0x88B5
"""Local experimental Ethertype (IEEE 802): no kernel answers it."""


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    """A frame, padded to Ethernet's 60 bytes."""
    head = mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype)
    return (head + payload).ljust(60, b"\0")


def plain(destination: str, source: str, text: str = "hello") -> bytes:
    """A frame that no kernel answers, told from others by its text."""
    return ethernet(destination, source, ETHERTYPE_TEST, text.encode())


def arp_body(operation: int, sha: str, spa: str, tha: str, tpa: str) -> bytes:
    """The 28 bytes of an ARP message for IPv4 over Ethernet (RFC 826)."""
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
        + mac_bytes(sha)
        + IPv4Address(spa).packed
        + mac_bytes(tha)
        + IPv4Address(tpa).packed
    )


def arp(
    mac: str,
    spa: str,
    tpa: str,
    *,
    operation: int = 1,
    tha: str = NO_MAC,
    destination: str = BROADCAST,
) -> bytes:
    """An ARP frame from *mac*, a broadcast request unless told otherwise."""
    return ethernet(destination, mac, 0x0806, arp_body(operation, mac, spa, tha, tpa))


def solicitation(
    mac: str, source: str, target: str, *, sll: str | None, destination: str | None = None
) -> bytes:
    """A neighbour solicitation (RFC 4861 §4.3) to the target's solicited-node address.

    :param sll: the source link-layer address option; None: without it.
    :param destination: another destination MAC and the target as destination IP (a unicast probe).
    """
    last = IPv6Address(target).packed[-3:]
    group = bytes.fromhex("ff0200000000000000000001ff") + last
    where = group if destination is None else IPv6Address(target).packed
    option = b"" if sll is None else b"\x01\x01" + mac_bytes(sll)
    body = struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(target).packed + option
    to = ("33:33:ff:" + last.hex(":")) if destination is None else destination
    return icmpv6(mac, to, IPv6Address(source).packed, where, body)


def advertisement(
    mac: str, source: str, destination: str, target: str, flags: int, code: int = 0
) -> bytes:
    """A neighbour advertisement (RFC 4861 §4.4) by *mac*; *flags* are the upper three bits."""
    body = struct.pack("!BBHI", 136, code, 0, flags << 29)
    body += IPv6Address(target).packed + b"\x02\x01" + mac_bytes(mac)
    addresses = IPv6Address(source).packed, IPv6Address("ff02::1").packed
    return icmpv6(mac, destination, *addresses, body)


def icmpv6(mac: str, destination: str, source_ip: bytes, to_ip: bytes, body: bytes) -> bytes:
    """An ICMPv6 frame with hop limit 255, its checksum filled in."""
    body = body[:2] + struct.pack("!H", icmpv6_checksum(source_ip, to_ip, body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255)
    return ethernet(destination, mac, 0x86DD, head + source_ip + to_ip + body)


def icmpv6_checksum(source_ip: bytes, to_ip: bytes, body: bytes) -> int:
    """The checksum of RFC 4443 §2.3: 0 over a message whose own one is right."""
    data = source_ip + to_ip + struct.pack("!II", len(body), 58) + body
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

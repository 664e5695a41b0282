"""What a path answers to a packet that is too large for it: frames to frames. Pure.

The kernel's tunnels do the same for what its own datapath forwards (``iptunnel_pmtud_build_icmp``):
in the name of whom the packet was for, as there is no router between.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

#: Bytes of a packet that are worth having: what RFC 4443 lets an error quote, behind the heads.
ENOUGH = 1280 + 18

_VLAN, _IPV4, _IPV6 = b"\x81\x00", b"\x08\x00", b"\x86\xdd"
_ICMP, _ICMPV6, _FRAGMENT = 1, 58, 44
#: Hop-by-hop, routing and destination options: length in units of 8 bytes.
_EXTENSIONS = frozenset({0, 43, 60})
#: Errors are never answered by errors (RFC 1122 section 3.2.2).
_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
_LEAST = 68  # RFC 791: what every path takes
_CONTROL = 0xC0  # internetwork control, RFC 1812 section 4.3.2.5


def too_big(frame: bytes, size: int) -> bytes | None:
    """What its sender is told; None where it may not be told, or would not understand.

    :param frame: an Ethernet frame with the tag of the local VLAN, or its first :data:`ENOUGH`
        bytes.
    :param size: bytes of the largest IP packet that fits.
    """
    if len(frame) < 18 or frame[12:14] != _VLAN or frame[0] & 1 or frame[6] & 1:
        return None
    head = frame[6:12] + frame[:6] + frame[12:18]
    packet = frame[18:]
    if frame[16:18] == _IPV4:
        error = _fragmentation_needed(packet, size)
    elif frame[16:18] == _IPV6:
        error = _packet_too_big(packet, size)
    else:
        return None
    return None if error is None else head + error


def _fragmentation_needed(packet: bytes, size: int) -> bytes | None:
    """RFC 792, RFC 1191 section 4."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or size < _LEAST:
        return None
    length = (packet[0] & 0xF) * 4
    flags = int.from_bytes(packet[6:8], "big")
    # Who permits fragments would not make its packets smaller; later fragments tell no ports.
    if length < 20 or flags != 0x4000:
        return None
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    if not (_answerable(source) and _answerable(destination)):
        return None
    if packet[9] == _ICMP and packet[length] in _ICMP_ERRORS:
        return None
    quoted = packet[: min(int.from_bytes(packet[2:4], "big"), 576 - 28)]
    body = _summed(struct.pack("!BBHHH", 3, 4, 0, 0, size) + quoted, 2)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, _CONTROL, 20 + len(body), 0, 0, 64, _ICMP, 0),
        *(destination.packed, source.packed),
    )
    return _summed(header, 10) + body


def _packet_too_big(packet: bytes, size: int) -> bytes | None:
    """RFC 4443 section 3.2."""
    if len(packet) < 48 or packet[0] >> 4 != 6:
        return None
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    if not (_answerable(source) and _answerable(destination)) or _is_error(packet):
        return None
    quoted = packet[: min(40 + int.from_bytes(packet[4:6], "big"), 1280 - 48)]
    body = struct.pack("!BBHI", 2, 0, 0, size) + quoted
    pseudo = destination.packed + source.packed + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + _checksum(pseudo + body) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 64)
    return header + destination.packed + source.packed + body


def _answerable(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is one machine's."""
    broadcast = address.version == 4 and address.packed == b"\xff" * 4
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or broadcast)


def _is_error(packet: bytes) -> bool:
    """Whether an IPv6 packet is an ICMP error, or its end can't be seen."""
    kind, at = packet[6], 40
    while kind in _EXTENSIONS or kind == _FRAGMENT:
        if len(packet) < at + 8:
            return True
        if kind == _FRAGMENT and int.from_bytes(packet[at + 2 : at + 4], "big") >> 3:
            return True  # not the first: what it is of isn't told
        kind, at = packet[at], at + (8 if kind == _FRAGMENT else 8 * (packet[at + 1] + 1))
    return kind == _ICMPV6 and (len(packet) <= at or packet[at] < 128)


def _summed(data: bytes, at: int) -> bytes:
    """With the checksum of all filled in at this place."""
    return data[:at] + _checksum(data) + data[at + 2 :]


def _checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)

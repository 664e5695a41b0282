"""Reads Ethernet frames as far as L2 population is concerned with them. Pure; no I/O.

What a tunnel carries is decoded in the same way, so that a test can say: one ARP request on the
underlay, inside VNI 77, from this VTEP to that one::

    [frame for frame in frames if (frame := decode(data)).tunnel and frame.innermost.arp]
"""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_QINQ = 0x88A8
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_TEB = 0x6558
"""Transparent Ethernet bridging: what GRE and Geneve call an Ethernet frame."""

PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
PROTOCOL_ICMPV6 = 58

VXLAN_PORT = 4789
GENEVE_PORT = 6081

BROADCAST = "ff:ff:ff:ff:ff:ff"


class ArpOperation(IntEnum):
    """The two operations of RFC 826."""

    REQUEST = 1
    REPLY = 2


class NeighbourType(IntEnum):
    """ICMPv6 types of neighbour discovery, RFC 4861."""

    SOLICITATION = 135
    ADVERTISEMENT = 136


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP message for IPv4 over Ethernet."""

    operation: int
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str


@dataclass(frozen=True, slots=True)
class Ip:
    """The header of an IPv4 or IPv6 packet, and what it carries."""

    version: int
    source: str
    destination: str
    protocol: int
    """The number of the upper layer: of the header after IPv6's extension headers."""
    ttl: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour solicitation or advertisement."""

    type: int
    target: str
    link_layer: str | None
    """The source (solicitation) or target (advertisement) link-layer address option. A
    solicitation without it is duplicate address detection."""
    router: bool
    solicited: bool
    override: bool


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What VXLAN, GRE or Geneve carries, and between which VTEPs."""

    kind: str
    source: str
    destination: str
    vni: int | None
    """The VNI or GRE key; None for GRE without a key."""
    udp_source: int | None
    inner: "Frame"


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame; a part that isn't there, is cut short or isn't understood is None."""

    destination: str
    source: str
    vlans: tuple[int, ...]
    """VLAN ids from the outside in."""
    ethertype: int
    """Of what follows the VLAN tags."""
    arp: Arp | None = None
    ip: Ip | None = None
    neighbour: Neighbour | None = None
    tunnel: Tunnel | None = None

    @property
    def innermost(self) -> "Frame":
        """The frame inside all tunnels; itself if it is none."""
        return self.tunnel.inner.innermost if self.tunnel else self

    @property
    def is_flooded(self) -> bool:
        """Whether it goes to a group: broadcast or multicast by the MAC's group bit."""
        return bool(int(self.destination[:2], 16) & 1)


def decode(data: bytes) -> Frame:
    """Decode a frame that begins with the destination MAC and has no frame check sequence.

    :raises ValueError: if it is too short for an Ethernet header.
    """
    if len(data) < 14:
        raise ValueError(f"{len(data)} bytes are no Ethernet frame: its header alone has 14")
    offset = 12
    vlans = []
    while True:
        (ethertype,) = struct.unpack_from("!H", data, offset)
        offset += 2
        if ethertype not in (ETHERTYPE_VLAN, ETHERTYPE_QINQ) or len(data) < offset + 4:
            break
        vlans.append(struct.unpack_from("!H", data, offset)[0] & 0xFFF)
        offset += 2
    payload = data[offset:]
    arp = _arp(payload) if ethertype == ETHERTYPE_ARP else None
    ip = _ip(payload) if ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6) else None
    return Frame(
        destination=_mac(data[0:6]),
        source=_mac(data[6:12]),
        vlans=tuple(vlans),
        ethertype=ethertype,
        arp=arp,
        ip=ip,
        neighbour=_neighbour(ip) if ip else None,
        tunnel=_tunnel(ip) if ip else None,
    )


def checksum_is_right(ip: Ip) -> bool:
    """Whether an ICMPv6 packet's checksum is that of its content (RFC 4443 §2.3)."""
    size = struct.pack("!II", len(ip.payload), PROTOCOL_ICMPV6)
    addresses = (ipaddress.ip_address(address).packed for address in (ip.source, ip.destination))
    covered = b"".join(addresses) + size + ip.payload
    covered += bytes(len(covered) % 2)
    total: int = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    return total % 0xFFFF == 0 and total > 0


def _mac(data: bytes) -> str:
    return data.hex(":")


def _arp(data: bytes) -> Arp | None:
    if len(data) < 28:
        return None
    hardware, protocol, sizes, operation = struct.unpack_from("!HHHH", data)
    if (hardware, protocol, sizes) != (1, ETHERTYPE_IPV4, 0x0604):
        return None
    return Arp(
        operation=operation,
        sender_mac=_mac(data[8:14]),
        sender_ip=str(ipaddress.IPv4Address(data[14:18])),
        target_mac=_mac(data[18:24]),
        target_ip=str(ipaddress.IPv4Address(data[24:28])),
    )


def _ip(data: bytes) -> Ip | None:
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        header = (data[0] & 0xF) * 4
        length, fragment = struct.unpack_from("!H2xH", data, 2)
        return Ip(
            version=4,
            source=str(ipaddress.IPv4Address(data[12:16])),
            destination=str(ipaddress.IPv4Address(data[16:20])),
            protocol=data[9],
            ttl=data[8],
            # A later fragment begins in the middle of the upper layer; Ethernet pads short ones.
            payload=b"" if fragment & 0x1FFF else data[header:length],
        )
    if version == 6 and len(data) >= 40:
        (length,) = struct.unpack_from("!H", data, 4)
        protocol, payload = _upper_layer(data[6], data[40 : 40 + length])
        return Ip(
            version=6,
            source=str(ipaddress.IPv6Address(data[8:24])),
            destination=str(ipaddress.IPv6Address(data[24:40])),
            protocol=protocol,
            ttl=data[7],
            payload=payload,
        )
    return None


def _upper_layer(protocol: int, data: bytes) -> tuple[int, bytes]:
    """Skip IPv6's hop-by-hop, routing and destination options; MLD comes with the first."""
    while protocol in (0, 43, 60) and len(data) >= 8:
        protocol, data = data[0], data[(data[1] + 1) * 8 :]
    return protocol, data


def _neighbour(ip: Ip) -> Neighbour | None:
    data = ip.payload
    if ip.version != 6 or ip.protocol != PROTOCOL_ICMPV6 or len(data) < 24:
        return None
    if data[0] not in (NeighbourType.SOLICITATION, NeighbourType.ADVERTISEMENT):
        return None
    wanted_option = 1 if data[0] == NeighbourType.SOLICITATION else 2
    link_layer = None
    offset = 24
    while offset + 8 <= len(data) and data[offset + 1]:
        if data[offset] == wanted_option:
            link_layer = _mac(data[offset + 2 : offset + 8])
        offset += data[offset + 1] * 8
    flags = data[4]
    return Neighbour(
        type=data[0],
        target=str(ipaddress.IPv6Address(data[8:24])),
        link_layer=link_layer,
        router=bool(flags & 0x80),
        solicited=bool(flags & 0x40),
        override=bool(flags & 0x20),
    )


def _tunnel(ip: Ip) -> Tunnel | None:
    found = None
    udp_source = None
    if ip.protocol == PROTOCOL_GRE:
        found = _gre(ip.payload)
    elif ip.protocol == PROTOCOL_UDP and len(ip.payload) >= 16:
        udp_source, udp_destination = struct.unpack_from("!HH", ip.payload)
        if udp_destination == VXLAN_PORT:
            found = _vxlan(ip.payload[8:])
        elif udp_destination == GENEVE_PORT:
            found = _geneve(ip.payload[8:])
    if found is None or len(found[2]) < 14:
        return None
    kind, vni, inner = found
    return Tunnel(kind, ip.source, ip.destination, vni, udp_source, decode(inner))


def _vxlan(data: bytes) -> tuple[str, int | None, bytes] | None:
    """Read a header of RFC 7348; one whose I flag isn't set has no valid VNI."""
    if not data[0] & 0x08:
        return None
    return "vxlan", int.from_bytes(data[4:7], "big"), data[8:]


def _geneve(data: bytes) -> tuple[str, int | None, bytes] | None:
    """Read a header of RFC 8926."""
    header = 8 + (data[0] & 0x3F) * 4
    (protocol,) = struct.unpack_from("!H", data, 2)
    if protocol != ETHERTYPE_TEB:
        return None
    return "geneve", int.from_bytes(data[4:7], "big"), data[header:]


def _gre(data: bytes) -> tuple[str, int | None, bytes] | None:
    """Read a header of RFC 2890: checksum, key and sequence number are optional."""
    if len(data) < 4:
        return None
    flags, protocol = struct.unpack_from("!HH", data)
    if protocol != ETHERTYPE_TEB or flags & 0x7:
        return None
    offset = 8 if flags & 0x8000 else 4
    key = None
    if flags & 0x2000:
        if len(data) < offset + 4:
            return None
        (key,) = struct.unpack_from("!I", data, offset)
        offset += 4
    offset += 4 if flags & 0x1000 else 0
    return "gre", key, data[offset:]

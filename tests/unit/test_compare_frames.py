"""Frames that the laboratory makes, read by scapy, and by the laboratory itself."""

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from l2pop_lab.topology import craft
from l2pop_lab.topology.frames import BROADCAST, decode

MAC = "fa:16:3e:00:00:01"


def test_arp_request() -> None:
    frame = Ether(craft.arp_request(MAC, "10.0.0.1", "10.0.0.2"))
    assert (frame.src, frame.dst, len(frame)) == (MAC, BROADCAST, 60)
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (
        *(1, MAC, "10.0.0.1", "00:00:00:00:00:00", "10.0.0.2"),
    )


def checksum(data: bytes) -> tuple[int, int]:
    """The checksum in an ICMPv6 message, and scapy's."""
    packet = Ether(data)
    there = packet[IPv6].payload.cksum
    del packet[IPv6].payload.cksum
    return there, Ether(bytes(packet))[IPv6].payload.cksum


def test_solicitation() -> None:
    data = craft.solicitation(MAC, "fd00::1", "fd00::abcd:1234:5678")
    frame = Ether(data)
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == (
        *("33:33:ff:34:56:78", "ff02::1:ff34:5678", 255),
    )
    assert frame[ICMPv6ND_NS].tgt == "fd00::abcd:1234:5678"
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == MAC
    there, right = checksum(data)
    assert there == right


def test_duplicate_address_detection_names_no_link_layer_address() -> None:
    frame = Ether(craft.solicitation(MAC, "::", "fd00::2"))
    assert frame[IPv6].src == "::"
    assert ICMPv6NDOptSrcLLAddr not in frame


def test_advertisement() -> None:
    data = craft.advertisement(MAC, "fd00::2")
    frame = Ether(data)
    told = frame[ICMPv6ND_NA]
    assert (frame.dst, frame[IPv6].dst) == (craft.ALL_NODES, "ff02::1")
    assert (told.tgt, told.R, told.S, told.O) == ("fd00::2", 0, 0, 1)
    there, right = checksum(data)
    assert there == right
    assert (found := decode(data).neighbour)
    assert found.link_layer == MAC


def test_tag() -> None:
    frame = Ether(craft.tagged(craft.arp_request(MAC, "10.0.0.1", "10.0.0.2"), 7))
    assert frame[Dot1Q].vlan == 7
    assert frame[ARP].pdst == "10.0.0.2"


def test_text() -> None:
    frame = decode(craft.text(BROADCAST, MAC, "hello"))
    assert (frame.source, frame.ethertype) == (MAC, craft.ETHERTYPE_EXPERIMENTAL)

"""The laboratory's decoder, against frames that scapy builds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from l2pop_lab.topology.frames import BROADCAST, Arp, ArpOperation, Neighbour, NeighbourType, decode

MAC1 = "fa:16:3e:00:00:01"
MAC2 = "fa:16:3e:00:00:02"
ARP_REQUEST = Ether(src=MAC1, dst=BROADCAST) / ARP(
    op=1, hwsrc=MAC1, psrc="10.0.0.1", hwdst="00:00:00:00:00:00", pdst="10.0.0.2"
)
OUTER = Ether(src="02:c8:00:00:00:01", dst="02:c8:00:00:00:02")


def test_arp_request() -> None:
    frame = decode(bytes(ARP_REQUEST))
    assert frame.arp == Arp(ArpOperation.REQUEST, MAC1, "10.0.0.1", "00:00:00:00:00:00", "10.0.0.2")
    assert (frame.source, frame.destination, frame.vlans) == (MAC1, BROADCAST, ())
    assert frame.is_flooded
    assert frame.innermost is frame


def test_arp_reply_with_padding() -> None:
    reply = Ether(src=MAC2, dst=MAC1) / ARP(
        op=2, hwsrc=MAC2, psrc="10.0.0.2", hwdst=MAC1, pdst="10.0.0.1"
    )
    frame = decode(bytes(reply) + bytes(18))
    assert frame.arp == Arp(ArpOperation.REPLY, MAC2, "10.0.0.2", MAC1, "10.0.0.1")
    assert not frame.is_flooded


def test_vlan_tags() -> None:
    tagged = Ether(src=MAC1, dst=MAC2) / Dot1AD(vlan=5) / Dot1Q(vlan=77, prio=3) / ARP()
    frame = decode(bytes(tagged))
    assert frame.vlans == (5, 77)
    assert frame.arp is not None


def test_ipv4() -> None:
    packet = Ether() / IP(src="10.0.0.1", dst="10.0.0.2", ttl=7) / ICMP()
    ip = decode(bytes(packet) + b"padding").ip
    assert ip is not None
    assert (ip.version, ip.source, ip.destination, ip.ttl) == (4, "10.0.0.1", "10.0.0.2", 7)
    assert ip.protocol == 1
    assert ip.payload == bytes(packet[ICMP])


@pytest.mark.parametrize("with_option", [True, False])
def test_neighbour_solicitation(with_option: bool) -> None:
    packet = (
        Ether(src=MAC1) / IPv6(src="fd00::1", dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt="fd00::2")
    )
    if with_option:
        packet /= ICMPv6NDOptSrcLLAddr(lladdr=MAC1)
    assert decode(bytes(packet)).neighbour == Neighbour(
        NeighbourType.SOLICITATION,
        "fd00::2",
        MAC1 if with_option else None,
        router=False,
        solicited=False,
        override=False,
    )


def test_neighbour_advertisement() -> None:
    packet = (
        Ether(src=MAC2, dst=MAC1)
        / IPv6(src="fd00::2", dst="fd00::1")
        / ICMPv6ND_NA(tgt="fd00::2", R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC2)
    )
    assert decode(bytes(packet)).neighbour == Neighbour(
        NeighbourType.ADVERTISEMENT, "fd00::2", MAC2, router=False, solicited=True, override=True
    )


def test_extension_header_is_skipped() -> None:
    packet = Ether() / IPv6() / IPv6ExtHdrHopByHop() / ICMPv6ND_NS(tgt="fd00::2")
    frame = decode(bytes(packet))
    assert frame.neighbour is not None
    assert frame.neighbour.target == "fd00::2"


@pytest.mark.parametrize(
    ("kind", "encapsulation"),
    [
        ("vxlan", UDP(sport=50000, dport=4789) / VXLAN(vni=7777, flags="Instance")),
        ("geneve", UDP(sport=50000, dport=6081) / GENEVE(vni=7777, proto=0x6558)),
        ("gre", GRE(key_present=1, key=7777, proto=0x6558)),
        ("gre", GRE(key_present=1, key=7777, proto=0x6558, chksum_present=1, seqnum_present=1)),
    ],
)
@pytest.mark.parametrize(
    ("outer", "source", "destination"),
    [
        (IP(src="10.200.0.1", dst="10.200.0.2"), "10.200.0.1", "10.200.0.2"),
        (IPv6(src="fd00:200::1", dst="fd00:200::2"), "fd00:200::1", "fd00:200::2"),
    ],
)
def test_tunnels(
    kind: str, encapsulation: UDP | GRE, outer: IP | IPv6, source: str, destination: str
) -> None:
    frame = decode(bytes(OUTER / outer / encapsulation / ARP_REQUEST))
    tunnel = frame.tunnel
    assert tunnel is not None
    assert (tunnel.kind, tunnel.vni) == (kind, 7777)
    assert (tunnel.source, tunnel.destination) == (source, destination)
    assert tunnel.udp_source == (None if kind == "gre" else 50000)
    assert tunnel.inner == decode(bytes(ARP_REQUEST))
    assert frame.innermost.arp is not None
    assert frame.arp is None


def test_gre_without_key() -> None:
    tunnel = decode(bytes(OUTER / IP() / GRE(proto=0x6558) / ARP_REQUEST)).tunnel
    assert tunnel is not None
    assert tunnel.vni is None


def test_vxlan_without_valid_vni_is_no_tunnel() -> None:
    packet = OUTER / IP() / UDP(dport=4789) / VXLAN(vni=7, flags=0) / ARP_REQUEST
    assert decode(bytes(packet)).tunnel is None


def test_other_udp_is_no_tunnel() -> None:
    assert decode(bytes(OUTER / IP() / UDP(dport=53) / bytes(64))).tunnel is None


def test_too_short_for_ethernet() -> None:
    with pytest.raises(ValueError, match="13 bytes"):
        decode(bytes(13))


@given(st.integers(14, 200))
def test_cut_short_is_never_an_error(length: int) -> None:
    packet = OUTER / IPv6() / UDP(dport=4789) / VXLAN(vni=1, flags="Instance") / ARP_REQUEST
    decode(bytes(packet)[:length])


@given(st.binary(max_size=120), st.sampled_from([0x0800, 0x0806, 0x8100, 0x86DD]))
def test_noise_is_never_an_error(noise: bytes, ethertype: int) -> None:
    decode(bytes(12) + ethertype.to_bytes(2, "big") + noise)

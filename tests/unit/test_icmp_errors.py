"""What a sender is told of a packet that is too large, built and read by scapy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ovs_l2pop.backends.openvswitch.icmp_errors import ENOUGH, too_big

A, B = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b"
LARGE = Raw(b"x" * 1600)
SIX = IPv6(src="2001:db8::a", dst="2001:db8::b")


def four(**fields: object) -> Packet:
    return IP(**{"src": "10.0.0.1", "dst": "10.0.0.2", "flags": "DF", **fields})


def sent(packet: Packet, source: str = A, destination: str = B) -> bytes:
    return bytes(Ether(src=source, dst=destination) / Dot1Q(vlan=5, prio=3) / packet)


@pytest.mark.parametrize("kept", [ENOUGH, 700, 5000])
@pytest.mark.parametrize("options", [[], [("NOP")] * 4], ids=["bare", "options"])
def test_fragmentation_needed(kept: int, options: list[str]) -> None:
    frame = sent(four(options=options) / TCP(dport=80) / LARGE)[:kept]
    told = too_big(frame, 1450)
    assert told is not None
    seen = Ether(told)
    assert (seen.src, seen.dst, seen[Dot1Q].vlan, seen[Dot1Q].prio) == (B, A, 5, 3)
    assert (seen[IP].src, seen[IP].dst, seen[IP].ttl) == ("10.0.0.2", "10.0.0.1", 64)
    assert (seen[ICMP].type, seen[ICMP].code, seen[ICMP].nexthopmtu) == (3, 4, 1450)
    assert len(bytes(seen[IP])) == seen[IP].len == 576
    assert told[18 + 28 :] == frame[18:][:548]
    given_sums = seen[IP].chksum, seen[ICMP].chksum
    del seen[IP].chksum, seen[ICMP].chksum
    again = Ether(bytes(seen))
    assert given_sums == (again[IP].chksum, again[ICMP].chksum)


@pytest.mark.parametrize("kept", [ENOUGH, 700, 5000])
@pytest.mark.parametrize(
    "packet",
    [
        SIX / TCP(dport=80) / LARGE,
        SIX / ICMPv6EchoRequest() / LARGE,
        SIX / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP() / LARGE,
        SIX / IPv6ExtHdrRouting() / ICMPv6EchoRequest() / LARGE,
        SIX / IPv6ExtHdrFragment(offset=0, m=1) / UDP() / LARGE,
    ],
    ids=["TCP", "echo", "options", "routing", "first fragment"],
)
def test_packet_too_big(packet: Packet, kept: int) -> None:
    frame = sent(packet)[:kept]
    told = too_big(frame, 1430)
    assert told is not None
    seen = Ether(told)
    assert (seen.src, seen.dst, seen[Dot1Q].vlan) == (B, A, 5)
    assert (seen[IPv6].src, seen[IPv6].dst) == ("2001:db8::b", "2001:db8::a")
    error = seen[ICMPv6PacketTooBig]
    assert (error.code, error.mtu) == (0, 1430)
    assert len(told) <= 18 + 1280
    assert told[18 + 48 :] == frame[18:][:1232]
    given_sum = error.cksum
    del error.cksum
    assert given_sum == Ether(bytes(seen))[ICMPv6PacketTooBig].cksum


@pytest.mark.parametrize(
    "frame",
    [
        sent(four(flags=0) / UDP() / LARGE),
        sent(four(flags="MF") / UDP() / LARGE),
        sent(four(frag=100) / UDP() / LARGE),
        sent(four(src="0.0.0.0") / UDP() / LARGE),
        sent(four(src="224.0.0.5") / UDP() / LARGE),
        sent(four(src="255.255.255.255") / UDP() / LARGE),
        sent(four(src="127.0.0.1") / UDP() / LARGE),
        sent(four(dst="224.0.0.5") / UDP() / LARGE),
        *(sent(four() / ICMP(type=kind) / LARGE) for kind in (3, 4, 5, 11, 12)),
        sent(IPv6(src="::", dst="2001:db8::b") / UDP() / LARGE),
        sent(IPv6(src="ff02::1", dst="2001:db8::b") / UDP() / LARGE),
        sent(IPv6(src="2001:db8::a", dst="ff02::1") / UDP() / LARGE),
        sent(SIX / ICMPv6PacketTooBig() / LARGE),
        sent(SIX / IPv6ExtHdrDestOpt() / ICMPv6ParamProblem() / LARGE),
        sent(SIX / IPv6ExtHdrFragment(offset=9) / LARGE),
        sent(four() / UDP() / LARGE, destination="ff:ff:ff:ff:ff:ff"),
        sent(four() / UDP() / LARGE, source="01:00:5e:00:00:01"),
        sent(ARP() / LARGE),
        bytes(Ether(src=A, dst=B) / four() / UDP() / LARGE),
        sent(Dot1Q(vlan=7) / four() / UDP() / LARGE),
    ],
)
def test_who_may_not_be_told_is_not(frame: bytes) -> None:
    assert too_big(frame[:ENOUGH], 1450) is None


def test_a_size_that_every_path_takes_is_not_told() -> None:
    assert too_big(sent(four() / UDP() / LARGE), 67) is None


@given(st.binary(max_size=120), st.booleans(), st.integers(0, 9000))
def test_whatever_comes(rest: bytes, six: bool, size: int) -> None:
    head = sent(SIX if six else four())[:18]
    for frame in (rest, head + rest, head + (b"\x60" if six else b"\x45") + rest):
        told = too_big(frame, size)
        assert told is None or len(told) <= ENOUGH

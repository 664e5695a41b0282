"""Frames that a guest may think of: ARP and neighbour discovery, most fields right."""

import struct
from ipaddress import ip_address

from frame_helpers import BROADCAST, icmpv6_checksum, mac_bytes
from hypothesis import strategies as st

#: Of the machines 10.0.0.1, fd00::1 and so on.
MACS = [f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3)]

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def mostly(usual: object, *others: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.just(usual), st.just(usual), *others)


def addresses(*texts: str) -> st.SearchStrategy[bytes]:
    """These, or any of their size."""
    packed = [ip_address(text).packed for text in texts]
    size = len(packed[0])
    return st.one_of(st.sampled_from(packed), st.binary(min_size=size, max_size=size))


ips = addresses(
    *(f"10.0.0.{number}" for number in (1, 2, 3, 99)),
    *("0.0.0.0", "0.0.0.5", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"),
)
ip6s = addresses(
    *(f"fd00::{number}" for number in (1, 2, 3, 99)),
    *("::", "::1", "ff02::1", "ff02::1:ff00:2", "fe80::1", "::ffff:10.0.0.2"),
)
any_mac = st.sampled_from([*MACS, BROADCAST, "00:00:00:00:00:00", "fa:16:3e:00:00:99"])
destinations = mostly(
    BROADCAST,
    st.sampled_from(["33:33:00:00:00:01", "33:33:ff:00:00:02", "01:00:5e:00:00:fb"]),
    st.sampled_from([*MACS, "fa:16:3e:00:00:99", "fa:16:3e:00:01:02"]),
    st.integers(0, 15).map(lambda last: f"01:80:c2:00:00:{last:02x}"),
).map(lambda mac: mac_bytes(str(mac)))


@st.composite
def arps(draw: st.DrawFn) -> tuple[int, bytes]:
    sender = draw(ips)
    body = struct.pack(
        "!HHBBH",
        draw(mostly(1, u16)),
        draw(mostly(0x0800, st.just(0x86DD), u16)),
        draw(mostly(6, u8)),
        draw(mostly(4, u8)),
        draw(mostly(1, st.integers(0, 10), u16)),
    )
    body += mac_bytes(draw(any_mac)) + sender
    body += mac_bytes(draw(any_mac)) + draw(st.one_of(st.just(sender), ips))
    return draw(mostly(0x0806, st.just(0x8035))), body  # type: ignore[return-value]


@st.composite
def options(draw: st.DrawFn) -> bytes:
    kind, length, value = draw(mostly(1, u8)), draw(mostly(1, u8)), draw(st.binary(max_size=16))
    return bytes([kind, length]) + value  # type: ignore[list-item]


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[int, bytes]:
    source, to = draw(ip6s), draw(ip6s)
    upper = struct.pack("!BB", draw(mostly(135, st.just(136), u8)), draw(mostly(0, u8)))
    upper += bytes(2) + struct.pack("!I", draw(mostly(0, st.just(0x40000000), u32))) + draw(ip6s)
    upper += b"".join(draw(st.lists(options(), max_size=2)))
    if draw(mostly(True, st.just(False))):
        upper = upper[:2] + struct.pack("!H", icmpv6_checksum(source, to, upper)) + upper[4:]
    following = 58
    if extension := draw(mostly(b"", st.sampled_from([0, 43, 44, 60]))):
        following, upper = extension, bytes([58, 0, 1, 4, 0, 0, 0, 0]) + upper  # type: ignore[assignment]
    version = draw(mostly(6, st.integers(0, 15)))
    head = struct.pack(
        "!IHBB",
        version << 28,  # type: ignore[operator]
        draw(mostly(len(upper), u16)),
        draw(mostly(following, u8)),
        draw(mostly(255, u8)),
    )
    return draw(mostly(0x86DD, u16)), head + source + to + upper  # type: ignore[return-value]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame, but for its source address."""
    ethertype, body = draw(st.one_of(arps(), neighbours()))
    tags = draw(mostly((), st.lists(st.tuples(st.sampled_from([0x8100, 0x88A8]), u16), max_size=2)))
    head = draw(destinations) + bytes(6)
    head += b"".join(struct.pack("!HH", kind, tag & 0xEFFF) for kind, tag in tags)  # type: ignore[attr-defined]
    frame = head + struct.pack("!H", ethertype) + body
    length = draw(mostly(len(frame), st.integers(14, len(frame)), st.integers(60, 200)))
    return frame[:length].ljust(length, b"\0")  # type: ignore[index, arg-type]

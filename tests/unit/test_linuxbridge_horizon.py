"""The programs that keep frames apart, run here step by step, and what they should do in words."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.backends.linuxbridge.horizon import ANNOUNCE, ENTER, LEAVE, LEAVE_ALONE

TUNNEL, PORT = 7, 8
ENTERED_BY, DEVICE, INDEX, CLASS = 36, 40, 44, 72
DROP, ON = 2, -1
MASK = (1 << 64) - 1


def run(program: bytes, frame: bytes = b"", known: dict[int, int] | None = None) -> int:
    """What the kernel does (``Documentation/bpf/standardization/instruction-set.rst``): a load
    beyond the end ends it with 0. *known* are fields of ``struct __sk_buff``, by offset."""
    known = {} if known is None else known
    steps = list(struct.iter_unpack("=BBhi", program))
    registers = [0] * 10
    at = 0
    for _ in range(100):
        code, which, offset, value = steps[at]
        to, source = which & 15, which >> 4
        at += 1
        match code:
            case 0x30 | 0x28 | 0x20:
                size = {0x30: 1, 0x28: 2, 0x20: 4}[code]
                if value + size > len(frame):
                    return 0
                registers[0] = int.from_bytes(frame[value : value + size], "big")
                registers[1:6] = [0xDEAD] * 5
            case 0x61:
                registers[to] = known.get(offset, 0)
            case 0x63:
                known[offset] = registers[source] & 0xFFFFFFFF
            case 0xB7:
                registers[to] = value & MASK
            case 0xBF:
                registers[to] = registers[source]
            case 0x4F:
                registers[to] |= registers[source]
            case 0x57:
                registers[to] &= value & MASK
            case 0x05:
                at += offset
            case 0x15 | 0x55 | 0x1D | 0x5D:
                other = registers[source] if code & 8 else value & MASK
                at += offset if (registers[to] == other) == (code < 0x20) else 0
            case 0x95:
                return struct.unpack("=i", struct.pack("=I", registers[0] & 0xFFFFFFFF))[0]  # type: ignore[no-any-return]
            case _:
                raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("it doesn't end")


def announces(frame: bytes) -> bool:
    """In words: what a bridge keeps from a port whose ARP and ND it answers."""
    if not frame[0] & 1:
        return False
    kind, body = frame[12:14], frame[14:]
    if kind in (b"\x08\x06", b"\x80\x35") and len(body) >= 28:
        sender, target = body[14:18], body[24:28]
        address = ip_address(target)
        return (
            body[2:6] == b"\x08\0\6\4"
            and body[6:8] not in (b"\0\3", b"\0\4")
            and not (address.is_loopback or address.is_multicast)
            and sender in (bytes(4), target)
        )
    if kind == b"\x86\xdd" and len(body) >= 64 and body[6] == 58 and not body[41]:
        if body[40] == 136:
            return not body[44] & 0x40
        return body[40] == 135 and body[8:24] in (bytes(16), body[24:40])
    return False


addresses = st.sampled_from(
    [bytes(map(int, text.split("."))) for text in ("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.0.0.2")]
    + [bytes([first, 0, 0, 1]) for first in (126, 127, 128, 223, 224, 239, 240, 255)]
)
macs = st.sampled_from([b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\x02\0\0\0\0\1"])


@st.composite
def arps(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from([b"\0\1\x08\0\6\4", b"\0\2\x08\0\6\4", b"\0\1\x86\xdd\6\4"]))
    body += struct.pack("!H", draw(st.integers(0, 5)))
    sender = draw(addresses)
    body += b"\x02\0\0\0\0\1" + sender + draw(macs) + draw(st.one_of(st.just(sender), addresses))
    kind = draw(st.sampled_from([b"\x08\x06", b"\x80\x35"]))
    return draw(macs) + b"\x02\0\0\0\0\1" + kind + body


@st.composite
def icmpv6s(draw: st.DrawFn) -> bytes:
    source, to = (
        draw(st.sampled_from([bytes(16), bytes(15) + b"\1", b"\xfe\x80" + bytes(14)]))
        for _ in range(2)
    )
    upper = bytes([draw(st.sampled_from([133, 134, 135, 136])), draw(st.sampled_from([0, 0, 1]))])
    upper += bytes([0, 0, draw(st.integers(0, 255))]) + bytes(3) + ip_address("fd00::1").packed
    head = b"\x60\0\0\0" + struct.pack("!HBB", len(upper), draw(st.sampled_from([58, 17])), 255)
    return draw(macs) + b"\x02\0\0\0\0\1" + b"\x86\xdd" + head + source + to + upper


any_frame = st.one_of(arps(), icmpv6s(), st.binary(min_size=14, max_size=90))
cut = st.integers(14, 90)


def test_what_a_tunnel_brings_is_marked() -> None:
    """By its class, which the kernel copies when the frame passes; whatever it is."""
    known: dict[int, int] = {}
    assert run(ENTER, known=known) == 0
    assert known == {CLASS: 0x6C32}


@given(any_frame, cut)
def test_announcements_are_mirrored_and_marked(frame: bytes, length: int) -> None:
    frame = frame[:length]
    known = {ENTERED_BY: 9, DEVICE: 9}
    assert run(ANNOUNCE, frame, known) == (-1 if announces(frame) else 0)
    assert known.get(INDEX, 0) == (0x6C33 if announces(frame) else 0)


@given(any_frame, cut)
def test_what_a_tunnel_brought_is_not_mirrored(frame: bytes, length: int) -> None:
    assert run(ANNOUNCE, frame[:length], {ENTERED_BY: 9, DEVICE: 9, INDEX: 0x6C32}) == 0


@given(any_frame, cut, st.sampled_from([0, 0x6C32, 0x6C33]))
def test_what_a_tunnel_brought_never_leaves_by_it(frame: bytes, length: int, mark: int) -> None:
    known = {ENTERED_BY: TUNNEL, DEVICE: TUNNEL, INDEX: mark}
    assert run(LEAVE, frame[:length], known) == DROP


def asks(frame: bytes) -> bool:
    """In words: a question to all, of whatever form that the bridge may have looked at."""
    kind, body = frame[12:14], frame[14:]
    if not frame[0] & 1 or announces(frame):
        return False
    if kind == b"\x08\x06":
        whole = len(body) >= 28 or (len(body) >= 8 and body[4:6] != b"\6\4")
        return whole and body[2:4] == b"\x08\0" and body[6:8] == b"\0\1"
    return kind == b"\x86\xdd" and len(body) >= 64 and body[6] == 58 and body[40] == 135


@given(any_frame, cut, st.sampled_from([0, 0x6C33]))
def test_alone_nobody_else_is_asked(frame: bytes, length: int, mark: int) -> None:
    """What the bridge had no answer for stays here; all else as ever."""
    frame = frame[:length]
    found, known = ({ENTERED_BY: PORT, DEVICE: TUNNEL, INDEX: mark} for _ in range(2))
    asked = asks(frame) and not mark
    assert run(LEAVE_ALONE, frame, found) == (DROP if asked else run(LEAVE, frame, known))


@given(any_frame, cut)
def test_one_of_two_copies_leaves(frame: bytes, length: int) -> None:
    """What is mirrored, and nothing of what the bridge floods beside; but for groups of IPv6."""
    frame = frame[:length]
    known = {ENTERED_BY: PORT, DEVICE: TUNNEL}
    group = frame[12:14] == b"\x86\xdd" and frame[2:6] != bytes([0, 0, 0, 1])
    dropped = run(LEAVE, frame, known) == DROP
    assert dropped == (announces(frame) and not group)
    known[INDEX] = 0x6C33
    assert run(LEAVE, frame, known) != DROP
    assert known[INDEX] == 0


@pytest.mark.parametrize("kind", [b"\x80\x35", b"\x08\x00", b"\x81\x00"])
def test_other_frames(kind: bytes) -> None:
    """RARP, with which a hypervisor announces a machine, isn't kept back by bridges."""
    body = b"\0\1\x08\0\6\4\0\3" + bytes(52)
    assert run(ANNOUNCE, b"\xff" * 6 + b"\x02\0\0\0\0\1" + kind + body) == 0

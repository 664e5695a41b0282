"""The classic BPF program that tells announcements from other frames, run here step by step."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.backends.linuxbridge.announcements import PROGRAM


def run(frame: bytes) -> bool:
    """What the kernel's interpreter does (``linux/filter.h``): a load beyond the end is a no."""
    steps = list(struct.iter_unpack("=HBBI", PROGRAM))
    accumulator = index = at = 0
    for _ in range(100):
        code, true, false, value = steps[at]
        at += 1
        if code in (0x30, 0x28, 0x20):
            size = {0x30: 1, 0x28: 2, 0x20: 4}[code]
            if value + size > len(frame):
                return False
            accumulator = int.from_bytes(frame[value : value + size], "big")
        elif code == 0x07:
            index = accumulator
        elif code == 0x06:
            return bool(value)
        else:
            holds = {0x15: accumulator == value, 0x1D: accumulator == index}
            at += true if holds.get(code, bool(accumulator & value)) else false
    raise AssertionError("it doesn't end")


def announces(frame: bytes) -> bool:
    """The same in words."""
    if not frame[0] & 1:
        return False
    kind, body = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and len(body) >= 28:
        sender, target = body[14:18], body[24:28]
        return body[6:8] in (b"\0\1", b"\0\2") and (sender[0] == 0 or sender == target)
    if kind == b"\x86\xdd" and len(body) >= 48 and body[6] == 58:
        if body[40] == 136:
            return not body[44] & 0x40
        return body[40] == 135 and body[8:24] == bytes(16)
    return False


addresses = st.sampled_from([b"\0\0\0\0", b"\0\1\2\3", b"\x0a\0\0\1", b"\x0a\0\0\2"])
macs = st.sampled_from([b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\x02\0\0\0\0\1"])


@st.composite
def arps(draw: st.DrawFn) -> bytes:
    operation = draw(st.integers(0, 4))
    body = b"\0\1\x08\0\6\4" + struct.pack("!H", operation)
    body += b"\x02\0\0\0\0\1" + draw(addresses) + draw(macs) + draw(addresses)
    return draw(macs) + b"\x02\0\0\0\0\1" + b"\x08\x06" + body


@st.composite
def icmpv6s(draw: st.DrawFn) -> bytes:
    source = draw(st.sampled_from([bytes(16), bytes(15) + b"\1", b"\xfe\x80" + bytes(14)]))
    upper = bytes([draw(st.sampled_from([133, 134, 135, 136])), 0, 0, 0, draw(st.integers(0, 255))])
    upper += bytes(3) + ip_address("fd00::1").packed
    head = b"\x60\0\0\0" + struct.pack("!HBB", len(upper), draw(st.sampled_from([58, 17])), 255)
    body = head + source + ip_address("ff02::1").packed + upper
    return draw(macs) + b"\x02\0\0\0\0\1" + b"\x86\xdd" + body


@given(st.one_of(arps(), icmpv6s(), st.binary(min_size=14, max_size=90)))
def test_the_program_says_what_the_words_say(frame: bytes) -> None:
    assert run(frame) is announces(frame)


@given(st.one_of(arps(), icmpv6s()), st.integers(14, 60))
def test_frames_that_are_cut_short(frame: bytes, length: int) -> None:
    run(frame[:length])


@pytest.mark.parametrize("kind", [b"\x80\x35", b"\x08\x00", b"\x81\x00"])
def test_other_frames(kind: bytes) -> None:
    """RARP, with which a hypervisor announces a machine, isn't kept back by bridges."""
    assert not run(b"\xff" * 6 + b"\x02\0\0\0\0\1" + kind + bytes(60))

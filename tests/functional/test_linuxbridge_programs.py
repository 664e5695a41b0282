"""The programs of the Linux bridge's responder, run by the kernel on frames that nobody sent, and
what they should do in words."""

import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from frame_helpers import advertisement, arp, icmpv6_checksum, mac_bytes, solicitation
from guest_frames import MACS, frames
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.backends.linuxbridge import ebpf, responder
from ovs_l2pop.backends.linuxbridge.rows import Neighbour, address_attribute, mac_attribute

ON, DROP, BACK = -1, 2, 7
ROUTER, OVERRIDE, SOLICITED = 0x80, 0x20, 0x40
#: A run has no network's number.
NETWORK = "vxlan-0"
HERE, ELSEWHERE = MACS[0], MACS[1]


def row(ip: str, mac: str, **flags: bool) -> Neighbour:
    addresses = address_attribute(ip) + mac_attribute(mac)
    return Neighbour(NETWORK, "brq", addresses, **flags)  # type: ignore[arg-type]


#: What is known, with the flags of an advertisement; None: the machine is here.
KNOWN: dict[bytes, tuple[Neighbour, int | None]] = {
    ip_address(ip).packed: (row(ip, mac, **flags), told)
    for ip, mac, flags, told in (
        ("10.0.0.1", HERE, {"here": True}, None),
        ("fd00::1", HERE, {"here": True}, None),
        ("10.0.0.2", ELSEWHERE, {}, 0),
        ("fd00::2", ELSEWHERE, {"router": True}, ROUTER | SOLICITED | OVERRIDE),
        ("fd00::3", MACS[2], {"override": False}, SOLICITED),
        ("fe80::1", MACS[2], {}, SOLICITED | OVERRIDE),
    )
}


class Programs:
    """Loaded, and what they know."""

    def __init__(self, answers: responder.Responder) -> None:
        self._answers = answers
        self.leave, self.alone = (answers._ways[way] for way in ("on", "alone"))
        self.enter = answers._enter

    def forget(self) -> None:
        """Have them know :data:`KNOWN`, and nothing of announcements."""
        rows = [row for row, _ in KNOWN.values()]
        self._answers.know(rows, [])

    def contradicted(self) -> set[bytes]:
        """Addresses that were announced otherwise than they are known."""
        return {
            key[12:16] if key.startswith(bytes([255] * 12)) else key[:16]
            for key, value in self._answers._answers.items(at_once=64)
            if value[8]
        }


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    answers = responder.Responder()
    made = Programs(answers)
    made.forget()
    yield made
    answers.close()


# -- in words ------------------------------------------------------------------------------------


def group(mac: bytes) -> bool:
    return bool(mac[0] & 1)


def is_arp(frame: bytes) -> bool:
    return len(frame) >= 42 and group(frame) and frame[12:20] == b"\x08\x06\0\1\x08\0\6\4"


def is_icmpv6(frame: bytes, kind: int) -> bool:
    return (
        len(frame) >= 78
        and group(frame)
        and frame[12:14] + frame[20:21] + frame[54:55] == (b"\x86\xdd" + bytes([58, kind]))
    )


def asked(frame: bytes) -> bytes | None:
    """The address that a question to all is about; None: it isn't one."""
    if is_arp(frame) and frame[20:22] == b"\0\1" and frame[28:32] not in (bytes(4), frame[38:42]):
        return frame[38:42]
    target = frame[62:78]
    if is_icmpv6(frame, 135) and frame[22:38] not in (bytes(16), target) and target[0] != 255:
        return target
    return None


def answer(frame: bytes) -> bytes | None:
    """The answer to a question that is right and whole."""
    known, flags = KNOWN[asked(frame) or b""]
    mac = mac_bytes(known.mac)
    if is_arp(frame):
        asker = frame[22:28]
        if group(asker) or not any(asker):
            return None
        body = frame[14:20] + b"\0\2" + mac + frame[38:42] + asker + frame[28:32]
        return asker + mac + frame[12:14] + body + frame[42:]
    source, target, upper, asker = frame[22:38], frame[62:78], frame[54:86], frame[80:86]
    right = (
        frame[14] >> 4 == 6
        and frame[18:20] == b"\0\x20"
        and frame[21] == 255
        and upper[1] == 0
        and upper[24:26] == b"\1\1"
        and len(frame) >= 86
        and source[0] != 255
        and not group(asker)
        and icmpv6_checksum(source, frame[38:54], upper) == 0
    )
    if not right:
        return None
    assert flags is not None
    told = struct.pack("!BBHI", 136, 0, 0, flags << 24) + target + b"\2\1" + mac
    told = told[:2] + struct.pack("!H", icmpv6_checksum(target, source, told)) + told[4:]
    head = b"\x60\0\0\0" + frame[18:22] + target + source
    return asker + mac + frame[12:14] + head + told + frame[86:]


def claimed(frame: bytes) -> tuple[bytes, bytes] | None:
    """The address and the MAC of an announcement."""
    if (
        is_arp(frame)
        and frame[20:22] in (b"\0\1", b"\0\2")
        and frame[28:32] == frame[38:42] != bytes(4)
    ):
        return frame[38:42], frame[22:28]
    whole = is_icmpv6(frame, 136) and len(frame) >= 86 and frame[62] != 255
    if whole and (frame[21], frame[55], frame[78:80]) == (255, 0, b"\2\1"):
        return frame[62:78], frame[80:86]
    return None


# -- frames --------------------------------------------------------------------------------------

RIGHT = [
    arp("00:00:00:00:00:00", "10.0.0.9", "10.0.0.2"),  # whom nobody can answer
    *(
        arp(MACS[0], sender, target)
        for sender in ("10.0.0.1", "10.0.0.9")
        for target in ("10.0.0.2", "10.0.0.1")
    ),
    *(
        solicitation(MACS[0], "fd00::9", target, sll=MACS[0])
        for target in ("fd00::1", "fd00::2", "fd00::3", "fe80::1")
    ),
    *(arp(mac, "10.0.0.2", "10.0.0.2", operation=how) for mac in MACS for how in (1, 2)),
    *(
        advertisement(mac, ip, "33:33:00:00:00:01", ip, 1)
        for mac in MACS
        for ip in ("fd00::2", "fd00::1")
    ),
]


#: With less the kernel runs no program for trial.
SHORTEST = 54


VALUES = [0, 2, 0xFF]


def changed_by_one(frame: bytes) -> Iterator[bytes]:
    """All that differ from it in a byte, also with a checksum that fits."""
    for at in range(len(frame)):
        for value in (*VALUES, frame[at] ^ 1):
            changed = frame[:at] + bytes([value]) + frame[at + 1 :]
            yield changed
            if frame[12:14] == b"\x86\xdd" and at not in (56, 57):
                yield summed_up(changed)


def summed_up(frame: bytes) -> bytes:
    upper = frame[54:56] + bytes(2) + frame[58:86]
    fits = icmpv6_checksum(frame[22:38], frame[38:54], upper)
    return frame[:56] + fits.to_bytes(2, "big") + frame[58:]


@st.composite
def almost(draw: st.DrawFn) -> bytes:
    """A right one, with some bytes otherwise, or cut, or with something behind it."""
    frame = bytearray(draw(st.sampled_from(RIGHT)))
    for _ in range(draw(st.integers(0, 2))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    length = draw(st.one_of(st.just(len(frame)), st.integers(SHORTEST, len(frame) + 20)))
    return bytes(frame[:length]).ljust(length, b"\0")


any_frame = st.one_of(almost(), frames().map(lambda frame: frame.ljust(SHORTEST, b"\0")))
IN = {ebpf.DEVICE: 1}


# -- tests ---------------------------------------------------------------------------------------


def check_leaving(programs: Programs, frame: bytes) -> None:
    """What is right and whole is answered, for who is here nobody elsewhere is asked, and all else
    goes on unchanged; alone, nobody is asked for who isn't known."""
    address = asked(frame)
    programs.forget()
    for program in (programs.leave, programs.alone):
        result, changed = program.run(frame, IN)
        if address is None:
            wanted = ON
        elif address not in KNOWN:
            wanted = DROP if program is programs.alone else ON
        elif KNOWN[address][1] is None:
            wanted = DROP
        else:
            wanted = BACK if answer(frame) else ON
        assert result == wanted, frame.hex()
        assert changed == (answer(frame) if wanted == BACK else frame), frame.hex()


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_what_leaves_with_one_byte_otherwise(programs: Programs, number: int) -> None:
    for frame in changed_by_one(RIGHT[number]):
        check_leaving(programs, frame)


@settings(max_examples=300, deadline=None)
@given(frame=any_frame)
def test_what_leaves(programs: Programs, frame: bytes) -> None:
    check_leaving(programs, frame)


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_an_announcement_with_one_byte_otherwise(programs: Programs, number: int) -> None:
    for frame in changed_by_one(RIGHT[number]) if claimed(RIGHT[number]) else ():
        number += 1
        programs.forget()
        program = (programs.enter, programs.leave, programs.alone)[number % 3]
        program.run(frame, IN)
        ip, mac = claimed(frame) or (b"", b"")
        other = ip in KNOWN and mac != mac_bytes(KNOWN[ip][0].mac)
        assert programs.contradicted() == ({ip} if other else set()), frame.hex()


@settings(max_examples=300, deadline=None)
@given(frame=any_frame)
def test_what_comes_goes_on(programs: Programs, frame: bytes) -> None:
    assert programs.enter.run(frame, IN) == (ON, frame)


@settings(max_examples=300, deadline=None)
@given(announced=st.lists(almost(), min_size=1, max_size=4), data=st.data())
def test_what_was_announced_otherwise_is_not_told(
    programs: Programs, announced: list[bytes], data: st.DataObject
) -> None:
    programs.forget()
    last: dict[bytes, bytes] = {}
    for frame in announced:
        data.draw(st.sampled_from([programs.enter, programs.leave, programs.alone])).run(frame, IN)
        if (claim := claimed(frame)) and claim[0] in KNOWN:
            last[claim[0]] = claim[1]
    taken = {ip for ip, mac in last.items() if mac != mac_bytes(KNOWN[ip][0].mac)}
    assert programs.contradicted() == taken
    for frame in RIGHT:
        if (address := asked(frame)) in taken:
            assert programs.alone.run(frame, IN) == (ON, frame), address
    programs.forget()  # by the server's word
    assert programs.contradicted() == set()


def test_the_kernel_takes_the_right_ones(programs: Programs) -> None:
    """So that the words above are of something: each of them is a question or an announcement."""
    for frame in RIGHT:
        assert asked(frame) or claimed(frame)

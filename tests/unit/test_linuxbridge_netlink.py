"""Packets of netlink messages, and what comes of them, with a kernel that does as it is told."""

import errno
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink import socket as module
from ovs_l2pop.netlink.messages import (
    Message,
    attribute,
    attributes,
    messages_in,
    nested,
    string,
    text,
)
from ovs_l2pop.netlink.socket import Netlink

ACK = 0x4
Request = tuple[int, int, int, bytes]  #: type, flags, sequence, body


def pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def error(request: Request, code: int, words: str = "") -> bytes:
    kind, flags, sequence, body = request
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0)
    more = attribute(1, words.encode() + b"\0") if words else b""
    return pack(
        2, 0x100 | (0x200 if words else 0), sequence, struct.pack("=i", -code) + head + more
    )


class FakeSocket:
    """Answers every packet as *kernel* says, one datagram for each bytes."""

    def __init__(self, kernel: Callable[[list[Request]], list[bytes]]) -> None:
        self.packets: list[list[Request]] = []
        self._kernel = kernel
        self._waiting: list[bytes | OSError] = []

    def send(self, data: bytes) -> None:
        requests, offset = [], 0
        while offset < len(data):
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
            assert length % 4 == 0
            requests.append((kind, flags, sequence, data[offset + 16 : offset + length]))
            offset += length
        self.packets.append(requests)
        self._waiting += self._kernel(requests)

    def recv_into(self, buffer: bytearray) -> int:
        answer = self._waiting.pop(0)
        if isinstance(answer, OSError):
            raise answer
        buffer[: len(answer)] = answer
        return len(answer)

    def bind(self, address: object) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    def setsockopt(self, *arguments: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "an old kernel")

    def close(self) -> None: ...


def connect(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[list[Request]], list[bytes]]
) -> tuple[Netlink, FakeSocket]:
    fake = FakeSocket(kernel)
    monkeypatch.setattr("socket.socket", lambda *_: fake)
    return Netlink(), fake


def takes_all(requests: list[Request]) -> list[bytes]:
    return [error(request, 0) for request in requests if request[1] & ACK]


MESSAGES = [Message(28, 0x400, struct.pack("=I", number)) for number in range(150)]


def test_packets_of_64_with_one_acknowledgement_each(monkeypatch: pytest.MonkeyPatch) -> None:
    netlink, fake = connect(monkeypatch, takes_all)
    assert netlink.write(iter(MESSAGES)) == []
    assert [len(packet) for packet in fake.packets] == [64, 64, 22]
    for packet in fake.packets:
        assert [bool(flags & ACK) for _, flags, _, _ in packet] == [False] * (len(packet) - 1) + [
            True
        ]
    bodies = [body for packet in fake.packets for _, _, _, body in packet]
    assert bodies == [message.body for message in MESSAGES]
    sequences = [sequence for packet in fake.packets for _, _, sequence, _ in packet]
    assert len(set(sequences)) == 150


def test_nothing_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    netlink, fake = connect(monkeypatch, takes_all)
    assert netlink.write([]) == []
    assert fake.packets == []


@pytest.mark.parametrize("bad", [[0], [63], [64], [149], [3, 4, 5, 63, 64, 100], list(range(150))])
def test_failures_are_told_by_their_place(monkeypatch: pytest.MonkeyPatch, bad: list[int]) -> None:
    """The others of a packet are done; an answer may come with others in one datagram."""

    def kernel(requests: list[Request]) -> list[bytes]:
        answers = []
        for request in requests:
            number = struct.unpack("=I", request[3])[0]
            if number in bad:
                answers.append(error(request, errno.ENOSPC, "Table is full."))
            elif request[1] & ACK:
                answers.append(error(request, 0))
        return [b"".join(answers[:2]), *answers[2:]] if answers else []

    netlink, _ = connect(monkeypatch, kernel)
    failures = netlink.write(MESSAGES)
    assert [failure.place for failure in failures] == bad
    assert {str(failure) for failure in failures} == {"No space left on device: Table is full"}


def test_an_answer_that_got_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel had no room for it: what became of the packet can't be told."""
    netlink, fake = connect(monkeypatch, lambda _: [])
    fake._waiting.append(OSError(errno.ENOBUFS, "No buffer space available"))
    with pytest.raises(BackendError, match="answer got lost"):
        netlink.write(MESSAGES)


def test_a_packet_that_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(requests: list[Request]) -> list[bytes]:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    netlink, _ = connect(monkeypatch, kernel)
    with pytest.raises(BackendError, match="takes no netlink message"):
        netlink.write(MESSAGES)


def test_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr("socket.socket", refuse)
    with pytest.raises(BackendError, match="no netlink socket"):
        Netlink()


def test_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(requests: list[Request]) -> list[bytes]:
        ((_, _, sequence, body),) = requests
        if body == b"gone":
            return [error(requests[0], errno.ENODEV)]
        if body == b"evil":
            return [error(requests[0], errno.EPERM)]
        return [pack(16, 0, sequence - 1, b"late"), pack(16, 0, sequence, b"it is")]

    netlink, _ = connect(monkeypatch, kernel)
    assert netlink.get(Message(18, 0, b"this")) == b"it is"
    assert netlink.get(Message(18, 0, b"gone")) is None
    with pytest.raises(BackendError, match="Operation not permitted"):
        netlink.get(Message(18, 0, b"evil"))


def done(sequence: int, code: int = 0) -> bytes:
    return pack(3, 0x2, sequence, struct.pack("=i", -code))


def test_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(requests: list[Request]) -> list[bytes]:
        ((_, _, n, _),) = requests
        return [
            pack(28, 2, n, b"1111") + pack(28, 2, n, b"2222"),
            pack(28, 2, n, b"3333") + done(n),
        ]

    netlink, _ = connect(monkeypatch, kernel)
    assert netlink.dump(Message(30, 0, b"")) == [b"1111", b"2222", b"3333"]


@pytest.mark.parametrize("flags", [(2, 2, 2), (2, 0x12, 2), (2, 2, 0x12)])
def test_messages_of_several_lengths(
    flags: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 24, 20 and 28 bytes are as long as three of 24."""
    bodies = [b"8 bytes.", b"four", b"twelve bytes"]
    answers = iter([flags, (2, 2, 2)])

    def kernel(requests: list[Request]) -> list[bytes]:
        ((_, _, n, _),) = requests
        pairs = zip(next(answers), bodies, strict=True)
        return [b"".join(pack(28, flag, n, body) for flag, body in pairs), done(n)]

    netlink, socket = connect(monkeypatch, kernel)
    assert netlink.dump(Message(30, 0, b"")) == bodies
    assert len(socket.packets) == (1 if flags == (2, 2, 2) else 2)


def test_a_list_that_changed_meanwhile_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kernel(requests: list[Request]) -> list[bytes]:
        ((_, _, n, _),) = requests
        asked.append(n)
        flags = 0x2 | (0x10 if len(asked) < 3 else 0)
        return [pack(28, flags, n, b"%04d" % len(asked)), done(n)]

    netlink, _ = connect(monkeypatch, kernel)
    assert netlink.dump(Message(30, 0, b"")) == [b"0003"]


def test_a_list_that_never_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(requests: list[Request]) -> list[bytes]:
        ((_, _, n, _),) = requests
        return [pack(28, 0x12, n, b"1111"), done(n)]

    netlink, _ = connect(monkeypatch, kernel)
    with pytest.raises(BackendError, match="change faster"):
        netlink.dump(Message(30, 0, b""))


def test_a_list_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    netlink, _ = connect(monkeypatch, lambda requests: [done(requests[0][2], errno.EINVAL)])
    with pytest.raises(BackendError, match="Invalid argument"):
        netlink.dump(Message(30, 0, b""))


def test_attributes() -> None:
    data = text(3, "vxlan-7") + nested(18, text(1, "vxlan"), attribute(2, b"\1\2\3"))
    found = attributes(data)
    assert string(found[3]) == "vxlan-7"
    inner = attributes(found[18])
    assert (string(inner[1]), inner[2]) == ("vxlan", b"\1\2\3")


@given(st.binary(max_size=200))
def test_no_bytes_hurt(data: bytes) -> None:
    """A kernel sends none of these, and yet."""
    attributes(data)
    list(messages_in(data))
    module._error_text(0x300, data.ljust(20, b"\0"))

"""OpenFlow over a socket: answers in pieces, refusals, and a switch that misbehaves."""

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_switch import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ERROR,
    EXPERIMENTER,
    HELLO,
    MULTIPART_REPLY,
    OPENFLOW_13,
    FakeSwitch,
    Inner,
    message,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.backends.openvswitch import channel as module
from ovs_l2pop.backends.openvswitch.channel import Channel, Message, Refused
from ovs_l2pop.backends.openvswitch.rows import (
    Group,
    add_flows,
    add_group,
    add_meter,
    flows_in,
    groups_in,
    meter,
)
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket
from ovs_l2pop.core.errors import BackendError

COOKIE = 0x6C32706F70
TIMEOUT = 3.0
FLOW_STATS, GROUP_DESC = 1, 7
TABLE_FULL, GROUP_EXISTS, BAD_MATCH = (5, 1), (6, 0), (4, 6)

Connect = Callable[..., Channel]


def connected(path: Path, timeout: float = TIMEOUT) -> Channel:
    return Channel(ManagementSocket(str(path), timeout), timeout)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "br-tun.mgmt"


@pytest.fixture
def switch(path: Path) -> Iterator[FakeSwitch]:
    fake = FakeSwitch(path)
    yield fake
    fake.stop()


def row(number: int) -> bytes:
    head = bytes([20]) + (10).to_bytes(2, "big") + bytes.fromhex("0001000c80000004")
    return head + number.to_bytes(4, "big") + bytes(4)


def flows(count: int) -> list[Message]:
    return add_flows(map(row, range(count)), COOKIE)


def number(inner: Inner) -> int:
    """Which of :func:`flows` it is."""
    return int.from_bytes(inner[1][-8:-4], "big")


def among(*numbers: int, error: tuple[int, int] = TABLE_FULL) -> Callable[[Inner], object]:
    return lambda inner: error if number(inner) in numbers else None


def flow_stats(row: bytes) -> bytes:
    head = struct.pack("!HB9xH34x", 48 + len(row) - 3, row[0], int.from_bytes(row[1:3], "big"))
    return head[:48] + row[3:]


# -- connecting --------------------------------------------------------------------------------


def test_nobody_listens(path: Path) -> None:
    with pytest.raises(BackendError, match=r"br-tun\.mgmt: No such file or directory"):
        connected(path)


def test_hello(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    assert channel.write([]) == []
    channel.close()
    switch.read_all()
    assert switch.received[0][::2] == (HELLO, OPENFLOW_13)


ACCEPTED_HELLOS = {
    "1.3": message(HELLO, 1, OPENFLOW_13),
    "many": message(HELLO, 1, struct.pack("!HHI", 1, 8, 0b1111110), version=6),
    "no bitmap": message(HELLO, 1, b"", version=4),
    "1.5, no bitmap": message(HELLO, 1, b"", version=6),
    "other elements": message(HELLO, 1, struct.pack("!HH8x", 7, 9) + bytes(4) + OPENFLOW_13),
}
REFUSED_HELLOS = {
    "1.0": message(HELLO, 1, b"", version=1),
    "1.0, with bitmap": message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << 1), version=1),
    "1.5 only": message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << 6), version=6),
    "error": message(ERROR, 1, struct.pack("!HH", 0, 0), version=1),
}


@pytest.mark.parametrize("name", ACCEPTED_HELLOS)
def test_bridge_that_speaks_our_version(name: str, switch: FakeSwitch, path: Path) -> None:
    switch.hello = ACCEPTED_HELLOS[name]
    assert connected(path).write(flows(1)) == []


@pytest.mark.parametrize("name", REFUSED_HELLOS)
def test_bridge_that_does_not(name: str, switch: FakeSwitch, path: Path) -> None:
    switch.hello = REFUSED_HELLOS[name]
    with pytest.raises(BackendError, match=r"mgmt: the bridge doesn't speak OpenFlow 1\.3; add"):
        connected(path)


def test_bridge_that_says_nothing(switch: FakeSwitch, path: Path) -> None:
    switch.hello = b""
    with pytest.raises(BackendError, match="no hello"):
        connected(path, timeout=0.1)


# -- writing -----------------------------------------------------------------------------------


def test_one_bundle(switch: FakeSwitch, path: Path) -> None:
    messages = [add_group(Group(1, 0, b"buckets."), False), *flows(3)]
    assert connected(path).write(messages) == []
    assert switch.bundles == [messages]


def test_many_messages_go_in_several_bundles(
    switch: FakeSwitch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUNDLE_SIZE", 10)
    assert connected(path).write(iter(flows(25))) == []
    assert [len(bundle) for bundle in switch.bundles] == [10, 10, 5]
    assert switch.executed == flows(25)


def test_meters_go_before_the_bundle_that_takes_none(switch: FakeSwitch, path: Path) -> None:
    meters = [add_meter(meter(number, 9), False) for number in (1, 2, 3)]
    one, two, three = flows(3)
    assert connected(path).write([meters[0], one, meters[1], two, three, meters[2]]) == []
    assert switch.singles == meters
    assert switch.bundles == [[one, two, three]]


@pytest.mark.parametrize("culprits", [{0}, {2}, {5}, {0, 2, 5}, {2, 3}])
def test_refused_meters_are_named(culprits: set[int], switch: FakeSwitch, path: Path) -> None:
    meters = [add_meter(meter(number, 9), False) for number in (1, 2, 3)]
    one, two, three = flows(3)
    messages = [meters[0], one, meters[1], two, three, meters[2]]
    bad = [messages[place] for place in culprits]
    switch.refuses = lambda inner: (12, 2) if inner in bad else None
    refused = connected(path).write(messages)
    reason = "meter-mod failed: invalid meter"
    assert sorted(refused) == [Refused(place, reason) for place in sorted(culprits)]
    assert sorted(switch.executed) == sorted(m for m in messages if m not in bad)


@pytest.mark.parametrize("piece", [1, 3, 7, 64])
def test_answers_in_pieces(piece: int, switch: FakeSwitch, path: Path) -> None:
    switch.piece = piece
    switch.refuses = among(1)  # type: ignore[assignment]
    switch.replies = {FLOW_STATS: [flow_stats(row(n)) * 2 for n in range(3)]}
    channel = connected(path)
    assert channel.write(flows(3)) == [Refused(1, "flow-mod failed: table full")]
    assert [len(flows_in(body)) for body in channel.flows(COOKIE)] == [2, 2, 2]


@pytest.mark.parametrize("bundle_size", [100, 7, 1])
def test_refused_messages_are_named_and_the_rest_is_written(
    bundle_size: int, switch: FakeSwitch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUNDLE_SIZE", bundle_size)
    switch.refuses = among(0, 5, 19)  # type: ignore[assignment]
    refused = connected(path).write(flows(20))
    assert sorted(refused) == [Refused(n, "flow-mod failed: table full") for n in (0, 5, 19)]
    assert sorted(map(number, switch.executed)) == [n for n in range(20) if n not in (0, 5, 19)]


def test_unreadable_message_is_left_out_by_the_switch(switch: FakeSwitch, path: Path) -> None:
    """Open vSwitch then executes the rest: written once more, a group would "exist"."""
    group = add_group(Group(1, 0, b"buckets."), False)
    made: list[Inner] = []

    def refuses(inner: Inner) -> tuple[int, int] | None:
        again = inner == group and inner in made
        made.append(inner)
        return GROUP_EXISTS if again else None

    switch.unreadable = among(1, error=BAD_MATCH)  # type: ignore[assignment]
    switch.refuses = refuses
    refused = connected(path).write([group, *flows(3)])
    assert refused == [Refused(2, "bad match: code 6")]
    assert len(switch.bundles) == 1


def test_unreadable_and_refused_in_one_bundle(switch: FakeSwitch, path: Path) -> None:
    switch.unreadable = among(1, error=BAD_MATCH)  # type: ignore[assignment]
    switch.refuses = among(2)  # type: ignore[assignment]
    refused = connected(path).write(flows(4))
    assert sorted(refused) == [
        Refused(1, "bad match: code 6"),
        Refused(2, "flow-mod failed: table full"),
    ]
    assert list(map(number, switch.executed)) == [0, 3]


def test_commit_that_is_refused_and_names_nobody(switch: FakeSwitch, path: Path) -> None:
    """Each message by itself tells which ones can be executed."""
    switch.refuses_commit = (0xFFFF, 13)
    switch.refuses = among(1)  # type: ignore[assignment]
    assert connected(path).write(flows(3)) == [Refused(1, "flow-mod failed: table full")]
    assert list(map(number, switch.singles)) == [0, 2]


def test_switch_without_bundles(switch: FakeSwitch, path: Path) -> None:
    switch.refuses_open = (1, 5)
    refused = connected(path).write(flows(2))
    assert [place for place, _ in sorted(refused)] == [0, 1]
    assert not switch.executed


def test_full_table_costs_two_rounds(switch: FakeSwitch, path: Path) -> None:
    """The switch names one culprit a bundle: a round for each would be quadratic."""
    switch.refuses = lambda inner: TABLE_FULL if number(inner) >= 10 else None
    assert len(connected(path).write(flows(3000))) == 2990
    assert sum(kind == 14 for kind, _, _ in switch.received) == 2999


def test_everything_refused(switch: FakeSwitch, path: Path) -> None:
    switch.refuses = lambda inner: TABLE_FULL
    assert len(connected(path).write(flows(10))) == 10
    assert switch.executed == []


def test_switch_that_waits_for_us_while_we_write(switch: FakeSwitch, path: Path) -> None:
    """10,000 errors come back, and 10 MB go out: each more than fits into the socket."""
    switch.unreadable = lambda inner: BAD_MATCH
    assert len(connected(path).write([(14, bytes(1000))] * 10_000)) == 10_000


def test_message_that_is_too_long(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    with pytest.raises(BackendError, match="over its 64 KiB"):
        channel.write([(14, bytes(0x10000))])


def test_several_writes_on_one_connection(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    switch.refuses = among(3)  # type: ignore[assignment]
    for _ in range(5):
        assert channel.write(flows(6)) == [Refused(3, "flow-mod failed: table full")]
    assert len(switch.executed) == 25


def test_xids_begin_again_before_they_leave_their_quarter(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    first = channel._xid
    channel._xid = first + (1 << 29) + 1
    assert channel.write(flows(2)) == []
    assert switch.received[-1][1] - first < 100
    assert channel.write(flows(2)) == []
    assert len(switch.executed) == 4


# -- reading -----------------------------------------------------------------------------------


def test_flows_and_groups_in_several_replies(switch: FakeSwitch, path: Path) -> None:
    group = Group(1, 0, b"buckets.")
    switch.replies = {
        FLOW_STATS: [flow_stats(row(1)) + flow_stats(row(2)), b"", flow_stats(row(3))],
        GROUP_DESC: [struct.pack("!HBxI", 16, 0, 1) + b"buckets."],
    }
    channel = connected(path)
    found = [flow for body in channel.flows(COOKIE) for flow in flows_in(body)]
    assert found == [row(1), row(2), row(3)]
    assert [g for body in channel.groups() for g in groups_in(body)] == [group]


def test_nothing_to_be_read(switch: FakeSwitch, path: Path) -> None:
    assert list(connected(path).flows(COOKIE)) == [b""]


def test_only_flows_of_the_cookie_are_asked_for(switch: FakeSwitch, path: Path) -> None:
    list(connected(path).flows(COOKIE))
    _, _, body = switch.received[-1]
    assert struct.unpack_from("!QQ", body, 8 + 16) == (COOKIE, 2**64 - 1)


def test_read_that_is_refused(switch: FakeSwitch, path: Path) -> None:
    switch.replies = {GROUP_DESC: (1, 5)}
    with pytest.raises(BackendError, match="read refused: bad request: not permitted"):
        list(connected(path).groups())


def test_read_that_was_given_up_does_not_disturb_the_next(switch: FakeSwitch, path: Path) -> None:
    switch.replies = {FLOW_STATS: [flow_stats(row(n)) for n in range(3)]}
    channel = connected(path)
    next(channel.flows(COOKIE))
    assert len(list(channel.flows(COOKIE))) == 3


# -- in between --------------------------------------------------------------------------------


def test_echo_is_answered(switch: FakeSwitch, path: Path) -> None:
    switch.before_answers = message(ECHO_REQUEST, 0xABCD, b"are you there")
    channel = connected(path)
    channel.write(flows(1))
    list(channel.groups())
    channel.write([])
    channel.close()
    switch.read_all()
    replies = [entry for entry in switch.received if entry[0] == ECHO_REPLY]
    assert replies == [(ECHO_REPLY, 0xABCD, b"are you there")] * 2


def test_echo_is_answered_while_idle(switch: FakeSwitch, path: Path) -> None:
    switch.hello += message(ECHO_REQUEST, 5) + message(ECHO_REQUEST, 6)
    channel = connected(path)
    deadline = time.monotonic() + TIMEOUT
    while len(switch.received) < 3 and time.monotonic() < deadline:
        channel.poll()
        time.sleep(0.005)
    assert [entry[:2] for entry in switch.received[1:]] == [(ECHO_REPLY, 5), (ECHO_REPLY, 6)]


def test_what_nobody_asked_for_is_ignored(switch: FakeSwitch, path: Path) -> None:
    port_status = message(12, 0, bytes(80))
    foreign = message(ERROR, 0x12345678, struct.pack("!HH", *TABLE_FULL))
    switch.before_answers = port_status + foreign + message(MULTIPART_REPLY, 99, bytes(8))
    switch.replies = {FLOW_STATS: [flow_stats(row(1))]}
    channel = connected(path)
    assert channel.write(flows(2)) == []
    assert len(list(channel.flows(COOKIE))) == 1


# -- what the switch tells unasked ---------------------------------------------------------------

ADDED, DELETED, MODIFIED, ABBREVIATED = range(4)
EXTENSION, FLOW_MONITOR = 0xFFFF, 1870


def event(kind: int, cookie: int = 0) -> bytes:
    """A flow that somebody changed (struct nx_flow_update_full); or that we did, in brief."""
    if kind == ABBREVIATED:
        return struct.pack("!HHI", 8, ABBREVIATED, 77)
    head = struct.pack("!HHHHHHHBxQ", 32, kind, 0, 10, 0, 0, 4, 20, cookie)
    return head + struct.pack("!HHxxxx", 1, 4)


def news(*events: bytes) -> bytes:
    head = struct.pack("!HHxxxxII", EXTENSION, 0, 0x4F4E4600, FLOW_MONITOR)
    return message(MULTIPART_REPLY, 0, head + b"".join(events))


PAUSED = message(EXPERIMENTER, 0, struct.pack("!II", 0x2320, 22))

NEWS = {
    "ours changed by somebody": (news(event(MODIFIED, COOKIE)), True),
    "ours among others": (news(event(ADDED, 5), event(DELETED, COOKIE), event(ADDED, 6)), True),
    "behind our own": (news(event(ABBREVIATED), event(DELETED, COOKIE)), True),
    "in the second message": (news(event(ADDED, 5)) + news(event(DELETED, COOKIE)), True),
    "some were left out": (PAUSED, True),
    "others'": (news(event(ADDED, 5), event(MODIFIED, 6)), False),
    "our own": (news(event(ABBREVIATED), event(ABBREVIATED)), False),
    "nothing": (b"", False),
}


@pytest.mark.parametrize("name", NEWS)
@pytest.mark.parametrize("while_writing", [True, False])
def test_flows_that_others_change(
    name: str, while_writing: bool, switch: FakeSwitch, path: Path
) -> None:
    told, disturbed = NEWS[name]
    channel = connected(path)
    assert channel.watch(lambda cookie: cookie == COOKIE)
    switch.before_answers = told
    if while_writing:
        assert channel.write(flows(2)) == []
    else:
        list(channel.flows(COOKIE))
    assert channel.poll() is disturbed
    switch.before_answers = b""
    assert channel.poll() is False, "it is told once"


def test_watching_is_asked_for_in_all_tables(switch: FakeSwitch, path: Path) -> None:
    assert connected(path).watch(lambda cookie: True)
    _, _, body = switch.received[-1]
    # What ovs-ofctl 3.1 sends for "monitor br watch:!initial,!actions,!own".
    assert body.hex() == (
        "ffff0000000000004f4e46000000074e00000000000e0004ffffffffff0000000001000400000000"
    )


def test_switch_that_tells_nothing(switch: FakeSwitch, path: Path) -> None:
    switch.replies = {EXTENSION: (1, 2)}
    channel = connected(path)
    assert not channel.watch(lambda cookie: True)
    assert channel.poll() is False


# -- a switch that goes away -------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_switch_closes_while_it_is_written(after: int, switch: FakeSwitch, path: Path) -> None:
    switch.closes_after = after
    channel = connected(path)
    with pytest.raises(BackendError, match=r"mgmt: "):
        channel.write(flows(3))
    for use in (channel.poll, lambda: channel.write(flows(1)), lambda: list(channel.groups())):
        with pytest.raises(BackendError):
            use()


def test_switch_closes_in_the_middle_of_a_message(switch: FakeSwitch, path: Path) -> None:
    switch.instead = message(MULTIPART_REPLY, 1, bytes(100))[:50]
    with pytest.raises(BackendError, match="closed the connection"):
        list(connected(path).flows(COOKIE))


def test_poll_notices_that_the_switch_closed(switch: FakeSwitch, path: Path) -> None:
    switch.closes_after = 1
    channel = connected(path)
    deadline = time.monotonic() + TIMEOUT

    def poll() -> None:
        while time.monotonic() < deadline:
            channel.poll()
            time.sleep(0.005)

    with pytest.raises(BackendError, match=r"closed the connection|reset"):
        poll()


def test_switch_that_does_not_answer(switch: FakeSwitch, path: Path) -> None:
    switch.deaf_after = 1
    channel = connected(path, timeout=0.1)
    with pytest.raises(BackendError, match=r"no answer in 0\.1 s"):
        list(channel.flows(COOKIE))


def test_switch_that_takes_nothing(switch: FakeSwitch, path: Path) -> None:
    switch.deaf_after = 1
    channel = connected(path, timeout=0.1)
    with pytest.raises(BackendError, match="takes nothing any more"):
        channel.write(flows(50_000))


def test_after_close(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    channel.close()
    channel.close()
    for use in (channel.poll, lambda: channel.write(flows(1)), lambda: list(channel.groups())):
        with pytest.raises(BackendError):
            use()


# -- any bytes ---------------------------------------------------------------------------------

BAD_ANSWERS = {
    "length 0": struct.pack("!BBHI", 4, EXPERIMENTER, 0, 4),
    "length 7": struct.pack("!BBHI", 4, EXPERIMENTER, 7, 4),
    "another version": message(EXPERIMENTER, 4, bytes(16), version=1),
    "short multipart": message(MULTIPART_REPLY, 1, b"\x00\x01"),
    "empty error": message(ERROR, 1),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answer(name: str, switch: FakeSwitch, path: Path) -> None:
    switch.instead = BAD_ANSWERS[name]
    channel = connected(path)
    with pytest.raises(BackendError):
        list(map(flows_in, channel.flows(COOKIE)))


some_messages = st.builds(
    message,
    st.sampled_from([HELLO, ERROR, ECHO_REQUEST, EXPERIMENTER, MULTIPART_REPLY, 12]),
    st.integers(0, 8),
    st.binary(max_size=40)
    | st.just(flow_stats(row(1)))
    | st.binary(max_size=40).map(lambda data: news(data)[8:])
    | st.just(struct.pack("!HHxxxx", 1, 1) + flow_stats(row(1))),
    st.sampled_from([4, 4, 4, 1]),
)
any_answer = st.binary(max_size=60) | st.lists(some_messages, max_size=4).map(b"".join)


def only_backend_errors(*uses: Callable[[], object]) -> None:
    for use in uses:
        try:
            use()
        except BackendError:
            pass


@given(any_answer, st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_bytes_from_the_switch(answer: bytes, at_once: bool) -> None:
    """Nothing but BackendError comes of it, and nothing hangs."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        switch = FakeSwitch(path)
        try:
            if at_once:
                switch.hello, switch.closes_after = answer, 1
            else:
                switch.instead = answer
            try:
                channel = connected(path)
                channel.watch(lambda cookie: True)
            except BackendError:
                return
            only_backend_errors(
                lambda: [flows_in(body) for body in channel.flows(COOKIE)],
                lambda: [groups_in(body) for body in channel.groups()],
                lambda: channel.write(flows(2)),
                channel.poll,
            )
            channel.close()
        finally:
            switch.stop()
    assert not os.path.exists(directory)


def test_a_switch_without_meters_has_none(switch: FakeSwitch, path: Path) -> None:
    channel = connected(path)
    switch.replies[11] = (1, 2)  # OFPMP_METER_FEATURES: bad request, bad multipart
    assert channel.most_meters() == 0
    switch.replies[11] = [bytes.fromhex("00010000 00000002 0000000f 08 ff 0000".replace(" ", ""))]
    assert channel.most_meters() == 0x10000

"""Rows and the OpenFlow messages that they travel in."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_l2pop.backends.openvswitch.rows import (
    FLOW_MOD,
    GROUP_MOD,
    Group,
    add_flows,
    add_group,
    delete_flow,
    delete_flows,
    delete_group,
    flow_key,
    flows_in,
    groups_in,
)
from ovs_l2pop.core.errors import BackendError

COOKIE = 0x6C32706F70
ANY_MATCH = bytes.fromhex("0001000400000000")
IN_PORT = bytes.fromhex("0001000c8000000400000007") + bytes(4)  # 12 bytes and padding
GOTO = bytes.fromhex("0001000816000000")


def row(table: int, priority: int, match: bytes = ANY_MATCH, instructions: bytes = GOTO) -> bytes:
    return bytes([table]) + priority.to_bytes(2, "big") + match + instructions


def flow_stats(row: bytes) -> bytes:
    """An ofp_flow_stats that describes this row."""
    body = struct.pack(
        "!BxIIHHHHxxxxQQQ", row[0], 1, 2, int.from_bytes(row[1:3], "big"), 3, 4, 5, COOKIE, 6, 7
    )
    return struct.pack("!H", 2 + len(body) + len(row) - 3) + body + row[3:]


def group_desc(group: Group) -> bytes:
    head = struct.pack("!HBxI", 8 + len(group.buckets), group.type, group.group_id)
    return head + group.buckets


rows = st.builds(
    row,
    st.integers(0, 253),
    st.integers(0, 65535),
    st.sampled_from([ANY_MATCH, IN_PORT]),
    st.integers(0, 8).map(lambda n: GOTO * n),
)
groups = st.builds(
    Group,
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.binary(max_size=8).map(lambda b: b * 2),
)


@pytest.mark.parametrize("instructions", [b"", GOTO, GOTO * 3])
@pytest.mark.parametrize("match", [ANY_MATCH, IN_PORT])
def test_flow_key_is_table_priority_and_match(match: bytes, instructions: bytes) -> None:
    assert flow_key(row(20, 10, match, instructions)) == row(20, 10, match, b"")


def test_flow_keys_differ() -> None:
    assert len({flow_key(r) for r in (row(20, 10), row(20, 11), row(21, 10))}) == 3


@given(st.lists(rows, max_size=5))
@settings(deadline=None)
def test_flows_of_a_reply(listed: list[bytes]) -> None:
    assert flows_in(b"".join(map(flow_stats, listed))) == listed


@given(st.lists(groups, max_size=5))
@settings(deadline=None)
def test_groups_of_a_reply(listed: list[Group]) -> None:
    assert groups_in(b"".join(map(group_desc, listed))) == listed


GOOD = flow_stats(row(20, 10))
BAD_FLOWS = {
    "length 0": bytes(60),
    "length below a flow's": b"\x00\x30" + GOOD[2:48],
    "length over the end": b"\x01\x00" + GOOD[2:],
    "breaks off": GOOD[:-1],
    "one byte": b"\x00",
    "good, then bad": GOOD + b"\x00\x01",
}


@pytest.mark.parametrize("name", BAD_FLOWS)
def test_reply_that_is_no_list_of_flows(name: str) -> None:
    with pytest.raises(BackendError, match="the switch sent a flow of"):
        flows_in(BAD_FLOWS[name])


@pytest.mark.parametrize("body", [bytes(8), b"\x00\x07" + bytes(6), b"\x00\xff" + bytes(9), b"\0"])
def test_reply_that_is_no_list_of_groups(body: bytes) -> None:
    with pytest.raises(BackendError, match="the switch sent a group of"):
        groups_in(body)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_any_bytes(body: bytes) -> None:
    for read in (flows_in, groups_in):
        try:
            read(body)
        except BackendError:
            pass


def test_add_flows() -> None:
    listed = [row(20, 10), row(21, 10, IN_PORT), row(20, 10, IN_PORT, b"")]
    messages = add_flows(listed, COOKIE)
    for one, (kind, body) in zip(listed, messages, strict=True):
        cookie, mask, table, command, idle, hard, priority = struct.unpack_from("!QQBBHHH", body)
        assert (kind, cookie, mask, command, idle, hard) == (FLOW_MOD, COOKIE, 0, 0, 0, 0)
        assert (table, priority) == (one[0], int.from_bytes(one[1:3], "big"))
        assert body[40:] == one[3:]


def test_delete_flow_is_strict_and_of_our_cookie() -> None:
    one = row(20, 10, IN_PORT)
    kind, body = delete_flow(one, COOKIE)
    cookie, mask, table, command, _, _, priority = struct.unpack_from("!QQBBHHH", body)
    assert (kind, cookie, table, command, priority) == (FLOW_MOD, COOKIE, 20, 4, 10)
    assert mask & COOKIE == COOKIE
    assert body[40:] == IN_PORT  # no instructions


def test_delete_flows() -> None:
    _, body = delete_flows(COOKIE, 20, IN_PORT, out_port=7)
    cookie, mask, table, command = struct.unpack_from("!QQBB", body)
    assert (cookie, mask, table, command) == (COOKIE, 2**64 - 1, 20, 3)
    assert struct.unpack_from("!I", body, 28) == (7,)
    assert body[40:] == IN_PORT


@pytest.mark.parametrize(("exists", "command"), [(False, 0), (True, 1)])
def test_add_group(exists: bool, command: int) -> None:
    kind, body = add_group(Group(0x6C320001, 1, b"buckets."), exists)
    assert (kind, body) == (GROUP_MOD, struct.pack("!HBxI", command, 1, 0x6C320001) + b"buckets.")


def test_delete_group() -> None:
    assert delete_group(Group(5, 0, b"x")) == (GROUP_MOD, struct.pack("!HBxI", 2, 0, 5))

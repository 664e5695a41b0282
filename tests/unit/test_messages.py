"""Messages to changes: upstream's forms, what is refused, and that nothing raises."""

import copy
import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from builders import (
    FLOODING,
    IP1,
    IP2,
    IP6,
    LOCAL,
    MAC1,
    MAC2,
    A,
    B,
    M,
    N,
    add,
    attach,
    body,
    change_ip,
    detach,
    remove,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovs_l2pop.core import messages, wire
from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Change,
    Detach,
    Entry,
    Parser,
    Refusal,
    RemoveEntries,
    Segment,
)
from ovs_l2pop.core.wire import Message

VXLAN = Segment("vxlan", 1001)


def parse(message: object, local_ip: str | None = LOCAL) -> tuple[list[Change], list[Refusal]]:
    return Parser(local_ip).parse(message)


def accepted(message: object, local_ip: str | None = LOCAL) -> list[Change]:
    changes, refusals = parse(message, local_ip)
    assert refusals == []
    return changes


# -- upstream's forms --------------------------------------------------------------------------


def test_add_with_flooding_entry_and_dual_stack_port() -> None:
    message = add(N, A, FLOODING, [MAC1, IP1], [MAC1, IP6])
    entries = [Entry(MAC1, IP1, A), Entry(MAC1, IP6, A)]
    assert accepted(message) == [AddEntries(N, VXLAN, A, entries, True)]


def test_remove() -> None:
    assert accepted(remove(N, A, FLOODING, [MAC1, IP1])) == [
        RemoveEntries(N, A, [Entry(MAC1, IP1, A)], True)
    ]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        pytest.param(
            [[MAC1, IP1]],
            [[MAC1, IP2]],
            [
                AddEntries(N, None, A, [Entry(MAC1, IP2, A)], False),
                RemoveEntries(N, A, [Entry(MAC1, IP1, A)], False),
            ],
            id="changed",
        ),
        pytest.param(
            [[MAC1, IP1]], None, [RemoveEntries(N, A, [Entry(MAC1, IP1, A)], False)], id="gone"
        ),
        pytest.param(
            None, [[MAC1, IP1]], [AddEntries(N, None, A, [Entry(MAC1, IP1, A)], False)], id="new"
        ),
        pytest.param(
            [[MAC1, IP1]],
            [[MAC1, IP1]],
            [AddEntries(N, None, A, [Entry(MAC1, IP1, A)], False)],
            id="the same",
        ),
        pytest.param(None, None, [], id="nothing"),
        pytest.param([], [], [], id="empty"),
    ],
)
def test_change_of_addresses(before: Any, after: Any, changes: list[Change]) -> None:
    assert accepted(change_ip(N, A, before, after)) == changes


def test_several_networks_and_vteps_in_one_message() -> None:
    message = {
        "method": "add_fdb_entries",
        "fdb_entries": {
            N: body({A: [[MAC1, IP1]], B: [FLOODING]}),
            M: body({A: [[MAC2, IP2]]}, 5, "geneve"),
        },
    }
    assert accepted(message) == [
        AddEntries(N, VXLAN, A, [Entry(MAC1, IP1, A)], False),
        AddEntries(N, VXLAN, B, [], True),
        AddEntries(M, Segment("geneve", 5), A, [Entry(MAC2, IP2, A)], False),
    ]


def test_attach_and_detach() -> None:
    assert accepted(attach(N, 5)) == [Attachment(N, VXLAN, 5)]
    assert accepted(attach(N, None) | {"bridge": "brq11111111-11"}) == [
        Attachment(N, VXLAN, None, "brq11111111-11")
    ]
    assert accepted(detach(N)) == [Detach(N)]


@pytest.mark.parametrize("method", ["add_fdb_entries", "remove_fdb_entries"])
@pytest.mark.parametrize("entries", [{}, {N: body({})}], ids=["no network", "no port"])
def test_messages_that_say_nothing(method: str, entries: Message) -> None:
    assert accepted({"method": method, "fdb_entries": entries}) == []


def test_unknown_keys_are_ignored() -> None:
    """The only place where a producer can add something (UPSTREAM-DEFECTS C)."""
    message = add(N, A, [MAC1, IP1])
    plain = accepted(message)
    message |= {"host": "compute-1", "version": 7}
    message["fdb_entries"][N] |= {"serial": 12, "digest": {"a": [1]}}
    assert accepted(message) == plain


@pytest.mark.parametrize("more", [["port-id"], [None, {"x": 1}]])
def test_later_elements_of_a_pair_are_ignored(more: list[Any]) -> None:
    """Upstream's agents broke on a third one (bug 1352801)."""
    assert accepted(add(N, A, [MAC1, IP1, *more], [*FLOODING, *more])) == [
        AddEntries(N, VXLAN, A, [Entry(MAC1, IP1, A)], True)
    ]


def test_remove_needs_no_segment() -> None:
    message = remove(N, A, [MAC1, IP1])
    del message["fdb_entries"][N]["segment_id"]
    message["fdb_entries"][N]["network_type"] = "unheard-of"
    assert accepted(message) == [RemoveEntries(N, A, [Entry(MAC1, IP1, A)], False)]


# -- canonical notation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (MAC1, MAC1),
        ("FA:16:3E:00:00:01", MAC1),
        ("fa-16-3e-00-00-01", MAC1),
        ("FA-16-3e-00-00-01", MAC1),
    ],
)
def test_mac_notations(written: str, canonical: str) -> None:
    (change,) = accepted(add(N, A, [written, IP1]))
    assert isinstance(change, AddEntries)
    assert change.entries == [Entry(canonical, IP1, A)]


def test_flooding_entry_with_dashes() -> None:
    assert accepted(add(N, A, ["00-00-00-00-00-00", "0.0.0.0"])) == [
        AddEntries(N, VXLAN, A, [], True)
    ]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8::192.0.2.33", "2001:db8::c000:221"),
        ("FE80::1", "fe80::1"),
    ],
)
def test_ipv6_notations(written: str, canonical: str) -> None:
    (change,) = accepted(add(N, A, [MAC1, written]))
    assert isinstance(change, AddEntries)
    assert change.entries == [Entry(MAC1, canonical, A)]
    (change,) = accepted(add(N, written, [MAC1, IP1]), local_ip=None)
    assert isinstance(change, AddEntries)
    assert change.vtep == canonical


@pytest.mark.parametrize("written", [N, N.upper(), N.replace("-", "")])
def test_uuid_notations(written: str) -> None:
    assert accepted(detach(written)) == [Detach(N)]


def test_vteps_are_of_the_family_of_the_local_one() -> None:
    assert accepted(add(N, "2001:db8::2", [MAC1, IP1]), local_ip="2001:db8::1")
    assert accepted(add(N, "2001:db8::2", [MAC1, IP1]), local_ip=None)
    _, (refusal,) = parse(add(N, "2001:db8::2", [MAC1, IP1]), local_ip=LOCAL)
    assert (refusal.offender, refusal.reason) == ("2001:db8::2", "VTEP is not an IPv4 address")
    _, (refusal,) = parse(add(N, A, [MAC1, IP1]), local_ip="2001:db8::1")
    assert (refusal.offender, refusal.reason) == (A, "VTEP is not an IPv6 address")


# -- refusals ----------------------------------------------------------------------------------

#: A pair beside good ones: what of it is named, and why.
BAD_PAIRS: list[tuple[Any, str, str]] = [
    (["fa:16:3e:00:00", IP1], "fa:16:3e:00:00", "not a MAC address"),
    (["fa163e000001", IP1], "fa163e000001", "not a MAC address"),
    (["fa:16:3e:00:00:0g", IP1], "fa:16:3e:00:00:0g", "not a MAC address"),
    ([MAC1 + "\n", IP1], repr(MAC1 + "\n"), "not a MAC address"),
    ([7, IP1], "7", "not a MAC address"),
    ([None, IP1], "None", "not a MAC address"),
    (["01:00:5e:00:00:01", IP1], "01:00:5e:00:00:01", "group address"),
    (["ff:ff:ff:ff:ff:ff", IP1], "ff:ff:ff:ff:ff:ff", "group address"),
    (["00:00:00:00:00:00", IP1], IP1, "the flooding entry's IP is 0.0.0.0"),
    (["00-00-00-00-00-00", IP1], IP1, "the flooding entry's IP is 0.0.0.0"),
    ([MAC1, "10.0.0"], "10.0.0", "not an IP address"),
    ([MAC1, "10.0.0.256"], "10.0.0.256", "not an IP address"),
    ([MAC1, "10.0.0.01"], "10.0.0.01", "not an IP address"),
    ([MAC1, "10.0.0.1/24"], "10.0.0.1/24", "not an IP address"),
    ([MAC1, "10.0.0.1\n"], "'10.0.0.1\\n'", "not an IP address"),
    ([MAC1, "１０.0.0.1"], "１０.0.0.1", "not an IP address"),
    ([MAC1, "fe80::1%eth0"], "fe80::1%eth0", "not an IP address"),
    ([MAC1, "2001:db8:::1"], "2001:db8:::1", "not an IP address"),
    ([MAC1, ""], "''", "not an IP address"),
    ([MAC1, None], "None", "not an IP address"),
    ([MAC1, 167772161], "167772161", "not an IP address"),
    ([MAC1, "0.0.0.0"], "0.0.0.0", "not a unicast IP address"),
    ([MAC1, "224.0.0.1"], "224.0.0.1", "not a unicast IP address"),
    ([MAC1, "255.255.255.255"], "255.255.255.255", "not a unicast IP address"),
    ([MAC1, "::"], "::", "not a unicast IP address"),
    ([MAC1, "ff02::1"], "ff02::1", "not a unicast IP address"),
    ([MAC1], f"['{MAC1}']", "must be a [MAC, IP] pair"),
    ([], "[]", "must be a [MAC, IP] pair"),
    (MAC1, MAC1, "must be a [MAC, IP] pair"),
    ({"mac": MAC1, "ip": IP1}, "{'mac'", "must be a [MAC, IP] pair"),
    (None, "None", "must be a [MAC, IP] pair"),
    (list(range(9)), "0", "not a MAC address"),
    ([[[]] * 9, IP1], "list of 9 elements", "not a MAC address"),
    (["x" * 200, IP1], "x" * 77 + "...", "not a MAC address"),
]


@pytest.mark.parametrize(("pair", "offender", "reason"), BAD_PAIRS)
@pytest.mark.parametrize("method", ["add_fdb_entries", "remove_fdb_entries", "chg_ip"])
def test_bad_pair_beside_good_ones(method: str, pair: Any, offender: str, reason: str) -> None:
    pairs = [[MAC2, IP2], pair, [MAC2, IP6]]
    if method == "chg_ip":
        message = change_ip(N, A, after=pairs)
    else:
        message = add(N, A, *pairs) | {"method": method}
    (change,), (refusal,) = parse(message)
    assert isinstance(change, (AddEntries, RemoveEntries))
    assert change.entries == [Entry(MAC2, IP2, A), Entry(MAC2, IP6, A)]
    assert refusal.offender.startswith(offender)
    assert reason in refusal.reason
    assert N in refusal.where
    assert A in refusal.where
    assert refusal.where.endswith("[1]")


BAD_VTEPS = {
    "": "not an IP address",
    "host-1": "not an IP address",
    "10.0.0.300": "not an IP address",
    "010.0.0.1": "not an IP address",
    "fe80::1%2": "not an IP address",
    "0.0.0.0": "in 0.0.0.0/8",
    "0.1.2.3": "in 0.0.0.0/8",
    "127.0.0.1": "a loopback address",
    "127.255.0.9": "a loopback address",
    "224.0.0.1": "a multicast address",
    "239.1.1.1": "a multicast address",
    "240.0.0.1": "in 240.0.0.0/4",
    "255.255.255.255": "in 240.0.0.0/4",
    "::": "the unspecified address",
    "::1": "the loopback address",
    "0:0:0:0:0:0:0:1": "the loopback address",
    "::ffff:192.0.2.1": "an IPv4 address in IPv6's notation",
    "ff02::1": "a multicast address",
    "2001:db8::1": "VTEP is not an IPv4 address",
}


@pytest.mark.parametrize("vtep", BAD_VTEPS)
def test_bad_vtep_beside_a_good_one(vtep: str) -> None:
    message = add(N, A, [MAC1, IP1])
    message["fdb_entries"][N]["ports"][vtep] = [[MAC2, IP2]]
    (change,), (refusal,) = parse(message)
    assert change == AddEntries(N, VXLAN, A, [Entry(MAC1, IP1, A)], False)
    assert refusal.offender == (vtep or "''")
    assert BAD_VTEPS[vtep] in refusal.reason


BAD_NETWORKS: list[tuple[str, Any, str, str]] = [
    ("no-uuid", body({A: [[MAC1, IP1]]}), "no-uuid", "not a UUID"),
    ("{" + M[:-2] + "}", body({}), "{", "not a UUID"),
    ("urn:uuid:" + M, body({}), "urn:uuid", "not a UUID"),
    (M[:-1] + "g", body({}), M[:-1] + "g", "not a UUID"),
    (M, None, "None", "a network must be an object"),
    (M, [body({})], "[{", "a network must be an object"),
    (M, body({}, network_type="vlan"), "vlan", "network_type must be one of vxlan, gre, geneve"),
    (M, body({}, network_type=["vxlan"]), "['vxlan']", "network_type must be one of"),
    (M, {"ports": {}}, "None", "network_type must be one of"),
    (M, body({}, 0), "0", "vxlan segment_id must be in 1..16777215"),
    (M, body({}, 2**24), str(2**24), "vxlan segment_id must be in 1..16777215"),
    (M, body({}, 2**32, "gre"), str(2**32), "gre segment_id must be in 1..4294967295"),
    (M, body({}, -1, "geneve"), "-1", "geneve segment_id must be in"),
    (M, body({}, "1001"), "1001", "segment_id must be an integer"),
    (M, body({}, 1001.0), "1001.0", "segment_id must be an integer"),
    (M, body({}, True), "True", "segment_id must be an integer"),
    (M, body({}, None), "None", "segment_id must be an integer"),
    (M, body({}, 10**5000), "int too large", "segment_id must be in"),
    (M, body(None), "None", "a map from VTEP to entries must be an object"),
    (M, body([A]), f"['{A}']", "a map from VTEP to entries must be an object"),
    (M, body({A: None}), "None", "must be a list of [MAC, IP] pairs"),
    (M, body({A: {MAC1: IP1}}), "{'fa:", "must be a list of [MAC, IP] pairs"),
]


@pytest.mark.parametrize(("network", "content", "offender", "reason"), BAD_NETWORKS)
def test_bad_network_beside_a_good_one(
    network: str, content: Any, offender: str, reason: str
) -> None:
    message = add(N, A, [MAC1, IP1])
    message["fdb_entries"][network] = content
    changes, (refusal,) = parse(message)
    assert AddEntries(N, VXLAN, A, [Entry(MAC1, IP1, A)], False) in changes
    assert [change for change in changes if isinstance(change, AddEntries) and change.entries] == [
        changes[0]
    ]
    assert refusal.offender.startswith(offender)
    assert reason in refusal.reason
    assert network in refusal.where


BAD_MESSAGES: list[tuple[Any, str, str]] = [
    (None, "message", "a message must be an object"),
    ([], "message", "a message must be an object"),
    ("add_fdb_entries", "message", "a message must be an object"),
    ({}, "message", "method must be one of"),
    ({"method": "delete_everything"}, "message", "method must be one of"),
    ({"method": ["add_fdb_entries"]}, "message", "method must be one of"),
    ({"method": "add_fdb_entries"}, "add_fdb_entries", "fdb_entries must be an object"),
    ({"method": "update_fdb_entries"}, "update_fdb_entries", "fdb_entries must be an object"),
    (
        {"method": "update_fdb_entries", "fdb_entries": {"chg_mac": {}}},
        "update_fdb_entries",
        "the only action is chg_ip",
    ),
    (change_ip(N, A) | {"fdb_entries": {"chg_ip": []}}, "update", "chg_ip must be an object"),
    (change_ip(N, A) | {"fdb_entries": {"chg_ip": {N: {A: []}}}}, "chg_ip", "must be an object"),
    (change_ip(N, A, before="x"), "chg_ip", "must be a list of [MAC, IP] pairs"),
    ({"method": "attach_network"}, "attach_network", "not a UUID"),
    (attach("N"), "attach_network", "not a UUID"),
    (attach(N, 0), "attach_network", "local_vlan must be in 1..4094"),
    (attach(N, 4095), "attach_network", "local_vlan must be in 1..4094"),
    (attach(N, "5"), "attach_network", "local_vlan must be an integer"),  # type: ignore[arg-type]
    (attach(N, segment_id=0), "attach_network", "vxlan segment_id must be in"),
    (attach(N, network_type="flat"), "attach_network", "network_type must be one of"),
    (attach(N) | {"bridge": ""}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": "b" * 16}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": "ä" * 15}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": "../../etc"}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": ".."}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": "a b"}, "attach_network", "not the name of a bridge"),
    (attach(N) | {"bridge": 7}, "attach_network", "not the name of a bridge"),
    ({"method": "detach_network"}, "detach_network", "not a UUID"),
]


@pytest.mark.parametrize(("message", "where", "reason"), BAD_MESSAGES)
def test_bad_message(message: Any, where: str, reason: str) -> None:
    changes, (refusal,) = parse(message)
    assert changes == []
    assert refusal.where.startswith(where)
    assert reason in refusal.reason
    assert str(refusal) == f"{refusal.where}: {refusal.offender}: {refusal.reason}"


def test_unknown_action_beside_a_known_one() -> None:
    message = change_ip(N, A, after=[[MAC1, IP1]])
    message["fdb_entries"]["chg_mac"] = {}
    changes, refusals = parse(message)
    assert len(changes) == len(refusals) == 1


def test_deep_nesting_that_json_still_takes() -> None:
    """json.loads() may get deeper than repr() then can, called from further down the stack."""
    for depth in range(10, 1000, 10):
        try:
            message = json.loads('{"method": ' + "[" * depth + "]" * depth + "}")
        except RecursionError:
            break
        changes, (refusal,) = parse(message)
        assert changes == []
        assert len(refusal.offender) <= 80


def test_a_parser_keeps_nothing_from_one_message_to_the_next() -> None:
    parser = Parser(LOCAL)
    assert parser.parse("bad")[1]
    first = parser.parse(add(N, A, [MAC1, IP1]))
    second = parser.parse(add(N, B, [MAC1, IP1]))
    assert [len(found) for found in (*first, *second)] == [1, 0, 1, 0]


# -- the quick way for IPv4 --------------------------------------------------------------------

_numbers = st.integers(0, 300) | st.sampled_from([0, 223, 224, 239, 240, 255])
_octets = _numbers.map(str) | st.sampled_from(["", "00", "01", "1e1", "+1", " 1", "١"])


@given(st.lists(_octets, min_size=3, max_size=5).map(".".join) | st.from_regex(r"[\d.]{1,15}"))
@example("0.0.0.0")
@example("0.0.0.0\n")
@example("255.255.255.255")
@example("239.255.255.255")
@example("240.0.0.0")
@example("0.0.0.1")
@example("1.2.3.4\n")
@settings(deadline=None)
def test_quick_ipv4_agrees_with_the_standard_library(text: str) -> None:
    try:
        address = IPv4Address(text)
    except ValueError:
        expected = False
    else:
        expected = not (address.is_multicast or address.is_unspecified or text == "255.255.255.255")
    assert (messages._UNICAST_IPV4(text) is not None) == expected


# -- fuzz --------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([N, A, MAC1, IP1, IP6, "add_fdb_entries", "chg_ip", "ports", "vxlan"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.text(max_size=40) | st.sampled_from([M, A, B, "chg_ip"])


def check_result(result: tuple[list[Change], list[Refusal]]) -> None:
    """Whatever came in: canonical values go out, and texts fit for a log."""
    changes, refusals = result
    for change in changes:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", change.network_id)
        if isinstance(change, (AddEntries, RemoveEntries)):
            for entry in change.entries:
                assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", entry.mac)
                assert entry.vtep == change.vtep
    for refusal in refusals:
        assert len(refusal.offender) <= 80
        assert str(refusal).isprintable()


@given(json_values)
@settings(deadline=None)
def test_any_json_value(value: Any) -> None:
    check_result(parse(value))


@given(
    st.sampled_from(["add_fdb_entries", "remove_fdb_entries", "update_fdb_entries"]),
    st.dictionaries(keys, st.dictionaries(keys, json_values, max_size=3) | json_values, max_size=3),
)
@settings(deadline=None)
def test_any_json_value_in_a_message(method: str, value: Any) -> None:
    check_result(parse({"method": method, "fdb_entries": value}))


Path = tuple[str | int, ...]

networks = st.lists(st.uuids().map(str), min_size=1, max_size=3, unique=True)
vteps = st.lists(
    st.integers(1, 200).map(lambda n: f"192.0.2.{n}"), min_size=1, max_size=3, unique=True
)
pairs = st.lists(
    st.tuples(
        st.integers(1, 2**16).map(lambda n: f"fa:16:3e:00:{n >> 8 & 255:02x}:{n & 255:02x}"),
        st.integers(1, 250).map(lambda n: f"10.0.0.{n}") | st.just(IP6),
    ).map(list),
    min_size=1,
    max_size=3,
)


@st.composite
def valid_messages(draw: st.DrawFn) -> Message:
    method = draw(st.sampled_from(["add_fdb_entries", "remove_fdb_entries"]))
    entries = {
        network: body({vtep: draw(pairs) for vtep in draw(vteps)}) for network in draw(networks)
    }
    return {"method": method, "fdb_entries": entries}


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a message."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*path, key))


def entries_with_paths(message: Message) -> Iterator[tuple[str, Entry, set[Path]]]:
    """Every entry, and the places that it depends on."""
    needs_segment = message["method"] == "add_fdb_entries"
    for network, content in message["fdb_entries"].items():
        for vtep, listed in content["ports"].items():
            for index, (mac, ip) in enumerate(listed):
                deepest: Path = ("fdb_entries", network, "ports", vtep, index)
                needed = {deepest[:n] for n in range(6)} | {(*deepest, 0), (*deepest, 1)}
                needed.add(("method",))
                if needs_segment:
                    needed |= {(*deepest[:2], "segment_id"), (*deepest[:2], "network_type")}
                yield network, Entry(mac, ip, vtep), needed


def replaced(message: Message, path: Path, junk: Any) -> Any:
    if not path:
        return junk
    result = copy.deepcopy(message)
    place: Any = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = junk
    return result


@given(valid_messages(), st.data(), json_values)
@settings(deadline=None, max_examples=250)
def test_one_thing_replaced_leaves_the_rest(
    message: Message, data: st.DataObject, junk: Any
) -> None:
    path = data.draw(st.sampled_from(list(paths(message))))
    expected = [
        (network, entry)
        for network, entry, needed in entries_with_paths(message)
        if path not in needed
    ]
    result = parse(replaced(message, path, junk))
    check_result(result)
    found = {
        (change.network_id, entry)
        for change in result[0]
        if isinstance(change, (AddEntries, RemoveEntries))
        for entry in change.entries
    }
    assert found.issuperset(expected)


@given(valid_messages(), st.data(), json_values)
@settings(deadline=None, max_examples=250)
def test_one_thing_inserted_leaves_all(message: Message, data: st.DataObject, junk: Any) -> None:
    places = [p for p in paths(message) if p and p != ("method",)]
    path = data.draw(st.sampled_from(places))
    changed = copy.deepcopy(message)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    if isinstance(place, dict):
        place.setdefault(data.draw(keys), junk)
    elif len(path) == 5:  # a list of pairs
        place.insert(path[-1], junk)
    else:  # a pair takes more at its end
        place.append(junk)
    result = parse(changed)
    check_result(result)
    found = {
        (change.network_id, entry)
        for change in result[0]
        if isinstance(change, (AddEntries, RemoveEntries))
        for entry in change.entries
    }
    assert found.issuperset((network, entry) for network, entry, _ in entries_with_paths(message))


@pytest.mark.parametrize(
    "change",
    [
        Attachment(N, Segment("vxlan", 1001), 5),
        Attachment(N, Segment("gre", 7), None, "br-blue"),
        Detach(N),
        AddEntries(N, Segment("vxlan", 1), A, [Entry(MAC1, "10.0.0.5", A)], True),
        AddEntries(N, Segment("vxlan", 1), A, [], True),
        AddEntries(N, None, A, [Entry(MAC1, "2001:db8::5", A)], False),
        RemoveEntries(N, A, [Entry(MAC1, "10.0.0.5", A)], True),
    ],
)
def test_a_change_as_message_is_that_change(change: Change) -> None:
    assert Parser().parse(json.loads(json.dumps(wire.to_message(change)))) == ([change], [])


def test_flooding_entry_in_chg_ip_is_refused_and_the_rest_applies() -> None:
    lists = {"before": [FLOODING], "after": [[MAC1, "10.0.0.6"]]}
    message = {"method": "update_fdb_entries", "fdb_entries": {"chg_ip": {N: {A: lists}}}}
    changes, refusals = Parser().parse(message)
    assert changes == [AddEntries(N, None, A, [Entry(MAC1, "10.0.0.6", A)], False)]
    assert [refusal.offender for refusal in refusals] == [messages.FLOODING_MAC]

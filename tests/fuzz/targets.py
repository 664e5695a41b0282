"""What any bytes may do to us: nothing. One function a target, for a fuzzer and for a test.

A target raises where something is wrong.
"""

import contextlib
import json
import struct
from collections.abc import Callable
from typing import Any

from ovs_l2pop.backends.openvswitch.channel import Channel
from ovs_l2pop.backends.openvswitch.rows import flows_in, groups_in
from ovs_l2pop.backends.openvswitch.transport import HEADER, Received
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Parser
from ovs_l2pop.core.table import Fact, ForwardingTable, Key
from ovs_l2pop.core.wire import to_message
from ovs_l2pop.sync.protocol import Answer, ProtocolError, Update
from ovs_l2pop.sync.replica import Replica

LOCAL = "192.0.2.1"


def messages(data: bytes) -> None:
    """JSON Lines from anybody: parsed, taken in, kept; and what is kept gives the same table."""
    table = ForwardingTable(LOCAL)
    for line in data.split(b"\n"):
        value = _json(line)
        changes, refusals = Parser(LOCAL).parse(value)
        for refusal in refusals:
            assert str(refusal).isprintable(), "it goes to logs and terminals"
        for change in changes:
            table.apply(change)
            again, refused = Parser(LOCAL).parse(to_message(change))
            assert (again, refused) == ([change], []), "what is accepted can be kept"
    after = ForwardingTable(LOCAL)
    for message in table.messages():
        for change in Parser(LOCAL).parse(message)[0]:
            assert after.apply(change) is None
    assert _facts(after) == _facts(table)


def server(data: bytes) -> None:
    """What comes from a Neutron server, in our protocol: understood or refused."""
    replica = Replica(LOCAL)
    for line in data.split(b"\n"):
        value = _json(line)
        if isinstance(value, dict) and isinstance(value.get("network_id"), str):
            replica.use(value["network_id"])
        for read in (_update, _answer):
            with contextlib.suppress(ProtocolError):
                read(replica, value)
    replica.digests()


def openflow(data: bytes) -> None:
    """What a switch answers: read, or the connection is given up."""
    channel = Channel(_Replay(data), timeout=0)
    for use in (
        lambda: channel.watch(lambda cookie: cookie == 1),
        lambda: [flows_in(body) for body in channel.flows(1)],
        lambda: [groups_in(body) for body in channel.groups()],
        lambda: channel.write([(14, bytes(48)), (15, bytes(8))]),
        channel.poll,
    ):
        with contextlib.suppress(BackendError):
            use()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "messages": messages,
    "server": server,
    "openflow": openflow,
}

#: What is worth beginning with.
SEEDS: dict[str, list[bytes]] = {
    "messages": [
        b'{"method": "attach_network", "network_id": "11111111-2222-3333-4444-555555555555",'
        b' "network_type": "vxlan", "segment_id": 77, "local_vlan": 5}\n'
        b'{"method": "add_fdb_entries", "fdb_entries": {"11111111-2222-3333-4444-555555555555":'
        b' {"network_type": "vxlan", "segment_id": 77, "ports": {"192.0.2.2":'
        b' [["00:00:00:00:00:00", "0.0.0.0"], ["fa:16:3e:00:00:01", "10.0.0.1"]]}}}}',
        b'{"method": "update_fdb_entries", "fdb_entries": {"chg_ip":'
        b' {"11111111-2222-3333-4444-555555555555": {"192.0.2.2": {"before":'
        b' [["fa:16:3e:00:00:01", "10.0.0.1"]], "after": [["fa:16:3e:00:00:01", "fd00::1"]]}}}}}',
        b'{"method": "detach_network", "network_id": "11111111-2222-3333-4444-555555555555"}',
    ],
    "server": [
        b'{"network_id": "n", "network_type": "vxlan", "segment_id": 77, "ports": [["p", 3,'
        b' "192.0.2.2", [["fa:16:3e:00:00:01", "10.0.0.1"]], ["10.0.0.2"]],'
        b' ["q", 1, null, [], []]]}',
        b'{"network_id": "n", "age": 0.5, "gone": ["m"], "cursor": ["n", "p"], "dead":'
        b' ["192.0.2.3"], "chunks": [{"network_id": "n", "network_type": "vxlan", "segment_id": 77,'
        b' "after": "", "until": null, "ports": []}]}',
    ],
    "openflow": [
        HEADER.pack(4, 19, 16, 1) + struct.pack("!HHxxxx", 1, 0),
        HEADER.pack(4, 1, 12, 1) + struct.pack("!HH", 5, 1),
        HEADER.pack(4, 19, 56, 0)
        + struct.pack("!HHxxxxII", 0xFFFF, 0, 0x4F4E4600, 1870)
        + struct.pack("!HHHHHHHBxQHHxxxx", 32, 1, 0, 10, 0, 0, 4, 20, 1, 1, 4),
    ],
}


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.decode(errors="replace")


def _facts(table: ForwardingTable) -> dict[Key, Fact | None]:
    return dict(table.facts(list(table.keys())))


def _update(replica: Replica, value: object) -> None:
    replica.updated(Update.from_wire(value))


def _answer(replica: Replica, value: object) -> None:
    replica.synced(Answer.from_wire(value), 0.0)


class _Replay:
    """A transport that has received these bytes, and nothing comes any more."""

    name, first_xid, pushes = "replay", 0, True

    def __init__(self, data: bytes) -> None:
        self._data = data

    def send(self, data: bytes) -> None:
        pass

    def receive(self, timeout: float) -> Received | None:
        if len(self._data) < HEADER.size:
            return None
        _, kind, length, xid = HEADER.unpack_from(self._data)
        length = max(length, HEADER.size)
        message, self._data = self._data[:length], self._data[length:]
        return kind, xid, message[HEADER.size :]

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass

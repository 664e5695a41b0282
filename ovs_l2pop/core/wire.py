"""Messages, written: the one place that knows their form from this side.

:mod:`ovs_l2pop.core.messages` tells the form and reads it. A server, the table's file, the
laboratory and the tests all write it by these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ovs_l2pop.core.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    Attachment,
    Change,
    Detach,
    Owners,
    RemoveEntries,
    Segment,
)

Message = dict[str, Any]
Pairs = Sequence[Sequence[str]]  #: of MAC and IP
Ports = Mapping[str, Pairs]  #: by VTEP

FLOODING = (FLOODING_MAC, FLOODING_IP)


def entries(
    network_id: str,
    ports: Ports,
    segment: Segment | None = None,
    revision: int | None = None,
    owners: Owners | None = None,
) -> Message:
    """``fdb_entries`` of :func:`add` and :func:`remove`."""
    body: Message = {} if segment is None else segment._asdict()
    body["ports"] = dict(ports)
    if revision is not None:
        body["revision"] = revision
    if owners:
        body["properties"] = _listed(owners)
    return {network_id: body}


def changed_ip(
    network_id: str,
    vtep: str,
    before: Pairs | None = None,
    after: Pairs | None = None,
    revision: int | None = None,
    owners: Owners | None = None,
) -> Message:
    """``fdb_entries`` of :func:`update`. A list that is None is left out."""
    listed = _listed(owners) if owners else None
    change = {"before": before, "after": after, "revision": revision, "properties": listed}
    given = {name: value for name, value in change.items() if value is not None}
    return {"chg_ip": {network_id: {vtep: given}}}


def add(
    network_id: str,
    segment: Segment | None,
    ports: Ports,
    revision: int | None = None,
    owners: Owners | None = None,
) -> Message:
    return _fdb("add", entries(network_id, ports, segment, revision, owners))


def remove(
    network_id: str, segment: Segment | None, ports: Ports, revision: int | None = None
) -> Message:
    return _fdb("remove", entries(network_id, ports, segment, revision))


def update(fdb_entries: Message) -> Message:
    """:param fdb_entries: of :func:`changed_ip`."""
    return _fdb("update", fdb_entries)


def attach(
    network_id: str,
    segment: Segment,
    local_vlan: int | None,
    bridge: str | None = None,
    unknown_unicast: str | None = None,
    unknown_neighbour: str | None = None,
) -> Message:
    message = {"method": "attach_network", "network_id": network_id, **segment._asdict()}
    optional = {
        "bridge": bridge,
        "unknown_unicast": unknown_unicast,
        "unknown_neighbour": unknown_neighbour,
    }
    given = {name: value for name, value in optional.items() if value}
    return message | {"local_vlan": local_vlan} | given


def detach(network_id: str) -> Message:
    return {"method": "detach_network", "network_id": network_id}


def to_message(change: Change) -> Message:
    """The message that makes this change and no other: the reverse of :class:`.messages.Parser`."""
    match change:
        case Attachment():
            return attach(*change)
        case Detach(network_id):
            return detach(network_id)
    pairs = [[entry.mac, entry.ip] for entry in change.entries]
    if change.flooding:
        pairs.append(list(FLOODING))
    ports, revision = {change.vtep: pairs}, change.revision
    if isinstance(change, RemoveEntries):
        return remove(change.network_id, None, ports, revision)
    if change.segment is None:
        where = change.network_id, change.vtep
        owners = change.properties
        return update(changed_ip(*where, after=pairs, revision=revision, owners=owners))
    return add(change.network_id, change.segment, ports, revision, change.properties)


def _listed(owners: Owners) -> list[Any]:
    return [[mac, ip, owner._asdict()] for (mac, ip), owner in owners.items()]


def _fdb(verb: str, body: Message) -> Message:
    return {"method": f"{verb}_fdb_entries", "fdb_entries": body}

"""All that a table is to hold, as one document; and what makes one table of another. Pure.

A document is what YAML or JSON have made of::

    networks:
    - network_id: 7a1c4bd0-95a3-4e0e-9d51-3c2a7c3c9b10
      network_type: vxlan
      segment_id: 1001
      attach: {local_vlan: 5}      # on this host; what attach_network takes besides. Else left out
      ports:                       # VTEP: [MAC, IP] each, as in add_fdb_entries
        192.0.2.12: [["00:00:00:00:00:00", 0.0.0.0], ["fa:16:3e:00:00:01", 10.0.0.1]]
      properties: []               # as in add_fdb_entries; may be left out

A network may stand there more than once. Of several who claim an address, the last one wins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ovs_l2pop.core import wire
from ovs_l2pop.core.errors import CommandError
from ovs_l2pop.core.messages import (
    AddEntries,
    Attachment,
    Detach,
    Entry,
    Parser,
    Properties,
    Segment,
    quote,
)
from ovs_l2pop.core.wire import Message

_NETWORK = frozenset({"network_id", "network_type", "segment_id", "attach", "ports", "properties"})


@dataclass(slots=True)
class Port:
    """What one VTEP announces in one network."""

    segment: Segment | None = None
    flooding: bool = False
    entries: dict[Entry, Properties] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """All of it; of ports by network and VTEP those that announce something."""

    attachments: dict[str, Attachment] = field(default_factory=dict)
    ports: dict[tuple[str, str], Port] = field(default_factory=dict)


def messages(document: object) -> Iterator[Message]:
    """The messages that a document stands for.

    :raises CommandError: names what has not this form. What is in the messages isn't looked at.
    """
    networks = document.get("networks") if isinstance(document, dict) else None
    if not isinstance(networks, list) or set(document) != {"networks"}:  # type: ignore[call-overload]
        raise CommandError("a document is a mapping with one key, networks, and a list there")
    for number, network in enumerate(networks, 1):
        if not isinstance(network, dict):
            raise CommandError(f"network {number}: {quote(network)} is no mapping")
        where = f"network {number} ({quote(network.get('network_id'))})"
        if unknown := set(network) - _NETWORK:
            names = ", ".join(sorted(map(str, unknown)))
            raise CommandError(
                f"{where}: unknown: {names}; there are {', '.join(sorted(_NETWORK))}"
            )
        about = {name: network.get(name) for name in ("network_type", "segment_id")}
        if (attach := network.get("attach")) is not None:
            if not isinstance(attach, dict):
                raise CommandError(f"{where}: attach: {quote(attach)} is no mapping")
            told = {"network_id": network.get("network_id"), **about, "local_vlan": None}
            yield {"method": "attach_network", **told, **attach}
        if ports := network.get("ports"):
            body = {**about, "ports": ports}
            if properties := network.get("properties"):
                body["properties"] = properties
            yield {"method": "add_fdb_entries", "fdb_entries": {network.get("network_id"): body}}


def document(told: Iterable[Message]) -> dict[str, Any]:
    """The document of the table that these messages build."""
    state = built(told)
    networks: dict[tuple[str, Segment | None, str], dict[str, Any]] = {}

    def of(network_id: str, segment: Segment | None, vtep: str = "") -> dict[str, Any]:
        about = {} if segment is None else segment._asdict()
        return networks.setdefault((network_id, segment, vtep), {"network_id": network_id, **about})

    for network_id, attachment in state.attachments.items():
        given = wire.attach(*attachment)
        about = ("method", "network_id", "network_type", "segment_id")
        of(network_id, attachment.segment)["attach"] = {
            name: value for name, value in given.items() if name not in about and value is not None
        }
    for (network_id, vtep), port in state.ports.items():
        # Properties are of a MAC and an IP, which another VTEP may claim as well, with others.
        said = any(owner != Properties() for owner in port.entries.values())
        network = of(network_id, port.segment, vtep if said else "")
        pairs = [list(wire.FLOODING)] if port.flooding else []
        pairs += [[entry.mac, entry.ip] for entry in port.entries]
        network.setdefault("ports", {})[vtep] = pairs
        for entry, owner in port.entries.items():
            if owner != Properties():
                of_entry = [entry.mac, entry.ip, owner._asdict()]
                network.setdefault("properties", []).append(of_entry)
    return {"networks": list(networks.values())}


def difference(
    before: Iterable[Message], after: Iterable[Message], local_ip: str | None = None
) -> list[Message]:
    """What makes the table that the first messages build the one of the others, what goes first.

    :param local_ip: what *after* may hold depends on its family; None: that isn't known.
    :raises CommandError: names what of *after* can't be.
    """
    is_, to_be = built(before), built(after, Parser(local_ip), strict=True)
    found: list[Message] = [
        wire.to_message(Detach(network_id))
        for network_id in is_.attachments
        if network_id not in to_be.attachments
    ]
    nothing = Port()
    for (network_id, vtep), port in is_.ports.items():
        then = to_be.ports.get((network_id, vtep), nothing)
        gone = [[e.mac, e.ip] for e in port.entries if e not in then.entries]
        if port.flooding and not then.flooding:
            gone.append(list(wire.FLOODING))
        if gone:
            found.append(wire.remove(network_id, port.segment, {vtep: gone}))
    for network_id, attachment in to_be.attachments.items():
        if is_.attachments.get(network_id) != attachment:
            found.append(wire.to_message(attachment))
    for (network_id, vtep), port in to_be.ports.items():
        now = is_.ports.get((network_id, vtep), nothing)
        moved = port.segment != now.segment
        new = {e: how for e, how in port.entries.items() if moved or now.entries.get(e) != how}
        pairs = [[entry.mac, entry.ip] for entry in new]
        if port.flooding and (moved or not now.flooding):
            pairs.append(list(wire.FLOODING))
        if pairs:
            owners = {
                e[:2]: how for e, how in new.items() if how != now.entries.get(e, Properties())
            }
            found.append(wire.add(network_id, port.segment, {vtep: pairs}, owners=owners or None))
    return found


def built(told: Iterable[Message], parser: Parser | None = None, *, strict: bool = False) -> State:
    """What messages have told in the end.

    :raises CommandError: names what is refused, where *strict*; else that is left out.
    """
    parser = parser or Parser()
    state = State()
    for message in told:
        changes, refusals = parser.parse(message)
        if strict and refusals:
            raise CommandError(str(refusals[0]))
        for change in changes:
            match change:
                case Attachment():
                    state.attachments[change.network_id] = change
                case Detach():
                    state.attachments.pop(change.network_id, None)
                case AddEntries():
                    port = state.ports.setdefault((change.network_id, change.vtep), Port())
                    port.segment = change.segment or port.segment
                    port.flooding = port.flooding or change.flooding
                    for entry in change.entries:
                        port.entries.setdefault(entry, Properties())
                        if change.properties and entry[:2] in change.properties:
                            port.entries[entry] = change.properties[entry[:2]]
                case _:
                    port = state.ports.setdefault((change.network_id, change.vtep), Port())
                    port.flooding = port.flooding and not change.flooding
                    for entry in change.entries:
                        port.entries.pop(entry, None)
    state.ports = {at: port for at, port in state.ports.items() if port.flooding or port.entries}
    return state

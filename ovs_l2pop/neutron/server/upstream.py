"""Upstream's messages, as ``ovs_l2pop.core.messages`` describes them. Pure.

Pairs are tuples here: they compare equal to Neutron's ``FLOODING_ENTRY`` and ``PortInfo``, and
become lists on the wire.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ovs_l2pop.core.messages import FLOODING_IP, FLOODING_MAC, Segment

Pair = tuple[str, str]
Fdb = dict[str, Any]

FLOODING: Pair = (FLOODING_MAC, FLOODING_IP)

#: Bytes of JSON of one message at the most, and of a pair in it: two quoted addresses, brackets
#: and comma, IPv6 being the longest.
MAX_BYTES = 64 * 1024
_PAIR_BYTES = 70
_VTEP_BYTES = 50


def entries(network_id: str, segment: Segment, ports: dict[str, list[Pair]]) -> Fdb:
    """Body of ``add_fdb_entries`` and ``remove_fdb_entries``: VTEP → pairs."""
    return {
        network_id: {
            "segment_id": segment.segment_id,
            "network_type": segment.network_type,
            "ports": ports,
        }
    }


def changed_ip(network_id: str, vtep: str, gone: Sequence[Pair], new: Sequence[Pair]) -> Fdb:
    """Body of ``update_fdb_entries``. A list that would be empty is left out."""
    change: dict[str, list[Pair]] = {}
    if gone:
        change["before"] = list(gone)
    if new:
        change["after"] = list(new)
    return {"chg_ip": {network_id: {vtep: change}}}


def table(
    network_id: str, segment: Segment, ports: Iterable[tuple[str, list[Pair]]]
) -> Iterator[Fdb]:
    """Everything that a host must know of a network, as ``add_fdb_entries`` of bounded size.

    :param ports: VTEP and pairs, the flooding entry first.
    """
    part: dict[str, list[Pair]] = {}
    room = MAX_BYTES
    for vtep, pairs in ports:
        left = pairs
        while left:
            count = (room - _VTEP_BYTES) // _PAIR_BYTES
            if count < 1:
                yield entries(network_id, segment, part)
                part, room = {}, MAX_BYTES
                continue
            part[vtep] = left[:count]
            room -= _VTEP_BYTES + _PAIR_BYTES * len(part[vtep])
            left = left[count:]
    if part:
        yield entries(network_id, segment, part)

"""Upstream's tables, as messages of bounded size. Pure.

Pairs are tuples here: they compare equal to Neutron's ``FLOODING_ENTRY`` and ``PortInfo``, and
become lists on the wire.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ovs_l2pop.core.messages import Segment
from ovs_l2pop.core.wire import entries

Pair = tuple[str, str]
Fdb = dict[str, Any]

#: Bytes of JSON of one message at the most, and of a pair in it: two quoted addresses, brackets
#: and comma, IPv6 being the longest.
MAX_BYTES = 64 * 1024
_PAIR_BYTES = 70
_VTEP_BYTES = 50


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
                yield entries(network_id, part, segment)
                part, room = {}, MAX_BYTES
                continue
            part[vtep] = left[:count]
            room -= _VTEP_BYTES + _PAIR_BYTES * len(part[vtep])
            left = left[count:]
    if part:
        yield entries(network_id, part, segment)

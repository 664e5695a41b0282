"""What a flow row tells of itself, whichever template or release it is of: its network, its ports
or VTEPs.

Read from the bytes of OpenFlow 1.3: OXM fields of the match, and what actions set and output.
"""

from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.backends.openvswitch.rows import flow_key

_BASIC = 0x8000  # OFPXMC_OPENFLOW_BASIC
_IN_PORT, _VLAN, _TUNNEL_ID = 0, 6, 38  # oxm_ofb_match_fields
# NXM_NX_TUN_IPV4_DST, NXM_NX_TUN_IPV6_DST: class, field and length
_TUNNEL_DSTS = (bytes.fromhex("00014004"), bytes.fromhex("0001dc10"))
_APPLY_ACTIONS = 4  # OFPIT_APPLY_ACTIONS
_OUTPUT, _SET_FIELD = 0, 25  # ofp_action_type
_MAX_PORT = 0xFFFFFF00  # OFPP_MAX


class Read(NamedTuple):
    """What a flow names; None what it does not."""

    in_port: int | None
    local_vlan: int | None  #: matched, or set
    incoming: int | None  #: tunnel key that is matched
    outgoing: int | None  #: tunnel key that is set
    outputs: tuple[int, ...]  #: port numbers
    remotes: tuple[str, ...]  #: VTEPs that are set


def read(row: bytes) -> Read:
    """Read a flow row. What can't be read counts as not named."""
    key = flow_key(row)
    matched = _fields(row[7 : 3 + int.from_bytes(row[5:7], "big")])
    given: dict[int, int] = {}
    outputs: list[int] = []
    remotes: list[str] = []
    for kind, instruction in _parts(row[len(key) :]):
        if kind != _APPLY_ACTIONS:
            continue
        for action, body in _parts(instruction[4:]):
            if action == _SET_FIELD and body[:4] in _TUNNEL_DSTS:
                remotes.append(str(ip_address(body[4 : 4 + body[3]])))
            elif action == _SET_FIELD:
                given |= _fields(body)
            elif action == _OUTPUT and (port := int.from_bytes(body[:4], "big")) < _MAX_PORT:
                outputs.append(port)
    vlan = matched.get(_VLAN, given.get(_VLAN))
    return Read(
        matched.get(_IN_PORT),
        None if vlan is None else vlan & 0xFFF,
        matched.get(_TUNNEL_ID),
        given.get(_TUNNEL_ID),
        tuple(outputs),
        tuple(remotes),
    )


def tells_remotes(row: bytes) -> bool:
    """Whether :func:`read` may find VTEPs in it; there are few such among very many."""
    return any(field in row for field in _TUNNEL_DSTS)


def _fields(data: bytes) -> dict[int, int]:
    """The exact basic fields of a list of OXM: number → value."""
    found, at = {}, 0
    while at + 4 <= len(data):
        size = data[at + 3]
        if int.from_bytes(data[at : at + 2], "big") == _BASIC and not data[at + 2] & 1:
            found[data[at + 2] >> 1] = int.from_bytes(data[at + 4 : at + 4 + size], "big")
        at += 4 + size
    return found


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """(type, what is behind type and length) of each instruction or action."""
    found, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 4:
            break
        found.append((int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + size]))
        at += size
    return found

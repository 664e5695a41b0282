"""Lets ARP and ND announcements through a bridge that answers.

A bridge that answers ARP and ND for what is behind a tunnel keeps announcements from it: gratuitous
ARP, ARP probes, duplicate address detection, unsolicited neighbour advertisements. But only by an
announcement do other hosts' machines learn that an address has moved (VRRP, a live migration), and
only the real holder may answer a probe (RFC 5227). So announcements go round the bridge::

    machine ─► bridge ─► the host's own device of the bridge ─ mirrored ─► tunnel ─► other hosts
    tunnel  ─ redirected ─► the bridge's output ─► machines

They leave by where a bridge hands broadcasts to its own host. Those that come from a tunnel enter
as if the host had sent them, so that they don't come up to it again: they can't go in circles. Both
are one traffic control filter each: a classic BPF program that knows announcements, and the action
``mirred``. (What it costs: the bridge doesn't learn from an announcement behind which port its
sender is; the tunnel does.)

Numbers are those of ``linux/pkt_sched.h``, ``linux/pkt_cls.h`` and ``linux/filter.h``.
"""

import struct
import sys
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    string,
    text,
)

_NEWQDISC, _NEWFILTER, _DELFILTER, _GETFILTER = 36, 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
#: Ours among the filters of a device: "l2".
_PRIORITY = 0x6C32
_INFO = _PRIORITY << 16 | int.from_bytes(b"\0\3", sys.byteorder)  # ETH_P_ALL
_KIND, _OPTIONS = 1, 2
_BPF_ACTION, _BPF_LENGTH, _BPF_PROGRAM = 1, 4, 5
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED_PARAMETERS = 2
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, what follows, 2 counts, how, device
_PIPE, _STOLEN = 3, 4
_REDIRECT, _MIRROR = 1, 2

_BYTE, _HALF, _WORD, _TO_X = 0x30, 0x28, 0x20, 0x07
_EQUAL, _EQUAL_X, _ANY_BIT, _RETURN = 0x15, 0x1D, 0x45, 0x06


class _Step(NamedTuple):
    """An instruction; where it jumps to if true and if false, None: on."""

    code: int
    value: int = 0
    true: str | None = None
    false: str | None = None


# The same cases as in br_do_proxy_suppress_arp() and br_do_suppress_nd() of Linux, net/bridge.
_PROGRAM: tuple[_Step | str, ...] = (
    _Step(_BYTE, 0),  # to a group?
    _Step(_ANY_BIT, 0x01, None, "no"),
    _Step(_HALF, 12),
    _Step(_EQUAL, 0x0806, "arp"),
    _Step(_EQUAL, 0x86DD, None, "no"),
    _Step(_BYTE, 20),
    _Step(_EQUAL, 58, None, "no"),
    _Step(_BYTE, 54),
    _Step(_EQUAL, 136, "advertisement"),
    _Step(_EQUAL, 135, None, "no"),
    # Duplicate address detection: a solicitation from the unspecified address.
    *(
        step
        for offset in (22, 26, 30)
        for step in (_Step(_WORD, offset), _Step(_EQUAL, 0, None, "no"))
    ),
    _Step(_WORD, 34),
    _Step(_EQUAL, 0, "yes", "no"),
    "advertisement",  # unsolicited?
    _Step(_BYTE, 58),
    _Step(_ANY_BIT, 0x40, "no", "yes"),
    "arp",  # the sender's address is 0.x.x.x, or the one that is asked for
    _Step(_HALF, 20),
    _Step(_EQUAL, 1, "sender"),
    _Step(_EQUAL, 2, None, "no"),
    "sender",
    _Step(_WORD, 28),
    _Step(_ANY_BIT, 0xFF000000, None, "yes"),
    _Step(_TO_X),
    _Step(_WORD, 38),
    _Step(_EQUAL_X, 0, "yes", "no"),
    "yes",
    _Step(_RETURN, 0xFFFFFFFF),
    "no",
    _Step(_RETURN, 0),
)


def _assemble(program: tuple[_Step | str, ...]) -> bytes:
    steps: list[_Step] = []
    labels: dict[str, int] = {}
    for item in program:
        if isinstance(item, str):
            labels[item] = len(steps)
        else:
            steps.append(item)

    def jump(at: int, label: str | None) -> int:
        return 0 if label is None else labels[label] - at - 1

    return b"".join(
        struct.pack("=HBBI", code, jump(at, true), jump(at, false), value)
        for at, (code, value, true, false) in enumerate(steps)
    )


PROGRAM = _assemble(_PROGRAM)
"""Classic BPF: all ones for an announcement to a group, else 0."""


def forward(tunnel: int, bridge: int) -> list[Message]:
    """Let announcements through between these devices; also where they do go through. Making the
    qdisc may fail with EEXIST: then there is one, also somebody else's, that serves as well."""
    return [
        _qdisc(bridge),
        _filter(bridge, tunnel, _MIRROR, _PIPE),
        _qdisc(tunnel),
        _filter(tunnel, bridge, _REDIRECT, _STOLEN),
    ]


def stop(netlink: Netlink, tunnel: int, bridge: int) -> list[Message]:
    """No longer let announcements through; may fail with ENOENT or EINVAL: they did not. The bridge
    keeps its filter where that is for another tunnel, because somebody put this one there too."""
    how, target = _target(netlink, bridge) or (0, 0)
    others = how == _MIRROR and target not in (tunnel, 0)
    return [_remove(tunnel)] if others else [_remove(bridge), _remove(tunnel)]


def forwarded(netlink: Netlink, tunnel: int, bridge: int) -> bool | None:
    """Whether announcements go through; None: one way only, or to another device."""
    leaving, entering = _target(netlink, bridge), _target(netlink, tunnel)
    if (leaving, entering) == ((_MIRROR, tunnel), (_REDIRECT, bridge)):
        return True
    return None if leaving or entering else False


def _qdisc(device: int) -> Message:
    head = _TCMSG.pack(0, device, _CLSACT_HANDLE, _CLSACT, 0)
    return Message(_NEWQDISC, CREATE | EXCLUSIVE, head + text(_KIND, "clsact"))


def _filter(device: int, target: int, how: int, then: int) -> Message:
    parameters = attribute(_MIRRED_PARAMETERS, _MIRRED.pack(0, 0, then, 0, 0, how, target))
    action = text(_ACTION_KIND, "mirred") + nested(_ACTION_OPTIONS, parameters)
    options = nested(
        _OPTIONS,
        attribute(_BPF_LENGTH, struct.pack("=H", len(PROGRAM) // 8)),
        attribute(_BPF_PROGRAM, PROGRAM),
        nested(_BPF_ACTION, nested(1, action)),
    )
    head = _TCMSG.pack(0, device, 1, _INGRESS, _INFO)
    return Message(_NEWFILTER, CREATE | REPLACE, head + text(_KIND, "bpf") + options)


def _remove(device: int) -> Message:
    return Message(_DELFILTER, 0, _TCMSG.pack(0, device, 0, _INGRESS, _INFO))


def _target(netlink: Netlink, device: int) -> tuple[int, int] | None:
    """What our filter on a device does with announcements: (how, device)."""
    listing = Message(_GETFILTER, 0, _TCMSG.pack(0, device, 0, _INGRESS, _INFO))
    for body in netlink.dump(listing):
        _, _, handle, _, info = _TCMSG.unpack_from(body)
        found = attributes(body, _TCMSG.size)
        if info >> 16 != _PRIORITY or not handle or string(found.get(_KIND, b"")) != "bpf":
            continue
        options = attributes(found.get(_OPTIONS, b""))
        action = attributes(attributes(options.get(_BPF_ACTION, b"")).get(1, b""))
        parameters = attributes(action.get(_ACTION_OPTIONS, b"")).get(_MIRRED_PARAMETERS, b"")
        if options.get(_BPF_PROGRAM) != PROGRAM or len(parameters) < _MIRRED.size:
            return (0, 0)
        *_, how, target = _MIRRED.unpack_from(parameters)
        return (how, target)
    return None

"""No frame that came from a tunnel leaves by one; announcements leave, once.

A bridge never sends a frame back by the port that it came in by, and what has come from a tunnel
must not leave by it in another way either: else one frame goes round between hosts for ever. But a
bridge that answers ARP and ND for what is behind a tunnel keeps announcements from it: gratuitous
ARP, ARP probes, duplicate address detection, unsolicited neighbour advertisements. Only by an
announcement do other hosts' machines learn that an address has moved (VRRP, a live migration), and
only the real holder may answer a probe (RFC 5227). So they go round, from where a bridge hands what
goes to a group to its own host::

    machine ─► bridge ─► the host's own device of the bridge ─ announce ─► leave ─► tunnel
    tunnel ─► enter ─► bridge ─► machines

Three filters of traffic control. ``enter`` marks all that a tunnel brings, whatever it is.
``announce`` mirrors announcements into the tunnel, but nothing that is marked. ``leave`` drops what
the tunnel itself has brought, and what ``announce`` sends by the other way: so there is one copy,
whatever the bridge thinks of a frame. None of it depends on how a frame looks.

The mark is ``skb->tc_index``: only filters of traffic control change it, and on a tunnel of ours
``enter`` is the first and the last one. ``skb->mark`` belongs to the operator's firewall, which may
restore its own between tunnel and bridge. ``leave`` needs none: the kernel itself keeps by which
device a frame was last received.

Programs stay with their filters when the agent ends. Without eBPF announcements are not forwarded.
Numbers are those of ``linux/pkt_sched.h`` and ``linux/pkt_cls.h``.
"""

import errno
import struct
import sys
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge.ebpf import (
    DEVICE,
    ENTERED_BY,
    TC_CLASS,
    TC_INDEX,
    Code,
    Step,
    assemble,
    byte,
    differs,
    end,
    equal,
    field,
    gather,
    half,
    jump,
    keep,
    kept_differs,
    kept_equal,
    kept_is,
    loaded,
    mask,
    tell,
    word,
)
from ovs_l2pop.netlink import messages as nl
from ovs_l2pop.netlink.socket import Failure, Netlink

_NEWQDISC, _NEWFILTER, _DELFILTER, _GETFILTER = 36, 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_CLSACT, _CLSACT_HANDLE, _INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_ALL = int.from_bytes(b"\0\3", sys.byteorder)  # ETH_P_ALL
_KIND, _OPTIONS = 1, 2
_BPF_ACTION, _BPF_DESCRIPTOR, _BPF_NAME, _BPF_FLAGS, _BPF_TAG = 1, 6, 7, 8, 10
_DIRECT = 1
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED_PARAMETERS = 2
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, what follows, 2 counts, how, device
_MIRROR = 2
_CONTINUE, _PASS, _DROP = -1, 0, 2  # TC_ACT_UNSPEC, _OK, _SHOT

#: Marks: "l2", and what comes after it.
_CAME, _ANNOUNCED = 0x6C32, 0x6C33

# What a bridge that answers keeps from a tunnel, if it goes to a group: "yes", else "no". The same
# cases as in br_do_proxy_suppress_arp() and br_do_suppress_nd() of Linux 5.3 and later, net/bridge.
_KEPT_BACK: Code = (
    byte(0),  # to a group?
    mask(0x01),
    equal(0, "no"),
    half(12),
    equal(0x0806, "arp"),
    equal(0x8035, "arp"),  # RARP
    differs(0x86DD, "no"),
    byte(20),
    differs(58, "no"),
    byte(77),  # its last byte
    byte(55),
    differs(0, "no"),
    byte(54),
    equal(136, "advertisement"),
    differs(135, "no"),
    # Duplicate address detection: a solicitation from the unspecified address.
    word(22),
    keep(),
    *(step for offset in (26, 30, 34) for step in (word(offset), gather())),
    kept_is(0, "yes"),
    # One that asks itself.
    *(
        step
        for offset in (22, 26, 30, 34)
        for step in (word(offset), keep(), word(offset + 16), kept_differs("no"))
    ),
    jump("yes"),
    "advertisement",  # unsolicited?
    byte(58),
    mask(0x40),
    equal(0, "yes"),
    jump("no"),
    "arp",  # for IPv4; the sender's address is 0.0.0.0, or the one that is asked for
    half(16),
    differs(0x0800, "no"),
    half(18),
    differs(0x0604, "no"),
    half(20),
    equal(3, "no"),
    equal(4, "no"),
    byte(38),
    equal(127, "no"),
    mask(0xF0),
    equal(0xE0, "no"),
    word(38),
    keep(),
    word(28),
    equal(0, "yes"),
    kept_differs("no"),
)

#: Ends by itself: what would come after it could take the mark away.
ENTER = assemble((*tell(TC_CLASS, _CAME), *end(_PASS)))
"""Marks: the kernel copies the class of a frame that passes to ``tc_index``."""

ANNOUNCE = assemble(
    (
        field(TC_INDEX),
        equal(_CAME, "no"),
        *_KEPT_BACK,
        "yes",
        *tell(TC_INDEX, _ANNOUNCED),
        *end(-1),
        "no",
        *end(0),
    )
)
"""-1 for what is to be mirrored, which it marks."""


def _leave(*no_announcement: Step | str) -> bytes:
    """Drops, or lets others' filters decide, after a look at what isn't an announcement."""
    return assemble(
        (
            field(DEVICE),
            keep(),
            field(ENTERED_BY),
            kept_equal("drop"),
            field(TC_INDEX),
            equal(_ANNOUNCED, "pass"),
            *_KEPT_BACK,
            "yes",
            # A bridge with multicast snooping may hand a group of IPv6 to its members, and not to
            # its own host; but the group of all nodes goes to all.
            half(12),
            differs(0x86DD, "drop"),
            word(2),
            differs(1, "pass"),
            "drop",
            *end(_DROP),
            "no",
            *no_announcement,
            "pass",
            *tell(TC_INDEX, 0),
            *end(_CONTINUE),
        )
    )


LEAVE = _leave()

LEAVE_ALONE = _leave(
    # A question to all that comes here is one that the bridge had no answer for.
    byte(0),
    mask(0x01),
    equal(0, "pass"),
    half(12),
    equal(0x0806, "request"),
    differs(0x86DD, "pass"),
    byte(20),
    differs(58, "pass"),
    byte(54),
    equal(135, "drop"),
    jump("pass"),
    "request",
    half(16),
    differs(0x0800, "pass"),
    half(20),
    equal(1, "drop"),
)
"""Drops questions for who isn't known as well."""


class _Hook(NamedTuple):
    """Where a filter of ours is on a device; there may be others beside it."""

    name: str
    program: bytes
    parent: int
    priority: int
    handle: int


_FIRST, _OURS = 1, 0x6C32  # "l2"
_ENTER = _Hook("l2pop_enter", ENTER, _INGRESS, _FIRST, _OURS)
_LEAVE = _Hook("l2pop_leave", LEAVE, _EGRESS, _FIRST, _OURS)
# The bridge may be somebody else's, with filters that come first.
_ANNOUNCE = _Hook("l2pop_announce", ANNOUNCE, _INGRESS, _OURS, 1)
_WAYS = {"on": _LEAVE, "alone": _LEAVE._replace(program=LEAVE_ALONE)}
WAYS = frozenset(_WAYS)
"""Those of a responder (``rows.Tunnel``) that have announcements go through."""
#: What releases before this one had on a tunnel: it sent announcements to the bridge's output.
_REDIRECT = _Hook("", b"", _INGRESS, _OURS, 1)


def missing() -> str:
    """Why programs can't be loaded; empty: they can."""
    try:
        for hook in (_ENTER, *_WAYS.values(), _ANNOUNCE):
            loaded(hook.name, hook.program)
    except OSError as error:
        needed = ", CAP_BPF is needed" if error.errno in (errno.EPERM, errno.EACCES) else ""
        return f"eBPF programs for traffic control ({error.strerror}{needed})"
    return ""


def forward(netlink: Netlink, tunnel: int, bridge: int, way: str) -> Failure | None:
    """Let announcements through between these devices; why they can't be, and aren't.

    :param way: of :data:`WAYS`.

    Nothing leaves by the tunnel in a new way before nothing that it brought can.
    """
    try:
        steps = (
            # Another kind of qdisc has one place for both directions: ours would drop everything.
            [_qdisc(tunnel, nl.REPLACE)],
            [_filter(_WAYS[way], tunnel), _filter(_ENTER, tunnel)],
            # Here somebody else's, EEXIST, serves as well.
            [_qdisc(bridge, nl.EXCLUSIVE)],
            [_filter(_ANNOUNCE, bridge, _mirror(tunnel))],
        )
    except OSError as error:
        return Failure(0, error.errno or errno.EOPNOTSUPP, "no eBPF")
    for step in steps:
        for failure in netlink.write(step):
            if failure.code != errno.EEXIST:
                stop(netlink, tunnel, bridge)
                return failure
    netlink.write([_remove(_REDIRECT, tunnel)])
    return None


def stop(netlink: Netlink, tunnel: int, bridge: int) -> None:
    """No longer let announcements through. The bridge keeps its filter where that is for another
    tunnel, because somebody put this one there too."""
    messages = [_remove(hook, tunnel) for hook in (_REDIRECT, _LEAVE, _ENTER)]
    target = _mirrors_to(_find(netlink, _ANNOUNCE, bridge))
    if target in (tunnel, 0, None):
        messages.insert(0, _remove(_ANNOUNCE, bridge))
    netlink.write(messages)  # ENOENT, EINVAL: there is none


def forwarded(netlink: Netlink, tunnel: int, bridge: int) -> str | None:
    """In which of :data:`WAYS` announcements go through; empty: they don't, None: not as they
    should."""
    hooks = ((_ANNOUNCE, bridge), (_LEAVE, tunnel), (_ENTER, tunnel), (_REDIRECT, tunnel))
    announce, leave, enter, redirect = (_find(netlink, *place) for place in hooks)
    if (
        redirect is None
        and _mirrors_to(announce) == tunnel
        and _runs(announce, _ANNOUNCE)
        and _runs(enter, _ENTER)
    ):
        for way, hook in _WAYS.items():
            if _runs(leave, hook):
                return way
    return None if announce or leave or enter or redirect else ""


_Filter = dict[int, bytes]  # options by type


def _qdisc(device: int, flag: int) -> nl.Message:
    head = _TCMSG.pack(0, device, _CLSACT_HANDLE, _CLSACT, 0)
    return nl.Message(_NEWQDISC, nl.CREATE | flag, head + nl.text(_KIND, "clsact"))


def _filter(hook: _Hook, device: int, action: bytes = b"") -> nl.Message:
    options = nl.nested(
        _OPTIONS,
        nl.u32(_BPF_DESCRIPTOR, loaded(hook.name, hook.program).descriptor),
        nl.text(_BPF_NAME, hook.name),
        action or nl.u32(_BPF_FLAGS, _DIRECT),
    )
    head = _head(hook, device)
    return nl.Message(_NEWFILTER, nl.CREATE | nl.REPLACE, head + nl.text(_KIND, "bpf") + options)


def _mirror(target: int) -> bytes:
    parameters = _MIRRED.pack(0, 0, _CONTINUE, 0, 0, _MIRROR, target)
    options = nl.nested(_ACTION_OPTIONS, nl.attribute(_MIRRED_PARAMETERS, parameters))
    return nl.nested(_BPF_ACTION, nl.nested(1, nl.text(_ACTION_KIND, "mirred") + options))


def _remove(hook: _Hook, device: int) -> nl.Message:
    return nl.Message(_DELFILTER, 0, _head(hook, device) + nl.text(_KIND, "bpf"))


def _head(hook: _Hook, device: int) -> bytes:
    return _TCMSG.pack(0, device, hook.handle, hook.parent, hook.priority << 16 | _ALL)


def _find(netlink: Netlink, hook: _Hook, device: int) -> _Filter | None:
    head = _TCMSG.pack(0, device, 0, hook.parent, hook.priority << 16 | _ALL)
    for body in netlink.dump(nl.Message(_GETFILTER, 0, head)):
        _, _, handle, _, info = _TCMSG.unpack_from(body)
        found = nl.attributes(body, _TCMSG.size)
        kind = nl.string(found.get(_KIND, b""))
        if (info >> 16, handle, kind) == (hook.priority, hook.handle, "bpf"):
            return nl.attributes(found.get(_OPTIONS, b""))
    return None


def _runs(options: _Filter | None, hook: _Hook) -> bool:
    """Whether a filter has our program, and uses it as we do."""
    if options is None or missing():
        return False
    direct = bool(struct.unpack("=I", options.get(_BPF_FLAGS, bytes(4)))[0] & _DIRECT)
    tag = loaded(hook.name, hook.program).tag
    return options.get(_BPF_TAG) == tag and direct == (hook is not _ANNOUNCE)


def _mirrors_to(options: _Filter | None) -> int | None:
    """The device that a filter mirrors to; 0: it does something else, None: there is none."""
    if options is None:
        return None
    action = nl.attributes(nl.attributes(options.get(_BPF_ACTION, b"")).get(1, b""))
    found = nl.attributes(action.get(_ACTION_OPTIONS, b"")).get(_MIRRED_PARAMETERS, b"")
    if nl.string(action.get(_ACTION_KIND, b"")) != "mirred" or len(found) < _MIRRED.size:
        return 0
    *_, how, target = _MIRRED.unpack_from(found)
    return int(target) if how == _MIRROR else 0

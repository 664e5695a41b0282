"""ARP and ND for machines behind a tunnel, answered on this host: two eBPF programs at the tunnel.

A bridge sends a question to all of its ports, so to the tunnel's too. There ``leave`` sees it: from
a map of addresses it makes the answer, in the question's own packet, and has the tunnel receive
it, as if the owner had sent it. What it can't answer completely goes on to the owner, and so does
what is no question, unchanged. What it says is decided by RFC 826, 4861, 9047 and 9161;
doc/conformance.md has the rows::

    machine ─► bridge ─► leave ─► tunnel
               bridge ◄─ enter ◄─ the answer

``enter`` sees what comes by the tunnel. Both notice announcements: who announces an address under
another MAC than the map's has taken it over, and the server may not know yet. From then on the
owner is asked, until map and announcement agree.

The map is a copy of our neighbours of the bridge (:class:`.rows.Neighbour`), which stay when the
agent ends and which people can list, and of who is at this host. Programs and map stay too, with
their filters; an agent that starts goes on with them where it may (CAP_SYS_ADMIN), and else fills a
map of its own before the filters get it. Nothing that the tunnel brought leaves by it, an answer
neither.

Numbers are those of ``linux/pkt_sched.h`` and ``linux/pkt_cls.h``.
"""

import errno
import logging
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge import ebpf
from ovs_l2pop.backends.linuxbridge.ebpf import (
    CONTEXT,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R7,
    R8,
    STACK,
    Code,
    network,
)
from ovs_l2pop.backends.linuxbridge.rows import (
    Neighbour,
    address_attribute,
    mac_attribute,
    tunnel_name,
    vni_of,
)
from ovs_l2pop.netlink import messages as nl
from ovs_l2pop.netlink.socket import Failure, Netlink

LOG = logging.getLogger(__name__)

#: Addresses that there may be an answer for; the map takes 16 MB for as many.
_ENTRIES = 1 << 20

# -- the map -------------------------------------------------------------------------------------

_KEY = struct.Struct("=16sI")  # address, VNI
_VALUE = struct.Struct("=BB6sI")  # flags of an advertisement, whether here, MAC, contradicted
_FLAGS_AT, _HERE_AT, _MAC_AT, _CONTRADICTED_AT = 0, 1, 2, 8
_TOLD = slice(0, _CONTRADICTED_AT)  # the part of a value that isn't the programs' own
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20  # RFC 4861 §4.4
#: In front of an IPv4 address: with it no IPv6 address begins that somebody may have.
_IPV4 = b"\xff" * 12


def answers(rows: Iterable[Neighbour]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of neighbours, but for those that are beside no tunnel."""
    for row in rows:
        if (vni := vni_of(row.tunnel)) is not None:
            address = row.key[4:]
            flags = _SOLICITED | _ROUTER * row.router | _OVERRIDE * row.override
            six = address if len(address) == 16 else _IPV4 + address
            value = _VALUE.pack(flags, row.here, row.addresses[-8:-2], 0)
            yield _KEY.pack(six, vni), value


def _here(key: bytes, value: bytes, bridges: Mapping[str, str]) -> Neighbour | None:
    """The row of somebody at this host."""
    address, vni = _KEY.unpack(key)
    _, _, mac, _ = _VALUE.unpack(value)
    if (bridge := bridges.get(tunnel := tunnel_name(vni))) is None:
        return None
    ip = str(ip_address(address[12:] if address.startswith(_IPV4) else address))
    addresses = address_attribute(ip) + mac_attribute(mac.hex(":"))
    return Neighbour(tunnel, bridge, addresses, here=True)


# -- the programs --------------------------------------------------------------------------------

# The stack: a packet's copy, the header of layer 3 aligned to 8 bytes, then a key.
_L3, _ADDRESS, _VNI = -96, -24, -8
_FRAME = _L3 - 14
_TO, _FROM = _FRAME, _FRAME + 6

_ARP, _IPV6, _ICMPV6 = 0x0806, 0x86DD, 58
_ARP_SIZE = 42  # of a frame
#: A solicitation up to its target, and with one link-layer address (RFC 4861 §4.3, §4.6.1).
_TARGET_END, _ND_SIZE = 78, 86
# Places in an ARP packet (RFC 826), and behind IPv6's beginning.
_OP, _SHA, _SPA, _THA, _TPA = _L3 + 6, _L3 + 8, _L3 + 14, _L3 + 18, _L3 + 24
_LENGTH, _NEXT, _HOPS = _L3 + 4, _L3 + 6, _L3 + 7
_SOURCE, _DESTINATION = _L3 + 8, _L3 + 24
_TYPE, _CODE, _SUM, _FLAGS, _TARGET = _L3 + 40, _L3 + 41, _L3 + 42, _L3 + 44, _L3 + 48
_OPTION, _LINK_LAYER = _L3 + 64, _L3 + 66

_CONTINUE, _DROP = -1, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT
_INTO = 1  # BPF_F_INGRESS
_UPDATED = 1 | 2  # BPF_F_RECOMPUTE_CSUM, BPF_F_INVALIDATE_HASH


def _frame(size: int) -> Code:
    """What helpers take for so many bytes of the frame, and their place on the stack."""
    return (
        ebpf.move(R1, CONTEXT),
        ebpf.load(R2, 0),
        *ebpf.on_stack(R3, _FRAME),
        ebpf.load(R4, size),
    )


def _take(size: int) -> Code:
    """Copy so many bytes of the frame to the stack."""
    return *_frame(size), ebpf.call(ebpf.LOAD_BYTES), ebpf.not_null(R0, "pass")


def _copy(to: int, source: int, base: int = STACK, size: int = 6) -> Code:
    """Copy on the stack, or from *base*, in pieces that are aligned everywhere."""
    step = 2 if size == 6 else 8
    return tuple(
        instruction
        for at in range(0, size, step)
        for instruction in (
            ebpf.read(R0, base, source + at, step),
            ebpf.write(STACK, to + at, step, R0),
        )
    )


def _look_up(known: ebpf.Map, *address: ebpf.Step | str) -> Code:
    """Have R7 point to what is known of an address, after *address* has put it in place."""
    return (
        *address,
        ebpf.read(R0, CONTEXT, ebpf.TC_CLASS, 4),
        ebpf.write(STACK, _VNI, 4, R0),
        *known.pointer(R1),
        *ebpf.on_stack(R2, _ADDRESS),
        ebpf.call(ebpf.LOOKUP),
        ebpf.move(R7, R0),
    )


_TARGET_ASKED = _copy(_ADDRESS, _TARGET, size=16)
_TPA_ASKED: Code = (
    ebpf.put(STACK, _ADDRESS, 8, -1),
    ebpf.put(STACK, _ADDRESS + 8, 4, -1),
    ebpf.read(R0, STACK, _TPA, 4),
    ebpf.write(STACK, _ADDRESS + 12, 4, R0),
)


def _byte_is(place: int, value: int) -> Code:
    return ebpf.read(R0, STACK, place, 1), ebpf.differs(R0, value, "pass")


def _half_is(place: int, value: int) -> Code:
    return ebpf.read(R0, STACK, place, 2), ebpf.differs(R0, network(value), "pass")


#: Nobody has a group's address (RFC 4861 §7.1.1, §7.1.2).
_NO_GROUP: Code = ebpf.read(R0, STACK, _TARGET, 1), ebpf.equal(R0, 0xFF, "pass")


def _is_machine(place: int) -> Code:
    """Of a MAC address: it is no group's."""
    return ebpf.read(R0, STACK, place, 1), ebpf.mask(R0, 0x01), ebpf.not_null(R0, "pass")


def _is_question(sender: int, target: int, size: int, asked: str) -> Code:
    """Goes on at *asked* where somebody asks for another; else, where he asks for himself, behind.

    :param size: half of an address's.
    """
    return (
        ebpf.read(R0, STACK, sender, size),
        ebpf.read(R1, STACK, sender + size, size),
        # From nobody: a probe (RFC 5227 §2.1.1), duplicate address detection (RFC 4862 §5.4).
        ebpf.move(R2, R0),
        ebpf.either(R2, R1),
        ebpf.is_null(R2, "pass"),
        ebpf.read(R2, STACK, target, size),
        ebpf.read(R3, STACK, target + size, size),
        ebpf.unlike(R0, R2, asked),
        ebpf.unlike(R1, R3, asked),
    )


def _sum_up() -> Code:
    """Have in R0 the sum of ICMPv6's 32 bytes and their pseudo-header (RFC 8200 §8.1)."""
    fold = (
        ebpf.move(R1, R0),
        ebpf.right(R1, 16),
        ebpf.mask(R0, 0xFFFF),
        ebpf.plus(R0, R1),
    )
    return (
        ebpf.load(R1, 0),
        ebpf.load(R2, 0),
        *ebpf.on_stack(R3, _SOURCE),
        ebpf.load(R4, _ND_SIZE - 14 - 8),
        ebpf.load(R5, network(32 + _ICMPV6)),
        ebpf.call(ebpf.SUM),
        *fold,
        *fold,
    )


def _send_back(size: int) -> Code:
    """The packet takes the frame's place, and the tunnel's device receives it."""
    return (
        *_frame(size),
        ebpf.load(R5, _UPDATED),
        ebpf.call(ebpf.STORE_BYTES),
        ebpf.not_null(R0, "pass"),
        ebpf.read(R1, CONTEXT, ebpf.DEVICE, 4),
        ebpf.load(R2, _INTO),
        ebpf.call(ebpf.REDIRECT),
        ebpf.end_with_result(),
    )


def _to_group(request: str, solicitation: str) -> Code:
    """Tells apart what goes to a group: goes on at "arp", at "advertisement", or as is said."""
    return (
        ebpf.frame_byte(0),
        ebpf.mask(R0, 0x01),
        ebpf.is_null(R0, "pass"),
        # A tag of the machine's own, which the kernel keeps beside the frame (RFC 7348 §6.1).
        ebpf.read(R0, CONTEXT, ebpf.VLAN_PRESENT, 4),
        ebpf.not_null(R0, "pass"),
        ebpf.frame_half(12),
        ebpf.equal(R0, _ARP, "arp"),
        ebpf.differs(R0, _IPV6, "pass"),
        *_take(_TARGET_END),
        *_byte_is(_NEXT, _ICMPV6),
        ebpf.read(R0, STACK, _TYPE, 1),
        ebpf.equal(R0, 135, solicitation),
        ebpf.equal(R0, 136, "advertisement"),
        ebpf.jump("pass"),
        "arp",  # of Ethernet and IPv4 (RFC 826), a request or a reply
        *_take(_ARP_SIZE),
        ebpf.read(R0, STACK, _L3, 4),
        ebpf.differs(R0, network(0x00010800, 4), "pass"),
        *_half_is(_L3 + 4, 0x0604),
        *_is_question(_SPA, _TPA, 2, request),
        # An announcement (RFC 5227 §3).
        ebpf.read(R0, STACK, _OP, 2),
        ebpf.equal(R0, network(1), "gratuitous"),
        ebpf.differs(R0, network(2), "pass"),
    )


def _announcements(known: ebpf.Map) -> Code:
    return (
        "gratuitous",
        *ebpf.on_stack(R8, _SHA),
        *_look_up(known, *_TPA_ASKED),
        ebpf.jump("claim"),
        "advertisement",  # to a group: nobody asked for it (RFC 4861 §7.2.6)
        *_take(_ND_SIZE),
        *_byte_is(_HOPS, 255),
        *_byte_is(_CODE, 0),
        *_half_is(_OPTION, 0x0201),
        *_NO_GROUP,
        *ebpf.on_stack(R8, _LINK_LAYER),
        *_look_up(known, *_TARGET_ASKED),
        "claim",
        ebpf.is_null(R7, "pass"),
        *(
            step
            for at in (0, 2, 4)
            for step in (
                ebpf.read(R0, R8, at, 2),
                ebpf.read(R1, R7, _MAC_AT + at, 2),
                ebpf.unlike(R0, R1, "contradicted"),
            )
        ),
        ebpf.put(R7, _CONTRADICTED_AT, 4, 0),
        ebpf.jump("pass"),
        "contradicted",
        ebpf.put(R7, _CONTRADICTED_AT, 4, 1),
        "pass",
        *ebpf.end(_CONTINUE),
    )


def enter(known: ebpf.Map) -> bytes:
    """Notices announcements out of the tunnel."""
    return ebpf.assemble((*_to_group("pass", "pass"), *_announcements(known)))


def leave(known: ebpf.Map, *, alone: bool) -> bytes:
    """Answers questions, and notices announcements of machines here.

    :param alone: a question for who isn't known goes no further.
    """
    unknown = "drop" if alone else "pass"
    found: Code = (
        ebpf.is_null(R7, unknown),
        ebpf.read(R0, R7, _CONTRADICTED_AT, 4),
        ebpf.not_null(R0, "pass"),
        # It answers for itself: the bridge has sent the question to all here.
        ebpf.read(R0, R7, _HERE_AT, 1),
        ebpf.not_null(R0, "drop"),
    )
    return ebpf.assemble(
        (
            # What the tunnel brought, in a bridge that is told to send it back.
            ebpf.read(R0, CONTEXT, ebpf.ENTERED_BY, 4),
            ebpf.read(R1, CONTEXT, ebpf.DEVICE, 4),
            ebpf.same(R0, R1, "drop"),
            *_to_group("request", "solicitation"),
            *_announcements(known),
            "drop",
            *ebpf.end(_DROP),
            "request",
            *_half_is(_OP, 1),
            *_look_up(known, *_TPA_ASKED),
            *found,
            # An answer goes to the one that asks in the packet: not to a group, nor to nobody.
            *_is_machine(_SHA),
            ebpf.read(R0, STACK, _SHA, 4),
            ebpf.read(R1, STACK, _SHA + 4, 2),
            ebpf.either(R0, R1),
            ebpf.is_null(R0, "pass"),
            ebpf.put(STACK, _OP, 2, network(2)),
            *_copy(_TO, _SHA),
            *_copy(_THA, _SHA),
            *_copy(_FROM, _MAC_AT, R7),
            *_copy(_SHA, _MAC_AT, R7),
            *(
                step
                for at in (0, 2)
                for step in (
                    ebpf.read(R0, STACK, _SPA + at, 2),
                    ebpf.write(STACK, _TPA + at, 2, R0),
                    ebpf.read(R0, STACK, _ADDRESS + 12 + at, 2),
                    ebpf.write(STACK, _SPA + at, 2, R0),
                )
            ),
            *_send_back(_ARP_SIZE),
            "solicitation",
            *_is_question(_SOURCE, _TARGET, 8, "asked"),
            ebpf.jump("pass"),
            "asked",
            *_NO_GROUP,
            *_look_up(known, *_TARGET_ASKED),
            *found,
            # RFC 4861 §7.1.1; and nothing but one link-layer address, which we could answer.
            *_take(_ND_SIZE),
            ebpf.read(R0, STACK, _L3, 1),
            ebpf.mask(R0, 0xF0),
            ebpf.differs(R0, 0x60, "pass"),
            *_half_is(_LENGTH, _ND_SIZE - 14 - 40),
            *_byte_is(_HOPS, 255),
            *_byte_is(_CODE, 0),
            *_half_is(_OPTION, 0x0101),
            ebpf.read(R0, STACK, _SOURCE, 1),
            ebpf.equal(R0, 0xFF, "pass"),
            *_is_machine(_LINK_LAYER),
            *_sum_up(),
            ebpf.differs(R0, 0xFFFF, "pass"),
            *_copy(_TO, _LINK_LAYER),
            *_copy(_FROM, _MAC_AT, R7),
            *_copy(_DESTINATION, _SOURCE, size=16),
            *_copy(_SOURCE, _TARGET, size=16),
            ebpf.put(STACK, _L3, 4, network(0x60000000, 4)),
            ebpf.put(STACK, _TYPE, 4, network(136 << 24, 4)),  # and no checksum yet
            ebpf.put(STACK, _FLAGS, 4, 0),
            ebpf.read(R0, R7, _FLAGS_AT, 1),
            ebpf.write(STACK, _FLAGS, 1, R0),
            ebpf.put(STACK, _OPTION, 2, network(0x0201)),
            *_copy(_LINK_LAYER, _MAC_AT, R7),
            *_sum_up(),
            ebpf.flip(R0, 0xFFFF),
            ebpf.write(STACK, _SUM, 2, R0),
            *_send_back(_ND_SIZE),
        )
    )


# -- filters -------------------------------------------------------------------------------------

_NEWQDISC, _NEWFILTER, _DELFILTER, _GETFILTER = 36, 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_CLSACT, _CLSACT_HANDLE, _INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_ALL = int.from_bytes(b"\0\3", sys.byteorder)  # ETH_P_ALL
_KIND, _OPTIONS = 1, 2
_CLASS, _DESCRIPTOR, _NAME, _HOW, _NUMBER = 3, 6, 7, 8, 11  # TCA_BPF_…
_DIRECT = 1


class _Hook(NamedTuple):
    """Where a filter of ours is on a device; there may be others beside it."""

    name: str
    parent: int
    priority: int
    handle: int


_FIRST, _OURS = 1, 0x6C32  # "l2"
_ENTER, _LEAVE = (
    _Hook("l2pop_enter", _INGRESS, _FIRST, _OURS),
    _Hook("l2pop_leave", _EGRESS, _FIRST, _OURS),
)
#: What releases before this one had: on the bridge announcements were mirrored into the tunnel, on
#: the tunnel they were sent to the bridge's output.
_FORMER = _Hook("", _INGRESS, _OURS, 1)

WAYS = {"on": False, "alone": True}
"""Those of a responder (``rows.Tunnel``) that are programs, and whether questions for who isn't
known go no further."""


class Responder:
    """Map and programs of one backend, for all of its tunnels.

    :param running: numbers of programs that filters of ours run: where we may, we go on with their
        map, so that a restart changes nothing.
    :raises OSError: the kernel has no such programs, or we may not load any.
    """

    def __init__(self, running: Iterable[int] = ()) -> None:
        former, number = _former(running)
        self._programs: list[ebpf.Program] = [*former]
        sizes = _KEY.size, _VALUE.size
        if former:
            self._answers = ebpf.Map.numbered(number, *sizes)
        else:
            self._answers = ebpf.Map.make("l2pop_answers", *sizes, _ENTRIES)
        by_tag = {program.tag: program for program in former}

        def load(name: str, instructions: bytes) -> ebpf.Program:
            program = ebpf.Program.load(name, instructions)
            self._programs.append(program)
            return by_tag.get(program.tag, program)

        try:
            self._enter = load(_ENTER.name, enter(self._answers))
            self._ways = {
                way: load(_LEAVE.name, leave(self._answers, alone=alone))
                for way, alone in WAYS.items()
            }
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """What filters run stays with them."""
        self._answers.close()
        for program in self._programs:
            program.close()

    # -- answers -----------------------------------------------------------------------------

    def know(self, added: Iterable[Neighbour], gone: Iterable[Neighbour]) -> None:
        """Answer as these neighbours say, and no longer as others.

        What doesn't fit is asked of its owner.
        """
        known = dict(answers(added))
        self._answers.delete({key for key, _ in answers(gone)} - known.keys())
        self._write(known)

    def follow(self, rows: Iterable[Neighbour], bridges: Mapping[str, str]) -> set[Neighbour]:
        """Answer as these neighbours elsewhere say, and as no others.

        :param bridges: by tunnel.
        :returns: who is known to be here.
        """
        wanted = dict(answers(rows))
        gone, here = [], set()
        for key, value in self._answers.items():
            told = wanted.get(key)
            if told is None:
                if value[_HERE_AT] and (row := _here(key, value, bridges)):
                    here.add(row)
                else:
                    gone.append(key)
            elif told[_TOLD] == value[_TOLD]:
                del wanted[key]  # as it is, with what was noticed
        self._answers.delete(gone)
        self._write(wanted)
        return here

    def _write(self, entries: dict[bytes, bytes]) -> None:
        try:
            self._answers.update(entries)
        except OSError as error:
            LOG.warning("of %d answers not all fit: %s", len(entries), error.strerror)

    # -- tunnels -----------------------------------------------------------------------------

    def attach(
        self, netlink: Netlink, tunnel: int, bridge: int, vni: int, way: str
    ) -> Failure | None:
        """Answer at this tunnel; why that can't be.

        :param way: of :data:`WAYS`.
        """
        steps = (
            # Another kind of qdisc has one place for both directions.
            [_qdisc(tunnel)],
            [
                _filter(_ENTER, self._enter, tunnel, vni),
                _filter(_LEAVE, self._ways[way], tunnel, vni),
            ],
        )
        for step in steps:
            for failure in netlink.write(step):
                stop(netlink, tunnel, bridge)
                return failure
        netlink.write([_remove(_FORMER, tunnel), _remove(_FORMER, bridge)])
        return None

    def way(self, netlink: Netlink, tunnel: int) -> str | None:
        """In which of :data:`WAYS` it answers at this tunnel; empty: it doesn't, None: not as it
        should."""
        enters, leaves = (_runs(netlink, hook, tunnel) for hook in (_ENTER, _LEAVE))
        if enters == self._enter.number:
            for way, program in self._ways.items():
                if leaves == program.number:
                    return way
        return "" if enters is leaves is None else None


def running(netlink: Netlink, tunnels: Iterable[int]) -> set[int]:
    """Numbers of programs that filters of ours run at these tunnels, whoever loaded them."""
    found = {_runs(netlink, hook, tunnel) for tunnel in tunnels for hook in (_ENTER, _LEAVE)}
    return {number for number in found if number}


def _former(running: Iterable[int]) -> tuple[list[ebpf.Program], int]:
    """Of these programs those with one map, as far as we may have them, and the map's number."""
    found: list[ebpf.Program] = []
    their = 0
    for number in sorted(running):
        try:
            program = ebpf.Program.numbered(number)
        except OSError as error:
            LOG.debug("program %d is exchanged: %s", number, error)
            continue
        used = program.map()
        their = their or used
        if used and used == their:
            found.append(program)
        else:
            program.close()
    return found, their


def lacking(error: OSError) -> str:
    """What of the kernel, or of our rights, :class:`Responder` found missing."""
    needed = ", CAP_BPF is needed" if error.errno in (errno.EPERM, errno.EACCES) else ""
    return f"eBPF programs for traffic control ({error.strerror}{needed})"


def missing() -> str:
    """Why programs can't be loaded; empty: they can."""
    try:
        Responder().close()
    except OSError as error:
        return lacking(error)
    return ""


def stop(netlink: Netlink, tunnel: int, bridge: int) -> None:
    """No longer answer at this tunnel, whoever's programs they are."""
    # ENOENT, EINVAL: there is none
    netlink.write(
        [
            *(_remove(hook, tunnel) for hook in (_LEAVE, _ENTER, _FORMER)),
            _remove(_FORMER, bridge),
        ]
    )


def _qdisc(device: int) -> nl.Message:
    head = _TCMSG.pack(0, device, _CLSACT_HANDLE, _CLSACT, 0)
    return nl.Message(_NEWQDISC, nl.CREATE | nl.REPLACE, head + nl.text(_KIND, "clsact"))


def _filter(hook: _Hook, program: ebpf.Program, device: int, vni: int) -> nl.Message:
    options = nl.nested(
        _OPTIONS,
        nl.u32(_DESCRIPTOR, program.descriptor),
        nl.text(_NAME, hook.name),
        nl.u32(_CLASS, vni),  # the program finds it in each frame's class
        nl.u32(_HOW, _DIRECT),
    )
    head = _head(hook, device)
    return nl.Message(_NEWFILTER, nl.CREATE | nl.REPLACE, head + nl.text(_KIND, "bpf") + options)


def _remove(hook: _Hook, device: int) -> nl.Message:
    return nl.Message(_DELFILTER, 0, _head(hook, device) + nl.text(_KIND, "bpf"))


def _head(hook: _Hook, device: int) -> bytes:
    return _TCMSG.pack(0, device, hook.handle, hook.parent, hook.priority << 16 | _ALL)


def _runs(netlink: Netlink, hook: _Hook, device: int) -> int | None:
    """The number of the program that a filter runs as ours do; 0: otherwise, None: there is no
    filter."""
    head = _TCMSG.pack(0, device, 0, hook.parent, hook.priority << 16 | _ALL)
    for body in netlink.dump(nl.Message(_GETFILTER, 0, head)):
        _, _, handle, _, info = _TCMSG.unpack_from(body)
        found = nl.attributes(body, _TCMSG.size)
        kind = nl.string(found.get(_KIND, b""))
        if (info >> 16, handle, kind) == (hook.priority, hook.handle, "bpf"):
            options = nl.attributes(found.get(_OPTIONS, b""))
            how, number = (_word(options, name) for name in (_HOW, _NUMBER))
            return number if how & _DIRECT else 0
    return None


def _word(options: dict[int, bytes], name: int) -> int:
    return int(struct.unpack("=I", options.get(name, bytes(4)))[0])

"""What every device of ours has set, whatever its network, and what of it one has otherwise.

Only what frames depend on. Not a device's own MAC address, queues, priorities and costs of a
spanning tree that is off, timers and counts of multicast snooping that is off, or whether a
firewall sees a bridge's frames (``nf_call_…``), which is the firewall's matter. Where a kernel
doesn't list a setting, it has none to be wrong. Pure.

Numbers are those of ``linux/if_link.h``; names those of iproute2, or of the file below /proc/sys.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Setting(NamedTuple):
    """An attribute and what it should be."""

    name: str
    kind: int
    value: bytes


def _byte(name: str, kind: int, value: int = 0) -> Setting:
    return Setting(name, kind, bytes([value]))


def _half(name: str, kind: int, value: int = 0) -> Setting:
    return Setting(name, kind, struct.pack("=H", value))


def _word(name: str, kind: int, value: int = 0) -> Setting:
    return Setting(name, kind, struct.pack("=I", value))


#: Of a vxlan device, as long as it lives.
TUNNEL_FIXED = (
    _word("maxaddress", 9),
    _word("srcport", 10),
    _byte("rsc", 12),
    _byte("l2miss", 13),
    _byte("l3miss", 14),
    _byte("udpcsum", 18, 1),
    _byte("udp6zerocsumtx", 19),
    _byte("remcsumtx", 21),
    _byte("remcsumrx", 22),
    _byte("external", 25),
)
#: These are listed only where they are set.
TUNNEL_FLAGS = {23: "gbp", 24: "remcsumnopartial", 27: "gpe", 30: "vnifilter", 34: "mcroute"}
ZERO_CHECKSUM_RX = 20
"""Open vSwitch may leave the outer checksum out over IPv6 as well (RFC 6935)."""

#: Of a vxlan device, while it works.
TUNNEL = (
    _word("ageing", 8, 300),
    _word("flowlabel", 26),
    _byte("ttl inherit", 28),
    _byte("df", 29),
    _byte("localbypass", 31, 1),
    _word("label policy", 32),
)

#: Of a tunnel as a bridge's port: as open as a new one is; it is flooded to, learned from, may
#: speak to every port, and nothing goes back by it. Where there are none, no port and no nexthop
#: to take its place.
PORT = (
    _byte("hairpin", 4),
    _byte("guard", 5),
    _byte("root_block", 6),
    _byte("fastleave", 7),
    _byte("learning", 8, 1),
    _byte("proxy_arp", 10),
    _byte("proxy_arp_wifi", 12),
    _byte("mcast_flood", 27, 1),
    _byte("mcast_to_unicast", 28),
    _byte("vlan_tunnel", 29),
    _byte("bcast_flood", 30, 1),
    _half("group_fwd_mask", 31),
    _byte("isolated", 33),
    _word("backup_port", 34),
    _byte("locked", 39),
    _byte("mab", 40),
    _word("mcast_max_groups", 42),
    _byte("neigh_vlan_suppress", 43),
    _word("backup_nhid", 44),
)
#: Where the bridge has no spanning tree; of a port that is up.
PORT_STATE = _byte("state", 1, 3)

#: Of a bridge that we made. With a spanning tree, no delay may be as short as ours.
BRIDGE = (
    _word("stp_state", 5),
    _word("forward_delay", 1),
    _word("ageing_time", 4, 30_000),
    _byte("vlan_filtering", 7),
    _half("group_fwd_mask", 9),
    _byte("mcast_snooping", 23),
    _byte("mcast_querier", 25),
    _word("fdb_max_learned", 49),
)
#: Two numbers: bits, and which of them there are.
BRIDGE_BITS = 46

#: Of both.
DEVICE = (_byte("mode", 17), _byte("protodown", 39))
_OPERSTATE, _ODD_OPERSTATES = 16, (4, 5)  # testing, dormant
_UP = 6

#: The host has no business in a network (ip-sysctl.rst of Linux): no address of its own there (1),
#: none from a router, no report that it is one, and no answer to who asks in it for the host's
#: other addresses (8).
BRIDGE_SYSCTLS = {
    "ipv6/conf/{}/addr_gen_mode": "1",
    "ipv6/conf/{}/accept_ra": "0",
    "ipv6/conf/{}/forwarding": "0",
    "ipv4/conf/{}/arp_ignore": "8",
}
TUNNEL_SYSCTLS = {"ipv6/conf/{}/disable_ipv6": "1"}

# linux/ipv6.h, linux/ip.h: places in the lists of settings, and IFLA_INET6_ADDR_GEN_MODE.
_PLACES = {
    "ipv6/conf/{}/accept_ra": 3,
    "ipv6/conf/{}/forwarding": 0,
    "ipv6/conf/{}/disable_ipv6": 26,
    "ipv4/conf/{}/arp_ignore": 18,
}
_INET, _INET6, _INET_CONF, _INET6_CONF, _ADDR_GEN_MODE = 2, 10, 1, 2, 8


def odd(found: Mapping[int, bytes], wanted: Iterable[Setting]) -> list[str]:
    """Names of settings that are otherwise."""
    return [one.name for one in wanted if found.get(one.kind, one.value) != one.value]


def odd_tunnel(found: Mapping[int, bytes], *, six: bool) -> list[str]:
    """The same of a vxlan device's attributes."""
    flags = [
        name
        for kind, name in TUNNEL_FLAGS.items()
        if kind in found and (not found[kind] or any(found[kind]))
    ]
    checksum = [_byte("udp6zerocsumrx", ZERO_CHECKSUM_RX, six)]
    return flags + odd(found, checksum) + odd(found, TUNNEL_FIXED) + odd(found, TUNNEL)


def odd_bridge(found: Mapping[int, bytes]) -> list[str]:
    """The same of a bridge's attributes."""
    bits = ["boolopt"] if any(found.get(BRIDGE_BITS, b"")[:4]) else []
    return bits + odd(found, BRIDGE)


def odd_device(found: Mapping[int, bytes]) -> list[str]:
    """The same of any device's attributes."""
    state = ["operstate"] if found.get(_OPERSTATE, b"\0")[0] in _ODD_OPERSTATES else []
    return state + odd(found, DEVICE)


def odd_sysctls(
    families: Mapping[int, Mapping[int, bytes]], wanted: Mapping[str, str]
) -> list[str]:
    """The same of what a device has set for IPv4 and IPv6, by address family."""
    found = []
    for path, value in wanted.items():
        six = path.startswith("ipv6")
        known = families.get(_INET6 if six else _INET, {})
        if path in _PLACES:
            listed, at = known.get(_INET6_CONF if six else _INET_CONF, b""), 4 * _PLACES[path]
            there = listed[at : at + 4]
        else:
            there = known.get(_ADDR_GEN_MODE, b"").ljust(4, b"\0") if known else b""
        if len(there) == 4 and struct.unpack("=i", there)[0] != int(value):
            found.append(path)
    return found


def works(found: Mapping[int, bytes]) -> bool:
    """Whether frames pass a device that is up, as far as its kernel knows."""
    return found.get(_OPERSTATE, b"\0")[0] in (0, _UP)


def mended_device() -> tuple[Setting, ...]:
    """What a device is to be given that has something odd of :func:`odd_device`."""
    return (*DEVICE, _byte("operstate", _OPERSTATE, _UP))

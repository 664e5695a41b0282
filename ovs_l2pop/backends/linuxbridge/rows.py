"""Rows of a Linux bridge host, each a value that is read back in the same form. Pure.

Of entries there are many, so their addresses are kept as the netlink attributes that the kernel
takes and lists: to write one is to put a head before it, to read one is to cut it out.
"""

import struct
from binascii import unhexlify
from collections.abc import Hashable
from functools import lru_cache
from hashlib import sha1
from ipaddress import ip_address
from socket import AF_INET6, inet_aton, inet_pton
from typing import NamedTuple

#: Begins the alias (``ip link … alias``) of devices that are ours; the network's id follows.
ALIAS = "ovs-l2pop"

#: Marks neighbours as ours (``ip neighbour … protocol``): 'l', in no list of rtnetlink protocols;
#: and 'm' for those whose advertisements don't override.
PROTOCOL, PROTOCOL_NO_OVERRIDE = 108, 109

#: Characters of the network's id in a bridge's name, as Neutron's agent cut it.
_ID_LENGTH = 11


def tunnel_name(vni: int) -> str:
    """A network's vxlan device, by Neutron's rule; at most 14 characters."""
    return f"vxlan-{vni}"


def vni_of(tunnel: str) -> int | None:
    """The VNI of a tunnel with that name; None: none of ours has it."""
    kind, _, number = tunnel.partition("-")
    return int(number) if kind == "vxlan" and number.isdecimal() else None


def new_tunnel_name(vni: int) -> str:
    """A vxlan device that is about to take the other one's place."""
    return f"l2p-{vni}"


def bridge_names(network_id: str) -> tuple[str, str]:
    """A network's bridge: by Neutron's rule, and where another network has that one already.

    Neutron's has 40 bits of the network's id.
    """
    digest = sha1(network_id.encode()).hexdigest()
    return f"brq{network_id[:_ID_LENGTH]}", f"brq{digest}"[:15]


class BridgeNames:
    """Which bridge each network has: once it has one, always the same."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._holders: dict[str, str] = {}

    def learn(self, network_id: str, name: str) -> None:
        """A network was found in this bridge; somebody else's doesn't count."""
        if name in bridge_names(network_id):
            self._names[network_id] = name
            self._holders[name] = network_id

    def of(self, network_id: str) -> str:
        """The network's bridge."""
        if network_id not in self._names:
            first, second = bridge_names(network_id)
            self.learn(network_id, second if first in self._holders else first)
        return self._names[network_id]


def alias(network_id: str) -> str:
    """The alias of a network's devices."""
    return f"{ALIAS} network {network_id}"


def owner(text: str) -> str | None:
    """The network of a device with this alias: empty where none is named, None: not ours."""
    words = text.split()
    if not words or words[0] != ALIAS:
        return None
    return words[2] if len(words) == 3 and words[1] == "network" else ""


class Tunnel(NamedTuple):
    """A network's vxlan device, and how it sits in the network's bridge."""

    name: str
    vni: int
    network_id: str
    bridge: str
    local: str  #: address of this host's VTEP
    group: str  #: multicast group that BUM traffic goes to; empty in unicast mode
    device: str  #: underlay device that it is bound to; empty: routes decide
    port: int  #: UDP destination port
    ttl: int  #: of outer headers; 0: the kernel's choice
    tos: int  #: of outer headers; 1: the inner packet's
    mtu: int
    #: "on": ARP and ND for known addresses are answered here; "alone": as on, and nobody else is
    #: asked; "answers": by the bridge itself, from which announcements don't go through; "off":
    #: nothing is answered; empty: not as it should be.
    responder: str
    learning: bool = True
    #: The device's own responder. Never on: it drops what it can't answer.
    proxy: bool = False
    #: Device and bridge are up.
    up: bool = True
    #: Names of settings that it, its port, or a bridge of ours around it has otherwise.
    odd: tuple[str, ...] = ()
    #: Frames to a MAC that isn't known go to every VTEP.
    flood: bool = True

    @property
    def six(self) -> bool:
        """Whether the underlay is IPv6."""
        return ":" in self.local


class Bridge(NamedTuple):
    """A bridge that we made and that nothing is in any more."""

    name: str


class Flood(NamedTuple):
    """BUM traffic is copied to these VTEPs, or goes to this multicast group; sorted. A copy that
    goes elsewhere than ours do has that behind its address: "192.0.2.1 port 4790"."""

    tunnel: str
    to: tuple[str, ...]


#: Of an entry: its half in the bridge's table goes wherever a frame comes from.
LOOSE = "not held by the bridge"


class Unicast(NamedTuple):
    """Frames to a MAC go to a VTEP. To the unspecified address: the MAC is at this host, so nothing
    from there is taken from a tunnel, nor sent into one."""

    tunnel: str
    addresses: bytes  #: attributes: the MAC, and the VTEP unless that is missing
    #: The bridge has the MAC behind the tunnel too. It answers ARP and ND only for those, and no
    #: frame of a machine of this host takes the MAC away.
    bridged: bool
    #: What of it isn't as we write it, in words; see also :data:`LOOSE`.
    odd: str = ""

    @property
    def key(self) -> bytes:
        """The MAC's attribute: there can be one entry for it."""
        return self.addresses[:MAC_SIZE]

    @property
    def mac(self) -> str:
        return self.addresses[4:10].hex(":")

    @property
    def vtep(self) -> str:
        """Empty if only the bridge knows the MAC."""
        return address_text(self.addresses[MAC_SIZE:])

    @property
    def here(self) -> bool:
        """Whether the MAC is at this host."""
        return len(self.addresses) > MAC_SIZE and not any(self.addresses[MAC_SIZE + 4 :])


class Neighbour(NamedTuple):
    """Who asks for an IP is told a MAC; kept on the bridge, where requests arrive. One that is
    *here* is in the responder's map alone: the host itself must not take our word for it."""

    tunnel: str  #: in that bridge; empty for one that we left
    bridge: str
    addresses: bytes  #: attributes: the IP and the MAC
    odd: str = ""  #: as of :class:`Unicast`
    router: bool = False  #: advertisements say so
    override: bool = True  #: advertisements say so
    #: The machine is at this host, and answers for itself.
    here: bool = False

    @property
    def key(self) -> bytes:
        """The IP's attribute: there can be one neighbour for it."""
        return self.addresses[:-MAC_SIZE]

    @property
    def ip(self) -> str:
        return address_text(self.key)

    @property
    def mac(self) -> str:
        return self.addresses[-8:-2].hex(":")


class Oversized(NamedTuple):
    """A port that takes larger packets than the tunnel beside it. Never wanted; not ours."""

    port: str
    tunnel: str
    mtu: int
    fits: int


class Guard(NamedTuple):
    """Packets of strangers are dropped: the filter itself."""

    port: int  #: UDP port of the tunnels


class Member(NamedTuple):
    """This VTEP may send into a network."""

    vni: int
    vtep: str


class Closed(NamedTuple):
    """Nobody but its members may send into a network."""

    vni: int


GuardRow = Guard | Member | Closed
LinuxRow = Tunnel | Bridge | Flood | Unicast | Neighbour | Oversized | GuardRow


def slot(row: Hashable) -> Hashable:
    """What the kernel has room for one of."""
    match row:
        case Tunnel(name=name) | Bridge(name=name):
            return name
        case Unicast():
            return row.tunnel, row.key
        case Neighbour():
            return row.bridge, row.key
        case Flood():
            return row.tunnel, b""
    return row


# linux/neighbour.h: NDA_DST, NDA_LLADDR; heads of attributes: length and type.
_LLADDR = struct.pack("=HH", 10, 2)
_DST4, _DST6 = struct.pack("=HH", 8, 1), struct.pack("=HH", 20, 1)
#: Bytes of a MAC's attribute, with its padding.
MAC_SIZE = 12


def mac_attribute(mac: str) -> bytes:
    """A MAC as netlink attribute."""
    return _LLADDR + unhexlify(mac.replace(":", "")) + b"\0\0"


def address_attribute(address: str) -> bytes:
    """An IP as netlink attribute."""
    if ":" in address:
        return _DST6 + inet_pton(AF_INET6, address)
    return _DST4 + inet_aton(address)


#: The same for VTEPs: of them there are few.
vtep_attribute = lru_cache(10_000)(address_attribute)


def address_text(attribute: bytes) -> str:
    """The IP of an attribute; empty if there is none."""
    return str(ip_address(attribute[4:])) if attribute else ""

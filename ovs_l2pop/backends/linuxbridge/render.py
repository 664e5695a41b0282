"""Facts to rows: what a Linux bridge host needs for each. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge.rows import (
    Closed,
    Flood,
    LinuxRow,
    Member,
    Neighbour,
    Tunnel,
    Unicast,
    address_attribute,
    mac_attribute,
    tunnel_name,
    vtep_attribute,
)
from ovs_l2pop.core.messages import Attachment
from ovs_l2pop.core.table import (
    NEIGHBOUR,
    UNICAST,
    Fact,
    FloodFact,
    LocalFact,
    LocalNeighbourFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)


class Ways(NamedTuple):
    """What configuration, kernel and underlay come to; the same for all networks."""

    local: str
    device: str  #: underlay device that tunnels are bound to; empty: none
    mtu: int  #: of tunnels
    port: int
    ttl: int
    tos: int
    populate: bool  #: the table's entries are written; else all is learned
    multicast: bool  #: BUM traffic goes to a group, and is not copied to VTEPs
    responder: str  #: as in :class:`ovs_l2pop.backends.linuxbridge.rows.Tunnel`
    nd: bool  #: the kernel has IPv6, so neighbours may have IPv6 addresses
    guarded: bool  #: strangers are kept out where the members of a network are known
    drop_unicast: bool = False  #: to who isn't known, where a network doesn't say otherwise
    drop_neighbour: bool = False  #: the same of questions


class LinkRenderer:
    """Renders facts.

    :param group: the multicast group of a VNI.
    :param bridge: the bridge of a network that was attached without one.
    """

    def __init__(
        self, ways: Ways, group: Callable[[int], str | None], bridge: Callable[[str], str]
    ) -> None:
        self._ways = ways
        self._group = group
        self._own_bridge = bridge
        self._populate = ways.populate
        self._answers = ways.responder != "off"
        self._forwards = ways.responder == "on"
        self._here = vtep_attribute("::" if ":" in ways.local else "0.0.0.0")
        #: Kinds of facts that have no rows.
        self.unused = frozenset(
            kind
            for kind, has_rows in ((UNICAST, self._populate), (NEIGHBOUR, self._answers))
            if not has_rows
        )
        # Facts of one network mostly come together.
        self._attachment: Attachment | None = None
        self._tunnel = self._bridge = ""

    def rows(self, fact: Fact) -> tuple[LinuxRow, ...]:
        """The rows that make a fact true."""
        attachment = fact.attachment
        if attachment is not self._attachment:
            self._attachment = attachment
            self._tunnel = tunnel_name(attachment.segment.segment_id)
            self._bridge = attachment.bridge or self._own_bridge(attachment.network_id)
        # The most frequent first.
        if isinstance(fact, UnicastFact):
            if not self._populate:
                return ()
            addresses = mac_attribute(fact.mac) + vtep_attribute(fact.vtep)
            return (Unicast(self._tunnel, addresses, True),)
        if isinstance(fact, NeighbourFact):
            six = ":" in fact.ip
            if not self._answers or (six and not self._ways.nd):
                return ()
            override = fact.override or not six
            if not override and not self._forwards:
                return ()  # the kernel's own responder can't leave the flag out: its owner answers
            addresses = address_attribute(fact.ip) + mac_attribute(fact.mac)
            router = fact.router and six
            return (Neighbour(self._tunnel, self._bridge, addresses, "", router, override),)
        if isinstance(fact, FloodFact):
            return () if self._ways.multicast else (Flood(self._tunnel, fact.vteps),)
        if isinstance(fact, LocalNeighbourFact):
            if not self._forwards or (":" in fact.ip and not self._ways.nd):
                return ()
            addresses = address_attribute(fact.ip) + mac_attribute(fact.mac)
            return (Neighbour(self._tunnel, self._bridge, addresses, here=True),)
        if isinstance(fact, LocalFact):
            if not self._populate:
                return ()
            return (Unicast(self._tunnel, mac_attribute(fact.mac) + self._here, False),)
        # A network, or a VTEP, which is reached through the network's one device.
        device = self._device(attachment)
        found: list[LinuxRow] = [device]
        if device.group:
            found.append(Flood(device.name, (device.group,)))
        if self._ways.guarded:
            if isinstance(fact, VtepFact):
                found.append(Member(device.vni, fact.vtep))
            elif isinstance(fact, NetworkFact) and fact.closed:
                found.append(Closed(device.vni))
        return tuple(found)

    def _device(self, attachment: Attachment) -> Tunnel:
        ways = self._ways
        vni = attachment.segment.segment_id
        return Tunnel(
            name=self._tunnel,
            vni=vni,
            network_id=attachment.network_id,
            bridge=self._bridge,
            local=ways.local,
            group=(self._group(vni) or "") if ways.multicast else "",
            device=ways.device,
            port=ways.port,
            ttl=ways.ttl,
            tos=ways.tos,
            mtu=ways.mtu,
            responder="alone" if self._alone(attachment) else ways.responder,
            flood=not ways.populate
            or ways.multicast
            or not attachment.drops("unknown_unicast", ways.drop_unicast),
        )

    def _alone(self, attachment: Attachment) -> bool:
        """Whether nobody but this host is asked for who isn't known."""
        drops = attachment.drops("unknown_neighbour", self._ways.drop_neighbour)
        return drops and self._forwards and not self._ways.multicast

"""The Linux bridge backend behind the shared interface."""

import logging
import socket
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from ovs_l2pop.backends.linuxbridge import entries, links, probe, underlay
from ovs_l2pop.backends.linuxbridge.devices import Devices
from ovs_l2pop.backends.linuxbridge.guard import Filter
from ovs_l2pop.backends.linuxbridge.links import Link
from ovs_l2pop.backends.linuxbridge.news import News
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings
from ovs_l2pop.backends.linuxbridge.probe import Missing
from ovs_l2pop.backends.linuxbridge.render import LinkRenderer, Ways
from ovs_l2pop.backends.linuxbridge.responder import Responder, running
from ovs_l2pop.backends.linuxbridge.rows import (
    Bridge,
    BridgeNames,
    Closed,
    Flood,
    Guard,
    Member,
    Neighbour,
    Oversized,
    Tunnel,
    Unicast,
    slot,
    tunnel_name,
)
from ovs_l2pop.backends.linuxbridge.underlay import Underlay
from ovs_l2pop.backends.linuxbridge.writing import Write
from ovs_l2pop.core.backend import Batch, Health, Look, OutdatedRowsError, RowText
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact
from ovs_l2pop.netlink.socket import Netlink

LOG = logging.getLogger(__name__)

#: Abstract sockets (unix(7)) belong to a network namespace, as devices do, and end with their
#: process.
_CLAIM = "\0ovs-l2pop-linuxbridge"

#: Written entries from which on they are read back. FRR has seen the kernel lose some of many that
#: came fast, while its table grew.
_READ_BACK = 64

#: Seconds between looks for what the kernel doesn't tell of; one takes 0.1 s with 1,000 networks,
#: and all of them one part in so many of the time.
_LOOK_PAUSE, _LOOK_DUTY = 3.0, 50

#: The smallest MTU that the kernel gives to an Ethernet device (``ETH_MIN_MTU``), and the smallest
#: with which IPv6 works (RFC 8200 §5).
_MIN_MTU, _MIN_IPV6_MTU = 68, 1280

#: There where the kernel has IPv6.
_IPV6 = Path("/proc/sys/net/ipv6")

#: Groups that every host listens to and no router forwards (RFC 5771 §4).
_LOCAL_GROUPS = ip_network("224.0.0.0/24")


class LinuxBridgeBackend:
    """See :class:`ovs_l2pop.core.backend.Backend`.

    :param missing: tells what the kernel lacks.
    """

    def __init__(
        self, settings: LinuxBridgeSettings, missing: Callable[[], Missing] = probe.missing
    ) -> None:
        self._settings = settings
        self._probe = missing
        self._missing: Missing | None = None
        self._claim: socket.socket | None = None
        self._netlink: Netlink | None = None
        self._news: News | None = None
        self._filter: Filter | None = None
        self._answers: Responder | None = None
        self._underlay: Underlay | None = None
        self._ways: Ways | None = None
        self._renderer: LinkRenderer | None = None
        self._bridges = BridgeNames()
        #: Odd sysctls at the last look for them, and when to look again.
        self._silent: set[tuple[int, tuple[str, ...]]] = set()
        self._look_at = 0.0
        #: Tunnels that were refused.
        self._failed: set[str] = set()
        #: Tunnels that copied BUM traffic to somebody when they were last read.
        self._flooding: set[str] = set()
        for groups, _, _ in settings.ranges:
            if groups.version == 4 and groups.overlaps(_LOCAL_GROUPS):
                LOG.warning(
                    "[vxlan] group %s is in %s: every host on the underlay listens to it, and no"
                    " router forwards it; take one of 239.0.0.0/8",
                    groups,
                    _LOCAL_GROUPS,
                )

    @classmethod
    def from_config(cls, conf: Any) -> "LinuxBridgeBackend":
        return cls(LinuxBridgeSettings.from_config(conf))

    def connect(self) -> None:
        self._claim_host()
        self._disconnect()
        self._netlink = netlink = Netlink()
        if self._missing is None:
            self._missing = self._probe()
        unfiltered = self._missing.guard
        try:
            self._filter = None if unfiltered else Filter()
        except BackendError as error:
            unfiltered = str(error)
        self._news = News(filtered=self._filter is not None)
        if self._settings.local_ip is None:  # for who only takes away
            return
        self._underlay = underlay.find(netlink, self._settings.local_ip)
        self._missing = self._missing._replace(guard=unfiltered)
        ways = self._make_ways(self._settings.local_ip, self._underlay, self._missing)
        if ways != self._ways:
            LOG.info(
                "%s mode, ARP and ND responder %s, MTU %d over %s",
                "multicast" if ways.multicast else "unicast",
                ways.responder,
                ways.mtu,
                self._underlay.leaves_by,
            )
        self._ways = ways
        known = links.listed(netlink)
        if self._answers is None and ways.responder == "on":
            self._answers = _responder(netlink, known)
        for link in known.values():
            if link.owner and (bridge := known.get(link.master) if link.vxlan else link):
                self._bridges.learn(link.owner, bridge.name)
        self._renderer = LinkRenderer(ways, self._settings.group, self._bridges.of)

    def close(self) -> None:
        self._disconnect()
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def fileno(self) -> int:
        return -1 if self._news is None else self._news.fileno()

    def poll(self) -> bool:
        netlink = self._open()
        if self._settings.local_ip is not None:
            there = underlay.find(netlink, self._settings.local_ip)
            if there != self._underlay:
                raise BackendError(f"the underlay changed: {there}")
        told = self._news is not None and self._news.any()
        return self._silently_changed() or told

    def settle(self, where: Callable[[int, str], Fact | None]) -> Iterable[str]:
        return ()

    def refuse(self, attachment: Attachment) -> str | None:
        kind, vni = attachment.segment
        if kind != "vxlan":
            return f"the linuxbridge backend has vxlan tunnels only, not {kind}"
        if kind not in self._settings.tunnel_types:
            return f"vxlan is not among tunnel_types ({', '.join(self._settings.tunnel_types)})"
        if not self._settings.l2_population and self._settings.group(vni) is None:
            return f"VNI {vni} is in none of multicast_ranges, and vxlan_group is not set"
        return None

    def base(self) -> tuple[Row, ...]:
        return (Guard(self._ways.port),) if self._ways and self._ways.guarded else ()

    def unused(self) -> frozenset[str]:
        assert self._renderer is not None
        return self._renderer.unused

    def render(self, fact: Fact) -> tuple[Row, ...]:
        assert self._renderer is not None
        return self._renderer.rows(fact)

    def installed(self) -> set[Row]:
        netlink = self._open()
        known = links.listed(netlink)
        found: set[Row] = set(Devices(netlink, self._answers).rows(known))
        found |= self._entries(netlink, known)
        if self._filter is not None:
            found |= self._filter.rows()
        return found

    def present(self, asked: Collection[Row]) -> set[Row] | None:
        return None

    def hits(self, rows: Collection[Row]) -> Mapping[Row, int]:
        return {}

    def look(self, ready: Callable[[], None]) -> Look | None:
        return None

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        netlink, there = self._open(), self._underlay
        limit = f"{there.leaves_by} takes {there.mtu}, outer headers " if there else ""
        limit += str(self._settings.overhead)
        write = Write(netlink, self._ways, limit, self._failed, self._filter, self._answers)
        assert self._news is not None
        with self._news.ignored():
            for batch in batches:
                write.take(batch)
            if len(write.added) > _READ_BACK:
                write.read_back()
        if write.found:
            raise OutdatedRowsError  # has what was refused written as well
        return write.refused

    def scope(self, attachment: Attachment) -> Scope:
        return Scope(tunnel_name(attachment.segment.segment_id), attachment.network_id)

    def slot(self, row: Row) -> Hashable:
        return slot(row)

    def found(self, row: Row) -> Found | None:
        # As it should be: what somebody has damaged is not kept damaged.
        match row:
            case Tunnel() if row.name == tunnel_name(row.vni):
                bridge = row.bridge or (row.network_id and self._bridges.of(row.network_id))
                sound = row._replace(bridge=bridge, up=True, odd=())
                if bridge:
                    return Found(sound, Scope(row.name, row.network_id or None), slot(row))
            case Flood():
                to = tuple(sorted({address.partition(" ")[0] for address in row.to}))
                copies = tuple(vtep for vtep in to if not entries.is_group(vtep))
                return Found(row._replace(to=to), Scope(row.tunnel), slot(row), copies)
            case Unicast() if row.vtep:
                return Found(row._replace(odd=""), Scope(row.tunnel), slot(row))
            case Neighbour() if row.tunnel and not row.here:
                return Found(row._replace(odd=""), Scope(row.tunnel), slot(row))
        return None  # of half a row, an empty bridge, a port that doesn't fit nobody is in need

    def health(self) -> Iterable[Health]:
        if self._filter is not None and (count := self._filter.dropped()):
            text = f"{count} packets of VTEPs that are none of the network's were dropped"
            yield Health("strangers", "ok", text)

    def describe(self, row: Row) -> RowText:
        match row:
            case Tunnel():
                shown = ("local", "group", "device", "port", "ttl", "tos", "mtu", "responder")
                values = [f"{name}={getattr(row, name)}" for name in shown if getattr(row, name)]
                values += [] if row.learning else ["learning=off"]
                values += ["proxy=on"] if row.proxy else []
                values += [] if row.flood else ["unknown unicast dropped"]
                values += [] if row.up else ["down"]
                values += [f"otherwise set: {', '.join(row.odd)}"] if row.odd else []
                what = f"VNI {row.vni} in {row.bridge or 'no bridge'}, network {row.network_id}"
                return RowText("tunnel", row.name, what, " ".join(values))
            case Flood():
                nobody = "" if row.tunnel in self._flooding else "reaches nobody; should be "
                what = "broadcast (DHCP, ARP), multicast, unknown unicast"
                return RowText(
                    "flooding", row.tunnel, what, f"{nobody}copied to {' '.join(row.to)}"
                )
            case Unicast():
                known = ", known to the bridge" if row.bridged else ""
                to = "here, in no tunnel" if row.here else f"to {row.vtep or 'nobody'}"
                odd = f" ({row.odd})" if row.odd else ""
                return RowText("unicast", row.tunnel, row.mac, f"{to}{known}{odd}")
            case Neighbour():
                odd = f" ({row.odd})" if row.odd else ""
                router = " router" if row.router else ""
                router += "" if row.override else " without override"
                router += ", here: asked in no tunnel" if row.here else ""
                return RowText("neighbour", row.bridge, row.ip, f"{row.mac}{router}{odd}")
            case Oversized():
                return RowText("mtu", row.port, f"MTU {row.mtu}", f"{row.tunnel} takes {row.fits}")
            case Bridge():
                return RowText("bridge", row.name, "empty", "")
            case Guard():
                does = "drops and counts packets of strangers"
                return RowText("filter", "nftables", f"UDP port {row.port}", does)
            case Member():
                return RowText("member", f"VNI {row.vni}", row.vtep, "may send into the network")
            case Closed():
                return RowText("closed", f"VNI {row.vni}", "any other VTEP", "is a stranger")
        raise TypeError(f"no row of this backend: {row!r}")

    # -- connecting --------------------------------------------------------------------------

    def _claim_host(self) -> None:
        """Two agents on one host would undo each other's work."""
        if self._claim is not None:
            return
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(_CLAIM)
        except OSError as error:
            claim.close()
            raise BackendError(
                "another agent programs the Linux bridges of this host"
                f" (it has the socket @{_CLAIM[1:]}: {error.strerror})"
            ) from None
        self._claim = claim

    def _silently_changed(self) -> bool:
        """Whether something of ours was changed that the kernel tells nobody of: sysctls."""
        start = time.monotonic()
        if start < self._look_at:
            return False
        before, self._silent = (
            self._silent,
            {
                (link.number, link.odd_sysctls)
                for link in links.listed(self._open()).values()
                if link.owner is not None and link.odd_sysctls
            },
        )
        now = time.monotonic()
        self._look_at = now + max(_LOOK_PAUSE, _LOOK_DUTY * (now - start))
        return not self._silent <= before

    def _disconnect(self) -> None:
        for used in (self._netlink, self._news, self._filter):
            if used is not None:
                used.close()
        self._netlink = self._news = self._filter = None

    def _open(self) -> Netlink:
        if self._netlink is None:
            raise BackendError("not connected")
        return self._netlink

    def _make_ways(self, local: str, there: Underlay, missing: Missing) -> Ways:
        settings = self._settings
        multicast = self._multicast(missing)
        responder = _how_to_answer(missing) if settings.answers else "off"
        mtu = there.mtu - settings.overhead
        if mtu < _MIN_MTU:
            raise BackendError(
                f"the MTU of {there.leaves_by}, {there.mtu}, is too small for VXLAN"
                f" ({settings.overhead} bytes of headers)"
            )
        return Ways(
            local=local,
            device=self._multicast_device(local, there) if multicast else there.name,
            mtu=mtu,
            port=settings.port,
            ttl=settings.ttl,
            tos=settings.tos,
            populate=settings.l2_population,
            multicast=multicast,
            responder=responder,
            nd=mtu >= _MIN_IPV6_MTU and _IPV6.is_dir(),
            guarded=self._guards(multicast, missing),
            drop_unicast=settings.drop_unknown_unicast,
            drop_neighbour=settings.drop_unknown_neighbour,
        )

    def _guards(self, multicast: bool, missing: Missing) -> bool:
        """Whether strangers are kept out. Who listens to a group may send to it."""
        if not self._settings.known_vteps_only or multicast:
            return False
        if missing.guard:
            LOG.warning("any VTEP may send into a network: this kernel lacks %s", missing.guard)
        return not missing.guard

    def _multicast(self, missing: Missing) -> bool:
        """The mode; an error where the kernel can do neither."""
        if missing.tunnels:
            raise BackendError(f"this kernel can't do VXLAN: it lacks {missing.tunnels}")
        if self._settings.l2_population:
            if not missing.unicast:
                return False
            if not self._settings.ranges:
                raise BackendError(
                    f"unicast mode: this kernel lacks {missing.unicast};"
                    " multicast mode: [vxlan] vxlan_group is not set"
                )
            LOG.warning("multicast mode, because this kernel lacks %s", missing.unicast)
        if missing.multicast:
            raise BackendError(f"multicast mode: this kernel lacks {missing.multicast}")
        return True

    def _multicast_device(self, local: str, there: Underlay) -> str:
        if there.name:
            return there.name
        group = str(self._settings.ranges[0].groups.network_address)
        link = underlay.towards(self._open(), local, group)
        if link is None:
            raise BackendError(
                f"multicast mode: local_ip {local} is on a loopback, and no route tells by which"
                f" device to reach the group {group}"
            )
        return link.name

    def _entries(self, netlink: Netlink, known: Mapping[int, Link]) -> set[Row]:
        tunnels = _tunnels(known)
        names = {index: link.name for index, link in tunnels.items()}
        inside = {link.master: link.name for link in tunnels.values()}
        places = {link.number: (inside.get(link.number, ""), link.name) for link in known.values()}
        found: set[Row] = set(entries.forwarding(netlink, names))
        self._flooding = {row.tunnel for row in found if isinstance(row, Flood)}
        neighbours = entries.neighbours(netlink, places)
        if self._answers is not None:
            bridges = {tunnel: known[index].name for index, tunnel in inside.items() if index}
            neighbours |= self._answers.follow(neighbours, bridges)
        return found | neighbours


def _how_to_answer(missing: Missing) -> str:
    """What answers ARP and ND, as in :class:`Tunnel`."""
    if lacking := missing.neighbours or (missing.programs and missing.suppression):
        LOG.warning("no ARP and ND responder: this kernel lacks %s", lacking)
        return "off"
    if missing.programs:
        LOG.warning(
            "the bridges themselves answer ARP and ND: announcements don't leave this host, and"
            " not all is answered as the RFCs say, because this kernel lacks %s",
            missing.programs,
        )
        return "answers"
    return "on"


def _tunnels(known: Mapping[int, Link]) -> dict[int, Link]:
    """Those that are ours."""
    return {
        link.number: link
        for link in known.values()
        if link.kind == "vxlan" and link.owner is not None
    }


def _responder(netlink: Netlink, known: Mapping[int, Link]) -> Responder:
    try:
        return Responder(running(netlink, _tunnels(known)))
    except OSError as error:
        raise BackendError(f"no ARP and ND responder: {error.strerror}") from error

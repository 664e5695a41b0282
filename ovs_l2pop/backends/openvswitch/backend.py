"""The Open vSwitch backend behind the shared interface."""

import contextlib
import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_l2pop import resources
from ovs_l2pop.backends.interface import Batch, Health, OutdatedRowsError, RowText
from ovs_l2pop.backends.openvswitch import pipeline, rows, selfcheck
from ovs_l2pop.backends.openvswitch.appctl import Appctl
from ovs_l2pop.backends.openvswitch.channel import Channel, Message
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.lingering import Lingering
from ovs_l2pop.backends.openvswitch.ovsdb import Ovsdb
from ovs_l2pop.backends.openvswitch.portflags import PortFlagsChannel, flags_text
from ovs_l2pop.backends.openvswitch.reading import read
from ovs_l2pop.backends.openvswitch.render import PortNumbers, Renderer
from ovs_l2pop.backends.openvswitch.rows import (
    Bridges,
    Group,
    Oddities,
    OvsRow,
    PortFlags,
    TunnelPort,
    Wiring,
)
from ovs_l2pop.backends.openvswitch.sightings import Sightings, Where
from ovs_l2pop.backends.openvswitch.stamps import GROUP_BASE, RECIRCULATE_GROUP, Stamps
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket, Transport, VersionError
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Attachment, Segment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact

LOG = logging.getLogger(__name__)

#: Seconds in which Open vSwitch begins to look through what it has cached, whatever happens
#: (max-revalidator), and what it is given for that where nobody may ask it.
_REVALIDATION, _UNSEEN_REVALIDATION = 0.5, 0.2
#: Networks that are told by name of those that strangers sent into.
_TOLD = 3
_GROUP_TYPES = {0: "all", 1: "select"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the groups ``[ovs_l2pop]`` and ``[openvswitch]`` that matter here."""

    local_ip: str
    tunnel_types: tuple[str, ...]
    arp_responder: bool
    ovsdb_connection: str
    rundir: Path
    bridges: Bridges
    vxlan_udp_port: int
    tunnel_csum: bool
    dont_fragment: bool
    tos: str | None
    openflow_library: str
    #: A Neutron agent has laid out the bridges; only what L2 population adds is ours.
    shared: bool = False
    #: That agent routes on this host (DVR).
    distributed: bool = False
    #: Where VTEPs of a network are known, only they may send into it.
    known_vteps_only: bool = True

    @classmethod
    def from_config(cls, conf: Any) -> "Settings":
        common, ovs = conf.ovs_l2pop, conf.openvswitch
        return cls(
            local_ip=common.local_ip,
            tunnel_types=tuple(common.tunnel_types),
            arp_responder=common.arp_responder,
            ovsdb_connection=ovs.ovsdb_connection,
            rundir=Path(ovs.rundir),
            bridges=Bridges(ovs.integration_bridge, ovs.tunnel_bridge, ovs.datapath_type),
            vxlan_udp_port=ovs.vxlan_udp_port,
            tunnel_csum=ovs.tunnel_csum,
            dont_fragment=ovs.dont_fragment,
            tos=ovs.tos,
            openflow_library=ovs.openflow_library,
            known_vteps_only=common.known_vteps_only,
        )

    def tunnel_options(self, offloads: bool = False) -> dict[str, tuple[tuple[str, str], ...]]:
        """Interface options but remote_ip, by tunnel type (ovs-vswitchd.conf.db(5)).

        :param offloads: Open vSwitch hands flows to hardware, which can set no packet mark: with
            one to set, no flow of a tunnel would be offloaded (Neutron bug 1855888).
        """
        common = {
            "local_ip": self.local_ip,
            "in_key": "flow",
            "out_key": "flow",
            "df_default": str(self.dont_fragment).lower(),
            "csum": str(self.tunnel_csum).lower(),
            # A packet mark of the inner packet must not steer the outer one (bug 1839252).
            **({} if offloads else {"egress_pkt_mark": "0"}),
            **({"tos": self.tos} if self.tos else {}),
        }
        vxlan = {"dst_port": str(self.vxlan_udp_port)}
        return {
            kind: tuple(sorted((common | (vxlan if kind == "vxlan" else {})).items()))
            for kind in ("vxlan", "gre", "geneve")
        }


class OpenvswitchBackend:
    """See :class:`ovs_l2pop.backends.Backend`."""

    def __init__(
        self, settings: Settings, transport: Callable[[], Transport] | None = None
    ) -> None:
        self._settings = settings
        socket = str(settings.rundir / f"{settings.bridges.tunnel}.mgmt")
        self._transport = transport or (lambda: ManagementSocket(socket))
        self._bridge = settings.bridges.tunnel
        self.pipeline = pipeline.load(resources.flows())
        self._codec = Codec(self.pipeline, settings.openflow_library)
        self._stamps = Stamps(self.pipeline, self._codec)
        self._numbers = PortNumbers()
        #: What the switch was set to when rows were rendered.
        self._offloads = False
        self._renderer = self._make_renderer()
        tables = self.pipeline.tables
        #: Tables by number: of what arrives by a tunnel, with the tunnel's type; and of floods.
        self._incoming = {
            self.pipeline.templates[f"{kind}_in"].table.id: kind for kind in MAX_SEGMENT_ID
        }
        self._floods = {table.id for name, table in tables.items() if name.startswith("FLOOD")}
        self._self_checked = False
        self._patch = 0
        self._ovsdb: Ovsdb | None = None
        self._channel: Channel | None = None
        self._flag_channels: dict[str, PortFlagsChannel] = {}  # by bridge
        #: Groups that exist, so that a group is changed and not made twice.
        self._group_ids: set[int] = set()
        self._lingering = Lingering()
        #: Our flows as just read by :meth:`connect`, for :meth:`installed` not to read again.
        self._flows: set[bytes] | None = None
        #: Ports and bridges as last read or written.
        self._ports: set[Row] = set()
        #: The integration bridge's ports and their numbers, until the database changes.
        self._neighbours: Mapping[str, int] | None = None
        self._claim: int | None = None
        bridges = settings.bridges
        self._appctl = Appctl(settings.rundir)
        bridges = settings.bridges
        self._sightings = Sightings(self._appctl, bridges.integration, bridges.integration_patch)
        #: Local VLANs (encoded) that networks gave up lately, and when.
        self._vacated: dict[bytes, float] = {}

    @classmethod
    def from_config(cls, conf: Any) -> "OpenvswitchBackend":
        return cls(Settings.from_config(conf))

    def connect(self) -> None:
        self._claim_bridge()
        self._lingering.clear()
        self._neighbours = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._close_flag_channels()
        if self._ovsdb is not None and self._ovsdb.broken:
            self._ovsdb.close()
            self._ovsdb = None
        if self._ovsdb is None:
            self._ovsdb = Ovsdb(self._settings.ovsdb_connection, self._settings.shared)
        if self._ovsdb.has_tunnel_bridge(self._settings.bridges):
            # Tells at once that vswitchd is down; the database would let us wait for it. A version
            # or a type that is missing is about to be set.
            with contextlib.suppress(VersionError):
                self._transport().close()
        self._ovsdb.prepare(None if self._settings.shared else self._settings.bridges)
        if self._offloads != (offloads := self._ovsdb.offloads()):
            self._offloads = offloads
            self._renderer = self._make_renderer()
        self._read_numbers()
        self._channel = Channel(self._transport())
        self._open_flag_channels()
        if not self._channel.watch(self._matters):
            LOG.info("the switch doesn't tell of flows that others change: they are read back")
        self._flows = self._read_flows()
        if not self._self_checked and not self._flows.issuperset(self._stamps.static[False]):
            self._self_check()

    def close(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(BackendError):
                self._sweep(self._lingering.due(math.inf))
            self._channel.close()
            self._channel = None
        self._close_flag_channels()
        if self._ovsdb is not None:
            self._ovsdb.close()
            self._ovsdb = None
        self._appctl.close()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def fileno(self) -> int:
        return -1 if self._channel is None else self._channel.fileno()

    def poll(self) -> bool:
        disturbed = self._open().poll()
        self._sweep(self._lingering.due(time.monotonic()))
        for flags in self._flag_channels.values():
            disturbed = flags.poll() or disturbed
        # Every machine that is plugged in changes the database, and seldom anything of ours.
        if self._open_ovsdb().changed():
            self._neighbours = None
            disturbed = self._read_ports() != self._ports or disturbed
        return disturbed

    def settle(self, where: Where) -> Iterable[str]:
        if self._neighbours is None:
            self._neighbours = {}
            with contextlib.suppress(BackendError):  # there is no such bridge
                bridge = self._settings.bridges.integration
                self._neighbours = self._open_ovsdb().ofports(bridge)
        return self._sightings.look(where, self._neighbours)

    def health(self) -> Iterable[Health]:
        if self._ovsdb is not None:
            for what, why in self._ovsdb.troubles(self._settings.bridges):
                yield Health(what, "trouble", why)
        if strangers := self._strangers():
            yield Health("strangers", "ok", strangers)
        if told := self._sightings.told():
            yield Health("machines elsewhere", "ok", told)
        if trouble := self._sightings.trouble:
            yield Health(
                "integration bridge",
                "ok",
                "its MAC table can't be looked at: a guest that sends from the address of a machine"
                f" elsewhere is believed until that one speaks: {trouble}",
            )

    def refuse(self, attachment: Attachment) -> str | None:
        network_type = attachment.segment.network_type
        if network_type not in self._settings.tunnel_types:
            types = ", ".join(self._settings.tunnel_types)
            return f"{network_type} is not among tunnel_types ({types})"
        if attachment.local_vlan is None:
            return "the openvswitch backend needs a local_vlan"
        return None

    def base(self) -> tuple[Row, ...]:
        wiring = () if self._settings.shared else self._settings.bridges.wiring()
        # A row, for rows are rendered anew when it turns out to be another.
        offloads = _offloads(self._offloads)
        return (*wiring, offloads, *self._renderer.static(self._patch))

    def unused(self) -> frozenset[str]:
        return self._renderer.unused

    def render(self, fact: Fact) -> tuple[Row, ...]:
        return self._renderer.rows(fact)

    def installed(self) -> set[Row]:
        channel = self._open()
        found, self._flows = set[Row](self._flows or self._read_flows()), None
        groups = [
            group
            for body in channel.groups()
            for group in rows.groups_in(body)
            if group.group_id & 0xFFFF0000 == GROUP_BASE
        ]
        self._group_ids = {group.group_id for group in groups}
        found.update(groups)
        self._ports = self._read_ports()
        found |= self._ports
        found |= self._read_flags()
        return found.difference(self._lingering.rows())

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        planned: list[OvsRow | None] = []  # by place among the messages: the row it is for
        refused: dict[Row, str] = {}
        gone: list[TunnelPort] = []
        released: list[tuple[bytes, bytes]] = []
        reused: set[bytes] = set()

        def messages() -> Iterator[Message]:
            for add, remove in batches:
                adding, removing = _Sorted(add), _Sorted(remove)
                if adding.wiring:
                    bridges = None if self._settings.shared else self._settings.bridges
                    self._open_ovsdb().prepare(bridges)
                    raise OutdatedRowsError  # a new patch port has a number of its own
                for flags in removing.flags:
                    if (reason := self._flag_channels[flags.bridge].clear(flags)) is not None:
                        refused[flags] = reason
                if adding.tunnels:
                    refused.update(self._make_tunnels(adding.tunnels, removing.tunnels))
                # Ports changed in place are done; others go after the flows that use them.
                made = {row.name for row in adding.tunnels}
                gone_now = [row for row in removing.tunnels if row.name not in made]
                gone.extend(gone_now)
                deleted, last = self._deletes(adding, removing)
                reused.update(self._reused_vlans(adding.flows, deleted))
                if self._sightings.told():
                    released.extend(self._claims([], deleted, set()))
                for row, message in self._plan(adding, removing, deleted, gone_now):
                    planned.append(row)
                    yield message
                planned.extend(adding.flows)
                yield from rows.add_flows(adding.flows, self.pipeline.cookie)
                # With a group go the flows that still use it.
                planned.extend(last)
                yield from map(rows.delete_group, last)
                self._group_ids.difference_update(group.group_id for group in last)

        for rejection in self._open().write(messages()):
            rejected = planned[rejection.place]
            if rejected is not None:
                refused[rejected] = rejection.reason
            if isinstance(rejected, Group):
                self._group_ids.discard(rejected.group_id)
        if reused:
            self._await_caches(reused)
        for vlan, mac in released:
            self._sightings.released(int.from_bytes(vlan, "big") & 0xFFF, mac.hex(":"))
        if gone:
            self._open_ovsdb().write(self._bridge, [], gone)
            self._ports.difference_update(gone)
            for row in gone:
                self._numbers.release((row.type, row.remote_ip))
            self._renderer.forget()
        return refused

    def scope(self, attachment: Attachment) -> Scope:
        segment = attachment.segment
        return Scope(attachment.local_vlan, segment, segment.segment_id)

    def slot(self, row: Row) -> Hashable:
        if isinstance(row, bytes):
            return rows.flow_key(row)
        if isinstance(row, Group):
            return Group, row.group_id
        return (TunnelPort, row.name) if isinstance(row, TunnelPort) else row

    def found(self, row: Row) -> Found | None:
        if isinstance(row, Wiring | PortFlags):
            return None
        if isinstance(row, TunnelPort):
            return Found(row._replace(odd=()), Scope(), self.slot(row))
        if not isinstance(row, bytes):
            return Found(row, Scope(), self.slot(row))
        flow = read(row)
        segment = None
        if flow.incoming is not None and (kind := self._incoming.get(row[0])):
            segment = Segment(kind, flow.incoming)
        if flow.local_vlan is None and segment is None and flow.in_port is None:
            return None  # of no network and no tunnel: the pipeline has it, or has it no more
        copies = flow.outputs if row[0] in self._floods else ()
        return Found(
            row,
            Scope(flow.local_vlan, segment, flow.outgoing),
            self.slot(row),
            tuple(self._numbers.vteps(copies)),
        )

    def describe(self, row: Row) -> RowText:
        if isinstance(row, bytes):
            table, priority, match, actions = self._codec.flow_text(row)
            return RowText("flow", f"{table} {priority}", match, actions)
        if isinstance(row, Group):
            kind = _GROUP_TYPES.get(row.type, str(row.type))
            return RowText(
                "group",
                self._bridge,
                f"{row.group_id:#x} {kind}",
                self._codec.group_text(row.buckets),
            )
        if isinstance(row, Wiring):
            return RowText("wiring", row.bridge, row.what, _text(row.odd))
        if isinstance(row, PortFlags):
            return RowText("port flags", row.bridge, row.port, flags_text(row.flags))
        assert isinstance(row, TunnelPort)
        does = _text((("ofport", str(row.ofport)), *row.options, *row.odd))
        return RowText("tunnel", row.name, f"{row.type} to {row.remote_ip}", does)

    # -- writing -----------------------------------------------------------------------------

    def _make_tunnels(self, add: list[TunnelPort], replaced: list[TunnelPort]) -> Mapping[Row, str]:
        # Tells at once that vswitchd has gone; the database would let us wait for it.
        self._open().drain()
        ovsdb = self._open_ovsdb()
        names = {row.name for row in add}
        in_place = [row for row in replaced if row.name in names]
        refused = ovsdb.write(self._bridge, add, in_place)
        self._ports.difference_update(in_place)
        self._ports.update(row for row in add if row not in refused)
        got = ovsdb.ofports(self._bridge)
        if any(got.get(row.name) != row.ofport for row in add if row not in refused):
            # Somebody's port has the number that we asked for.
            self._read_numbers()
            raise OutdatedRowsError
        return refused

    def _plan(
        self,
        adding: "_Sorted",
        removing: "_Sorted",
        deleted: list[bytes],
        gone: list[TunnelPort],
    ) -> Iterator[tuple[OvsRow | None, Message]]:
        """What goes before flows are added, each message with the row it is for.

        Deletes first: a local VLAN that goes from one network to another must be empty before it
        is filled again. Then groups, because flows refer to them.
        """
        learned = self.pipeline.learned_cookie
        for row in deleted:
            yield row, rows.delete_flow(row, self.pipeline.cookie)
        unicast = self.pipeline.tables["UCAST_TO_TUN"].id
        for port in gone:
            yield None, rows.delete_flows(learned, unicast, out_port=port.ofport)
        vlans = self._given_vlans(adding.flows) | self._given_vlans(removing.flows)
        yield from ((None, message) for message in self._forget_learned(vlans))
        for vlan, mac in self._claims(adding.flows, deleted, vlans):
            yield None, rows.delete_learned_flow(unicast, self._codec.learned_match(vlan, mac))
        for group in adding.groups:
            if not self._lingering.wanted(group):
                yield group, rows.add_group(group, group.group_id in self._group_ids)
                self._group_ids.add(group.group_id)

    def _deletes(self, adding: "_Sorted", removing: "_Sorted") -> tuple[list[bytes], list[Group]]:
        """Flows and groups to be deleted now: neither what is written over nor what packets on
        their way may meet (see :mod:`.lingering`), but what stayed for such packets and is in the
        way by now."""
        overwritten = {rows.flow_key(row) for row in adding.flows} if removing.flows else set()
        flows = [row for row in removing.flows if rows.flow_key(row) not in overwritten]
        made = {group.group_id for group in adding.groups}
        groups = [group for group in removing.groups if group.group_id not in made]
        table = self.pipeline.tables["FLOOD_SHARD"].id
        shards = [row for row in flows if row[0] == table]
        if not shards and not groups and not self._lingering.rows():
            return flows, groups
        now = time.monotonic()
        large = self._stamps.flows["large_flood"]
        flooding = {row: vlan for row in adding.flows if (vlan := self._flooded_vlan(row))}
        wide = {vlan for row, vlan in flooding.items() if large.read(row)}
        narrow = set(flooding.values()) - wide
        gone = {vlan for row in flows if (vlan := self._flooded_vlan(row))}
        shard = self._stamps.floods["flood_shard"].head
        for row in shards:
            values = shard.read(rows.flow_key(row))
            if values and values["vlan"] in narrow:
                self._lingering.keep(values["vlan"], row, now)
        if narrow:
            # What starts them anew; what leads to all of them has done its part by then.
            for group in groups:
                if group.group_id == RECIRCULATE_GROUP:
                    self._lingering.keep(None, group, now)
        stay = set(self._lingering.rows())
        left = self._lingering.take(wide | gone)
        return [
            *(row for row in flows if row not in stay),
            *(r for r in left if isinstance(r, bytes) and rows.flow_key(r) not in overwritten),
        ], [group for group in groups if group not in stay]

    def _flooded_vlan(self, row: bytes) -> bytes | None:
        """The local VLAN of a flow that is a network's flood, narrow or wide."""
        head = self._stamps.floods["flood"].head
        if row[:3] != head.pieces[0][:3]:
            return None
        values = head.read(rows.flow_key(row))
        return values["vlan"] if values else None

    def _claims(
        self, added: list[bytes], deleted: list[bytes], but: set[bytes]
    ) -> Iterator[tuple[bytes, bytes]]:
        """(local VLAN, MAC) of machines that are announced no more, or announced to be here.

        Whatever the switch has learned of them meanwhile was never used, and may be anybody's
        word: they are flooded to until they speak. (Neutron's agent does the same.)

        :param but: local VLANs to leave out.
        """
        for name, flows in (("unicast", deleted), ("from_local", added)):
            stamp = self._stamps.flows[name]
            head, at = stamp.pieces[0][:3], stamp.offset("vlan")
            for row in flows:
                if row[:3] == head and row[at : at + 2] not in but and (v := stamp.read(row)):
                    yield v["vlan"], v["mac"]

    def _sweep(self, due: list[OvsRow]) -> None:
        """Delete what nothing leads to any more."""
        if not due:
            return
        groups = [row for row in due if isinstance(row, Group)]
        flows = [row for row in due if isinstance(row, bytes)]
        self._open().write(
            [
                *(rows.delete_flow(row, self.pipeline.cookie) for row in flows),
                *map(rows.delete_group, groups),
            ]
        )
        self._group_ids.difference_update(group.group_id for group in groups)

    def _strangers(self) -> str | None:
        """How many frames came from VTEPs that are none of a network's, the most first."""
        table = self.pipeline.tables["STRANGERS"].id
        stamp = self._stamps.flows["strangers"]
        counts: list[tuple[int, bytes]] = []
        for body in self._open().flows(self.pipeline.cookie, table):
            for packets, row in rows.counted_flows_in(body):
                if packets and (values := stamp.read(row)):
                    counts.append((packets, values["vlan"]))
        if not counts:
            return None
        counts.sort(reverse=True)
        texts = [f"{count} in {self._network_text(vlan)}" for count, vlan in counts[:_TOLD]]
        more = [f"{len(counts) - _TOLD} more networks"] if len(counts) > _TOLD else []
        total = sum(count for count, _ in counts)
        return (
            f"{total} frames dropped that came from VTEPs which nobody announced there:"
            f" {', '.join([*texts, *more])}"
        )

    def _network_text(self, vlan: bytes) -> str:
        if (attachment := self._renderer.holders.get(vlan)) is None:
            return f"local VLAN {int.from_bytes(vlan, 'big') & 0xFFF}"
        return f"network {attachment.network_id}, tunnel {attachment.segment}"

    def _given_vlans(self, flows: list[bytes]) -> set[bytes]:
        """Local VLANs (encoded) whose network's way in is among these.

        Where it comes or goes, what the switch has learned in the VLAN is another network's.
        """
        ways = [self._stamps.flows[f"{kind}_in"] for kind in ("vxlan", "gre", "geneve")]
        stamps = {stamp.pieces[0][0]: stamp for stamp in ways}  # by table
        return {
            values["vlan"]
            for row in flows
            if row[0] in stamps and (values := stamps[row[0]].read(row))
        }

    def _forget_learned(self, vlans: set[bytes]) -> Iterator[Message]:
        """Delete all that the switch has learned in these local VLANs."""
        table = self.pipeline.tables["UCAST_TO_TUN"].id
        for vlan in vlans:
            match = self._codec.learned_match(vlan)
            yield rows.delete_flows(self.pipeline.learned_cookie, table, match=match)

    def _reused_vlans(self, added: list[bytes], deleted: list[bytes]) -> set[bytes]:
        """Local VLANs (encoded) that a network has now, and another had a moment ago."""
        now = time.monotonic()
        self._vacated = {v: at for v, at in self._vacated.items() if at > now - 2 * _REVALIDATION}
        self._vacated.update(dict.fromkeys(self._given_vlans(deleted), now))
        if not self._vacated:
            return set()
        return self._given_vlans(added) & self._vacated.keys()

    def _await_caches(self, vlans: set[bytes]) -> None:
        """Until no frame of these VLANs' networks before can get into them.

        Open vSwitch acknowledges what it has in its tables, and forwards by what it has cached for
        some milliseconds more (10 have been seen). And it learns what it is told by that.
        """
        try:
            # The first that ends may have begun before our change.
            for _ in range(2):
                self._appctl.command("revalidator/wait", timeout=2 * _REVALIDATION)
        except BackendError as error:
            LOG.debug("waiting a moment instead: %s", error)
            time.sleep(_UNSEEN_REVALIDATION)
        self._open().write(self._forget_learned(vlans))

    def _make_renderer(self) -> Renderer:
        settings = self._settings
        return Renderer(
            self._stamps,
            self._numbers,
            settings.tunnel_options(self._offloads),
            settings.arp_responder,
            settings.shared,
            settings.distributed,
            settings.known_vteps_only,
        )

    def _read_flows(self) -> set[bytes]:
        found: set[bytes] = set()
        for body in self._open().flows(self.pipeline.cookie):
            found.update(rows.flows_in(body))
        return found

    def _read_ports(self) -> set[Row]:
        ovsdb = self._open_ovsdb()
        found: set[Row] = {*ovsdb.tunnels(self._bridge), _offloads(ovsdb.offloads())}
        if not self._settings.shared:
            found.update(ovsdb.wiring(self._settings.bridges, self._patch))
        return found

    def _read_flags(self) -> set[PortFlags]:
        """Of the ports of ours that were just read."""
        names = {row.name for row in self._ports if isinstance(row, TunnelPort)}
        if not self._settings.shared:
            bridges = self._settings.bridges
            names |= {bridges.integration_patch, bridges.tunnel_patch}
        return {row for channel in self._flag_channels.values() for row in channel.read(names)}

    def _matters(self, cookie: int) -> bool:
        """Whether a flow of this cookie that somebody else changes may be one of ours, or instead
        of one."""
        if self._settings.shared:
            return cookie == self.pipeline.cookie  # the agent's own change all the time
        return cookie != self.pipeline.learned_cookie

    def _self_check(self) -> None:
        """Once, before anything is written: does this Open vSwitch return what it is sent?"""
        self._self_checked = True
        stamps = selfcheck.compile_as_returned(self.pipeline, self._codec, self._open())
        if not stamps.same_rows(self._stamps):
            LOG.info("this Open vSwitch returns some flows in another form; comparing in that form")
            self._stamps = stamps
            self._renderer = self._make_renderer()

    def _claim_bridge(self) -> None:
        """Two agents on one bridge would undo each other's work.

        Where the lock can't be made, as for an unprivileged user, there is none.
        """
        if self._claim is not None:
            return
        path = self._settings.rundir / f"{self._bridge}.ovs-l2pop.lock"
        try:
            claim = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            LOG.debug("no lock on bridge %s: %s", self._bridge, error)
            return
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise BackendError(f"another agent programs {self._bridge} (it has {path})") from None
        self._claim = claim

    # -- connections -------------------------------------------------------------------------

    def _read_numbers(self) -> None:
        ovsdb = self._open_ovsdb()
        ofports = ovsdb.ofports(self._bridge)
        patch = ofports.get(self._settings.bridges.tunnel_patch, 0)
        if not patch and not self._settings.shared:
            raise BackendError(
                f"port {self._settings.bridges.tunnel_patch} of {self._bridge} has no number;"
                " see the log of ovs-vswitchd"
            )
        self._patch = patch
        tunnels = [row for row in ovsdb.usable_tunnels(self._bridge) if row.ofport]
        self._numbers.restart(
            ofports,
            {(row.type, row.remote_ip): row.ofport for row in tunnels},
            {(row.type, row.remote_ip): row.name for row in tunnels},
        )
        self._renderer.forget()

    def _open_flag_channels(self) -> None:
        """Where there is no way to them, what is set by OpenFlow stays: an unprivileged Neutron
        agent may not open the socket."""
        bridges = self._settings.bridges
        names = [bridges.tunnel] if self._settings.shared else [bridges.tunnel, bridges.integration]
        for name in names:
            path = str(self._settings.rundir / f"{name}.mgmt")
            try:
                self._flag_channels[name] = PortFlagsChannel(name, path)
            except VersionError as error:
                LOG.info("what others set on ports of %s by OpenFlow isn't seen: %s", name, error)
            except BackendError as error:
                if not self._settings.shared:
                    raise
                LOG.debug("what others set on ports of %s isn't seen: %s", name, error)

    def _close_flag_channels(self) -> None:
        while self._flag_channels:
            self._flag_channels.popitem()[1].close()

    def _open(self) -> Channel:
        if self._channel is None:
            raise BackendError(f"{self._bridge}: not connected")
        return self._channel

    def _open_ovsdb(self) -> Ovsdb:
        if self._ovsdb is None:
            raise BackendError(f"ovsdb {self._settings.ovsdb_connection}: not connected")
        return self._ovsdb


class _Sorted:
    """Rows of one batch by kind."""

    def __init__(self, batch: list[Row]) -> None:
        self.flows: list[bytes] = [row for row in batch if type(row) is bytes]
        self.groups: list[Group] = []
        self.tunnels: list[TunnelPort] = []
        self.wiring: list[Wiring] = []
        self.flags: list[PortFlags] = []
        if len(self.flows) < len(batch):
            self.groups = [row for row in batch if isinstance(row, Group)]
            self.tunnels = [row for row in batch if isinstance(row, TunnelPort)]
            self.wiring = [row for row in batch if isinstance(row, Wiring)]
            self.flags = [row for row in batch if isinstance(row, PortFlags)]


def _offloads(offloads: bool) -> Wiring:
    """The setting of the switch that tunnels depend on."""
    return Wiring("Open_vSwitch", f"hw-offload {str(offloads).lower()}")


def _text(pairs: Oddities) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs)

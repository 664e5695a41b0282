"""The Open vSwitch backend behind the shared interface."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline, rows, selfcheck
from ovs_l2pop.backends.openvswitch.appctl import Appctl
from ovs_l2pop.backends.openvswitch.channel import Channel, Message, RefusedReadError
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.looking import FlowsRead
from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
from ovs_l2pop.backends.openvswitch.ovsdb import Ovsdb
from ovs_l2pop.backends.openvswitch.packetin import TooBigAnswers
from ovs_l2pop.backends.openvswitch.pipeline import GROUP_TYPES, METER_BASE
from ovs_l2pop.backends.openvswitch.plan import REVALIDATION, Plan, Planner
from ovs_l2pop.backends.openvswitch.portflags import PortFlagsChannel, flags_text
from ovs_l2pop.backends.openvswitch.reading import read
from ovs_l2pop.backends.openvswitch.render import FlowRenderer, PortNumbers
from ovs_l2pop.backends.openvswitch.rows import (
    Group,
    Meter,
    Oddities,
    OvsRow,
    PortFlags,
    TunnelPort,
    Wiring,
)
from ovs_l2pop.backends.openvswitch.sightings import Sightings, Where
from ovs_l2pop.backends.openvswitch.sizes import HEADS, frame_sizes
from ovs_l2pop.backends.openvswitch.stamps import Stamp, Stamps, encode
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket, Transport, VersionError
from ovs_l2pop.core.backend import Batch, Health, Look, OutdatedRowsError, RowText
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.orphans import Found, Scope
from ovs_l2pop.core.table import Fact
from ovs_l2pop.lockfile import LockFile
from ovs_l2pop.netlink import addresses

LOG = logging.getLogger(__name__)

#: Seconds that Open vSwitch is given to look through what it has cached where nobody may ask it.
_UNSEEN_REVALIDATION = 0.2
#: Rows that are read back one by one; of more, all that there is takes less.
_FEW = 100
#: Networks that are told by name of those that strangers sent into.
_TOLD = 3
_GROUP_TYPES = {number: name for name, number in GROUP_TYPES.items()}


class OpenvswitchBackend:
    """See :class:`ovs_l2pop.core.backend.Backend`."""

    def __init__(
        self, settings: OpenvswitchSettings, transport: Callable[[], Transport] | None = None
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
        self._has_meters = True
        #: Of the largest frames, by network type; empty where nobody is to be told.
        self._sizes: Mapping[str, int] = {}
        self._too_big: TooBigAnswers | None = None
        self._mute = False
        self._renderer = self._make_renderer()
        self._planner = Planner(self._stamps, self._codec)
        #: Tables by number: of what arrives by a tunnel, with the tunnel's type; and of floods.
        self._incoming = {t.table.id: t.network_type for t in self.pipeline.of("network")}
        self._floods = {template.table.id for template in self.pipeline.of("flood")}
        self._self_checked = False
        self._patch = 0
        self._ovsdb: Ovsdb | None = None
        self._channel: Channel | None = None
        self._flag_channels: dict[str, PortFlagsChannel] = {}  # by bridge
        #: Our flows as just read by :meth:`connect`, for :meth:`installed` not to read again.
        self._flows: set[bytes] | None = None
        #: Ports and bridges as last read or written.
        self._ports: set[Row] = set()
        #: The integration bridge's ports and their numbers, until the database changes.
        self._neighbours: Mapping[str, int] | None = None
        self._claim: LockFile | None = None
        bridges = settings.bridges
        self._appctl = Appctl(settings.rundir)
        self._sightings = Sightings(self._appctl, bridges.integration, bridges.integration_patch)

    @classmethod
    def from_config(cls, conf: Any) -> "OpenvswitchBackend":
        return cls(OpenvswitchSettings.from_config(conf))

    def connect(self) -> None:
        self._claim_bridge()
        self._planner.lingering.clear()
        self._neighbours = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._close_flag_channels()
        self._close_answers()
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
        self._channel = Channel(self._transport())
        found = self._ovsdb.offloads(), self._measured(), self._channel.most_meters() > 0
        if (self._offloads, self._sizes, self._has_meters) != found:
            self._offloads, self._sizes, self._has_meters = found
            self._renderer = self._make_renderer()
        self._read_numbers()
        self._open_answers()
        self._open_flag_channels()
        if not self._channel.watch(self._matters):
            LOG.info("the switch doesn't tell of flows that others change: they are read back")
        self._flows = self._read_flows()
        flows = {row for row in self._renderer.static(self._patch) if isinstance(row, bytes)}
        if not self._self_checked and not self._flows.issuperset(flows):
            self._self_check()

    def close(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(BackendError):
                self._sweep(math.inf)
            self._channel.close()
            self._channel = None
        self._close_flag_channels()
        self._close_answers()
        if self._ovsdb is not None:
            self._ovsdb.close()
            self._ovsdb = None
        self._appctl.close()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def fileno(self) -> int:
        return -1 if self._channel is None else self._channel.fileno()

    def poll(self) -> bool:
        disturbed = self._open().poll()
        self._sweep(time.monotonic())
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
        if self._settings.limit_broadcast and not self._has_meters:
            yield Health("broadcast", "trouble", "broadcast_rate: this switch has no meters")
        elif self._settings.limit_broadcast and (over := self._over_limit()):
            yield Health("broadcast", "ok", over)
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
        # Rows, for others are rendered anew when they turn out to be others.
        told = _offloads(self._offloads), _sizes(self._sizes)
        return (*wiring, *told, *self._renderer.static(self._patch))

    def unused(self) -> frozenset[str]:
        return self._renderer.unused

    def render(self, fact: Fact) -> tuple[Row, ...]:
        return self._renderer.rows(fact)

    def installed(self) -> set[Row]:
        found, self._flows = set[Row](self._flows or self._read_flows()), None
        self._read_others(found)
        return found.difference(self._planner.lingering.rows())

    def present(self, asked: Collection[Row]) -> set[Row] | None:
        if len(asked) > _FEW:
            return None
        slots = set(map(self.slot, asked))
        found: set[Row] = set()
        for row in asked:
            if isinstance(row, bytes):
                for body in self._flows_like(row):
                    found.update(rows.flows_in(body))
        if any(not isinstance(row, bytes) for row in asked):
            self._read_others(found)
        found.difference_update(self._planner.lingering.rows())
        return {row for row in found if self.slot(row) in slots}

    def _flows_like(self, row: bytes) -> Iterator[bytes]:
        """Bodies of replies about flows that match all that this one does, and maybe more."""
        return self._open().flows(self.pipeline.cookie, row[0], rows.flow_key(row)[3:])

    def hits(self, asked: Collection[Row]) -> Mapping[Row, int]:
        found: dict[Row, int] = {}
        for row in asked:
            if isinstance(row, bytes):
                for body in self._flows_like(row):
                    found.update((r, n) for n, r in rows.counted_flows_in(body) if r == row)
        return found

    def look(self, ready: Callable[[], None]) -> Look | None:
        if not self._open().pushes:
            return None  # the connection is the Neutron agent's
        flows = FlowsRead(self._transport, self.pipeline.cookie, ready)
        lingered = set(self._planner.lingering.rows())

        def end() -> set[Row]:
            found = flows.take()
            self._read_others(found)
            found.difference_update(lingered, self._planner.lingering.rows())
            return found

        return end

    def _read_others(self, found: set[Row]) -> None:
        """All rows but flows, of which there are few."""
        channel = self._open()
        groups = (group for body in channel.groups() for group in rows.groups_in(body))
        found.update(self._planner.observed(groups))
        with contextlib.suppress(RefusedReadError):  # it knows none
            meters = (meter for body in channel.meters() for meter in rows.meters_in(body))
            found.update(self._planner.observed_meters(meters))
        self._ports = self._read_ports()
        found |= self._ports
        found |= self._read_flags()

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        planned: list[OvsRow | None] = []  # by place among the messages: the row it is for
        refused: dict[Row, str] = {}
        plans: list[Plan] = []

        def messages() -> Iterator[Message]:
            for add, remove in batches:
                now, pins = time.monotonic(), self._sightings.told() is not None
                plan = self._planner.plan(add, remove, now, pins=pins)
                plans.append(plan)
                if plan.wiring:
                    bridges = None if self._settings.shared else self._settings.bridges
                    self._open_ovsdb().prepare(bridges)
                    raise OutdatedRowsError  # a new patch port has a number of its own
                for flags in plan.flags:
                    if (reason := self._flag_channels[flags.bridge].clear(flags)) is not None:
                        refused[flags] = reason
                if plan.ports:
                    refused.update(self._make_tunnels(plan.ports, plan.replaced))
                for row, message in plan.first:
                    planned.append(row)
                    yield message
                planned.extend(plan.flows)
                yield from rows.add_flows(plan.flows, self.pipeline.cookie)
                planned.extend(plan.last)
                yield from map(rows.delete_group, plan.last)

        for rejection in self._open().write(messages()):
            rejected = planned[rejection.place]
            if rejected is not None:
                refused[rejected] = rejection.reason
                self._planner.refused(rejected)
        if reused := set().union(*(plan.reused for plan in plans)):
            self._await_caches(reused)
        for plan in plans:
            for vlan, mac in plan.released:
                self._sightings.released(int.from_bytes(vlan, "big") & 0xFFF, mac.hex(":"))
        if gone := [port for plan in plans for port in plan.gone]:
            self._open_ovsdb().write(self._bridge, [], gone)
            self._ports.difference_update(gone)
            entrances = [row for plan in plans for row in plan.entrances]
            self._open().write(self._planner.delete(entrances))
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
        if isinstance(row, Meter):
            return Meter, row.meter_id
        return (TunnelPort, row.name) if isinstance(row, TunnelPort) else row

    def found(self, row: Row) -> Found | None:
        if isinstance(row, Wiring | PortFlags):
            return None
        if isinstance(row, TunnelPort):
            return Found(row._replace(odd=()), Scope(), self.slot(row))
        if isinstance(row, Meter):
            return Found(row, Scope(row.meter_id - METER_BASE), self.slot(row))
        if not isinstance(row, bytes):
            return Found(row, Scope(), self.slot(row))
        flow = read(row)
        segment = None
        if flow.incoming is not None and (kind := self._incoming.get(row[0])):
            segment = Segment(kind, flow.incoming)
        if flow.local_vlan is None and segment is None and flow.in_port is None:
            return None  # of no network and no tunnel: the pipeline has it, or has it no more
        copies: Iterable[str] = ()
        if row[0] in self._floods:
            copies = flow.remotes or self._numbers.vteps(flow.outputs)
        scope = Scope(flow.local_vlan, segment, flow.outgoing)
        return Found(row, scope, self.slot(row), tuple(copies))

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
        if isinstance(row, Meter):
            what = f"{row.meter_id:#x}"
            return RowText("meter", self._bridge, what, self._codec.bands_text(row.bands))
        if isinstance(row, Wiring):
            return RowText("wiring", row.bridge, row.what, _text(row.odd))
        if isinstance(row, PortFlags):
            return RowText("port flags", row.bridge, row.port, flags_text(row.flags))
        assert isinstance(row, TunnelPort)
        does = _text((("ofport", str(row.ofport)), *row.options, *row.odd))
        return RowText("tunnel", row.name, f"{row.type} to {row.remote_ip}", does)

    # -- writing -----------------------------------------------------------------------------

    def _make_tunnels(self, add: list[TunnelPort], in_place: list[TunnelPort]) -> Mapping[Row, str]:
        # Tells at once that vswitchd has gone; the database would let us wait for it.
        self._open().drain()
        ovsdb = self._open_ovsdb()
        refused = ovsdb.write(self._bridge, add, in_place)
        self._ports.difference_update(in_place)
        self._ports.update(row for row in add if row not in refused)
        made = [row for row in add if row not in refused]
        got = ovsdb.numbers(made)
        if any(got.get(row.name) != row.ofport for row in made):
            # Somebody's port has the number that we asked for.
            self._read_numbers()
            raise OutdatedRowsError
        return refused

    def _sweep(self, now: float) -> None:
        """Delete what nothing leads to any more."""
        if due := self._planner.sweep(now):
            self._open().write(due)

    def _strangers(self) -> str | None:
        """How many frames came from VTEPs that are none of a network's, the most first."""
        counts: list[tuple[int, bytes]] = []
        for template, stamp in self._stamps.of("strangers"):
            if template.goto is not None or not isinstance(stamp, Stamp):
                continue  # counted where it ends
            for body in self._open().flows(self.pipeline.cookie, template.table.id):
                for packets, row in rows.counted_flows_in(body):
                    if packets and (values := stamp.read(row)):
                        counts.append((packets, values["vlan"]))
        return self._counted("that came from VTEPs which nobody announced there", counts)

    def _over_limit(self) -> str | None:
        """How many frames to all were more than a network may send, the most first."""
        counts = [
            (dropped, encode("vlan", meter_id - METER_BASE))
            for body in self._open().meter_statistics()
            for meter_id, dropped in rows.metered_in(body)
            if dropped and meter_id & ~0xFFF == METER_BASE
        ]
        rate = self._settings.broadcast_rate
        return self._counted(f"that were to be copied, over {rate} a second", counts)

    def _counted(self, which: str, counts: list[tuple[int, bytes]]) -> str | None:
        """Dropped frames by network, the most first.

        :param counts: (frames, local VLAN as encoded).
        """
        if not counts:
            return None
        counts.sort(reverse=True)
        texts = [f"{count} in {self._network_text(vlan)}" for count, vlan in counts[:_TOLD]]
        more = [f"{len(counts) - _TOLD} more networks"] if len(counts) > _TOLD else []
        total = sum(count for count, _ in counts)
        return f"{total} frames dropped {which}: {', '.join([*texts, *more])}"

    def _network_text(self, vlan: bytes) -> str:
        if (attachment := self._renderer.holders.get(vlan)) is None:
            return f"local VLAN {int.from_bytes(vlan, 'big') & 0xFFF}"
        return f"network {attachment.network_id}, tunnel {attachment.segment}"

    def _await_caches(self, vlans: set[bytes]) -> None:
        """Until no frame of these VLANs' networks before can get into them.

        Open vSwitch acknowledges what it has in its tables, and forwards by what it has cached for
        some milliseconds more (10 have been seen). And it learns what it is told by that.
        """
        try:
            # The first that ends may have begun before our change.
            for _ in range(2):
                self._appctl.command("revalidator/wait", timeout=2 * REVALIDATION)
        except BackendError as error:
            LOG.debug("waiting a moment instead: %s", error)
            time.sleep(_UNSEEN_REVALIDATION)
        self._open().write(self._planner.forget_learned(vlans))

    def _make_renderer(self) -> FlowRenderer:
        settings = self._settings
        conditions = settings.conditions
        if not self._has_meters:
            conditions -= {"limit_broadcast", "packet_too_big"}
        if not self._sizes:
            conditions -= {"packet_too_big"}
        return FlowRenderer(
            self._stamps,
            self._numbers,
            settings.tunnel_options(self._offloads),
            conditions,
            settings.broadcast_rate,
            self._sizes,
        )

    def _measured(self) -> Mapping[str, int]:
        """Of the largest frames that fit, where a machine may send a larger one."""
        settings = self._settings
        if not settings.packet_too_big or self._mute:
            return {}
        largest = self._open_ovsdb().largest_packet(settings.bridges)
        if not largest or (device := addresses.device(settings.local_ip)) is None:
            return {}
        mtu = self._open_ovsdb().underlay_mtu(device[0]) or device[1]
        version = ip_address(settings.local_ip).version
        sizes = frame_sizes(mtu, version, settings.tunnel_csum)
        found = {kind: sizes[kind] for kind in settings.tunnel_types}
        return found if largest > min(found.values()) - HEADS else {}

    def _open_answers(self) -> None:
        if not self._sizes or not self._has_meters:
            return
        path = str(self._settings.rundir / f"{self._bridge}.mgmt")
        (table,) = {t.table.id for t in self.pipeline.of("bridge") if "packet_too_big" in t.when}
        try:
            self._too_big = TooBigAnswers(path, table, self._patch, self._packet_size)
        except BackendError as error:
            if not self._settings.shared:
                raise
            LOG.info("machines aren't told which packets are too large: %s", error)
            self._mute, self._sizes = True, {}
            self._renderer = self._make_renderer()

    def _packet_size(self, vlan: int) -> int | None:
        attachment = self._renderer.holders.get(encode("vlan", vlan))
        size = self._sizes.get(attachment.segment.network_type) if attachment else None
        return None if size is None else size - HEADS

    def _close_answers(self) -> None:
        if self._too_big is not None:
            self._too_big.close()
            self._too_big = None

    def _read_flows(self) -> set[bytes]:
        found: set[bytes] = set()
        for body in self._open().flows(self.pipeline.cookie):
            found.update(rows.flows_in(body))
        return found

    def _read_ports(self) -> set[Row]:
        ovsdb = self._open_ovsdb()
        found: set[Row] = {
            *ovsdb.tunnels(self._bridge),
            _offloads(ovsdb.offloads()),
            _sizes(self._measured()),
        }
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
            self._planner.use(stamps)
            self._renderer = self._make_renderer()

    def _claim_bridge(self) -> None:
        """Two agents on one bridge would undo each other's work.

        Where the lock can't be made, as for an unprivileged user, there is none.
        """
        if self._claim is not None:
            return
        path = self._settings.rundir / f"{self._bridge}.ovs-l2pop.lock"
        try:
            self._claim = LockFile(path)
        except BlockingIOError:
            raise BackendError(f"another agent programs {self._bridge} (it has {path})") from None
        except OSError as error:
            LOG.debug("no lock on bridge %s: %s", self._bridge, error)

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


def _offloads(offloads: bool) -> Wiring:
    """The setting of the switch that tunnels depend on."""
    return Wiring("Open_vSwitch", f"hw-offload {str(offloads).lower()}")


def _sizes(sizes: Mapping[str, int]) -> Wiring:
    """What is answered, by the size of what the underlay and machines' ports can carry."""
    most = ", ".join(f"{kind} {size - HEADS}" for kind, size in sorted(sizes.items()))
    return Wiring("underlay", f"packets that fit: {most or 'all'}")


def _text(pairs: Oddities) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs)

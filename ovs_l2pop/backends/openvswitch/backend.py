"""The Open vSwitch backend behind the shared interface."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_l2pop import resources
from ovs_l2pop.backends import Batch, RenumberedError, RowText
from ovs_l2pop.backends.openvswitch import pipeline, rows, selfcheck
from ovs_l2pop.backends.openvswitch.channel import Channel, Message
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.ovsdb import Ovsdb
from ovs_l2pop.backends.openvswitch.portflags import PortFlagsChannel, flags_text
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
from ovs_l2pop.backends.openvswitch.stamps import GROUP_BASE, Stamps
from ovs_l2pop.backends.openvswitch.transport import ManagementSocket, Transport, VersionError
from ovs_l2pop.difference import Row
from ovs_l2pop.errors import BackendError
from ovs_l2pop.messages import Attachment
from ovs_l2pop.table import Fact

LOG = logging.getLogger(__name__)

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
        self._self_checked = False
        self._patch = 0
        self._ovsdb: Ovsdb | None = None
        self._channel: Channel | None = None
        self._flag_channels: dict[str, PortFlagsChannel] = {}  # by bridge
        #: Groups that exist, so that a group is changed and not made twice.
        self._group_ids: set[int] = set()
        #: Our flows as just read by :meth:`connect`, for :meth:`installed` not to read again.
        self._flows: set[bytes] | None = None
        #: Ports and bridges as last read or written.
        self._ports: set[Row] = set()
        self._claim: int | None = None

    @classmethod
    def from_config(cls, conf: Any) -> "OpenvswitchBackend":
        return cls(Settings.from_config(conf))

    def connect(self) -> None:
        self._claim_bridge()
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
            self._channel.close()
            self._channel = None
        self._close_flag_channels()
        if self._ovsdb is not None:
            self._ovsdb.close()
            self._ovsdb = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def fileno(self) -> int:
        return -1 if self._channel is None else self._channel.fileno()

    def poll(self) -> bool:
        disturbed = self._open().poll()
        for flags in self._flag_channels.values():
            disturbed = flags.poll() or disturbed
        # Every machine that is plugged in changes the database, and seldom anything of ours.
        if self._open_ovsdb().changed():
            disturbed = self._read_ports() != self._ports or disturbed
        return disturbed

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
        return found

    def troubles(self) -> Iterable[tuple[str, str]]:
        return () if self._ovsdb is None else self._ovsdb.troubles(self._settings.bridges)

    def write(self, batches: Iterable[Batch]) -> Mapping[Row, str]:
        planned: list[OvsRow | None] = []  # by place among the messages: the row it is for
        refused: dict[Row, str] = {}
        gone: list[TunnelPort] = []

        def messages() -> Iterator[Message]:
            for add, remove in batches:
                adding, removing = _Sorted(add), _Sorted(remove)
                if adding.wiring:
                    bridges = None if self._settings.shared else self._settings.bridges
                    self._open_ovsdb().prepare(bridges)
                    raise RenumberedError  # a new patch port has a number of its own
                for flags in removing.flags:
                    if (reason := self._flag_channels[flags.bridge].clear(flags)) is not None:
                        refused[flags] = reason
                if adding.tunnels:
                    refused.update(self._make_tunnels(adding.tunnels, removing.tunnels))
                # Ports changed in place are done; others go after the flows that use them.
                made = {row.name for row in adding.tunnels}
                gone_now = [row for row in removing.tunnels if row.name not in made]
                gone.extend(gone_now)
                for row, message in self._plan(adding, removing, gone_now):
                    planned.append(row)
                    yield message
                planned.extend(adding.flows)
                yield from rows.add_flows(adding.flows, self.pipeline.cookie)
                last = self._delete_groups(adding, removing)
                planned.extend(last)
                yield from map(rows.delete_group, last)

        for rejection in self._open().write(messages()):
            rejected = planned[rejection.place]
            if rejected is not None:
                refused[rejected] = rejection.reason
            if isinstance(rejected, Group):
                self._group_ids.discard(rejected.group_id)
        if gone:
            self._open_ovsdb().write(self._bridge, [], gone)
            self._ports.difference_update(gone)
            for row in gone:
                self._numbers.release((row.type, row.remote_ip))
            self._renderer.forget()
        return refused

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
            raise RenumberedError
        return refused

    def _plan(
        self, adding: "_Sorted", removing: "_Sorted", gone: list[TunnelPort]
    ) -> Iterator[tuple[OvsRow | None, Message]]:
        """What goes before flows are added, each message with the row it is for.

        Deletes first: a local VLAN that goes from one network to another must be empty before it
        is filled again. Then groups, because flows refer to them.
        """
        learned = self.pipeline.learned_cookie
        overwritten = {rows.flow_key(row) for row in adding.flows} if removing.flows else set()
        for row in removing.flows:
            if rows.flow_key(row) not in overwritten:
                yield row, rows.delete_flow(row, self.pipeline.cookie)
        unicast = self.pipeline.tables["UCAST_TO_TUN"].id
        for port in gone:
            yield None, rows.delete_flows(learned, unicast, out_port=port.ofport)
        for match in self._vlan_matches(adding.flows, removing.flows):
            yield None, rows.delete_flows(learned, unicast, match=match)
        for group in adding.groups:
            yield group, rows.add_group(group, group.group_id in self._group_ids)
            self._group_ids.add(group.group_id)

    def _delete_groups(self, adding: "_Sorted", removing: "_Sorted") -> list[Group]:
        """Groups that no flow uses any more: with a group go the flows that still do."""
        kept = {group.group_id for group in adding.groups}
        last = [group for group in removing.groups if group.group_id not in kept]
        self._group_ids.difference_update(group.group_id for group in last)
        return last

    def _vlan_matches(self, added: list[bytes], removed: list[bytes]) -> set[bytes]:
        """Matches on the local VLANs that these rows give to a network or take from it.

        What the switch has learned in such a VLAN belongs to a network that is gone.
        """
        matches = set()
        templates = self.pipeline.templates
        stamps = {
            templates[name].table.id: self._stamps.flows[name]
            for name in ("vxlan_in", "gre_in", "geneve_in")
        }
        for row in (*added, *removed):
            if (stamp := stamps.get(row[0])) and (values := stamp.read(row)):
                matches.add(self._codec.vlan_match(values["vlan"]))
        return matches

    def _make_renderer(self) -> Renderer:
        settings = self._settings
        return Renderer(
            self._stamps,
            self._numbers,
            settings.tunnel_options(self._offloads),
            settings.arp_responder,
            settings.shared,
            settings.distributed,
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

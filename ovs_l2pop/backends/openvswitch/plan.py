"""What is written, and in which order: rows to add and to remove → a plan. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ovs_l2pop.backends.openvswitch import rows
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.lingering import Lingering
from ovs_l2pop.backends.openvswitch.pipeline import FIXED_GROUPS, GROUP_BASE, METER_BASE
from ovs_l2pop.backends.openvswitch.reading import read, tells_remotes
from ovs_l2pop.backends.openvswitch.rows import (
    Group,
    Meter,
    OvsRow,
    PortFlags,
    TunnelPort,
    Wiring,
)
from ovs_l2pop.backends.openvswitch.stamps import FloodStamp, Stamp, Stamps, encode
from ovs_l2pop.core.difference import Row

Message = tuple[int, bytes]  #: OpenFlow type and body

#: Seconds in which Open vSwitch begins to look through what it has cached, whatever happens
#: (max-revalidator).
REVALIDATION = 0.5


@dataclass(slots=True)
class Plan:
    """What becomes of one batch, in the order of the fields."""

    #: Bridges and patch ports are mended, and nothing else done: they have other numbers then.
    wiring: bool = False
    flags: list[PortFlags] = field(default_factory=list)  #: to be cleared
    ports: list[TunnelPort] = field(default_factory=list)  #: to be made
    replaced: list[TunnelPort] = field(default_factory=list)  #: what of them is there, otherwise
    #: What goes before flows are added, each with the row that it is for.
    first: list[tuple[OvsRow | None, Message]] = field(default_factory=list)
    flows: list[bytes] = field(default_factory=list)  #: to be added
    last: list[Group] = field(default_factory=list)  #: to be deleted, with the flows that use them
    gone: list[TunnelPort] = field(default_factory=list)  #: deleted behind all flows
    #: Flows to be deleted behind these: what still comes by such a port may be for a network that
    #: has another way to its VTEP by then.
    entrances: list[bytes] = field(default_factory=list)
    #: Local VLANs (encoded) of which the switch has cached what another network's was.
    reused: set[bytes] = field(default_factory=set)
    #: (local VLAN, MAC), both encoded, of machines that are announced no more.
    released: list[tuple[bytes, bytes]] = field(default_factory=list)


class Planner:
    """Plans batches, one after the other; remembers what has to be known of those before.

    :param stamps: the pipeline, as this switch returns its flows.
    """

    def __init__(self, stamps: Stamps, codec: Codec) -> None:
        self.lingering = Lingering()
        #: Groups that exist, so that a group is changed and not made twice.
        self._group_ids: set[int] = set()
        #: Meters likewise.
        self._meter_ids: set[int] = set()
        #: Local VLANs (encoded) that networks gave up lately: their way in, and when.
        self._vacated: dict[bytes, tuple[bytes, float]] = {}
        self._codec = codec
        self.use(stamps)

    def use(self, stamps: Stamps) -> None:
        """The pipeline is compiled anew."""
        pipeline = stamps.pipeline
        self._cookie, self._learned_cookie = pipeline.cookie, pipeline.learned_cookie
        self._all_learned = [table.id for table in pipeline.learned]
        self._learned, self._learned_priorities = self._all_learned[0], pipeline.learned_priorities

        def those(fact: str, *slots: str, wide: bool = False) -> list[tuple[int, Stamp]]:
            """What serves a fact and tells these parameters: table, and what reads them. Of a flow
            that floods, its match."""
            found = (
                (template.table.id, stamp.head if isinstance(stamp, FloodStamp) else stamp)
                for template, stamp in stamps.of(fact, *(("wide",) if wide else ()))
            )
            return [(table, stamp) for table, stamp in found if set(slots) <= set(stamp.slots)]

        self._ways = dict(those("network", "segment", "vlan"))
        self._entrances = [
            stamp for _, stamp in those("vtep", "port") if set(stamp.slots) == {"port"}
        ]
        self._unicast = [stamp for _, stamp in those("unicast", "vlan", "mac")]
        self._local = [stamp for _, stamp in those("local", "vlan", "mac")]
        self._narrow = [stamp for _, stamp in those("flood", "vlan")]
        self._wide = [stamp for _, stamp in those("flood", "vlan", "group", wide=True)]
        self._flood_tables = {template.table.id for template in pipeline.of("flood")}
        self._shards = dict(those("flood", "vlan", "shard", wide=True))

    def observed(self, groups: Iterable[Group]) -> list[Group]:
        """The switch has these groups; those of them that are ours."""
        ours = [group for group in groups if group.group_id & 0xFFFF0000 == GROUP_BASE]
        self._group_ids = {group.group_id for group in ours}
        return ours

    def observed_meters(self, meters: Iterable[Meter]) -> list[Meter]:
        """The switch has these meters; those of them that are ours."""
        ours = [meter for meter in meters if meter.meter_id & ~0xFFF == METER_BASE]
        self._meter_ids = {meter.meter_id for meter in ours}
        return ours

    def refused(self, row: OvsRow) -> None:
        """It could not be written."""
        if isinstance(row, Group):
            self._group_ids.discard(row.group_id)
        elif isinstance(row, Meter):
            self._meter_ids.discard(row.meter_id)

    def plan(self, add: list[Row], remove: list[Row], now: float, *, pins: bool = False) -> Plan:
        """Plan one batch.

        :param now: seconds of a clock that never goes back.
        :param pins: there are some, so that it is to be told which machines are released.
        """
        adding, removing = _Sorted(add), _Sorted(remove)
        if adding.wiring:
            return Plan(wiring=True)
        made = {row.name for row in adding.tunnels}
        gone = [row for row in removing.tunnels if row.name not in made]
        deleted, last = self._deletes(adding, removing, now)
        entrances = self._entrances_of(gone, deleted)
        if entrances:
            deleted = [row for row in deleted if row not in entrances]
        reused = self._reused(adding.flows, deleted, now)
        plan = Plan(
            flags=removing.flags,
            ports=adding.tunnels,
            replaced=[row for row in removing.tunnels if row.name in made],
            first=list(self._first(adding, removing, deleted, gone)),
            flows=adding.flows,
            last=last,
            gone=gone,
            entrances=list(entrances),
            reused=reused,
            released=list(self._machines(self._unicast, deleted, ())) if pins else [],
        )
        self._group_ids.difference_update(group.group_id for group in last)
        return plan

    def forget_learned(self, vlans: Iterable[bytes]) -> Iterator[Message]:
        """What deletes all that the switch has learned in these local VLANs."""
        for vlan in vlans:
            match = self._codec.learned_match(vlan)
            for table in self._all_learned:
                yield rows.delete_flows(self._learned_cookie, table, match=match)

    def sweep(self, now: float) -> list[Message]:
        """What deletes that to which nothing leads any more."""
        due = self.lingering.due(now)
        groups = [row for row in due if isinstance(row, Group)]
        self._group_ids.difference_update(group.group_id for group in groups)
        return [
            *(rows.delete_flow(row, self._cookie) for row in due if isinstance(row, bytes)),
            *map(rows.delete_group, groups),
        ]

    def delete(self, flows: Iterable[bytes]) -> list[Message]:
        """What deletes these flows."""
        return [rows.delete_flow(row, self._cookie) for row in flows]

    # ------------------------------------------------------------------------------------------

    def _entrances_of(self, ports: list[TunnelPort], flows: list[bytes]) -> set[bytes]:
        """Those of the flows that let in what comes by these ports, whatever its network."""
        numbers = {port.ofport.to_bytes(4, "big") for port in ports}
        if not numbers:
            return set()
        return {
            row
            for stamp in self._entrances
            for row in flows
            if row[:3] == stamp.pieces[0][:3]
            and (values := stamp.read(row))
            and values["port"] in numbers
        }

    def _first(
        self,
        adding: "_Sorted",
        removing: "_Sorted",
        deleted: list[bytes],
        gone: list[TunnelPort],
    ) -> Iterator[tuple[OvsRow | None, Message]]:
        """Deletes first: a local VLAN that goes from one network to another must be empty before it
        is filled again. Then groups, because flows refer to them.
        """
        yield from self._meters(adding.meters, removing.meters)
        for row in deleted:
            yield row, rows.delete_flow(row, self._cookie)
        for port in gone:
            yield (
                None,
                rows.delete_flows(self._learned_cookie, self._learned, out_port=port.ofport),
            )
        vlans = self._given(adding.flows).keys() | self._given(removing.flows).keys()
        vlans |= self._deserted(adding.flows, removing.flows)
        yield from ((None, message) for message in self.forget_learned(vlans))
        # Whatever the switch has learned meanwhile of machines that are announced no more, or
        # announced to be here, was never used, and may be anybody's word: they are flooded to until
        # they speak. (Neutron's agent does the same.)
        for stamps, flows in ((self._unicast, deleted), (self._local, adding.flows)):
            for vlan, mac in self._machines(stamps, flows, vlans):
                match = self._codec.learned_match(vlan, mac)
                for priority in self._learned_priorities:
                    yield None, rows.delete_learned_flow(self._learned, priority, match)
        for group in adding.groups:
            if not self.lingering.wanted(group):
                yield group, rows.add_group(group, group.group_id in self._group_ids)
                self._group_ids.add(group.group_id)

    def _meters(
        self, adding: list[Meter], removing: list[Meter]
    ) -> Iterator[tuple[OvsRow | None, Message]]:
        made = {meter.meter_id for meter in adding}
        for row in removing:
            if row.meter_id not in made:
                self._meter_ids.discard(row.meter_id)
                yield row, rows.delete_meter(row)
        for row in adding:
            yield row, rows.add_meter(row, row.meter_id in self._meter_ids)
            self._meter_ids.add(row.meter_id)

    def _deletes(
        self, adding: "_Sorted", removing: "_Sorted", now: float
    ) -> tuple[list[bytes], list[Group]]:
        """Flows and groups to be deleted now: neither what is written over nor what packets on
        their way may meet (see :mod:`.lingering`), but what stayed for such packets and is in the
        way by now."""
        overwritten = {rows.flow_key(row) for row in adding.flows} if removing.flows else set()
        flows = removing.flows
        if overwritten:
            flows = [row for row in flows if rows.flow_key(row) not in overwritten]
        made = {group.group_id for group in adding.groups}
        groups = [group for group in removing.groups if group.group_id not in made]
        shards = [row for row in flows if row[0] in self._shards]
        if not shards and not groups and not self.lingering.rows():
            return flows, groups
        flooding = {row: vlan for row in adding.flows if (vlan := self._flooded(row))}
        wide = {vlan for row, vlan in flooding.items() if any(s.read(row) for s in self._wide)}
        narrow = set(flooding.values()) - wide
        gone = {vlan for row in flows if (vlan := self._flooded(row))}
        for row in shards:
            values = self._shards[row[0]].read(rows.flow_key(row))
            if values and values["vlan"] in narrow:
                self.lingering.keep(values["vlan"], row, now)
        if narrow:
            # What starts them anew; what leads to all of them has done its part by then.
            for group in groups:
                if group.group_id < GROUP_BASE + FIXED_GROUPS:
                    self.lingering.keep(None, group, now)
        stay = set(self.lingering.rows())
        left = self.lingering.take(wide | gone)
        return [
            *(row for row in flows if row not in stay),
            *(r for r in left if isinstance(r, bytes) and rows.flow_key(r) not in overwritten),
        ], [group for group in groups if group not in stay]

    def _flooded(self, row: bytes) -> bytes | None:
        """The local VLAN of a flow that is a network's flood, narrow or wide."""
        for head in self._narrow:
            if row[:3] == head.pieces[0][:3] and (values := head.read(rows.flow_key(row))):
                return values["vlan"]
        return None

    @staticmethod
    def _machines(
        stamps: list[Stamp], flows: list[bytes], but: Iterable[bytes]
    ) -> Iterator[tuple[bytes, bytes]]:
        """(local VLAN, MAC) of flows about machines.

        :param but: local VLANs to leave out.
        """
        for stamp in stamps:
            head, at = stamp.pieces[0][:3], stamp.offset("vlan")
            for row in flows:
                if row[:3] == head and row[at : at + 2] not in but and (v := stamp.read(row)):
                    yield v["vlan"], v["mac"]

    def _given(self, flows: list[bytes]) -> dict[bytes, bytes]:
        """Local VLANs (encoded) whose network's way in is among these, and that.

        Where it comes or goes, what the switch has learned in the VLAN is another network's.
        """
        ways = self._ways
        return {
            values["vlan"]: row
            for row in flows
            if row[0] in ways and (values := ways[row[0]].read(row))
        }

    def _deserted(self, added: list[bytes], removed: list[bytes]) -> set[bytes]:
        """Local VLANs (encoded) that a VTEP has left to which one port for all leads. What was
        learned of it doesn't go with its port, and doesn't say in its match who it is about."""

        def copies(flows: list[bytes]) -> dict[int, set[str]]:
            found: dict[int, set[str]] = {}
            for row in flows:
                if row[0] in self._flood_tables and tells_remotes(row):
                    flow = read(row)
                    found.setdefault(flow.local_vlan or 0, set()).update(flow.remotes)
            return found

        if not (before := copies(removed)):
            return set()
        after = copies(added)
        return {
            encode("vlan", vlan) for vlan, vteps in before.items() if vteps - after.get(vlan, set())
        }

    def _reused(self, added: list[bytes], deleted: list[bytes], now: float) -> set[bytes]:
        """Local VLANs that a network has now, and another had a moment ago."""
        recent = now - 2 * REVALIDATION
        self._vacated = {v: (way, at) for v, (way, at) in self._vacated.items() if at > recent}
        self._vacated.update((vlan, (way, now)) for vlan, way in self._given(deleted).items())
        if not self._vacated:
            return set()
        return {
            vlan
            for vlan, way in self._given(added).items()
            if vlan in self._vacated and self._vacated[vlan][0] != way
        }


class _Sorted:
    """Rows of one batch by kind."""

    def __init__(self, batch: list[Row]) -> None:
        self.flows: list[bytes] = [row for row in batch if type(row) is bytes]
        self.groups: list[Group] = []
        self.meters: list[Meter] = []
        self.tunnels: list[TunnelPort] = []
        self.wiring: list[Wiring] = []
        self.flags: list[PortFlags] = []
        if len(self.flows) < len(batch):
            others = [row for row in batch if type(row) is not bytes]
            self.groups = [row for row in others if isinstance(row, Group)]
            self.meters = [row for row in others if isinstance(row, Meter)]
            self.tunnels = [row for row in others if isinstance(row, TunnelPort)]
            self.wiring = [row for row in others if isinstance(row, Wiring)]
            self.flags = [row for row in others if isinstance(row, PortFlags)]

"""Where ports are, and who has a network: narrow queries, a constant number of them.

No ORM entity is loaded: one of Neutron's ports brings nine relations with it. All that is asked of
ports is one UNION over the three ways in which a port can be at a host:

* bound: the ACTIVE row of ``ml2_port_bindings``;
* distributed: a row per host of ``ml2_distributed_port_bindings``, each with its own status;
* HA: on every host whose L3 agent the router is scheduled to (``ha_router_agent_port_bindings``),
  once one of them has become active, which is when the port is bound. It stays there whatever its
  status: DOWN and BUILD are stages of every failover.

Which segment it is bound to (``ml2_port_binding_levels``) is asked only where there is a choice.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import agent as agent_model
from neutron.db.models import allowed_address_pair as aap_model
from neutron.db.models import l3_attrs, l3ha
from neutron.db.models import segment as segment_model
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants as n_const
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from oslo_utils import timeutils
from sqlalchemy import orm

from ovs_l2pop.core.messages import Segment
from ovs_l2pop.neutron.server.agents import AgentRow
from ovs_l2pop.neutron.server.decisions import ACTIVE, BUILD, Kind
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.sync.protocol import EXTENSION

#: Owners of ports of HA routers: the first of no others, the second of ordinary ones, too.
_HA_OWNERS = (n_const.DEVICE_OWNER_HA_REPLICATED_INT, n_const.DEVICE_OWNER_ROUTER_SNAT)

#: Owners of ports that a router forwards by.
_ROUTER_OWNERS = frozenset(
    {*n_const.ROUTER_INTERFACE_OWNERS, *_HA_OWNERS, n_const.DEVICE_OWNER_ROUTER_GW}
)

#: A port's statuses with which it is present: BUILD is also a stage of its agent's restart.
_UP = (ACTIVE, BUILD)

_Port = models_v2.Port
_Bound = ml2_models.PortBinding
_Distributed = ml2_models.DistributedPortBinding
_Level = ml2_models.PortBindingLevel
_Scheduled = l3ha.L3HARouterAgentPortBinding
_Agent = agent_model.Agent
_Address = models_v2.IPAllocation
_Allowed = aap_model.AllowedAddressPair
_Standard = standard_attr.StandardAttribute
_SegmentRow = segment_model.NetworkSegment

#: The arms of the UNION.
_BOUND, _DISTRIBUTED, _HA, _ALLOWED = range(4)

#: In a column that an arm has nothing for. Untyped: a typed one would bring a collation along,
#: which MySQL refuses to mix with that of the other arms. The first arm has all columns.
_NOTHING = sa.null()


class Located(NamedTuple):
    """A port at a host."""

    port_id: str
    host: str
    kind: Kind
    active: bool
    #: Whether it is on the network as far as other hosts are concerned.
    present: bool
    mac: str
    revision: int
    #: Seconds since the port was last changed.
    age: float
    ips: tuple[str, ...]
    allowed: tuple[str, ...]
    #: For an HA router's port: this is the host that it is bound to.
    bound: bool
    #: It is a router's, which is at this host alone.
    router: bool = False


class Mark(NamedTuple):
    """What of a network's ports differs whenever one of them came, went or changed.

    Neutron raises a port's revision with its status, addresses, bindings and segments
    (``revises_on_change`` of its models), and no number of a new port has been used before. Where
    routers are scheduled to raises none.
    """

    ports: int = 0
    revisions: int = 0  #: sum
    newest: int = 0
    scheduled: int = 0
    schedules: int = 0  #: sum


class Host(NamedTuple):
    """What is asked first of all."""

    agents: list[AgentRow]
    #: Whether any agent of the cloud speaks our protocol.
    mixed: bool
    #: The segment that a port of this host is bound to.
    bound: NetworkSegment | None


def is_ha_router(router_id: str) -> bool:
    """Whether the router is highly available."""
    model = l3_attrs.RouterExtraAttributes
    found = sa.select(model.router_id).where(model.router_id == router_id, model.ha.is_(sa.true()))
    return bool(_fetch(found))


def host(name: str, port_id: str | None = None) -> Host:
    """What is asked first of all.

    :param port_id: a port whose segment is to be found out.
    """
    # The column is JSON text. LIKE takes the name's underscore for any character; a match too many
    # only means casts by name instead of a fanout.
    other = orm.aliased(_Agent)
    any_ours = sa.exists().where(other.configurations.like(f'%"{EXTENSION}"%'))
    # The host may have no agent: the outer join keeps the row that answers the second question.
    one = sa.select(any_ours.label("ours")).subquery()
    source: Any = one.outerjoin(_Agent, _Agent.host == name)
    columns = [_Agent.host, _Agent.configurations, _Agent.heartbeat_timestamp, _Agent.id]
    columns.append(one.c.ours)
    if port_id is not None:
        bound = _segments().where(_Level.port_id == port_id, _Level.host == name).subquery()
        source = source.outerjoin(bound, sa.true())
        columns += bound.c
    rows = _fetch(sa.select(*columns).select_from(source))
    segments = [_segment(row[5:]) for row in rows if row[5:] and row[5] is not None]
    return Host(
        [AgentRow(*row[:4]) for row in rows if row[0] is not None],
        any(row[4] for row in rows),
        segments[0] if segments else None,
    )


def agents_on(hosts: Iterable[str]) -> list[AgentRow]:
    """Agents of these hosts."""
    wanted = list(hosts)
    if not wanted:
        return []
    return _agents(_AGENTS.where(_Agent.host.in_(wanted)))


def all_agents() -> list[AgentRow]:
    """Agents of all hosts."""
    return _agents(_AGENTS)


def agents_in(where: NetworkSegment, *, disabled: bool) -> list[AgentRow]:
    """Agents of all hosts that have a port there which is up or on its way up.

    :param disabled: also where there is only one that is administratively down. It is still plugged
        in, and its agent keeps what it knows of the network.
    """
    arms = _arms(where, versions=False, disabled=disabled)[:3]
    hosts = sa.union(*(arm.with_only_columns(arm.selected_columns.host) for arm in arms))
    # A join, not IN: MariaDB evaluates a UNION inside IN once for each agent (34 s for 1,000).
    there = hosts.subquery()
    return _agents(_AGENTS.join(there, there.c.host == _Agent.host))


def ports_in(where: NetworkSegment, *, allowed: bool = False) -> list[Located]:
    """Ports that are present there; with the addresses that they may use besides."""
    return _located(_arms(where)[: 4 if allowed else 3])


def ports_at(host: str, where: NetworkSegment, *, allowed: bool = False) -> list[Located]:
    """Ports that are present there at a host; with the addresses that they may use besides."""
    return _located(_arms(where, lambda at: at == host)[: 4 if allowed else 3])


def table_for(host: str, where: NetworkSegment) -> list[tuple[str, str, str | None]]:
    """What a host has to know of the others: host, MAC and IP of each address there.

    No IP: only that the host is there. The narrowest of all queries, as the one with the most rows.
    """
    bound, distributed, scheduled, _ = _arms(where, lambda at: at != host, versions=False)
    interface, snat = (_Port.device_owner == owner for owner in _HA_OWNERS)
    of_ha_router = sa.exists().where(_Scheduled.router_id == _Port.device_id)
    moves = sa.or_(interface, sa.and_(snat, of_ha_router))
    address = sa.case((moves, _NOTHING), else_=_Address.ip_address)
    arms = [
        bound.where(sa.or_(_Port.status == ACTIVE, interface)),
        distributed.where(_Distributed.status == ACTIVE),
        scheduled,
    ]
    narrow = [
        arm.with_only_columns(arm.selected_columns.host, _Port.mac_address, ip.label("ip"))
        for arm, ip in zip(arms, (address, _NOTHING, _NOTHING), strict=True)
    ]
    return [(row[0], row[1], row[2]) for row in _fetch(sa.union_all(*narrow))]


def port(port_id: str, where: NetworkSegment) -> list[Located]:
    """All places of a port, also where it is not present; none at all if it was deleted."""
    return _located(_arms(where, port_id=port_id))


def marks(networks: Iterable[str]) -> dict[str, Mark]:
    """The mark of each of these networks."""
    wanted = list(networks)
    binding_port = orm.aliased(_Port)
    ports = (
        sa.select(
            _Port.network_id,
            sa.func.count().label("count"),
            sa.func.sum(_Standard.revision_number).label("sum"),
            sa.func.max(_Standard.id).label("newest"),
        )
        .select_from(_Port)
        .join(_Standard, _Standard.id == _Port.standard_attr_id)
        .where(_Port.network_id.in_(wanted))
        .group_by(_Port.network_id)
    )
    scheduled = (
        sa.select(
            _Port.network_id,
            sa.func.count(_Scheduled.l3_agent_id).label("count"),
            sa.func.sum(binding_port.standard_attr_id).label("sum"),
            sa.literal(None).label("newest"),
        )
        .select_from(_Port)
        .join(_Scheduled, _Scheduled.router_id == _Port.device_id)
        .join(binding_port, binding_port.id == _Scheduled.port_id)
        .where(_Port.network_id.in_(wanted), _Port.device_owner.in_(_HA_OWNERS))
        .group_by(_Port.network_id)
    )
    found = dict.fromkeys(wanted, Mark())
    for network_id, count, total, newest in _fetch(sa.union_all(ports, scheduled)):
        if newest is not None:
            more = {"ports": count, "revisions": int(total), "newest": newest}
        else:
            more = {"scheduled": count, "schedules": int(total)}
        found[network_id] = found[network_id]._replace(**more)
    return found


def segments_of(host: str, networks: Iterable[str] | None = None) -> list[NetworkSegment]:
    """Where a host has a port, up or not, bound or about to be (live migration).

    :param networks: look at these only: else every binding of the cloud is looked at.
    """
    among = None if networks is None else list(networks)
    bound = _segments(among).where(_Level.host == host)
    scheduled = (
        _segments(among)
        .join(_Port, _Port.id == _Level.port_id)
        .join(_Scheduled, _Scheduled.router_id == _Port.device_id)
        .join(_Agent, _Agent.id == _Scheduled.l3_agent_id)
        .where(_Agent.host == host, _Port.device_owner.in_(_HA_OWNERS))
    )
    return [_segment(row) for row in _fetch(sa.union(bound, scheduled))]


def ha_hosts(router_id: str) -> list[str]:
    """Hosts that an HA router is scheduled to."""
    statement = (
        sa.select(_Agent.host)
        .select_from(_Scheduled)
        .join(_Agent, _Agent.id == _Scheduled.l3_agent_id)
        .where(_Scheduled.router_id == router_id)
    )
    return [row[0] for row in _fetch(statement)]


def _arms(
    where: NetworkSegment,
    at: Callable[[Any], Any] | None = None,
    *,
    port_id: str | None = None,
    versions: bool = True,
    disabled: bool = False,
) -> list[Any]:
    """The three SELECTs of places, and a fourth of allowed addresses.

    :param at: a condition on the host.
    :param port_id: this port only, but also places where it is not present.
    :param versions: find out the ports' revisions and ages, at the price of one more table.
    :param disabled: take in what is bound, but administratively down.
    """
    present = port_id is None
    revision: Any = sa.literal(0)
    changed: Any = _NOTHING
    if versions:
        revision = _Standard.revision_number
        changed = sa.func.coalesce(_Standard.updated_at, _Standard.created_at)
    # Aliases, since the union of arms is one statement.
    level = orm.aliased(_Level)
    enabled: Any = _Port.admin_state_up
    if where.row is not None and not present:
        enabled = sa.and_(enabled, level.port_id.is_not(None))

    def columns(arm: int, host: Any, status: Any, ip: Any) -> list[Any]:
        return [
            sa.literal(arm).label("arm"),
            _Port.id.label("port_id"),
            host.label("host"),
            _Port.device_owner.label("owner"),
            status.label("status"),
            (_Port.admin_state_up if arm == _ALLOWED else enabled).label("enabled"),
            _Port.mac_address.label("mac"),
            ip.label("ip"),
            revision.label("revision"),
            changed.label("changed"),
        ]

    def places(arm: int, host: Any, status: Any, ip: Any = _NOTHING) -> Any:
        source = sa.select(*columns(arm, host, status, ip)).select_from(_Port)
        return source.join(_Standard, standard) if versions else source

    def inside(source: Any, host: Any) -> Any:
        """Whose binding to the host is in the segment."""
        if where.row is None:
            return source
        bound = sa.and_(
            level.port_id == _Port.id,
            level.host == host,
            level.segment_id == where.row,
            _is_bottom(level),
        )
        return source.join(level, bound, isouter=not present)

    standard = _Standard.id == _Port.standard_attr_id
    is_distributed = _Port.device_owner == n_const.DEVICE_OWNER_DVR_INTERFACE
    is_ha = _Port.device_owner == n_const.DEVICE_OWNER_HA_REPLICATED_INT
    active_binding = sa.and_(_Bound.port_id == _Port.id, _Bound.status == ACTIVE)

    bound = inside(
        places(_BOUND, _Bound.host, _Port.status, _Address.ip_address).join(
            _Bound, active_binding, isouter=not present
        ),
        _Bound.host,
    )
    bound = bound.outerjoin(_Address, _Address.port_id == _Port.id).where(sa.not_(is_distributed))
    distributed = inside(
        places(_DISTRIBUTED, _Distributed.host, _Distributed.status)
        .join(_Distributed, _Distributed.port_id == _Port.id)
        .where(is_distributed, _Distributed.host != ""),
        _Distributed.host,
    )
    # A standby host is in the segment that the active one is in.
    scheduled = inside(
        places(_HA, _Agent.host, _Port.status)
        .join(_Scheduled, _Scheduled.router_id == _Port.device_id)
        .join(_Agent, _Agent.id == _Scheduled.l3_agent_id)
        .join(_Bound, sa.and_(active_binding, _Bound.host != ""))
        .where(_Port.device_owner.in_(_HA_OWNERS)),
        _Bound.host,
    )
    allowed = places(_ALLOWED, _NOTHING, _Port.status, _Allowed.ip_address).join(
        _Allowed, _Allowed.port_id == _Port.id
    )
    conditions = [_Port.network_id == where.network_id]
    if not present:
        conditions = [_Port.id == port_id]
    else:
        off = _Port.admin_state_up.is_(sa.false())
        bound = bound.where(_Bound.host != "", sa.or_(_Port.status.in_(_UP), is_ha, off))
        distributed = distributed.where(sa.or_(_Distributed.status.in_(_UP), off))
        if not disabled:
            conditions.append(sa.not_(off))
    if at is not None:
        bound = bound.where(at(_Bound.host))
        distributed = distributed.where(at(_Distributed.host))
        scheduled = scheduled.where(at(_Agent.host))
    return [arm.where(*conditions) for arm in (bound, distributed, scheduled, allowed)]


_AGENTS = sa.select(_Agent.host, _Agent.configurations, _Agent.heartbeat_timestamp)


def _agents(statement: Any) -> list[AgentRow]:
    return [AgentRow(*row) for row in _fetch(statement)]


def _segments(networks: list[str] | None = None) -> Any:
    """A SELECT of segments that ports are bound to, as :func:`_segment` takes them.

    :param networks: of these only.
    """
    sibling = orm.aliased(_SegmentRow)
    several = sa.exists().where(
        sibling.network_id == _SegmentRow.network_id, sibling.id != _SegmentRow.id
    )
    found = (
        sa.select(
            _SegmentRow.network_id,
            _SegmentRow.network_type,
            _SegmentRow.segmentation_id,
            _SegmentRow.id.label("row"),
            several.label("several"),
        )
        .select_from(_Level)
        .join(_SegmentRow, _SegmentRow.id == _Level.segment_id)
        .where(_is_bottom(_Level), _SegmentRow.segmentation_id.is_not(None))
    )
    return found if networks is None else found.where(_SegmentRow.network_id.in_(networks))


def _segment(row: Sequence[Any]) -> NetworkSegment:
    network_id, network_type, number, row_id, several = row
    return NetworkSegment(network_id, Segment(network_type, number), row_id if several else None)


def _is_bottom(level: Any) -> Any:
    """Whether a port's level is the one that its host speaks (hierarchical binding has several)."""
    deeper = orm.aliased(_Level)
    return sa.not_(
        sa.exists().where(
            deeper.port_id == level.port_id,
            deeper.host == level.host,
            deeper.level > level.level,
        )
    )


def _located(arms: Sequence[Any]) -> list[Located]:
    return _group(_fetch(sa.union_all(*arms)))


def _group(rows: Sequence[Any]) -> list[Located]:
    """Rows of one address each as one place each. Ten thousand rows are usual: 3 µs a row."""
    now = timeutils.utcnow()
    ha = {row[1] for row in rows if row[0] == _HA}
    bound_to: dict[str, str] = {}
    places: dict[tuple[str, str], Any] = {}
    ips: dict[str, tuple[str, ...]] = {}
    allowed: dict[str, tuple[str, ...]] = {}
    for row in rows:
        arm, port_id, host, _, _, _, _, ip, _, _ = row
        if arm == _ALLOWED:
            allowed[port_id] = (*allowed.get(port_id, ()), ip)
            continue
        if arm == _BOUND:
            bound_to[port_id] = host
            if ip is not None:
                ips[port_id] = (*ips.get(port_id, ()), ip)
        places.setdefault((port_id, host or ""), row)
    found = []
    for (port_id, host), row in places.items():
        arm, _, _, owner, status, enabled, mac, _, revision, changed = row
        if arm == _DISTRIBUTED:
            kind = Kind.DISTRIBUTED
        elif port_id in ha or owner == n_const.DEVICE_OWNER_HA_REPLICATED_INT:
            kind = Kind.HA
        else:
            kind = Kind.ORDINARY
        found.append(
            Located(
                port_id,
                host,
                kind,
                status == ACTIVE,
                bool(enabled and host) and (kind is Kind.HA or status in _UP),
                mac,
                revision,
                0.0 if changed is None else (now - changed).total_seconds(),
                ips.get(port_id, ()) if kind is Kind.ORDINARY else (),
                single_addresses(allowed[port_id]) if port_id in allowed else (),
                bound_to.get(port_id) == host,
                kind is Kind.ORDINARY and owner in _ROUTER_OWNERS,
            )
        )
    return found


def single_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that are one address, in order. A whole subnet says nothing about any one of it."""
    found = set()
    for text in addresses:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        if network.num_addresses == 1 and int(network.network_address):
            found.add(str(network.network_address))
    return tuple(sorted(found))


@db_api.retry_db_errors
def _fetch(statement: Any) -> Sequence[Any]:
    """All rows, in a transaction of its own: what others have committed by now."""
    context = n_context.get_admin_context()
    with db_api.CONTEXT_READER.using(context):
        rows: Sequence[Any] = context.session.execute(statement).all()
    return rows

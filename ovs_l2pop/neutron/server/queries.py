"""Where ports are, and who has a network: narrow queries, a constant number of them.

No ORM entity is loaded: one of Neutron's ports brings nine relations with it. All that is asked of
ports is one UNION over the three ways in which a port can be at a host:

* bound: the ACTIVE row of ``ml2_port_bindings``;
* distributed: a row per host of ``ml2_distributed_port_bindings``, each with its own status;
* HA: on every host whose L3 agent the router is scheduled to (``ha_router_agent_port_bindings``),
  once one of them has become active, which is when the port is bound. It stays there whatever its
  status: DOWN and BUILD are stages of every failover.
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

from ovs_l2pop.messages import Segment
from ovs_l2pop.neutron.protocol import EXTENSION
from ovs_l2pop.neutron.server.agents import AgentRow
from ovs_l2pop.neutron.server.decisions import ACTIVE, BUILD, Kind

_HA_OWNERS = (n_const.DEVICE_OWNER_HA_REPLICATED_INT, n_const.DEVICE_OWNER_ROUTER_SNAT)

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


class HostNetwork(NamedTuple):
    """A network that a host has a port in."""

    network_id: str
    segment: Segment


def is_ha_router(router_id: str) -> bool:
    """Whether the router is highly available."""
    model = l3_attrs.RouterExtraAttributes
    found = sa.select(model.router_id).where(model.router_id == router_id, model.ha.is_(sa.true()))
    return bool(_fetch(found))


def agents_of(host: str) -> tuple[list[AgentRow], bool]:
    """Agents of a host, and whether any agent of the cloud speaks our protocol."""
    # The column is JSON text. LIKE takes the name's underscore for any character; a match too many
    # only means casts by name instead of a fanout.
    other = orm.aliased(_Agent)
    any_ours = sa.exists().where(other.configurations.like(f'%"{EXTENSION}"%'))
    # The host may have no agent: the outer join keeps the row that answers the second question.
    one = sa.select(any_ours.label("ours")).subquery()
    statement = sa.select(
        _Agent.host, _Agent.configurations, _Agent.heartbeat_timestamp, one.c.ours
    ).select_from(one.outerjoin(_Agent, _Agent.host == host))
    rows = _fetch(statement)
    found = [AgentRow(row[0], row[1], row[2]) for row in rows if row[0] is not None]
    return found, any(row[3] for row in rows)


def agents_on(hosts: Iterable[str]) -> list[AgentRow]:
    """Agents of these hosts."""
    wanted = list(hosts)
    if not wanted:
        return []
    statement = sa.select(_Agent.host, _Agent.configurations, _Agent.heartbeat_timestamp)
    rows = _fetch(statement.where(_Agent.host.in_(wanted)))
    return [AgentRow(*row) for row in rows]


def agents_in(network_id: str) -> list[AgentRow]:
    """Agents of all hosts that have a port in the network which is up or on its way up."""
    arms = _arms([_Port.network_id == network_id], versions=False)[:3]
    hosts = sa.union(*(arm.with_only_columns(arm.selected_columns.host) for arm in arms))
    # A join, not IN: MariaDB evaluates a UNION inside IN once for each agent (34 s for 1,000).
    there = hosts.subquery()
    statement = sa.select(_Agent.host, _Agent.configurations, _Agent.heartbeat_timestamp)
    rows = _fetch(statement.join(there, there.c.host == _Agent.host))
    return [AgentRow(*row) for row in rows]


def ports_in(network_id: str, *, allowed: bool = False) -> list[Located]:
    """Ports that are present in a network; with the addresses that they may use besides."""
    return _located(_arms([_Port.network_id == network_id])[: 4 if allowed else 3])


def ports_at(host: str, network_id: str) -> list[Located]:
    """Ports that are present in a network at a host."""
    return _located(_arms([_Port.network_id == network_id], lambda at: at == host)[:3])


def ports_off(host: str, network_id: str) -> list[Located]:
    """Ports that are present in a network at other hosts; revision and age are left out."""
    where = [_Port.network_id == network_id]
    return _located(_arms(where, lambda at: at != host, versions=False)[:3])


def port(port_id: str) -> list[Located]:
    """All places of a port, also where it is not present; none at all if it was deleted."""
    return _located(_arms([_Port.id == port_id], present=False))


def networks_of(host: str) -> list[HostNetwork]:
    """Networks that a host has a port in, up or not, bound or about to be (live migration)."""
    columns = (_Port.network_id, _SegmentRow.network_type, _SegmentRow.segmentation_id)
    segment = _Level.segment_id == _SegmentRow.id
    bound = (
        sa.select(*columns)
        .select_from(_Port)
        .join(_Level, _Level.port_id == _Port.id)
        .join(_SegmentRow, segment)
        .where(_Level.host == host)
    )
    scheduled = (
        sa.select(*columns)
        .select_from(_Port)
        .join(_Scheduled, _Scheduled.router_id == _Port.device_id)
        .join(_Agent, _Agent.id == _Scheduled.l3_agent_id)
        .join(_Level, _Level.port_id == _Port.id)
        .join(_SegmentRow, segment)
        .where(_Agent.host == host, _Port.device_owner.in_(_HA_OWNERS))
    )
    rows = _fetch(sa.union(bound, scheduled))
    return [HostNetwork(row[0], Segment(row[1], row[2])) for row in rows if row[2] is not None]


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
    where: Sequence[Any],
    at: Callable[[Any], Any] | None = None,
    *,
    present: bool = True,
    versions: bool = True,
) -> list[Any]:
    """The three SELECTs of places, and a fourth of allowed addresses.

    :param at: a condition on the host.
    :param present: leave out places where the port is not present.
    :param versions: find out the ports' revisions and ages, at the price of one more table.
    """
    revision: Any = sa.literal(0)
    changed: Any = _NOTHING
    if versions:
        revision = _Standard.revision_number
        changed = sa.func.coalesce(_Standard.updated_at, _Standard.created_at)

    def columns(arm: int, host: Any, status: Any, ip: Any) -> list[Any]:
        return [
            sa.literal(arm).label("arm"),
            _Port.id.label("port_id"),
            host.label("host"),
            _Port.device_owner.label("owner"),
            status.label("status"),
            _Port.admin_state_up.label("admin"),
            _Port.mac_address.label("mac"),
            ip.label("ip"),
            revision.label("revision"),
            changed.label("changed"),
        ]

    def places(arm: int, host: Any, status: Any, ip: Any = _NOTHING) -> Any:
        source = sa.select(*columns(arm, host, status, ip)).select_from(_Port)
        return source.join(_Standard, standard) if versions else source

    standard = _Standard.id == _Port.standard_attr_id
    is_distributed = _Port.device_owner == n_const.DEVICE_OWNER_DVR_INTERFACE
    is_ha = _Port.device_owner == n_const.DEVICE_OWNER_HA_REPLICATED_INT
    active_binding = sa.and_(_Bound.port_id == _Port.id, _Bound.status == ACTIVE)

    bound = (
        places(_BOUND, _Bound.host, _Port.status, _Address.ip_address)
        .join(_Bound, active_binding, isouter=not present)
        .outerjoin(_Address, _Address.port_id == _Port.id)
        .where(sa.not_(is_distributed))
    )
    distributed = (
        places(_DISTRIBUTED, _Distributed.host, _Distributed.status)
        .join(_Distributed, _Distributed.port_id == _Port.id)
        .where(is_distributed, _Distributed.host != "")
    )
    scheduled = (
        places(_HA, _Agent.host, _Port.status)
        .join(_Scheduled, _Scheduled.router_id == _Port.device_id)
        .join(_Agent, _Agent.id == _Scheduled.l3_agent_id)
        .join(_Bound, sa.and_(active_binding, _Bound.host != ""))
        .where(_Port.device_owner.in_(_HA_OWNERS))
    )
    allowed = places(_ALLOWED, _NOTHING, _Port.status, _Allowed.ip_address).join(
        _Allowed, _Allowed.port_id == _Port.id
    )
    if present:
        bound = bound.where(_Bound.host != "", sa.or_(_Port.status.in_(_UP), is_ha))
        distributed = distributed.where(_Distributed.status.in_(_UP))
        where = [*where, _Port.admin_state_up.is_(sa.true())]
    if at is not None:
        bound = bound.where(at(_Bound.host))
        distributed = distributed.where(at(_Distributed.host))
        scheduled = scheduled.where(at(_Agent.host))
    return [arm.where(*where) for arm in (bound, distributed, scheduled, allowed)]


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
        arm, _, _, owner, status, admin, mac, _, revision, changed = row
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
                bool(admin and host) and (kind is Kind.HA or status in _UP),
                mac,
                revision,
                0.0 if changed is None else (now - changed).total_seconds(),
                ips.get(port_id, ()) if kind is Kind.ORDINARY else (),
                single_addresses(allowed[port_id]) if port_id in allowed else (),
                bound_to.get(port_id) == host,
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

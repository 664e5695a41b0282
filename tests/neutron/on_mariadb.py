"""Runs the driver's statements on the MariaDB whose URL is the argument, which it fills.

A program of its own: Neutron's tests have SQLite in this place. Prints what it measured.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import neutron.tests.unit  # noqa: F401 - chooses oslo.service's backend, before all else
import sqlalchemy as sa
from cost_helpers import fill, metered
from neutron.db import models_v2
from neutron.db.migration.models import head
from neutron.db.models import segment as segment_model
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from oslo_config import cfg
from oslo_db import options
from oslo_utils import uuidutils

from ovs_l2pop.core.messages import Segment
from ovs_l2pop.neutron.server import queries
from ovs_l2pop.neutron.server.agents import Agent, Language
from ovs_l2pop.neutron.server.decisions import Appear, Kind, Vanish, View
from ovs_l2pop.neutron.server.memory import Memory
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.publisher import Publisher
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.neutron.server.sync import SyncEndpoint

HOSTS, PORTS, HOST = 1000, 10, "host-1"


def publisher() -> Publisher:
    return Publisher(Sink(), Memory(), Roster(lambda: 0.0))


class Sink(Notifier):
    """Casts nothing."""

    def __init__(self) -> None:
        pass

    def upstream(self, *_: Any) -> None:
        pass

    def ours(self, *_: Any) -> None:
        pass


def main(url: str) -> None:
    cfg.CONF([], project="neutron")
    options.set_defaults(cfg.CONF, connection=url)
    with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
        head.get_metadata().create_all(session.get_bind())
    network, segment_row = uuidutils.generate_uuid(), uuidutils.generate_uuid()
    subnet = uuidutils.generate_uuid()
    with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
        for number, kind in enumerate(("networks", "subnets", "networksegments"), 1):
            values = {"id": number, "resource_type": kind, "revision_number": 0}
            session.execute(sa.insert(standard_attr.StandardAttribute).values(values))
        net = {"id": network, "standard_attr_id": 1, "mtu": 1500}
        session.execute(sa.insert(models_v2.Network).values(net))
        body = {"id": subnet, "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/16"}
        session.execute(sa.insert(models_v2.Subnet).values(body | {"standard_attr_id": 2}))
        segment = {"id": segment_row, "network_id": network, "network_type": "vxlan"}
        more = {"segmentation_id": 1001, "segment_index": 0, "standard_attr_id": 3}
        session.execute(sa.insert(segment_model.NetworkSegment).values(segment | more))
    cloud: Any = SimpleNamespace(net=network, subnet_id=subnet)
    fill(cloud, HOSTS, PORTS)
    where = NetworkSegment(network, Segment("vxlan", 1001))
    several = where._replace(row=segment_row)
    for at in (where, several):
        print("one segment" if at.row is None else "several segments")
        assert len(measure("ports of the network", queries.ports_in, at)) == HOSTS * PORTS
        found = measure("with allowed addresses", queries.ports_in, at, allowed=True)
        assert len(found) == HOSTS * PORTS
        port, *_others = measure("ports of a host", queries.ports_at, HOST, at)
        assert len(_others) == PORTS - 1
        found = measure("table of the others", queries.table_for, HOST, at)
        assert len(found) == (HOSTS - 1) * PORTS
        for disabled in (False, True):
            name = f"hosts that have it{' disabled' * disabled}"
            assert len(measure(name, queries.agents_in, at, disabled=disabled)) == HOSTS
        assert measure("a port", queries.port, port.port_id, at)[0].present
        entry = (port.port_id, network, Kind.ORDINARY, HOST, "ACTIVE", port.mac, port.ips)
        measure("first port of a host", publish, Appear(View(*entry)), at)
        measure("port goes", publish, Vanish(View(*entry)), at)
    print("other")
    assert measure("segments of a host", queries.segments_of, HOST) == [where]
    assert measure("a host", queries.host, HOST).agents
    assert measure("and its port's segment", queries.host, HOST, port.port_id).bound == where
    assert not measure("an HA router?", queries.is_ha_router, network)
    assert not measure("hosts of an HA router", queries.ha_hosts, network)
    measure("sync of a host", lambda: SyncEndpoint().sync(None, HOST, {network: ""}))
    agent = Agent(HOST, "20.1.0.2", frozenset({"vxlan"}), Language.UPSTREAM)
    measure("agent's row deleted", publisher().host_changed, agent, None)


def measure(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    call(*args, **kwargs)  # compiled and cached
    with metered() as meter:
        result = call(*args, **kwargs)
    figures = f"{meter.statements:3} statements {meter.seconds * 1e3:5.0f} ms"
    print(f"  {name:32} {figures}, {meter.cpu * 1e3:4.0f} ms of it not MariaDB's")
    return result


def publish(step: Any, at: NetworkSegment) -> None:
    publisher().publish(step, at)


if __name__ == "__main__":
    main(sys.argv[1])

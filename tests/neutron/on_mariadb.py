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
from neutron.plugins.ml2 import models as ml2_models
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
#: Others' networks, and ports of each: of the cloud's 100,000 bindings those that nobody asks for.
NETWORKS, THEIRS = 900, 100


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
    others = strangers()[:20]
    for what, count in syncs(others).items():
        print(
            f"  sync of 20 networks, {what}: {count} rows examined, {20 * THEIRS} ports asked for"
        )
        # Some tables for each port; a scan of anything would be 100,000.
        assert count < 15 * 20 * THEIRS
    agent = Agent(HOST, "20.1.0.2", frozenset({"vxlan"}), Language.UPSTREAM)
    measure("agent's row deleted", publisher().host_changed, agent, None)


def strangers() -> list[str]:
    """Other networks, whose ports are bound to the same hosts."""
    networks = []
    rows: dict[Any, list[dict[str, Any]]] = {model: [] for model in _STRANGERS}
    for number in range(NETWORKS):
        network, segment = uuidutils.generate_uuid(), uuidutils.generate_uuid()
        networks.append(network)
        base = 10**7 + number * (THEIRS + 2)
        standard = [{"id": base + n, "resource_type": "x"} for n in range(THEIRS + 2)]
        rows[standard_attr.StandardAttribute] += standard
        rows[models_v2.Network].append({"id": network, "standard_attr_id": base, "mtu": 1500})
        rows[segment_model.NetworkSegment].append(
            {
                "id": segment,
                "network_id": network,
                "network_type": "vxlan",
                "segmentation_id": 2000 + number,
                "segment_index": 0,
                "standard_attr_id": base + 1,
            }
        )
        for n in range(THEIRS):
            port, host = uuidutils.generate_uuid(), f"host-{(number + 9 * n) % HOSTS}"
            rows[models_v2.Port].append(
                {
                    "id": port,
                    "network_id": network,
                    "mac_address": f"fa:16:3f:{number >> 8:02x}:{number & 255:02x}:{n:02x}",
                    "admin_state_up": True,
                    "status": "ACTIVE",
                    "device_id": "vm",
                    "device_owner": "compute:nova",
                    "standard_attr_id": base + 2 + n,
                }
            )
            here = {"port_id": port, "host": host}
            rows[ml2_models.PortBinding].append(here | {"vif_type": "ovs"})
            rows[ml2_models.PortBindingLevel].append(
                here | {"level": 0, "driver": "openvswitch", "segment_id": segment}
            )
    with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
        for model, values in rows.items():
            for start in range(0, len(values), 10_000):
                session.execute(sa.insert(model), values[start : start + 10_000])
    with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
        for model in rows:
            session.execute(sa.text(f"ANALYZE TABLE {model.__tablename__}"))
    return networks


_STRANGERS = (
    standard_attr.StandardAttribute,
    models_v2.Network,
    segment_model.NetworkSegment,
    models_v2.Port,
    ml2_models.PortBinding,
    ml2_models.PortBindingLevel,
)


def syncs(networks: list[str]) -> dict[str, int]:
    """Rows that are examined when a host asks for these, and for one that there isn't."""
    endpoint = SyncEndpoint()
    asked = dict.fromkeys([*networks, uuidutils.generate_uuid()], "")
    return {
        what: examined(lambda: endpoint.sync(None, HOST, asked, own=True))
        for what in ("first to ask", "once more")
    }


def examined(call: Callable[[], Any]) -> int:
    """Rows that the storage engines were asked for, by everybody: there is nobody else."""
    before = _handled()
    call()
    return _handled() - before


def _handled() -> int:
    with db_api.CONTEXT_READER.using(n_context.get_admin_context()) as session:
        status = session.execute(sa.text("SHOW GLOBAL STATUS LIKE 'Handler_read_%'")).all()
    return sum(int(count) for name, count in status if name != "Handler_read_rnd_deleted")


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

"""Large networks, written straight into the database, and what asking it costs."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import sqlalchemy as sa
from cloud_helpers import COMPUTE, Cloud
from neutron.db import models_v2
from neutron.db.models import agent as agent_model
from neutron.db.models import segment as segment_model
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from oslo_serialization import jsonutils
from oslo_utils import timeutils, uuidutils


class Meter:
    statements: int = 0
    #: Of JSON, such as agents' reports.
    decoded: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    meter = Meter()
    loads = json.loads

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        meter.statements += statement != "BEGIN"  # SQLite's driver has to be told

    def decode(*args: Any, **kwargs: Any) -> Any:
        meter.decoded += 1
        return loads(*args, **kwargs)

    engine = db_api.get_writer_session().get_bind()
    sa.event.listen(engine, "before_cursor_execute", count)
    begun, cpu = time.perf_counter(), time.thread_time()
    try:
        with mock.patch.object(json, "loads", decode):
            yield meter
    finally:
        meter.seconds = time.perf_counter() - begun
        meter.cpu = time.thread_time() - cpu
        sa.event.remove(engine, "before_cursor_execute", count)


def fill(cloud: Cloud, hosts: int, ports_each: int) -> None:
    """Give the cloud's network hosts with ports that are up."""
    now = timeutils.utcnow()
    configurations = {
        "tunnel_types": ["vxlan"],
        "l2_population": True,
        "extensions": ["qos"],
        "bridge_mappings": {f"physnet{i}": f"br-{i}" for i in range(20)},
    }
    rows: dict[Any, list[dict[str, Any]]] = {
        model: []
        for model in (
            agent_model.Agent,
            standard_attr.StandardAttribute,
            models_v2.Port,
            models_v2.IPAllocation,
            ml2_models.PortBinding,
            ml2_models.PortBindingLevel,
        )
    }
    context = n_context.get_admin_context()
    with db_api.CONTEXT_WRITER.using(context) as session:
        query = session.query(segment_model.NetworkSegment)
        segment_id = query.filter_by(network_id=cloud.net, segment_index=0).one().id
        for host in range(hosts):
            rows[agent_model.Agent].append(
                {
                    "id": uuidutils.generate_uuid(),
                    "agent_type": "Open vSwitch agent",
                    "binary": "neutron-openvswitch-agent",
                    "topic": "N/A",
                    "host": f"host-{host}",
                    "load": 0,
                    "created_at": now,
                    "started_at": now,
                    "heartbeat_timestamp": now,
                    "configurations": jsonutils.dumps(
                        configurations | {"tunneling_ip": f"20.1.{host // 250}.{host % 250 + 1}"}
                    ),
                }
            )
            for number in range(ports_each):
                index = host * ports_each + number
                port_id, standard = uuidutils.generate_uuid(), 10**6 + index
                mac = f"fa:16:3e:{index >> 16:02x}:{index >> 8 & 255:02x}:{index & 255:02x}"
                here = {"port_id": port_id, "host": f"host-{host}"}
                rows[standard_attr.StandardAttribute].append(
                    {"id": standard, "resource_type": "ports"}
                )
                rows[models_v2.Port].append(
                    {
                        "id": port_id,
                        "network_id": cloud.net,
                        "mac_address": mac,
                        "admin_state_up": True,
                        "status": "ACTIVE",
                        "device_id": "vm",
                        "device_owner": COMPUTE,
                        "standard_attr_id": standard,
                    }
                )
                rows[models_v2.IPAllocation].append(
                    {
                        "port_id": port_id,
                        "ip_address": f"10.0.{16 + index // 250}.{index % 250 + 1}",
                        "subnet_id": cloud.subnet_id,
                        "network_id": cloud.net,
                    }
                )
                rows[ml2_models.PortBinding].append(here | {"vif_type": "ovs"})
                rows[ml2_models.PortBindingLevel].append(
                    here | {"level": 0, "driver": "openvswitch", "segment_id": segment_id}
                )
        for model, values in rows.items():
            session.execute(sa.insert(model), values)

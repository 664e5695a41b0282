"""A small cloud on one machine: real Neutron on hosts of :class:`l2pop_lab.topology.Lab`.

::

      control plane (a namespace)            h1 (a namespace)         h2
     ┌──────────────────────────────┐       ┌──────────────────┐     ┌──────────────────┐
     │ MariaDB                      │       │ vm1 ─ br-int     │     │     br-int ─ vm2 │
     │ RabbitMQ 10.201.0.254:5672   │       │       br-tun     │     │     br-tun       │
     │ neutron API (uwsgi)          │       │ neutron-         │     │ neutron-         │
     │ neutron-rpc-server           │       │ openvswitch-agent│     │ openvswitch-agent│
     │ neutron-periodic-workers     │       │                  │     │                  │
     │           br-mgmt            │       │ mgmt0     br-phy │     │ mgmt0     br-phy │
     └──────────────┬───────────────┘       └───┬─────────┬────┘     └───┬─────────┬────┘
                    └── 10.201.0.0/24 ──────────┴─────────│──────────────┘         │
                                                underlay ─┴────────────────────────┘

The management network is not the underlay: a restart of a host's Open vSwitch doesn't cut its
agent off from RabbitMQ, and a capture on the underlay holds tunnels only. Nothing is in the root
namespace: API and database are reached by unix sockets.

::

    with Cloud([STOCK, STOCK], UPSTREAM, installation, template) as cloud:
        one, two = cloud.nodes
        network = cloud.create_network("10.0.0.0/24")
        a = cloud.boot(network, one)
        b = cloud.boot(network, two)
        a.machine.ping(b.ip)
"""

from neutronlab.api import ApiError, NeutronApi
from neutronlab.cloud import OURS_DRIVERS, UPSTREAM, Cloud
from neutronlab.control import ControlPlane
from neutronlab.daemon import DAEMON, DaemonNode
from neutronlab.database import Database, Template
from neutronlab.forwarding import Flow, Forwarding
from neutronlab.installation import Installation
from neutronlab.messages import Message, Messages
from neutronlab.node import OURS, STOCK, AgentKind, Node
from neutronlab.things import Instance, Network, Port
from neutronlab.waiting import wait_until

__all__ = [
    "DAEMON",
    "OURS",
    "OURS_DRIVERS",
    "STOCK",
    "UPSTREAM",
    "AgentKind",
    "ApiError",
    "Cloud",
    "ControlPlane",
    "DaemonNode",
    "Database",
    "Flow",
    "Forwarding",
    "Installation",
    "Instance",
    "Message",
    "Messages",
    "Network",
    "NeutronApi",
    "Node",
    "Port",
    "Template",
    "wait_until",
]

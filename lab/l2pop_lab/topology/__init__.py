"""A laboratory of VXLAN hosts on one machine, with real switches and real frames.

``ovs-l2pop demo`` and all functional tests run in it::

    with Lab(hosts=2) as lab:
        one, two = lab.hosts
        vm = one.add_machine("vm1", "fa:16:3e:00:00:01", "10.0.0.1", tag=1)
        agent = one.start_agent()
        ...

What hosts are made of::

    lab.py         several hosts and the underlay between them
    host.py        one with Open vSwitch        linuxhost.py   one with the kernel's bridges
    machine.py     a machine in a bridge        agent.py       the agent under test
    place.py       what they have in common: a namespace and a directory
    ovs.py         a host's database server and switch daemon
    namespaces.py  network namespaces, and work inside them
    processes.py   processes that can be ended for certain
    running.py     something that runs until it is stopped
    manifest.py    what was made, on disk, so that anyone can take it away
    interrupts.py  Ctrl-C and its like

What goes over the wire::

    craft.py       frames to send, byte by byte                             pure
    frames.py      frames as far as L2 population is concerned with them    pure
    capture.py     frames as they pass a device
    ping.py        pings as numbers
"""

from l2pop_lab.errors import LabError
from l2pop_lab.topology.agent import AgentProcess
from l2pop_lab.topology.capture import Capture, CapturedFrame
from l2pop_lab.topology.host import Host
from l2pop_lab.topology.lab import Lab
from l2pop_lab.topology.linuxhost import LinuxBridgeHost
from l2pop_lab.topology.machine import Machine
from l2pop_lab.topology.manifest import destroy, left_behind
from l2pop_lab.topology.ping import PingResult, RunningPing

__all__ = [
    "AgentProcess",
    "Capture",
    "CapturedFrame",
    "Host",
    "Lab",
    "LabError",
    "LinuxBridgeHost",
    "Machine",
    "PingResult",
    "RunningPing",
    "destroy",
    "left_behind",
]

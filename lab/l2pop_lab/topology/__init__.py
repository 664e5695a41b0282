"""A laboratory of VXLAN hosts on one machine, with real switches and real frames.

``ovs-l2pop demo`` and all functional tests run in it::

    with Lab(hosts=2) as lab:
        one, two = lab.hosts
        vm = one.add_machine("vm1", "fa:16:3e:00:00:01", "10.0.0.1", tag=1)
        agent = one.start_agent()
        ...
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

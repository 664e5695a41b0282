"""A laboratory of VXLAN hosts on one machine, with real switches and real frames.

``ovs-l2pop demo`` and all functional tests run in it::

    with Lab(hosts=2) as lab:
        one, two = lab.hosts
        vm = one.add_machine("vm1", "fa:16:3e:00:00:01", "10.0.0.1", tag=1)
        agent = one.start_agent()
        ...
"""

from ovs_l2pop.lab.agent import AgentProcess
from ovs_l2pop.lab.capture import Capture, CapturedFrame
from ovs_l2pop.lab.errors import LabError
from ovs_l2pop.lab.host import Host
from ovs_l2pop.lab.linuxhost import LinuxBridgeHost
from ovs_l2pop.lab.machine import Machine
from ovs_l2pop.lab.manifest import destroy, left_behind
from ovs_l2pop.lab.ping import PingResult, RunningPing
from ovs_l2pop.lab.topology import Lab

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

"""What a comparison ran on."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from l2pop_lab.compare.results import Environment

DATAPATH = "userspace (netdev)"
"""What the laboratory gives to Open vSwitch on every machine, with a kernel module or without."""


def begin(command: str) -> Environment:
    """Describe the machine before anything runs on it."""
    load = os.getloadavg()[0]
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        command=command,
        version=version("ovs-l2pop"),
        python=platform.python_version(),
        kernel=f"{platform.system()} {platform.release()}",
        system=_field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        processor=_field("/proc/cpuinfo", "model name", ":") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int(_field("/proc/meminfo", "MemTotal", ":").split()[0]) // 1024,
        load_before=load,
        load_after=load,
        openvswitch=_first_line("ovs-vswitchd", "--version"),
        datapath=DATAPATH,
        iproute2=_first_line("ip", "-V"),
    )


def load() -> float:
    """Processes that ran or waited, average of the last minute."""
    return os.getloadavg()[0]


def _field(path: str, name: str, separator: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return ""


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (done.stdout or done.stderr).partition("\n")[0].strip()

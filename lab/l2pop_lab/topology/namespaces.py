"""Named network namespaces, and how to run code and commands inside them.

Links and addresses are made with ``ip -batch``: one process for a whole list of lines, and each
line is what a reader would type by hand.
"""

import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from l2pop_lab.errors import LabError

T = TypeVar("T")

NAMESPACE_DIRECTORY = Path("/run/netns")


def ip_batch(lines: Iterable[str], namespace: str | None = None, *, force: bool = False) -> None:
    """Run lines of ``ip`` in *namespace* (None: the current one).

    :param force: go on after a line that fails, and don't complain.
    :raises LabError: with what ``ip`` says; it names the number of the line.
    """
    lines = list(lines)
    argv = ["ip"]
    argv += ["-n", namespace] if namespace else []
    argv += ["-force"] if force else []
    argv += ["-batch", "-"]
    done = subprocess.run(
        argv, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True
    )
    if done.returncode and not force:
        numbered = "\n".join(f"  {number}: {line}" for number, line in enumerate(lines, 1))
        raise LabError(f"{' '.join(argv)} failed: {done.stderr.strip()}\n{numbered}")


def exists(namespace: str) -> bool:
    """Tell whether a namespace of this name exists."""
    return (NAMESPACE_DIRECTORY / namespace).exists()


def delete(namespaces: Iterable[str]) -> None:
    """Delete those of *namespaces* that exist."""
    present = [name for name in namespaces if exists(name)]
    if present:
        ip_batch((f"netns delete {name}" for name in present), force=True)


def command(namespace: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs *argv* in *namespace*; the process id stays the same."""
    return ["ip", "netns", "exec", namespace, *argv]


def call(namespace: str, function: Callable[[], T]) -> T:
    """Call *function* inside *namespace* and return its value or raise its exception.

    A namespace belongs to a thread, and a socket stays in the one that it was opened in: so a
    short thread moves there, opens what is needed and ends, and the caller never moves.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            netns.setns(namespace)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, name=f"in {namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def set_sysctls(namespace: str, values: Mapping[str, object]) -> None:
    """Write *values*, keyed by the path below ``/proc/sys``, in *namespace*."""

    def write() -> None:
        for key, value in values.items():
            Path("/proc/sys", key).write_text(str(value))

    call(namespace, write)


def offloads_off(namespace: str, *devices: str) -> None:
    """Have the kernel fill in checksums before frames leave *devices*.

    A veth leaves them to hardware that isn't there; OVS in userspace would carry the frames on
    as they are and the receiver drop every TCP and UDP segment.
    """
    script = 'for device in "$@"; do ethtool -K "$device" tx off >/dev/null || exit 1; done'
    done = subprocess.run(
        command(namespace, ["sh", "-c", script, "sh", *devices]), capture_output=True, text=True
    )
    if done.returncode:
        raise LabError(f"ethtool -K … tx off in {namespace} failed: {done.stderr.strip()}")


def processes_in(namespaces: Iterable[str]) -> set[int]:
    """Return the ids of the processes whose network namespace is one of *namespaces*.

    This process is never among them, wherever it is.
    """
    wanted = set()
    for name in namespaces:
        try:
            status = (NAMESPACE_DIRECTORY / name).stat()
        except FileNotFoundError:
            continue
        wanted.add((status.st_dev, status.st_ino))
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            status = os.stat(f"/proc/{entry}/ns/net")
        except OSError:  # it ended meanwhile, or is a kernel thread
            continue
        if (status.st_dev, status.st_ino) in wanted:
            found.add(int(entry))
    return found

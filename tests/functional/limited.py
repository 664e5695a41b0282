"""``limited.py UNIT COMMAND…``: run a command as the user, with the capabilities and the system
calls that a systemd unit leaves it, without systemd.
"""

import os
import subprocess
import sys
from pathlib import Path

INNER = "--inner"
#: The first of those that systemd gives to a unit with DynamicUser.
DYNAMIC_USER = 61184


def settings(unit: Path, key: str) -> list[str]:
    """All values of a key, in their order."""
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def system_calls(unit: Path) -> set[str]:
    """The names that its filter allows; of groups, what systemd has in them."""
    allowed: set[str] = set()
    for value in settings(unit, "SystemCallFilter"):
        names: set[str] = set()
        for word in value.removeprefix("~").split():
            names |= _group(word) if word.startswith("@") else {word}
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


def _group(name: str) -> set[str]:
    command = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: set[str] = set()
    for word in (line.strip() for line in text.splitlines()[1:]):
        if word.startswith("@"):
            found |= _group(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def main(arguments: list[str]) -> None:
    if arguments[0] != INNER:
        (allowed,) = settings(Path(arguments[0]), "CapabilityBoundingSet")
        names = [f"+{name.removeprefix('CAP_').lower()}" for name in allowed.split()]
        bounds = ",".join(["-all", *names])
        command = ["setpriv", f"--bounding-set={bounds}", "--no-new-privs"]
        if settings(Path(arguments[0]), "DynamicUser") == ["yes"]:
            user = [f"--re{kind}={DYNAMIC_USER}" for kind in ("uid", "gid")]
            command += [*user, "--clear-groups", f"--inh-caps={bounds}", f"--ambient-caps={bounds}"]
        os.execvp(command[0], [*command, sys.executable, __file__, INNER, *arguments])
    import pyseccomp

    _, unit, *command = arguments
    # Of what is not allowed the process dies, as under systemd.
    calls = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS)
    for name in system_calls(Path(unit)):
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            calls.add_rule(pyseccomp.ALLOW, name)
    calls.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

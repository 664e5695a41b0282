"""Programs of extended BPF for traffic control: assembled here, loaded by bpf(2).

They are of a few dozen instructions, so no compiler is worth its while, and a program is the same
bytes wherever it is loaded: the kernel's tag of it, a hash, tells whether a filter has it.

Numbers are those of ``linux/bpf.h`` and ``linux/bpf_common.h``.
"""

import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

_PROG_LOAD, _SCHED_CLS = 5, 3
#: The system call's number, which the C library doesn't know.
_SYSCALLS = {"x86_64": 321, "s390x": 351, "ppc64le": 361}
_SYSCALL_ELSEWHERE = 280  # asm-generic/unistd.h: aarch64, riscv64, loongarch64
_INSTRUCTION = struct.Struct("=BBhi")
_ATTRIBUTES = struct.Struct("=IIQQIIQII16s")  # union bpf_attr, up to prog_name
_CONTEXT, _A, _X = 6, 0, 7  # registers: loads from the frame want the first two

# Fields of struct __sk_buff: offsets.
ENTERED_BY, DEVICE, TC_INDEX, TC_CLASS = 36, 40, 44, 72


class Step(NamedTuple):
    """An instruction; *to* is the label that it may jump to. What is loaded is in A."""

    code: int
    value: int = 0
    to: str = ""
    destination: int = _A
    source: int = 0
    offset: int = 0


Code = tuple[Step | str, ...]
"""Instructions, and labels in front of some."""


def byte(offset: int) -> Step:
    """Load from the frame; where that ends before, the program ends with 0."""
    return Step(0x30, offset)


def half(offset: int) -> Step:
    """Load two bytes from the frame."""
    return Step(0x28, offset)


def word(offset: int) -> Step:
    """Load four bytes from the frame."""
    return Step(0x20, offset)


def field(offset: int) -> Step:
    """Load what the kernel knows of the frame."""
    return Step(0x61, source=_CONTEXT, offset=offset)


def tell(offset: int, value: int) -> Code:
    """Have the kernel know that of the frame."""
    return load(value), Step(0x63, destination=_CONTEXT, offset=offset)


def load(value: int) -> Step:
    """Load a number."""
    return Step(0xB7, value)


def keep() -> Step:
    """Copy A to X."""
    return Step(0xBF, destination=_X)


def gather() -> Step:
    """Set in X the bits of A."""
    return Step(0x4F, destination=_X)


def mask(bits: int) -> Step:
    """Keep these bits of A."""
    return Step(0x57, bits)


def jump(to: str) -> Step:
    """Go on there."""
    return Step(0x05, to=to)


def equal(value: int, to: str) -> Step:
    """Jump if A is that."""
    return Step(0x15, value, to)


def differs(value: int, to: str) -> Step:
    """Jump if A isn't that."""
    return Step(0x55, value, to)


def kept_is(value: int, to: str) -> Step:
    """Jump if X is that."""
    return Step(0x15, value, to, destination=_X)


def kept_equal(to: str) -> Step:
    """Jump if A and X are the same."""
    return Step(0x1D, to=to, source=_X)


def kept_differs(to: str) -> Step:
    """Jump if A and X are not the same."""
    return Step(0x5D, to=to, source=_X)


def end(value: int) -> Code:
    """End the program with that."""
    return load(value), Step(0x95)


def assemble(code: Iterable[Step | str]) -> bytes:
    """The instructions as the kernel takes them."""
    steps = [Step(0xBF, destination=_CONTEXT, source=1)]  # where a program finds its frame
    labels: dict[str, int] = {}
    for item in code:
        if isinstance(item, str):
            labels[item] = len(steps)
        else:
            steps.append(item)
    return b"".join(
        _INSTRUCTION.pack(
            step.code,
            step.source << 4 | step.destination,
            labels[step.to] - at - 1 if step.to else step.offset,
            step.value,
        )
        for at, step in enumerate(steps)
    )


class Program(NamedTuple):
    """A program in the kernel, where it stays as long as this process or a filter has it."""

    descriptor: int
    tag: bytes


@cache
def loaded(name: str, instructions: bytes) -> Program:
    """Load a program once for all filters; its file descriptor stays open.

    :raises OSError: the kernel has no such programs, or we may not load any.
    """
    code, licence = (ctypes.create_string_buffer(data) for data in (instructions, b"Apache-2.0"))
    count = len(instructions) // _INSTRUCTION.size
    where = ctypes.addressof(code), ctypes.addressof(licence)
    described = _ATTRIBUTES.pack(_SCHED_CLS, count, *where, 0, 0, 0, 0, 0, name.encode())
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYSCALLS.get(platform.machine(), _SYSCALL_ELSEWHERE)
    descriptor = libc.syscall(number, _PROG_LOAD, ctypes.c_char_p(described), len(described))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    shown = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    found = re.search(r"^prog_tag:\s*([0-9a-f]+)$", shown, re.MULTILINE)
    if found is None:
        raise OSError(errno.EOPNOTSUPP, "the kernel tells no tags of programs")
    return Program(descriptor, bytes.fromhex(found[1]))

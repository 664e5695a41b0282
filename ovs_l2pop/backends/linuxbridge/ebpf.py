"""Programs of extended BPF for traffic control: assembled here, loaded by bpf(2), with their maps.

They are of some hundred instructions, so no compiler is worth its while.

Numbers are those of ``linux/bpf.h`` and ``linux/bpf_common.h``.
"""

import ctypes
import errno
import os
import platform
import re
import resource
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

_MAP_CREATE, _LOOKUP, _PROG_LOAD, _PROG_TEST_RUN = 0, 1, 5, 10
_PROG_BY_NUMBER, _MAP_BY_NUMBER, _INFO = 13, 14, 15
_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 26, 27
_HASH, _NO_PREALLOCATION = 1, 1
_SCHED_CLS = 3
#: The system call's number, which the C library doesn't know.
_SYSCALLS = {"x86_64": 321, "s390x": 351, "ppc64le": 361}
_SYSCALL_ELSEWHERE = 280  # asm-generic/unistd.h: aarch64, riscv64, loongarch64
_INSTRUCTION = struct.Struct("=BBhi")
# union bpf_attr, of each command as far as we fill it in
_MAP = struct.Struct("=IIIIIII16s")
_ONE = struct.Struct("=IxxxxQQQ")
_BATCH = struct.Struct("=QQQQIIQQ")
_PROGRAM = struct.Struct("=IIQQIIQII16s")
_RUN = struct.Struct("=IIIIQQIIIIQQ")
_NUMBERED, _ASKED = struct.Struct("=III"), struct.Struct("=IIQ")
#: struct bpf_prog_info, up to the numbers of maps: how many there are, and where they go.
_INFO_SIZE, _MAPS_AT = 64, 52
_CONTEXT_SIZE = 192  # struct __sk_buff, rounded up

#: Registers: results, arguments, those that a call leaves alone, and the end of the stack. What a
#: program works on is in CONTEXT from its beginning.
R0, R1, R2, R3, R4, R5, CONTEXT, R7, R8, R9, STACK = range(11)

# Fields of struct __sk_buff: offsets.
VLAN_PRESENT, ENTERED_BY, DEVICE, TC_CLASS = 20, 36, 40, 72

# Helpers: numbers.
LOOKUP, STORE_BYTES, REDIRECT, LOAD_BYTES, SUM = 1, 9, 23, 26, 28

_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}


class Step(NamedTuple):
    """An instruction; *to* is the label that it may jump to."""

    code: int
    value: int = 0
    to: str = ""
    destination: int = R0
    source: int = 0
    offset: int = 0


Code = tuple[Step | str, ...]
"""Instructions, and labels in front of some."""


def network(value: int, size: int = 2) -> int:
    """What a load of so many bytes gets from a frame that has this number there."""
    return int.from_bytes(value.to_bytes(size, "big"), sys.byteorder)


def frame_byte(offset: int) -> Step:
    """Load from the frame into R0; where that ends before, the program ends with 0."""
    return Step(0x30, offset)


def frame_half(offset: int) -> Step:
    """Load two bytes from the frame into R0, as a number."""
    return Step(0x28, offset)


def read(register: int, base: int, offset: int, size: int) -> Step:
    """Load from memory, which must be aligned."""
    return Step(0x61 | _SIZES[size], destination=register, source=base, offset=offset)


def write(base: int, offset: int, size: int, register: int) -> Step:
    """Store to memory."""
    return Step(0x63 | _SIZES[size], destination=base, source=register, offset=offset)


def put(base: int, offset: int, size: int, value: int) -> Step:
    """Store a number to memory."""
    return Step(0x62 | _SIZES[size], value, destination=base, offset=offset)


def load(register: int, value: int) -> Step:
    """Load a number."""
    return Step(0xB7, value, destination=register)


def move(register: int, source: int) -> Step:
    """Copy a register."""
    return Step(0xBF, destination=register, source=source)


def add(register: int, value: int) -> Step:
    """Add a number."""
    return Step(0x07, value, destination=register)


def plus(register: int, other: int) -> Step:
    """Add a register."""
    return Step(0x0F, destination=register, source=other)


def either(register: int, other: int) -> Step:
    """Set the bits of another register."""
    return Step(0x4F, destination=register, source=other)


def mask(register: int, bits: int) -> Step:
    """Keep these bits."""
    return Step(0x57, bits, destination=register)


def flip(register: int, bits: int) -> Step:
    """Invert these bits."""
    return Step(0xA7, bits, destination=register)


def right(register: int, bits: int) -> Step:
    """Shift to the right."""
    return Step(0x77, bits, destination=register)


def jump(to: str) -> Step:
    """Go on there."""
    return Step(0x05, to=to)


def equal(register: int, value: int, to: str) -> Step:
    """Jump if it is that, of 32 bits."""
    return Step(0x16, value, to, destination=register)


def differs(register: int, value: int, to: str) -> Step:
    """Jump if it isn't that, of 32 bits."""
    return Step(0x56, value, to, destination=register)


def is_null(register: int, to: str) -> Step:
    """Jump if it is 0, of 64 bits."""
    return Step(0x15, 0, to, destination=register)


def not_null(register: int, to: str) -> Step:
    """Jump if it isn't 0, of 64 bits."""
    return Step(0x55, 0, to, destination=register)


def same(register: int, other: int, to: str) -> Step:
    """Jump if both are the same, of 64 bits."""
    return Step(0x1D, to=to, destination=register, source=other)


def unlike(register: int, other: int, to: str) -> Step:
    """Jump if they are not the same, of 64 bits."""
    return Step(0x5D, to=to, destination=register, source=other)


def call(helper: int) -> Step:
    """Call the kernel; arguments are in R1 to R5 and gone afterwards, the result is in R0."""
    return Step(0x85, helper)


def on_stack(register: int, offset: int) -> Code:
    """Load an address on the stack."""
    return move(register, STACK), add(register, offset)


def end(value: int) -> Code:
    """End the program with that."""
    return load(R0, value), Step(0x95)


def end_with_result() -> Step:
    """End the program with what is in R0."""
    return Step(0x95)


def assemble(code: Iterable[Step | str]) -> bytes:
    """The instructions as the kernel takes them."""
    steps = [Step(0xBF, destination=CONTEXT, source=R1)]  # where a program finds its frame
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


class Map:
    """A hash table that programs share with this process: keys and values of fixed sizes in bytes.

    It lives as long as this process or a program has it. Memory is taken for what is in it, and 16
    bytes for each entry that there may be.
    """

    def __init__(self, descriptor: int, key: int, value: int) -> None:
        self.descriptor = descriptor
        self._key, self._value = key, value

    @classmethod
    def make(cls, name: str, key: int, value: int, entries: int) -> "Map":
        """A new one.

        :raises OSError: the kernel has no such maps (Linux 5.6), or we may not make any.
        """
        _lift_limit()
        described = _MAP.pack(_HASH, key, value, entries, _NO_PREALLOCATION, 0, 0, name.encode())
        made = cls(_bpf(_MAP_CREATE, described), key, value)
        try:
            made.update({bytes(key): bytes(value)})  # is there a way for many at once?
            made.delete([bytes(key)])
        except OSError:
            made.close()
            raise
        return made

    @classmethod
    def numbered(cls, number: int, key: int, value: int) -> "Map":
        """One that somebody else has.

        :raises OSError: there is none, or we may not have it (CAP_SYS_ADMIN).
        """
        return cls(_bpf(_MAP_BY_NUMBER, _NUMBERED.pack(number, 0, 0)), key, value)

    def close(self) -> None:
        os.close(self.descriptor)

    def pointer(self, register: int) -> Code:
        """Load what helpers take for the map."""
        return Step(0x18, self.descriptor, destination=register, source=1), Step(0)

    def update(self, entries: Mapping[bytes, bytes]) -> None:
        """Write entries, in place of those with the same keys.

        :raises OSError: ENOSPC or E2BIG: no more fit; those before are written.
        """
        if entries:
            self._many(_UPDATE_BATCH, b"".join(entries), b"".join(entries.values()), len(entries))

    def delete(self, keys: Collection[bytes]) -> None:
        """Delete entries; those that aren't there are none."""
        left = list(keys)
        while left:
            try:
                self._many(_DELETE_BATCH, b"".join(left), b"", len(left))
                return
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
            # The kernel stops there.
            left = [key for key in left if self._has(key)]

    def items(self, at_once: int = 1 << 12) -> Iterator[tuple[bytes, bytes]]:
        """What is in it."""
        token = ctypes.create_string_buffer(8)
        keys = ctypes.create_string_buffer(at_once * self._key)
        values = ctypes.create_string_buffer(at_once * self._value)
        places = [ctypes.addressof(buffer) for buffer in (token, keys, values)]
        first, more = 0, True
        while more:
            command = bytearray(
                _BATCH.pack(first, places[0], *places[1:], at_once, self.descriptor, 0, 0)
            )
            try:
                _bpf(_LOOKUP_BATCH, command)
            except OSError as error:
                if error.errno != errno.ENOENT:  # that was all
                    raise
                more = False
            count = _BATCH.unpack(command)[4]
            first = places[0]
            found = _pieces(keys.raw, self._key), _pieces(values.raw, self._value)
            yield from islice(zip(*found, strict=True), count)

    def _has(self, key: bytes) -> bool:
        buffers = [ctypes.create_string_buffer(d) for d in (key, bytes(self._value))]
        try:
            _bpf(_LOOKUP, _ONE.pack(self.descriptor, *map(ctypes.addressof, buffers), 0))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def _many(self, command: int, keys: bytes, values: bytes, count: int) -> None:
        buffers = [ctypes.create_string_buffer(data, len(data) + 1) for data in (keys, values)]
        where = [ctypes.addressof(buffer) for buffer in buffers]
        _bpf(command, bytearray(_BATCH.pack(0, 0, *where, count, self.descriptor, 0, 0)))


class Program:
    """A program in the kernel, where it stays as long as this process or a filter has it.

    :ivar number: by which a filter tells what it runs.
    :ivar tag: a hash of its instructions, whatever map they use.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        shown = Path(f"/proc/self/fdinfo/{self.descriptor}").read_text()
        found = dict(re.findall(r"^prog_(id|tag):\s*(\w+)$", shown, re.MULTILINE))
        if len(found) < 2:
            self.close()
            raise OSError(errno.EOPNOTSUPP, "the kernel tells no numbers of programs")
        self.number, self.tag = int(found["id"]), found["tag"]

    @classmethod
    def load(cls, name: str, instructions: bytes) -> "Program":
        """A new one.

        :raises OSError: the kernel has no such programs, or we may not load any.
        """
        code, licence = (ctypes.create_string_buffer(d) for d in (instructions, b"Apache-2.0"))
        count = len(instructions) // _INSTRUCTION.size
        where = ctypes.addressof(code), ctypes.addressof(licence)
        described = _PROGRAM.pack(_SCHED_CLS, count, *where, 0, 0, 0, 0, 0, name.encode())
        return cls(_bpf(_PROG_LOAD, described))

    @classmethod
    def numbered(cls, number: int) -> "Program":
        """One that a filter runs.

        :raises OSError: there is none, or we may not have it (CAP_SYS_ADMIN).
        """
        return cls(_bpf(_PROG_BY_NUMBER, _NUMBERED.pack(number, 0, 0)))

    def map(self) -> int:
        """The number of the first map that it uses; 0: it uses none."""
        found = ctypes.c_uint32()
        info = bytearray(_INFO_SIZE)
        struct.pack_into("=IQ", info, _MAPS_AT, 1, ctypes.addressof(found))
        described = ctypes.create_string_buffer(bytes(info), len(info))
        where = ctypes.addressof(described)
        _bpf(_INFO, _ASKED.pack(self.descriptor, len(info), where))
        return found.value

    def close(self) -> None:
        os.close(self.descriptor)

    def run(self, frame: bytes, context: Mapping[int, int]) -> tuple[int, bytes]:
        """Run it once on a frame that nobody sent; its result, and the frame then.

        :param context: fields of ``struct __sk_buff`` by offset, of those that can be given.
        """
        fields = bytearray(_CONTEXT_SIZE)
        for offset, value in context.items():
            struct.pack_into("=I", fields, offset, value)
        given, known = (ctypes.create_string_buffer(bytes(d), len(d)) for d in (frame, fields))
        changed = ctypes.create_string_buffer(len(frame) + 64)
        command = bytearray(
            _RUN.pack(
                self.descriptor,
                0,
                len(frame),
                len(changed),
                ctypes.addressof(given),
                ctypes.addressof(changed),
                1,
                0,
                len(known),
                0,
                ctypes.addressof(known),
                0,
            )
        )
        _bpf(_PROG_TEST_RUN, command)
        _, result, _, size, *_ = _RUN.unpack(command)
        return struct.unpack("=i", struct.pack("=I", result))[0], changed.raw[:size]


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes | bytearray) -> int:
    """The system call; where *attributes* can be changed, the kernel's answer is in them."""
    number = _SYSCALLS.get(platform.machine(), _SYSCALL_ELSEWHERE)
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    result = _libc().syscall(number, command, buffer, len(attributes))
    code = ctypes.get_errno()
    if isinstance(attributes, bytearray):
        attributes[:] = buffer.raw
    if result < 0:
        raise OSError(code, os.strerror(code))
    return int(result)


def _lift_limit() -> None:
    """Before Linux 5.11 maps count as locked memory, of which there may be 64 KiB."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    except (OSError, ValueError):
        pass  # it wasn't needed, or the map will be refused

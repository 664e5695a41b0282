"""Streams of messages for measurements, and the lines that they print."""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import Segment

Report = Callable[[str], None]


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """Return a function that keeps a line; all are printed together at the end."""
    lines: list[str] = []
    yield lines.append
    print("\n" + "\n".join(lines))


def network_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def attach(number: int) -> str:
    """Attach network ``number`` (from 1) with a VNI and a local VLAN of that number."""
    return json.dumps(wire.attach(network_id(number), Segment("vxlan", number), number))


def detach(number: int) -> str:
    return json.dumps(wire.detach(network_id(number)))


def announce(number: int, entries: int, vteps: int) -> str:
    """One message with ``entries`` machines of network ``number``, spread over ``vteps``."""
    ports: dict[str, list[list[str]]] = {}
    for index in range(entries):
        at = index % vteps
        pairs = ports.setdefault(
            f"10.{201 + at // 65000}.{at // 250 % 250}.{at % 250 + 1}",
            [["00:00:00:00:00:00", "0.0.0.0"]],
        )
        low = f"{index >> 16 & 255:02x}:{index >> 8 & 255:02x}:{index & 255:02x}"
        ip = f"10.{index >> 16 & 127}.{index >> 8 & 255}.{index & 255}" if index else "10.127.0.1"
        pairs.append([f"fa:16:3e:{low}", ip])
    return json.dumps(wire.add(network_id(number), Segment("vxlan", number), ports))


def one_more(number: int) -> bytes:
    """One message with a machine of network 1 that :func:`announce` doesn't have."""
    pair = [f"fa:16:3f:00:{number >> 8:02x}:{number & 255:02x}", f"10.128.{number >> 8}.9"]
    return json.dumps(wire.add(network_id(1), Segment("vxlan", 1), {"10.201.0.1": [pair]})).encode()


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

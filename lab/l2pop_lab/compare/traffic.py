"""Frames, requests and TCP streams between machines, and what was seen of them."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from l2pop_lab.compare.sides import CompareError, Side
from l2pop_lab.compare.streams import BLUE, Network
from l2pop_lab.topology import Capture, CapturedFrame, Host, Machine, craft, namespaces
from l2pop_lab.topology.frames import BROADCAST, ETHERTYPE_VLAN, Frame, NeighbourType, decode
from l2pop_lab.topology.machine import DEVICE

PATIENCE = 5.0
"""Seconds to wait for what must come."""
SETTLE = 0.05
"""Seconds in which machines answer; they take well below a millisecond."""

PAUSE = 0.002
"""Seconds between two questions."""

_CHUNK = 1 << 18
_PORT = 5201


# -- one frame -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one frame that a machine sent."""

    copies: tuple[str, ...]
    """The VTEPs, or groups, to which the hosts sent it through tunnels; each copy counts."""
    receivers: tuple[str, ...]
    """The machines that it came to; each time counts."""
    answers: tuple[Frame, ...]
    """What came back to the sender."""
    carried: tuple[Frame, ...]
    """The frame as it was in each copy."""


def watch(side: Side, sender: Machine, frame: bytes, network: Network = BLUE) -> Seen:
    """Send *frame* and collect all that it leads to."""
    underlay, captures = side.captures()
    for capture in (underlay, *captures.values()):
        capture.clear()
    mark = craft.text(BROADCAST, sender.mac, f"mark {time.monotonic_ns()}")
    core = _core(frame)
    sender.send(frame)
    # What one port sends is forwarded in order: where this has come, so has the frame.
    sender.send(mark)
    for machine, capture in captures.items():
        if machine is not sender and machine.name.startswith(network.name):
            capture.wait_for(lambda data: _core(mark) in data, timeout=PATIENCE)
    underlay.wait_for(lambda data: _core(mark) in data, timeout=PATIENCE)
    back = captures[sender]
    time.sleep(SETTLE)
    if not back.frames and _asks(frame):
        time.sleep(3 * SETTLE)
    carried = [
        tunnel
        for captured in underlay.frames
        if core in captured.data and (tunnel := decode(captured.data).tunnel)
    ]
    return Seen(
        copies=tuple(sorted(tunnel.destination for tunnel in carried)),
        receivers=tuple(
            sorted(
                machine.name
                for machine, capture in captures.items()
                if machine is not sender
                for data in capture.data
                if core in data
            )
        ),
        answers=tuple(map(decode, back.data)),
        carried=tuple(tunnel.inner for tunnel in carried),
    )


def _asks(frame: bytes) -> bool:
    decoded = decode(frame)
    return bool(decoded.arp or decoded.neighbour)


def flood_copies(side: Side, sender: Machine, expected: int) -> int:
    """Count the copies of one broadcast that leave the sender's host, each to another VTEP.

    Waits until there are so many as *expected*, or for a while, and for more than those.

    :raises CompareError: if a VTEP gets two.
    """
    content = f"flood {time.monotonic_ns()}"
    with Capture(side.lab.underlay, [host.name for host in side.hosts], "in") as underlay:
        sender.send(craft.text(BROADCAST, sender.mac, content))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if _holding(underlay, content) >= expected:
                break
            time.sleep(0.01)
        time.sleep(SETTLE)
    found = [data for data in underlay.data if content.encode() in data]
    vteps = {tunnel.destination for data in found if (tunnel := decode(data).tunnel)}
    if len(vteps) != len(found):
        raise CompareError(f"{len(found)} copies for {len(vteps)} VTEPs")
    return len(found)


def _holding(capture: Capture, content: str) -> int:
    return sum(content.encode() in data for data in capture.data)


def _core(frame: bytes) -> bytes:
    """What stays the same in a tunnel, with or without the tag that the frame had."""
    tag = frame[12:14] == ETHERTYPE_VLAN.to_bytes(2, "big")
    return frame[18 if tag else 14 :].rstrip(b"\0")


# -- questions -----------------------------------------------------------------------------------


def is_answer(frame: Frame, address: str) -> bool:
    """Tell whether a frame is an ARP reply or an advertisement for *address*."""
    if frame.arp:
        return frame.arp.operation == 2 and frame.arp.sender_ip == address
    told = frame.neighbour
    return bool(told and told.type == NeighbourType.ADVERTISEMENT and told.target == address)


def question(machine: Machine, address: str) -> bytes:
    """Return the ARP request or solicitation of a machine for an address."""
    own = {interface.version: str(interface.ip) for interface in machine.interfaces}
    if ":" in address:
        return craft.solicitation(machine.mac, own[6], address)
    return craft.arp_request(machine.mac, own[4], address)


def answer_times(machine: Machine, address: str, count: int) -> list[float]:
    """Ask *count* times, one after the other; the µs from question to answer at the machine.

    By the kernel's clock, which stamps both on the machine's device.

    :raises CompareError: if one isn't answered.
    """
    asked = question(machine, address)
    times: list[float] = []
    with machine.capture("both") as seen, namespaces.call(machine.namespace, _raw) as device:
        for _ in range(count):
            # At once behind the last one caches would be warm as no machine finds them.
            time.sleep(PAUSE)
            seen.clear()
            device.send(asked)
            answer = seen.wait_for(lambda data: is_answer(decode(data), address), timeout=PATIENCE)
            sent = [frame for frame in seen.frames if frame.outgoing and _same(frame, asked)]
            if not sent:
                raise CompareError(f"the question for {address} was not seen")
            times.append(1e6 * (answer[0].time - sent[0].time))
    return times


def _raw() -> socket.socket:
    """Return what sends frames from the machine that it is opened in."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((DEVICE, 0))
    return raw


def _same(frame: CapturedFrame, data: bytes) -> bool:
    return frame.data.rstrip(b"\0") == data.rstrip(b"\0")


# -- throughput ----------------------------------------------------------------------------------


def throughput(sender: Machine, receiver: Machine, seconds: float) -> float:
    """Send one TCP stream for some seconds; Mbit/s of payload that arrived.

    Sender and receiver are threads of this process with sockets in the machines' namespaces: what
    limits them is the kernel and the switch, both wait outside of Python.

    :raises CompareError: if the stream breaks off.
    """
    listener = namespaces.call(receiver.namespace, lambda: _listen(receiver.ip))
    with listener:
        client = namespaces.call(sender.namespace, lambda: _connect(receiver.ip))
        with client:
            server, _ = listener.accept()
            with server:
                return _stream(client, server, seconds)


def _listen(address: str) -> socket.socket:
    listener = socket.create_server((address, _PORT))
    listener.settimeout(PATIENCE)
    return listener


def _connect(address: str) -> socket.socket:
    return socket.create_connection((address, _PORT), timeout=PATIENCE)


def _stream(client: socket.socket, server: socket.socket, seconds: float) -> float:
    server.settimeout(PATIENCE)
    begin = time.monotonic()
    stop = begin + seconds
    errors: list[OSError] = []

    def send() -> None:
        data = bytes(_CHUNK)
        try:
            while time.monotonic() < stop:
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=send, name="stream")
    thread.start()
    received = 0
    room = bytearray(_CHUNK)
    try:
        while count := server.recv_into(room):
            received += count
    except OSError as error:
        errors.append(error)
    finally:
        end = time.monotonic()
        thread.join()
    if errors:
        raise CompareError(f"the TCP stream broke off: {errors[0]}")
    return received * 8 / (end - begin) / 1e6


# -- words and waiting ---------------------------------------------------------------------------


def names_of(side: Side, vteps: tuple[str, ...]) -> str:
    """Say which hosts *vteps* are, for people."""
    known: dict[str, Host] = {host.vtep: host for host in side.hosts}
    return ", ".join(known[vtep].name if vtep in known else vtep for vtep in vteps)


def tunnel_kinds(frames: Iterable[bytes], network: Network) -> set[str]:
    """Return in which tunnels frames of a network crossed the underlay: vxlan, gre, geneve."""
    tunnels = (decode(data).tunnel for data in frames)
    return {tunnel.kind for tunnel in tunnels if tunnel and tunnel.vni == network.number}


def waiting(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> float:
    """Wait until *condition* holds; the seconds that it took.

    :raises CompareError: after *timeout* seconds.
    """
    begin = time.monotonic()
    for _ in _moments(begin + timeout):
        if condition():
            return time.monotonic() - begin
    raise CompareError(f"after {timeout:g} s still not: {what}")


def _moments(deadline: float) -> Iterator[float]:
    while (now := time.monotonic()) < deadline:
        yield now
        time.sleep(0.02)

"""Packets to other VTEPs, and what comes back of them."""

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Iterable
from ipaddress import ip_address

from ovs_l2pop.doctor.tools import PATIENCE, UnseenError

#: A frame in VNI 0, which no network has: whoever takes VXLAN drops it silently. To an address
#: that no bridge forwards (IEEE 802.1Q §8.6.3), of the type for experiments (IEEE 802).
_NOTHING = struct.pack("!II", 0x08 << 24, 0) + bytes.fromhex("0180c200000102000000000188b5")
_NOTHING += bytes(46)
_ETH_ARP, _ETH_IP = 0x0806, 0x0800
#: Seconds in which an ARP probe is answered.
_ARP_PATIENCE = 0.5


def pings(local: str, vtep: str, size: int = 0) -> bool:
    """Whether any of three pings is answered.

    :param size: bytes of the packet with its IP header, which then may not be fragmented.
    :raises UnseenError: it can't be asked.
    """
    heads = 48 if ip_address(vtep).version == 6 else 28
    large = ["-M", "do", "-s", str(size - heads)] if size else []
    argv = ["ping", "-n", "-q", "-c3", "-i0.2", "-W1", "-I", local, *large, vtep]
    try:
        code = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnseenError(f"ping: {error}") from error
    if code > 1 and not size:  # a packet too large for our own device is an error too
        raise UnseenError(f"ping to {vtep}: exit {code}")
    return code == 0


def refuses(local: str, vtep: str, ports: Iterable[int]) -> tuple[int, ...]:
    """The UDP ports for which the VTEP's host says that nobody listens."""
    found = []
    family = socket.AF_INET6 if ip_address(vtep).version == 6 else socket.AF_INET
    for port in ports:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((local, 0))
                probe.connect((vtep, port))
                probe.settimeout(0.3)
                probe.send(_NOTHING)
                probe.recv(1)
            except ConnectionRefusedError:
                found.append(port)
            except OSError:  # silence, which says nothing
                continue
    return tuple(found)


def rivals(device: str, mac: str, address: str) -> tuple[str, ...]:
    """The MAC addresses of others that answer an ARP probe (RFC 5227 §2.1.1) for our address.

    :raises UnseenError: it can't be asked.
    """
    asked, ours = ip_address(address).packed, bytes.fromhex(mac.replace(":", ""))
    arp = struct.pack("!HHBBH", 1, _ETH_IP, 6, 4, 1) + ours + bytes(4) + bytes(6) + asked
    found: set[str] = set()
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ARP)) as raw:
            raw.bind((device, _ETH_ARP))
            raw.send(b"\xff" * 6 + ours + struct.pack("!H", _ETH_ARP) + arp)
            deadline = time.monotonic() + _ARP_PATIENCE
            while (left := deadline - time.monotonic()) > 0:
                raw.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    frame, origin = raw.recvfrom(1024)
                    sender, claimed = frame[22:28], frame[28:32]
                    incoming = origin[2] != socket.PACKET_OUTGOING
                    if incoming and claimed == asked and sender != ours:
                        found.add(sender.hex(":"))
    except OSError as error:
        raise UnseenError(f"ARP on {device}: {error.strerror or error}") from error
    return tuple(sorted(found))

"""What this kernel can do for us: tried once, in a network namespace of its own.

Nothing of the host is touched, and nobody who watches it sees anything. Where such a namespace may
not be made, everything but eBPF is taken to be there; what is not will be refused when it is
written.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from ovs_l2pop.backends.linuxbridge import entries, links, responder, rows
from ovs_l2pop.backends.linuxbridge.guard import Filter
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.netlink.messages import Message
from ovs_l2pop.netlink.socket import Netlink

LOG = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000  # linux/sched.h


class Missing(NamedTuple):
    """What is missing, by what it is needed for; empty strings: nothing is."""

    tunnels: str = ""  #: devices of the kinds bridge and vxlan
    unicast: str = ""  #: a table in the vxlan device, with several VTEPs for BUM traffic
    multicast: str = ""  #: a multicast group in the vxlan device
    neighbours: str = ""  #: marked neighbours of a bridge, for which ARP and ND are answered
    programs: str = ""  #: eBPF programs and filters that answer
    suppression: str = ""  #: a bridge that answers itself
    guard: str = ""  #: packet filters, which keep strangers out


def missing() -> Missing:
    """Try everything; takes some 10 ms."""
    results: list[Missing] = []
    thread = threading.Thread(target=lambda: results.append(_in_namespace()), name="probe")
    thread.start()
    thread.join()
    return results[0]


def _in_namespace() -> Missing:
    # os.unshare() comes with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        LOG.debug("no namespace to probe the kernel in: %s", os.strerror(ctypes.get_errno()))
        return Missing(programs=responder.missing())
    try:
        with closing(Netlink()) as netlink:
            return Probe(netlink).missing()
    except BackendError as error:
        LOG.debug("the kernel could not be probed: %s", error)
        return Missing(programs=responder.missing())
    # With the thread ends the namespace, and all that is in it.


def _guard() -> str:
    """What is missing for packet filters."""
    tried: set[rows.GuardRow] = {
        rows.Guard(4789),
        rows.Closed(1),
        rows.Member(1, _VTEPS[0]),
        rows.Member(1, "2001:db8::1"),
    }
    try:
        with closing(Filter()) as strangers:
            refused = strangers.write(tried, ())
            if refused or strangers.rows() != tried:
                return next(iter(refused.values()), "nftables that list what was written")
    except BackendError as error:
        return str(error)
    return ""


_BRIDGE, _TUNNEL, _GROUPED = "br-probe", "vxlan-1", "vxlan-2"
_ROW = rows.Tunnel(
    name=_TUNNEL,
    vni=1,
    network_id="",
    bridge=_BRIDGE,
    local="127.0.0.1",
    group="",
    device="",
    port=4789,
    ttl=1,
    tos=0,
    mtu=1450,
    responder="on",
)
_MAC, _VTEPS = rows.mac_attribute("02:00:00:00:00:01"), ("192.0.2.1", "192.0.2.2")


class Probe:
    """Tries things in an empty namespace."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def missing(self) -> Missing:
        missing = (
            self._lacks("devices of the kind bridge", links.new_bridge(_BRIDGE))
            or self._lacks("devices of the kind vxlan", links.new_tunnel(_ROW, _TUNNEL, 0))
            or self._lacks(
                "vxlan devices in bridges", links.enter(self._index(_TUNNEL), self._index(_BRIDGE))
            )
        )
        if missing:
            return Missing(tunnels=missing)
        tunnel, bridge = self._index(_TUNNEL), self._index(_BRIDGE)
        grouped = _ROW._replace(vni=2, group="239.0.0.1")
        return Missing(
            unicast=self._forwarding(tunnel),
            multicast=self._lacks(
                "groups of vxlan devices", links.new_tunnel(grouped, _GROUPED, self._index("lo"))
            ),
            neighbours=self._neighbours(bridge),
            suppression=self._suppression(tunnel),
            programs=self._programs(tunnel, bridge),
            guard=_guard(),
        )

    def _forwarding(self, tunnel: int) -> str:
        row = rows.Unicast(_TUNNEL, _MAC + rows.address_attribute(_VTEPS[0]), True)
        missing = self._all(
            "several flooding entries", (entries.add_flood(vtep, tunnel) for vtep in _VTEPS)
        ) or self._all(
            "forwarding entries of vxlan devices",
            (entries.add_unicast(row, tunnel, replace=True), entries.hold(row, tunnel)),
        )
        there = entries.forwarding(self._netlink, {tunnel: _TUNNEL})
        marked = there == {rows.Flood(_TUNNEL, _VTEPS), row}
        return missing or ("" if marked else "marks of forwarding entries (extern_learn, sticky)")

    def _neighbours(self, bridge: int) -> str:
        row = rows.Neighbour(_TUNNEL, _BRIDGE, rows.address_attribute("192.0.2.3") + _MAC)
        missing = self._lacks(
            "neighbours of bridges", entries.add_neighbour(row, bridge, replace=True)
        )
        there = entries.neighbours(self._netlink, {bridge: (_TUNNEL, _BRIDGE)})
        return missing or ("" if there == {row} else "protocols of neighbours")

    def _suppression(self, tunnel: int) -> str:
        suppression = "neigh_suppress of bridge ports"
        missing = self._lacks(suppression, links.suppress(tunnel, on=True))
        # An old kernel takes what it doesn't know, and does nothing.
        port = links.by_index(self._netlink, tunnel)
        return missing or ("" if port is not None and port.suppress else suppression)

    def _programs(self, tunnel: int, bridge: int) -> str:
        try:
            made = responder.Responder()
        except OSError as error:
            return responder.lacking(error)
        with closing(made) as answers:
            way = _ROW.responder
            failure = answers.attach(self._netlink, tunnel, bridge, _ROW.vni, way)
            there = answers.way(self._netlink, tunnel) == way
        return "" if there else f"traffic control with clsact and bpf ({failure})"

    def _all(self, what: str, messages: Iterable[Message]) -> str:
        return next(filter(None, (self._lacks(what, message) for message in messages)), "")

    def _lacks(self, what: str, message: Message) -> str:
        """*what* is missing if the kernel refuses the message."""
        for failure in self._netlink.write([message]):
            return f"{what} ({failure})"
        return ""

    def _index(self, name: str) -> int:
        link = links.by_name(self._netlink, name)
        return 0 if link is None else link.number

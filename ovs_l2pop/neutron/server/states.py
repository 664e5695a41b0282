"""Places of ports as states of our protocol. Pure."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ovs_l2pop.neutron.server.agents import Agent
from ovs_l2pop.neutron.server.decisions import Kind
from ovs_l2pop.sync.protocol import PortState, key_of

if TYPE_CHECKING:
    from ovs_l2pop.neutron.server.queries import Located


def key(place: "Located") -> str:
    """One for each port; for one that is on several hosts, one for each of them."""
    return key_of(place.port_id, None if place.kind is Kind.ORDINARY else place.host)


def state(place: "Located", agents: Mapping[str, Agent]) -> PortState:
    """Where the port is; "gone" where it is not present or its host is no VTEP."""
    agent = agents.get(place.host)
    if not place.present or agent is None:
        return PortState(key(place), place.revision, None)
    entries = tuple((place.mac, ip) for ip in sorted(place.ips))
    routers: tuple[tuple[str, str], ...] = ()
    if place.router:
        six = [pair for pair in entries if ":" in pair[1]]
        routers = tuple(sorted({*six, (place.mac, link_local(place.mac))}))
    return PortState(key(place), place.revision, agent.vtep, entries, place.allowed, routers)


def link_local(mac: str) -> str:
    """The address that a router's advertisements come from, as Linux makes it of the MAC address
    (RFC 4291 appendix A): Neutron's routers have no other."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ip_address(b"\xfe\x80" + bytes(6) + interface))


def states(places: "Iterable[Located]", agents: Mapping[str, Agent]) -> list[PortState]:
    """Of all ports that are somewhere, in the order of their keys."""
    found = (state(place, agents) for place in places)
    return sorted(state for state in found if state.vtep is not None)

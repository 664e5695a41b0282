"""Places of ports as states of our protocol. Pure."""

from collections.abc import Iterable, Mapping
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
    return PortState(key(place), place.revision, agent.vtep, entries, place.allowed)


def states(places: "Iterable[Located]", agents: Mapping[str, Agent]) -> list[PortState]:
    """Of all ports that are somewhere, in the order of their keys."""
    found = (state(place, agents) for place in places)
    return sorted(state for state in found if state.vtep is not None)

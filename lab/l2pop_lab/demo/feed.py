"""The messages that a Neutron server would send for a layout. Pure; no I/O.

With L2 population each port that comes up means: the host's own agent learns that it has the
network and gets all that is known of it, every other agent hears of the new machine. A server of
upstream's sends the latter to all hosts, those without the network included; so do we here, and
those hosts keep it in mind and build nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from l2pop_lab.demo.layout import Layout, Member, Network
from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import FLOODING_IP, FLOODING_MAC, Segment
from ovs_l2pop.core.wire import Message


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages to the agent of one host, in this order."""

    host: int
    messages: tuple[Message, ...]


def announcements(layout: Layout, vteps: dict[int, str]) -> Iterator[list[Delivery]]:
    """Yield for each port that comes up what goes to whom; one port after the other."""
    up: list[Member] = []
    for member in sorted(layout.members, key=lambda member: (member.host, member.network)):
        network = layout.network(member.network)
        known = [other for other in up if other.network == member.network]
        full = {vteps[other.host]: _pairs(other) for other in known}
        own = [_attach(network, member), *([_add(network, full)] if full else [])]
        news = _add(network, {vteps[member.host]: _pairs(member)})
        yield [
            Delivery(member.host, tuple(own)),
            *(Delivery(host, (news,)) for host in vteps if host != member.host),
        ]
        up.append(member)


def flooding_only(layout: Layout, vteps: dict[int, str]) -> list[Delivery]:
    """Return what makes hosts flood and learn as Open vSwitch agents do without L2 population.

    They have tunnels to all other hosts and copy broadcast to all of them, whatever networks those
    have. Nobody is announced.
    """
    deliveries = []
    for host in vteps:
        others = {
            vtep: [[FLOODING_MAC, FLOODING_IP]] for number, vtep in vteps.items() if number != host
        }
        messages = []
        for member in layout.members:
            if member.host == host:
                network = layout.network(member.network)
                messages += [_attach(network, member), _add(network, others)]
        deliveries.append(Delivery(host, tuple(messages)))
    return deliveries


def _attach(network: Network, member: Member) -> Message:
    return wire.attach(network.network_id, Segment("vxlan", network.vni), member.local_vlan)


def _add(network: Network, ports: dict[str, list[list[str]]]) -> Message:
    return wire.add(network.network_id, Segment("vxlan", network.vni), ports)


def _pairs(member: Member) -> list[list[str]]:
    machine = [[member.mac, address] for address in member.addresses]
    return [[FLOODING_MAC, FLOODING_IP], *machine]

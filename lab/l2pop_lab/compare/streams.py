"""How much is measured, and the messages: the same bytes for both sides. Pure; no I/O.

Both sides have three hosts, h1 to h3, with the same VTEPs. Networks with machines are small and on
all hosts. The *bulk* is on h1 alone, beside them: many machines behind many VTEPs, of which there
is nothing but their addresses.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ovs_l2pop.core import wire
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.messages import Segment
from ovs_l2pop.core.wire import FLOODING, Message, Pairs

MOST = {"entries": 200_000, "networks": 1000, "vteps": 240, "repeat": 100}
"""The largest sizes; VTEPs are addresses of the underlay's subnet."""

_FIRST_BULK_VTEP = 10
_BULK_NUMBER = 1000
_SMALL_NUMBER = 5000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is programmed and how often things are measured."""

    entries: int = 20_000
    """Machines (one address each) in the bulk."""
    networks: int = 10
    """Networks over which the bulk is spread."""
    vteps: int = 100
    """VTEPs over which each network's machines are spread."""
    repeat: int = 5
    """Rounds of each measurement, the sides taking turns."""
    samples: int = 30
    """Requests, pings and changes in each round."""
    seconds: float = 1.0
    """Of one TCP stream."""

    def check(self) -> None:
        """Refuse what can't be built.

        :raises L2popError: naming the option.
        """
        for name, most in MOST.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise L2popError(f"--{name} {value}: must be 1 to {most}")
        if self.entries < 8 * self.networks:
            raise L2popError(f"--entries {self.entries}: must be 8 or more for each network")

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of entries whose programming is timed, the whole bulk last."""
        return tuple(self.entries // part for part in (8, 4, 2, 1))

    @property
    def small_networks(self) -> int:
        """Networks of one machine each that are made and taken away."""
        return min(200, 5 * self.networks)

    @property
    def long_rounds(self) -> int:
        """Rounds of what takes long."""
        return (self.repeat + 1) // 2

    @property
    def bulk_vteps(self) -> list[str]:
        """The VTEPs behind which the bulk is."""
        return [f"10.200.0.{_FIRST_BULK_VTEP + number}" for number in range(self.vteps)]


QUICK = Sizes(entries=2000, networks=4, vteps=20, repeat=2, samples=15, seconds=0.3)
"""What ``--quick`` takes: every figure and check is there, and proves little by its size."""


@dataclass(frozen=True, slots=True)
class Network:
    """A tenant's network."""

    name: str
    number: int
    """VNI or key; unlike for all networks."""
    local_vlan: int
    kind: str = "vxlan"

    @property
    def network_id(self) -> str:
        """A UUID; its first 11 characters, which name a bridge, are unlike another network's."""
        return f"{self.number:08x}-c0de-4000-8000-000000000000"

    def attach(self) -> Message:
        """The host has the network from now on."""
        return wire.attach(self.network_id, Segment(self.kind, self.number), self.local_vlan)

    def detach(self) -> Message:
        """The host has it no longer."""
        return wire.detach(self.network_id)

    def add(self, ports: Mapping[str, Pairs]) -> Message:
        """Machines, and flooding entries, by VTEP."""
        return wire.add(self.network_id, Segment(self.kind, self.number), ports)

    def remove(self, ports: Mapping[str, Pairs]) -> Message:
        """The opposite of :meth:`add`."""
        return wire.remove(self.network_id, Segment(self.kind, self.number), ports)


BLUE = Network("blue", 101, 1)
"""Has a machine on each host, all of them announced."""
GREEN = Network("green", 102, 2)
"""On h1 and h2 alone, with the MAC and IP addresses of ``blue``."""
GRE = Network("gre", 103, 3, "gre")
GENEVE = Network("geneve", 104, 4, "geneve")


def machine_mac(host: int) -> str:
    """The MAC address of the machine on a host, in each network."""
    return f"fa:16:3e:00:00:{host:02x}"


def machine_addresses(host: int) -> list[str]:
    """The addresses of the machine on a host, in each network."""
    return [f"10.0.0.{host}", f"fd00::{host:x}"]


def announced(hosts: Mapping[int, str]) -> dict[str, Pairs]:
    """Flooding entry and machine of each host.

    :param hosts: VTEPs by the numbers of hosts.
    """
    return {
        vtep: [FLOODING, *((machine_mac(host), address) for address in machine_addresses(host))]
        for host, vtep in hosts.items()
    }


def bulk_networks(sizes: Sizes) -> list[Network]:
    """The networks of the bulk."""
    return [
        Network(f"bulk{number}", _BULK_NUMBER + number, 10 + number)
        for number in range(sizes.networks)
    ]


def bulk(sizes: Sizes, entries: int) -> list[Message]:
    """Messages that attach the bulk's networks and announce so many machines in them."""
    vteps = sizes.bulk_vteps
    ports: list[dict[str, list[Sequence[str]]]] = [{} for _ in range(sizes.networks)]
    for index in range(entries):
        inside, network = divmod(index, sizes.networks)
        pairs = ports[network].setdefault(vteps[inside % len(vteps)], [FLOODING])
        pairs.append(_bulk_machine(index))
    return [
        message
        for network, told in zip(bulk_networks(sizes), ports, strict=True)
        for message in (network.attach(), network.add(told))
    ]


def no_bulk(sizes: Sizes) -> list[Message]:
    """Messages that take the bulk away again."""
    return [network.detach() for network in bulk_networks(sizes)]


def small_networks(sizes: Sizes) -> list[Network]:
    """Networks beside the bulk's."""
    return [
        Network(f"small{number}", _SMALL_NUMBER + number, 3000 + number)
        for number in range(sizes.small_networks)
    ]


def small(sizes: Sizes) -> list[Message]:
    """Messages that attach these networks, and announce one machine in each."""
    ports = {sizes.bulk_vteps[0]: [FLOODING, (machine_mac(9), "10.0.0.9")]}
    return [m for network in small_networks(sizes) for m in (network.attach(), network.add(ports))]


def no_small(sizes: Sizes) -> list[Message]:
    """Messages that take them away, with what was told of them."""
    ports = {sizes.bulk_vteps[0]: [FLOODING, (machine_mac(9), "10.0.0.9")]}
    return [
        m for network in small_networks(sizes) for m in (network.remove(ports), network.detach())
    ]


def bulk_vteps_of_first(sizes: Sizes, entries: int) -> int:
    """Return how many VTEPs the bulk's first network has."""
    return min(sizes.vteps, -(-entries // sizes.networks))


def changes(sizes: Sizes, first: int, count: int) -> Iterator[Message]:
    """Messages of one new machine each, in the bulk's first network."""
    network = bulk_networks(sizes)[0]
    for index in range(first, first + count):
        mac = f"fa:16:40:{_octets(index):s}"
        address = f"10.{128 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"
        yield network.add({sizes.bulk_vteps[0]: [(mac, address)]})


def encode(messages: Sequence[Message]) -> bytes:
    """JSON Lines."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def _bulk_machine(index: int) -> tuple[str, str]:
    host = index + 1  # never .0.0.0
    return (
        f"fa:16:3f:{_octets(index)}",
        f"10.{1 + (host >> 16)}.{host >> 8 & 255}.{host & 255}",
    )


def _octets(index: int) -> str:
    return index.to_bytes(3, "big").hex(":")

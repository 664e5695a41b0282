"""Which hosts, networks and machines the demonstration has. Pure; no I/O.

Both networks use the same subnet and the same addresses. A machine has two addresses of each
family: a shared one, which a machine of the other network has too, and one of its own, which
nobody else has; only the latter can show that nothing crosses over.

Local VLANs go round: VLAN 2 is green on h1 and blue on h2. They mean nothing beyond their host, and
nothing at all on the last one, which has Linux bridges in place of Open vSwitch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

from ovs_l2pop.core.errors import L2popError

FEWEST_HOSTS, MOST_HOSTS = 2, 20
OPEN_VSWITCH, LINUX_BRIDGE = "Open vSwitch", "Linux bridge"


@dataclass(frozen=True, slots=True)
class Network:
    """A tenant's network."""

    name: str
    network_id: str
    vni: int
    hosts: tuple[int, ...]
    """The hosts that have a machine in it, from 1."""


@dataclass(frozen=True, slots=True)
class Member:
    """A machine of a network; there is at most one per network and host."""

    name: str
    network: str
    host: int
    mac: str
    local_vlan: int
    shared: dict[int, str]
    """Address that the other network has too, by IP version."""
    own: dict[int, str]
    """Address that nobody else has, by IP version."""

    @property
    def addresses(self) -> list[str]:
        """All addresses, shared ones first."""
        return [*self.shared.values(), *self.own.values()]


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole cast."""

    hosts: int
    networks: tuple[Network, ...]
    members: tuple[Member, ...]

    def network(self, name: str) -> Network:
        """Return the network of this name."""
        return next(network for network in self.networks if network.name == name)

    def of_network(self, name: str) -> list[Member]:
        """Return the machines of a network, in the order of their hosts."""
        return [member for member in self.members if member.network == name]

    def pairs(self) -> Iterator[tuple[Member, Member]]:
        """Every machine with every other of its network, in both directions."""
        for network in self.networks:
            yield from permutations(self.of_network(network.name), 2)

    def crossings(self) -> Iterator[tuple[Member, Member]]:
        """Every machine with every one of the other network."""
        for one, other in permutations(self.members, 2):
            if one.network != other.network:
                yield one, other

    @property
    def linuxbridge(self) -> int:
        """The host that has Linux bridges; all others have Open vSwitch."""
        return self.hosts

    def kind(self, name: str) -> str:
        """Return what switches on the host of a machine."""
        (member,) = (member for member in self.members if member.name == name)
        return LINUX_BRIDGE if member.host == self.linuxbridge else OPEN_VSWITCH

    @property
    def full_mesh(self) -> int:
        """Tunnels on all hosts if every host had one to every other."""
        return self.hosts * (self.hosts - 1)

    @property
    def needed_tunnels(self) -> int:
        """Tunnels on all hosts if only those have one that share a network."""
        linked = {pair for network in self.networks for pair in combinations(network.hosts, 2)}
        return 2 * len(linked)


def make_layout(hosts: int) -> Layout:
    """Return the layout for so many hosts.

    Up to 3, both networks are on all of them. From 4 on, each is on a little more than half, so
    that they overlap in one or two hosts: ``blue`` on the first, ``green`` on the last.

    :raises L2popError: for a number out of range.
    """
    if not FEWEST_HOSTS <= hosts <= MOST_HOSTS:
        raise L2popError(f"--hosts {hosts}: must be {FEWEST_HOSTS} to {MOST_HOSTS}")
    size = hosts if hosts <= 3 else hosts // 2 + 1
    blue = Network("blue", "b10eb10e-0000-4000-8000-000000000001", 1001, _span(1, size))
    green = Network(
        "green", "93ee93ee-0000-4000-8000-000000000002", 1002, _span(hosts - size + 1, size)
    )
    members = [
        *(_member(blue, number, host, host, 100) for number, host in enumerate(blue.hosts, 1)),
        *(
            _member(green, number, host, host % hosts + 1, 200)
            for number, host in enumerate(green.hosts, 1)
        ),
    ]
    return Layout(hosts, (blue, green), tuple(members))


def _span(first: int, size: int) -> tuple[int, ...]:
    return tuple(range(first, first + size))


def _member(network: Network, number: int, host: int, local_vlan: int, own: int) -> Member:
    return Member(
        name=f"{network.name}{number}",
        network=network.name,
        host=host,
        mac=f"fa:16:3e:00:{network.vni % 1000:02x}:{number:02x}",
        local_vlan=local_vlan,
        shared={4: f"10.0.0.{number}", 6: f"fd00::{number:x}"},
        own={4: f"10.0.0.{own + number}", 6: f"fd00::{own // 100:x}:{number:x}"},
    )

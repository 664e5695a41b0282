"""A stream of messages for Neutron's last Linux bridge agent and for ours, and how the kernel state
is read that either leaves.

Both sides import this module, so it imports neither Neutron nor ``ovs_l2pop``. Each chapter has a
network of its own, so that where the two differ it is plain over what.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import NAMESPACE_DNS, uuid5

UNDERLAY, UNDERLAY_MTU = "phy0", 1600
FLOODING = ["00:00:00:00:00:00", "0.0.0.0"]

Message = dict[str, Any]


class Plug(NamedTuple):
    """The host gets the network's first machine."""

    mtu: int = 0  #: that the server gives the network; 0: the largest that fits


class Unplug(NamedTuple):
    """The network is deleted."""


Step = Message | Plug | Unplug


class Scenario(NamedTuple):
    """How both agents are set up."""

    name: str
    options: dict[str, Any]  #: of [vxlan], by names that both have
    family: int = 4
    loopback: bool = False  #: where the VTEP's address is
    entries: bool = True  #: all chapters, or those alone that are about devices

    @property
    def vteps(self) -> list[str]:
        """This host's first."""
        form = "10.200.0.{}" if self.family == 4 else "fd00:200::{}"
        return [form.format(number) for number in (1, 2, 3)]

    @property
    def mtu(self) -> int:
        """What fits through the underlay."""
        return UNDERLAY_MTU - (50 if self.family == 4 else 70)

    @property
    def chapters(self) -> list["Chapter"]:
        return [chapter for chapter in CHAPTERS if self.entries or chapter.name in _DEVICES]

    @property
    def populates(self) -> bool:
        return bool(self.options.get("l2_population", True))


SCENARIOS = [
    Scenario("plain", {"arp_responder": False}),
    Scenario("responder", {"arp_responder": True}),
    Scenario(
        "settings",
        {"arp_responder": False, "udp_dstport": 4790, "ttl": 64, "tos": "16"},
        entries=False,
    ),
    # Upstream's agent doesn't start with an IPv6 VTEP unless it has an IPv6 group.
    Scenario(
        "IPv6 underlay",
        {"arp_responder": True, "udp_dstport": 4789, "vxlan_group": "ff15::/104"},
        family=6,
    ),
    Scenario("loopback", {"arp_responder": False}, loopback=True, entries=False),
    Scenario(
        "multicast",
        {"l2_population": False, "vxlan_group": "239.1.0.0/16", "udp_dstport": 4789, "ttl": 8},
        entries=False,
    ),
    Scenario(
        "multicast, IPv6 underlay",
        {"l2_population": False, "vxlan_group": "ff15::/104", "udp_dstport": 4789, "tos": "32"},
        family=6,
        entries=False,
    ),
]


class Net(NamedTuple):
    """A chapter's network."""

    number: int

    @property
    def id(self) -> str:
        return str(uuid5(NAMESPACE_DNS, f"network {self.number}"))

    @property
    def vni(self) -> int:
        return 1000 + self.number

    def add(self, **ports: list[list[str]]) -> Message:
        return self._entries("add_fdb_entries", ports)

    def remove(self, **ports: list[list[str]]) -> Message:
        return self._entries("remove_fdb_entries", ports)

    def chg_ip(self, vtep: str, **change: list[list[str]]) -> Message:
        fdb = {"chg_ip": {self.id: {vtep: change}}}
        return {"method": "update_fdb_entries", "fdb_entries": fdb}

    def _entries(self, method: str, ports: dict[str, list[list[str]]]) -> Message:
        body = {"network_type": "vxlan", "segment_id": self.vni, "ports": ports}
        return {"method": method, "fdb_entries": {self.id: body}}


def _mac(number: int) -> str:
    return f"fa:16:3e:00:00:{number:02x}"


def machine(number: int, address: str = "") -> list[str]:
    """A pair; the address is 10.0.0.<number> unless given."""
    return [_mac(number), address or f"10.0.0.{number}"]


def both(*messages: Message) -> Message:
    """One message with the content of several."""
    entries = {key: value for message in messages for key, value in message["fdb_entries"].items()}
    return messages[0] | {"fdb_entries": entries}


class Chapter(NamedTuple):
    """Something that happens in a network of its own."""

    name: str
    net: Net
    steps: list[Step]


# "a" is this host's VTEP, "b" and "c" are other hosts'.
def _chapters() -> Iterator[Chapter]:
    names: list[tuple[str, Callable[[Net], list[Step]]]] = [
        (
            "machines of two hosts",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING, machine(2), machine(3)]),
            ],
        ),
        (
            "the same again, twice in one message too",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.add(b=[FLOODING, machine(1), machine(1), FLOODING]),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
            ],
        ),
        (
            "one by one",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING]),
                n.add(b=[machine(1)]),
                n.add(c=[machine(2)]),
                n.add(c=[FLOODING]),
            ],
        ),
        (
            "this host's own",
            lambda n: [
                Plug(),
                n.add(a=[FLOODING, machine(1)], b=[FLOODING, machine(2)]),
                n.remove(a=[FLOODING, machine(2)]),
                n.chg_ip("a", before=[machine(1)], after=[machine(1, "10.0.0.99")]),
            ],
        ),
        (
            "a machine comes here: added, not yet removed",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1), machine(2)]),
                n.add(a=[FLOODING, machine(1)]),
            ],
        ),
        (
            "a machine is deleted",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1), machine(2)]),
                n.remove(b=[machine(1)]),
            ],
        ),
        (
            "a host leaves",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING, machine(2)]),
                n.remove(b=[machine(1), FLOODING]),
            ],
        ),
        (
            "all hosts leave",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.remove(b=[machine(1), FLOODING], c=[FLOODING]),
            ],
        ),
        (
            "removed before it was added",
            lambda n: [
                Plug(),
                n.remove(b=[FLOODING, machine(1)]),
                n.add(b=[FLOODING, machine(1)]),
            ],
        ),
        (
            "a machine moves: removed, added",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.remove(b=[machine(1)]),
                n.add(c=[machine(1)]),
            ],
        ),
        (
            "a machine moves: added, removed",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.add(c=[machine(1)]),
                n.remove(b=[machine(1)]),
            ],
        ),
        (
            "a machine moves and comes back",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.add(c=[machine(1)]),
                n.add(b=[machine(1)]),
            ],
        ),
        (
            "another machine gets the address",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)], c=[FLOODING]),
                n.remove(b=[machine(1)]),
                n.add(c=[machine(2, "10.0.0.1")]),
            ],
        ),
        (
            "a machine with two addresses loses one",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1), machine(1, "10.0.0.11")]),
                n.remove(b=[machine(1, "10.0.0.11")]),
            ],
        ),
        (
            "another address",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
                n.chg_ip("b", before=[machine(1)], after=[machine(1, "10.0.0.11")]),
            ],
        ),
        (
            "one more address",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
                n.chg_ip("b", after=[machine(1, "10.0.0.11")]),
            ],
        ),
        (
            "one more address, told with all of them",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
                n.chg_ip("b", before=[machine(1)], after=[machine(1), machine(1, "10.0.0.11")]),
            ],
        ),
        (
            "no address any more",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
                n.chg_ip("b", before=[machine(1)]),
            ],
        ),
        (
            "a machine with addresses of both families",
            lambda n: [
                Plug(),
                n.add(
                    b=[FLOODING, machine(1), machine(1, "fd00::1"), machine(2)],
                    c=[FLOODING, machine(3)],
                ),
            ],
        ),
        (
            "IPv6 only",
            lambda n: [Plug(), n.add(b=[FLOODING, machine(1, "fd00::1"), machine(2, "fd00::2")])],
        ),
        (
            "told before the network was here",
            lambda n: [n.add(b=[FLOODING, machine(1)]), Plug(), n.add(c=[FLOODING, machine(2)])],
        ),
        (
            "beside a network that isn't here",
            lambda n: [
                Plug(),
                both(Net(90).add(b=[FLOODING, machine(9)]), n.add(b=[FLOODING, machine(1)])),
            ],
        ),
        (
            "a pair with a third element",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, [*machine(1), "new"]], c=[FLOODING]),
            ],
        ),
        ("a network of smaller packets", lambda n: [Plug(1400), n.add(b=[FLOODING])]),
        ("nobody else", lambda n: [Plug()]),
        (
            "a network that goes",
            lambda n: [Plug(), n.add(b=[FLOODING, machine(1)]), Unplug()],
        ),
        (
            "a network that goes and comes back",
            lambda n: [
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
                Unplug(),
                Plug(),
                n.add(b=[FLOODING, machine(1)]),
            ],
        ),
    ]
    for number, (name, steps) in enumerate(names, 1):
        yield Chapter(name, Net(number), steps(Net(number)))


CHAPTERS = list(_chapters())
_DEVICES = (
    "machines of two hosts",
    "nobody else",
    "a network of smaller packets",
    "a network that goes",
    "a network that goes and comes back",
)


def told(message: Message, scenario: Scenario) -> Message:
    """The message with the addresses of the scenario's VTEPs."""
    vteps = dict(zip("abc", scenario.vteps, strict=True))
    fdb: dict[str, Any] = {}
    for key, value in message["fdb_entries"].items():
        if key == "chg_ip":
            fdb[key] = {
                network: {vteps[vtep]: change for vtep, change in hosts.items()}
                for network, hosts in value.items()
            }
        else:
            ports = {vteps[vtep]: pairs for vtep, pairs in value["ports"].items()}
            fdb[key] = value | {"ports": ports}
    return message | {"fdb_entries": fdb}


# -- what the kernel holds -----------------------------------------------------------------------

Run = Callable[..., list[dict[str, Any]]]


def underlay(scenario: Scenario) -> list[str]:
    """Lines of ``ip`` that give a host with the device its VTEP's address."""
    bits, everybody = (24, "10.200.0.0/24") if scenario.family == 4 else (64, "fd00:200::/64")
    local, nodad = scenario.vteps[0], " nodad" if scenario.family == 6 else ""
    if not scenario.loopback:
        return [f"address add {local}/{bits} dev {UNDERLAY}{nodad}"]
    return [
        f"address add {local}/{32 if scenario.family == 4 else 128} dev lo{nodad}",
        f"address add 192.0.2.1/24 dev {UNDERLAY}",
        f"route add {everybody} via 192.0.2.2",
    ]


def state(run: Run, net: Net) -> dict[str, Any]:
    """What there is of a network; its own names are replaced by what they name.

    :param run: runs a command that prints JSON.
    """
    tunnel, bridge = f"vxlan-{net.vni}", f"brq{net.id[:11]}"
    names = {tunnel: "tunnel", bridge: "bridge", f"tap{net.number}": "machine"}
    links = {link["ifname"]: link for link in run("ip", "-j", "-d", "link") if link}
    devices: dict[str, Any] = {}
    found: dict[str, Any] = {"devices": devices, "neighbours": {}}
    for name in (tunnel, bridge):
        if link := links.get(name):
            info = link["linkinfo"]
            settings = info["info_data"]
            if name == bridge:
                settings = {key: settings[key] for key in _BRIDGE}
            elif settings["id"] == net.vni:
                settings["id"] = "of the network"
            port = info.get("info_slave_data", {})
            master = link.get("master")
            devices[names[name]] = {
                "up": "UP" in link["flags"],
                "in": master and names.get(master, master),
                "mtu": link["mtu"],
                "settings": settings,
                "port": {key: port[key] for key in _PORT if key in port},
            }
            shown = run("ip", "-j", "neighbour", "show", "dev", name, "nud", "permanent")
            found["neighbours"][names[name]] = {e["dst"]: e["lladdr"] for e in shown if e}
    if bridge in links:
        inside = [name for name, link in links.items() if link.get("master") == bridge]
        devices["bridge"]["ports"] = sorted(names.get(name, name) for name in inside)
    if tunnel in links:
        entries = [e for e in run("bridge", "-j", "fdb", "show", "dev", tunnel) if e]
        own = [e for e in entries if "dst" in e and e["state"] == "permanent"]
        found["flooding"] = sorted(e["dst"] for e in own if e["mac"] == FLOODING[0])
        # Of a machine of the host itself ours says that it is nowhere else.
        elsewhere = (e for e in own if e["dst"] not in ("0.0.0.0", "::"))
        found["unicast"] = {e["mac"]: e["dst"] for e in elsewhere if e["mac"] != FLOODING[0]}
        # Not what the kernel has for the device itself.
        bridged = [e for e in entries if "extern_learn" in e.get("flags", ()) and "master" in e]
        found["known to the bridge"] = sorted(e["mac"] for e in bridged)
    return found


_BRIDGE = ("stp_state", "forward_delay", "mcast_snooping", "vlan_filtering")
_PORT = ("learning", "flood", "mcast_flood", "neigh_suppress", "isolated", "hairpin")

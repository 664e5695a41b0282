"""The pure parts of the demonstration: cast, messages, what frames tell, verdicts, text."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from l2pop_lab.demo import report
from l2pop_lab.demo.feed import Delivery, announcements, flooding_only
from l2pop_lab.demo.layout import (
    FEWEST_HOSTS,
    LINUX_BRIDGE,
    MOST_HOSTS,
    OPEN_VSWITCH,
    Layout,
    Member,
    make_layout,
)
from l2pop_lab.demo.observe import (
    SWITCH,
    Broadcast,
    Question,
    Seen,
    Underlay,
    broadcasts,
    echo_repliers,
    foreign,
    questions,
    underlay,
)
from l2pop_lab.demo.results import (
    Drift,
    Isolation,
    Ping,
    Results,
    Traffic,
    as_json,
    promises,
    summary,
)
from l2pop_lab.topology.frames import BROADCAST, decode
from ovs_l2pop.core.errors import L2popError
from ovs_l2pop.core.messages import AddEntries, Attachment, Parser

LAYOUT = make_layout(3)
BLUE1, BLUE2, BLUE3, GREEN1, GREEN2, GREEN3 = LAYOUT.members
VTEPS = {number: f"10.200.0.{number}" for number in (1, 2, 3)}


# -- layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", range(FEWEST_HOSTS, MOST_HOSTS + 1))
def test_every_layout(hosts: int) -> None:
    layout = make_layout(hosts)
    places = [(member.host, member.local_vlan) for member in layout.members]
    assert len(set(places)) == len(places), "two networks in one local VLAN"
    assert {member.host for member in layout.members} == set(range(1, hosts + 1))
    assert len({member.mac for member in layout.members}) == len(layout.members)
    own = [address for member in layout.members for address in member.own.values()]
    assert len(set(own)) == len(own)
    blue, green = (layout.of_network(name) for name in ("blue", "green"))
    assert [member.shared for member in blue] == [member.shared for member in green]
    for members in (blue, green):
        vlans = [member.local_vlan for member in members]
        assert len(set(vlans)) == len(vlans), "a local VLAN looks global"
    assert (layout.needed_tunnels < layout.full_mesh) == (hosts > 3)
    assert {layout.kind(m.name) for m in layout.members} == {OPEN_VSWITCH, LINUX_BRIDGE}
    assert [m.host for m in green if layout.kind(m.name) == LINUX_BRIDGE] == [hosts]


def test_three_hosts_have_six_machines() -> None:
    assert [member.name for member in LAYOUT.members] == [
        *("blue1", "blue2", "blue3"),
        *("green1", "green2", "green3"),
    ]
    assert len(list(LAYOUT.pairs())) == 12
    assert len(list(LAYOUT.crossings())) == 18
    assert LAYOUT.needed_tunnels == LAYOUT.full_mesh == 6


@pytest.mark.parametrize("hosts", [-1, 0, 1, 21])
def test_number_of_hosts_out_of_range(hosts: int) -> None:
    with pytest.raises(L2popError, match=rf"--hosts {hosts}: must be 2 to 20"):
        make_layout(hosts)


# -- messages ---------------------------------------------------------------------------------


@dataclass
class Told:
    """What a host was told."""

    attached: set[str] = field(default_factory=set)
    entries: set[tuple[str, str, str, str]] = field(default_factory=set)
    floods: set[tuple[str, str]] = field(default_factory=set)


def told(batches: Iterable[list[Delivery]]) -> dict[int, Told]:
    found: dict[int, Told] = defaultdict(Told)
    parser = Parser("10.200.0.1")
    for delivery in (delivery for batch in batches for delivery in batch):
        host = found[delivery.host]
        for message in delivery.messages:
            changes, refusals = parser.parse(message)
            assert not refusals
            for change in changes:
                if isinstance(change, Attachment):
                    host.attached.add(change.network_id)
                    continue
                assert isinstance(change, AddEntries)
                host.entries |= {(change.network_id, *entry) for entry in change.entries}
                if change.flooding:
                    host.floods.add((change.network_id, change.vtep))
    return found


def vteps_of(layout: Layout) -> dict[int, str]:
    return {number: f"10.200.0.{number}" for number in range(1, layout.hosts + 1)}


@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_announcements_tell_every_host_all_of_its_networks(hosts: int) -> None:
    layout = make_layout(hosts)
    vteps = vteps_of(layout)
    for number, host in told(announcements(layout, vteps)).items():
        here = {member.network for member in layout.members if member.host == number}
        assert host.attached == {layout.network(name).network_id for name in here}
        for member in layout.members:
            if member.network in here and member.host != number:
                network_id, vtep = layout.network(member.network).network_id, vteps[member.host]
                assert (network_id, vtep) in host.floods
                for address in member.addresses:
                    assert (network_id, member.mac, address, vtep) in host.entries


def test_announcements_go_to_every_other_host() -> None:
    for batch in announcements(LAYOUT, VTEPS):
        assert sorted(delivery.host for delivery in batch) == [1, 2, 3]


def test_flooding_only_is_a_full_mesh_without_machines() -> None:
    layout = make_layout(5)
    vteps = vteps_of(layout)
    found = told([flooding_only(layout, vteps)])
    for number, host in found.items():
        others = set(vteps.values()) - {vteps[number]}
        assert not host.entries
        assert host.floods == {(network, vtep) for network in host.attached for vtep in others}
    tunnels = sum(len({vtep for _, vtep in host.floods}) for host in found.values())
    assert tunnels == layout.full_mesh


# -- frames -----------------------------------------------------------------------------------


def arp_request(asker: Member, target: Member) -> Packet:
    return Ether(src=asker.mac, dst=BROADCAST) / ARP(
        op=1, hwsrc=asker.mac, psrc=asker.shared[4], pdst=target.shared[4]
    )


def arp_reply(asker: Member, target: Member) -> Packet:
    return Ether(src=target.mac, dst=asker.mac) / ARP(
        op=2,
        hwsrc=target.mac,
        psrc=target.shared[4],
        hwdst=asker.mac,
        pdst=asker.shared[4],
    )


def solicitation(asker: Member, target: Member) -> Packet:
    return (
        Ether(src=asker.mac, dst="33:33:ff:00:00:02")
        / IPv6(src=asker.shared[6], dst="ff02::1:ff00:2")
        / ICMPv6ND_NS(tgt=target.shared[6])
        / ICMPv6NDOptSrcLLAddr(lladdr=asker.mac)
    )


def advertisement(asker: Member, target: Member) -> Packet:
    return (
        Ether(src=target.mac, dst=asker.mac)
        / IPv6(src=target.shared[6], dst=asker.shared[6])
        / ICMPv6ND_NA(tgt=target.shared[6])
        / ICMPv6NDOptDstLLAddr(lladdr=target.mac)
    )


def echo(source: Member, target: Member, kind: str = "echo-request") -> Packet:
    return (
        Ether(src=source.mac, dst=target.mac)
        / IP(src=source.shared[4], dst=target.shared[4])
        / ICMP(type=kind)
    )


def seen(time: float, direction: str, packet: Packet) -> Seen:
    return Seen(time, direction == "out", decode(bytes(packet)))


def test_answer_of_the_switch() -> None:
    asked, answer = arp_request(BLUE1, BLUE2), arp_reply(BLUE1, BLUE2)
    frames = {"blue1": [seen(1.0, "out", asked), seen(1.1, "in", answer)]}
    assert questions(frames, LAYOUT) == [Question("arp", "blue1", "10.0.0.2", SWITCH, ())]


@pytest.mark.parametrize(
    ("ask", "tell", "protocol", "address"),
    [
        (arp_request, arp_reply, "arp", "10.0.0.2"),
        (solicitation, advertisement, "nd", "fd00::2"),
    ],
)
def test_answer_of_a_machine(ask: object, tell: object, protocol: str, address: str) -> None:
    assert callable(ask)
    assert callable(tell)
    asked, answer = ask(BLUE1, BLUE2), tell(BLUE1, BLUE2)
    frames = {
        "blue1": [seen(1.0, "out", asked), seen(1.3, "in", answer)],
        "blue2": [seen(1.1, "in", asked), seen(1.2, "out", answer)],
        "blue3": [seen(1.1, "in", asked)],
    }
    wanted = Question(protocol, "blue1", address, "blue2", ("blue2", "blue3"))
    assert questions(frames, LAYOUT) == [wanted]


def test_each_question_has_its_own_answer() -> None:
    asked, answer = arp_request(BLUE1, BLUE2), arp_reply(BLUE1, BLUE2)
    frames = {
        "blue1": [
            seen(1.0, "out", asked),
            seen(2.0, "out", asked),
            seen(2.1, "in", answer),
            seen(3.0, "out", asked),
            seen(3.3, "in", answer),
        ],
        "blue2": [seen(3.1, "in", asked), seen(3.2, "out", answer)],
    }
    found = [(q.answered_by, q.reached) for q in questions(frames, LAYOUT)]
    assert found == [(None, ()), (SWITCH, ()), ("blue2", ("blue2",))]


def test_answer_of_the_other_networks_machine_counts_as_a_machines() -> None:
    # The same address is green2's too: an answer from there would be a leak, not the switch's.
    asked, answer = arp_request(BLUE1, BLUE2), arp_reply(BLUE1, GREEN2)
    frames = {
        "blue1": [seen(1.0, "out", asked), seen(1.2, "in", answer)],
        "green2": [seen(1.1, "out", answer)],
    }
    assert questions(frames, LAYOUT)[0].answered_by == "green2"


def test_echo_repliers_and_foreign_frames() -> None:
    frames = [
        seen(1.0, "out", echo(BLUE1, BLUE2)),
        seen(1.1, "in", echo(BLUE2, BLUE1, "echo-reply")),
        seen(1.2, "in", echo(BLUE3, BLUE1)),
    ]
    assert echo_repliers(frames) == {"10.0.0.2": {BLUE2.mac}}
    assert foreign(BLUE1, frames, LAYOUT) == 0
    frames.append(seen(1.3, "in", echo(GREEN2, BLUE1, "echo-reply")))
    assert echo_repliers(frames) == {"10.0.0.2": {BLUE2.mac, GREEN2.mac}}
    assert foreign(BLUE1, frames, LAYOUT) == 1


def tunnelled(packet: Packet, destination: int, vni: int) -> bytes:
    outer = Ether() / IP(src=VTEPS[1], dst=VTEPS[destination]) / UDP(sport=50000, dport=4789)
    return bytes(outer / VXLAN(vni=vni, flags="Instance") / packet)


def test_underlay() -> None:
    frames = [
        tunnelled(arp_request(BLUE1, BLUE2), 2, 1001),
        tunnelled(arp_request(BLUE1, BLUE2), 3, 1001),  # of no use there
        tunnelled(arp_reply(BLUE1, BLUE2), 1, 1001),
        tunnelled(solicitation(BLUE1, BLUE2), 2, 1001),
        tunnelled(echo(BLUE1, BLUE2), 2, 1001),
        tunnelled(echo(BLUE1, BLUE2), 3, 1001),  # unknown unicast, flooded: of no use there
        tunnelled(echo(BLUE1, BLUE2), 2, 1002),  # in green's VNI
        tunnelled(Ether(src=BLUE1.mac, dst="33:33:00:00:00:16") / IPv6(), 3, 1001),
        bytes(Ether() / ARP(op=1)),
    ]
    wanted = Underlay(arp=3, nd=1, echo=3, other=1, useless=3, stray=1, outer=1)
    assert underlay(frames, LAYOUT, VTEPS) == wanted


def test_frame_to_a_host_without_the_network_is_of_no_use() -> None:
    layout = make_layout(4)
    vteps = vteps_of(layout)
    outer = Ether() / IP(src=vteps[1], dst=vteps[4]) / UDP(sport=50000, dport=4789)
    frame = outer / VXLAN(vni=1001, flags="Instance") / arp_request(BLUE1, BLUE2)
    assert underlay([bytes(frame)], layout, vteps).useless == 1


def test_copies_of_a_broadcast() -> None:
    question = arp_request(BLUE1, BLUE2)
    frames = {"blue1": [seen(at, "out", question) for at in (1.0, 2.0, 3.0, 4.0)]}
    frames["blue2"] = [seen(1.1, "in", question)]
    carried = [
        (0.9, tunnelled(question, 3, 1001)),  # of a question that nobody saw
        (1.1, tunnelled(question, 3, 1001)),
        (1.1, tunnelled(question, 2, 1001)),
        (1.2, tunnelled(arp_reply(BLUE1, BLUE2), 1, 1001)),
        (2.1, tunnelled(question, 2, 1001)),
        (2.2, tunnelled(question, 2, 1001)),
    ]
    found = broadcasts(frames, carried, LAYOUT, VTEPS, until=3.5)
    assert found == [Broadcast("blue1", hosts) for hosts in ((2, 3), (2, 2), ())]


# -- verdicts ---------------------------------------------------------------------------------


def good_ping(source: Member, target: Member, address: str) -> Ping:
    return Ping(source.name, target.name, address, 2, 2, 0, (1.5, 0.5), (target.name,))


def lost_ping(source: Member, target: Member, address: str) -> Ping:
    return Ping(source.name, target.name, address, 1, 0, 0, (), ())


def good_results(layout: Layout = LAYOUT) -> Results:
    pings = tuple(
        good_ping(source, target, target.shared[version])
        for version in (4, 6)
        for source, target in layout.pairs()
    )
    crossing = tuple(
        lost_ping(source, target, address)
        for source, target in layout.crossings()
        for address in target.own.values()
    )
    asked = tuple(
        Question("nd" if ":" in ping.address else "arp", ping.source, ping.address, SWITCH, ())
        for ping in pings
    )
    quiet = Underlay(arp=0, nd=0, echo=4 * len(pings), other=3, useless=0, stray=0, outer=0)
    l2pop = Traffic(pings, asked, quiet, 0, 22, 0.05, layout.needed_tunnels, 234, 24, 10)
    flood = Traffic(
        pings,
        tuple(
            replace(question, answered_by="blue2", reached=("blue2", "blue3")) for question in asked
        ),
        replace(quiet, arp=36, nd=36, useless=24),
        *(0, 12, 0.02, layout.full_mesh, 194, 8, 14),
    )
    controls = tuple(
        good_ping(source, target, address)
        for source, target in layout.pairs()
        for address in target.own.values()
    )
    copied = tuple(
        Broadcast(
            source.name,
            tuple(n for n in layout.network(source.network).hosts if n != source.host),
        )
        for source, _ in layout.crossings()
    )
    isolation = Isolation(controls, crossing, crossing, foreign=0, stray=0, broadcasts=copied)
    drift = tuple(Drift(f"h{number + 1}", ()) for number in range(layout.hosts))
    return Results(layout, l2pop, isolation, drift, flood, ())


def broken(results: Results) -> list[str]:
    return [failure for promise in promises(results) for failure in promise.failures]


@pytest.mark.parametrize("hosts", [2, 3, 7])
def test_all_promises_kept(hosts: int) -> None:
    assert broken(good_results(make_layout(hosts))) == []


GOOD = good_results()
L2POP, ISOLATION = GOOD.l2pop, GOOD.isolation


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (replace(GOOD, l2pop=replace(L2POP, pings=L2POP.pings[1:])), "23 pings, not 24"),
        (
            replace(
                GOOD,
                l2pop=replace(L2POP, pings=(replace(L2POP.pings[0], received=1), *L2POP.pings[1:])),
            ),
            "blue1 → blue2 (10.0.0.2): 1 of 2 answered, by blue2",
        ),
        (
            replace(
                GOOD,
                l2pop=replace(
                    L2POP,
                    pings=(replace(L2POP.pings[0], repliers=("green2",)), *L2POP.pings[1:]),
                ),
            ),
            "blue1 → blue2 (10.0.0.2): 2 of 2 answered, by green2",
        ),
        (
            replace(
                GOOD,
                isolation=replace(
                    ISOLATION,
                    knowing=(replace(ISOLATION.knowing[0], received=1), *ISOLATION.knowing[1:]),
                ),
            ),
            "blue1 → green1 (10.0.0.201): answered",
        ),
        (
            replace(GOOD, isolation=replace(ISOLATION, asking=())),
            "0 pings that ask, not 36",
        ),
        (
            replace(GOOD, isolation=replace(ISOLATION, foreign=2)),
            "2 frames came from the other network",
        ),
        (
            replace(
                GOOD,
                l2pop=replace(
                    L2POP,
                    questions=(
                        replace(L2POP.questions[0], answered_by="blue2", reached=("x",)),
                        *L2POP.questions[1:],
                    ),
                ),
            ),
            "blue1 asked for 10.0.0.2: answered by blue2, came to x",
        ),
        (
            replace(GOOD, l2pop=replace(L2POP, questions=L2POP.questions[:1])),
            "no question was seen at Linux bridge",
        ),
        (
            replace(GOOD, isolation=replace(ISOLATION, broadcasts=())),
            "no question was seen at Open vSwitch and Linux bridge",
        ),
        (
            replace(
                GOOD,
                isolation=replace(
                    ISOLATION,
                    broadcasts=(*ISOLATION.broadcasts[1:], Broadcast("green3", (1, 1))),
                ),
            ),
            "a question of green3 was copied to h1 h1",
        ),
        (
            replace(GOOD, l2pop=replace(L2POP, underlay=replace(L2POP.underlay, arp=1))),
            "1 ARP frames",
        ),
        (
            replace(GOOD, l2pop=replace(L2POP, underlay=replace(L2POP.underlay, useless=5))),
            "5 frames",
        ),
        (replace(GOOD, l2pop=replace(L2POP, tunnels=5)), "5 tunnels, not 6"),
        (
            replace(GOOD, drift=(Drift("h1", (["missing"],)), *GOOD.drift[1:])),
            "h1: 1 rows",
        ),
        (replace(GOOD, drift=GOOD.drift[1:]), "2 hosts checked, not 3"),
        (replace(GOOD, flood=replace(GOOD.flood, underlay=L2POP.underlay)), "none seen"),
    ],
)
def test_broken_promise_is_named(bad: Results, failure: str) -> None:
    assert broken(bad) == [failure]
    assert failure in report.report(bad)
    assert "FAIL" in report.report(bad)


def test_summary_and_json() -> None:
    content = json.loads(json.dumps(as_json(GOOD, 8.1234)))
    assert content["passed"] is True
    assert content["seconds"] == 8.12
    assert content["summary"]["l2pop"]["arp_on_underlay"] == 0
    assert content["summary"]["flood_and_learn"]["machines_asked_in_vain"] == 24
    assert content["summary"]["l2pop"]["first_reply_median_ms"] == 1.5
    assert len(content["measured"]["l2pop"]["pings"]) == 24
    across = content["summary"]["across_kinds"]
    assert (across["pings"], across["pings_answered"]) == (16, 16)
    assert across[OPEN_VSWITCH] == {
        "questions": 16,
        "questions_answered_by_switch": 16,
        "broadcasts": 12,
        "copies": 24,
    }
    assert (across[LINUX_BRIDGE]["questions"], across[LINUX_BRIDGE]["copies"]) == (8, 12)
    assert not as_json(replace(GOOD, drift=()), 1.0)["passed"]


def test_summary_where_nothing_answered() -> None:
    silent = replace(L2POP, pings=(lost_ping(BLUE1, BLUE2, "10.0.0.2"),))
    assert summary(silent)["first_reply_median_ms"] is None
    assert "LOST" in report.report(replace(GOOD, l2pop=silent))


# -- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [2, 3, 4, 7, 20])
def test_report_fits_a_terminal(hosts: int) -> None:
    text = report.report(good_results(make_layout(hosts)))
    assert "FAIL" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_matrix_of_pings() -> None:
    lines = report.report(GOOD).splitlines()
    row = next(line.split() for line in lines if line.split()[:1] == ["green1"])
    assert row == ["green1", "none", "none", "none", "·", "1.5/1.5", "1.5/1.5"]


def test_failures_beyond_ten_are_counted() -> None:
    lost = tuple(replace(ping, received=0, rtts=(), repliers=()) for ping in L2POP.pings)
    text = report.report(replace(GOOD, l2pop=replace(L2POP, pings=lost)))
    assert "and 14 more" in text


def test_table() -> None:
    assert report.table(("name", "ms"), [("one", 1.0), ("four", None), ("x", "10")]) == [
        "  name    ms",
        "  one   1.00",
        "  four     -",
        "  x       10",
    ]


def test_hints_end_with_how_to_remove_it_all() -> None:
    places = report.Places(
        "prog", "/m/lab.json", "ul", "vm", "10.0.0.2", "/m/sock", "/m/h1", "br", "h3", "vxlan-1"
    )
    found = report.look_around(places)
    assert found[-1].command == "prog demo --remove /m/lab.json"
    assert all(hint.command in report.hints(found) for hint in found)

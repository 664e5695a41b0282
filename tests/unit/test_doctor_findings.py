"""What follows from evidence, and what doesn't."""

from dataclasses import replace

import pytest

from ovs_l2pop.doctor.evidence import Announced, Claim, Evidence, Network, Port, Way
from ovs_l2pop.doctor.findings import MOST, find

VXLAN = ("vxlan", 1001)
PEER = "10.0.0.2"
NET = Network("n1", VXLAN, 5, "br-int", {PEER: Announced(VXLAN, True, 1)})
SOUND = Evidence(
    "openvswitch",
    "10.0.0.1",
    4789,
    addresses={"10.0.0.1": "eth0"},
    networks=(NET,),
    claims=(Claim("n1", "fa:16:3e:00:00:02", "192.0.2.2", PEER, "active"),),
    ports=(
        Port("tap-a", "br-int", 5, mtu=1450, mac="fa:16:3e:00:00:01"),
        Port("patch-tun", "br-int", kind="patch"),
    ),
    ways=(Way(PEER, "eth0", 1500, "", "REACHABLE", True, True, 1500),),
)


def said(seen: Evidence) -> list[str]:
    return [finding.what for finding in find(seen)]


def way(**values: object) -> Evidence:
    return replace(SOUND, ways=(replace(SOUND.ways[0], **values),))  # type: ignore[arg-type]


def test_nothing_of_a_sound_host() -> None:
    assert find(SOUND) == []


@pytest.mark.parametrize(
    ("mtu", "local", "short"), [(1499, "10.0.0.1", 1), (1519, "fd00::1", 1), (1520, "fd00::1", 0)]
)
def test_headers_are_counted_by_family(mtu: int, local: str, short: int) -> None:
    seen = replace(way(mtu=mtu), local_ip=local, addresses={local: "eth0"})
    assert [f"too small by {short}" in text for text in said(seen)] == [True] * bool(short)


def test_only_the_first_thing_on_a_way_is_told() -> None:
    (text,) = said(way(mtu=1400, answers=False, neighbour="FAILED", refuses=(4789, 8472)))
    assert "too small by 100" in text


def test_who_drops_pings_and_is_known_to_be_silent_is_told_otherwise() -> None:
    (silent,) = said(way(answers=False, fits=None, neighbour="REACHABLE"))
    (gone,) = said(way(answers=False, fits=None, neighbour="FAILED"))
    assert "can't be told from here" in silent
    assert "doesn't answer ARP" in gone


def test_both_ports_refused_names_no_other() -> None:
    (text,) = said(way(refuses=(4789, 8472)))
    assert "doesn't refuse" not in text


def test_a_network_of_several_segments_is_sound() -> None:
    vteps = {**NET.vteps, "10.0.0.3": Announced(("vxlan", 7), True, 1)}
    assert said(replace(SOUND, networks=(replace(NET, vteps=vteps),))) == []


def test_tags_of_provider_networks_are_none_of_ours() -> None:
    more = (*SOUND.ports, Port("tap-b", "br-int", 9), Port("int-br-ex", "br-int", kind="patch"))
    assert said(replace(SOUND, ports=more)) == []
    assert said(replace(SOUND, ports=(*more[:2], more[2]))) == [
        "tap-b has tag 9, and no network here has it"
    ]


def test_a_port_that_is_not_wired_yet_is_sound() -> None:
    assert said(replace(SOUND, ports=(*SOUND.ports, Port("tap-b", "br-int", 4095)))) == []


def test_no_port_is_missed_where_ports_were_not_seen() -> None:
    assert said(replace(SOUND, ports=(), unseen=(("ports", "no answer"),))) == []
    assert len(said(replace(SOUND, ports=()))) == 1


def test_two_addresses_of_one_machine_are_sound() -> None:
    second = replace(SOUND.claims[0], ip="2001:db8::2")
    assert said(replace(SOUND, claims=(*SOUND.claims, second))) == []


def test_claims_in_another_segment_are_no_rivals() -> None:
    other = replace(SOUND.claims[0], vtep="10.0.0.3", state="other segment")
    assert said(replace(SOUND, claims=(*SOUND.claims, other))) == []
    (text,) = said(replace(SOUND, claims=(*SOUND.claims, replace(other, state="waiting"))))
    assert "10.0.0.2 and 10.0.0.3" in text


def test_the_list_is_bounded() -> None:
    rows = tuple(("missing", "flow", "t", str(n), "drop") for n in range(MOST + 5))
    texts = said(replace(SOUND, drift=rows))
    assert (len(texts), texts[-1]) == (MOST + 1, "5 more of this kind")


def test_what_the_agent_says_of_local_ip_is_told_once() -> None:
    why = "local_ip 10.0.0.1 is on no device of this host"
    seen = replace(SOUND, addresses={"10.0.0.9": "eth0"}, troubles=(("dataplane", why),))
    assert len(said(seen)) == 1
    assert len(said(replace(seen, troubles=(("dataplane", "down"),)))) == 2

"""The group [vxlan]: what is taken, what is refused, and which multicast group a VNI gets."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop import config
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings, Range, list_opts
from ovs_l2pop.core.errors import ConfigError

Make = Callable[..., LinuxBridgeSettings]


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Make:
    """Return a function from the lines of a configuration to its settings."""

    def make(vxlan: str = "", common: str = "", local_ip: str = "192.0.2.1") -> LinuxBridgeSettings:
        path = tmp_path / "conf"
        path.write_text(f"[ovs_l2pop]\nlocal_ip = {local_ip}\n{common}\n[vxlan]\n{vxlan}\n")
        return LinuxBridgeSettings.from_config(config.load([f"--config-file={path}"]))

    return make


def test_defaults(settings: Make) -> None:
    assert settings() == LinuxBridgeSettings(
        local_ip="192.0.2.1",
        tunnel_types=("vxlan",),
        l2_population=True,
        arp_responder=True,
        port=4789,
        ttl=0,
        tos=0,
        ranges=(),
        known_vteps_only=True,
    )


@pytest.mark.parametrize(
    ("vxlan", "common", "answers"),
    [
        ("", "", True),
        ("", "arp_responder = false", False),
        ("arp_responder = true", "arp_responder = false", True),
        ("arp_responder = false", "", False),
    ],
)
def test_the_responder_of_vxlan_wins(
    settings: Make, vxlan: str, common: str, answers: bool
) -> None:
    assert settings(vxlan, common).arp_responder is answers


def test_a_file_of_neutrons_agent_can_be_given_too(settings: Make) -> None:
    """What it holds besides is ignored."""
    text = """
        enable_vxlan = true
        local_ip = 192.0.2.1
        l2_population = true
        udp_srcport_min = 0
        ttl = 9
        tos = 16
        vxlan_group = 239.0.0.0/8
        [linux_bridge]
        physical_interface_mappings = physnet1:eth1
    """.replace("        ", "")
    got = settings(text)
    assert (got.ttl, got.tos, got.group(0x010203)) == (9, 16, "239.1.2.3")


@pytest.mark.parametrize(
    ("text", "tos"), [("0", 0), ("12", 12), ("0xff", 255), ("inherit", 1), ("255", 255)]
)
def test_tos(settings: Make, text: str, tos: int) -> None:
    assert settings(f"tos = {text}").tos == tos


@pytest.mark.parametrize(
    ("vxlan", "said"),
    [
        ("tos = 256", "tos 256 is over 255"),
        ("tos = high", "tos"),
        ("ttl = 256", "ttl"),
        ("ttl = -1", "ttl"),
        ("udp_dstport = 0", "udp_dstport"),
        ("udp_dstport = 65536", "udp_dstport"),
        ("l2_population = perhaps", "l2_population"),
        ("vxlan_group = 10.0.0.1", "10.0.0.1/32 is not multicast"),
        ("vxlan_group = 224.0.0.0/3", "224.0.0.0/3 is not multicast"),
        ("vxlan_group = here", "'here' does not appear to be"),
        ("vxlan_group = ff05::1", "is not of the address family of local_ip 192.0.2.1"),
        ("multicast_ranges = 239.0.0.1", "is not <group>:<lowest VNI>:<highest VNI>"),
        ("multicast_ranges = 239.0.0.1:1:x", "is not <group>:<lowest VNI>:<highest VNI>"),
        ("multicast_ranges = 239.0.0.1:5:4", "not a range within 1..16777215"),
        ("multicast_ranges = 239.0.0.1:0:4", "not a range within 1..16777215"),
        ("multicast_ranges = 239.0.0.1:1:16777216", "not a range within 1..16777215"),
        ("multicast_ranges = 10.0.0.1:1:2", "10.0.0.1/32 is not multicast"),
        ("l2_population = false", "multicast mode needs vxlan_group or multicast_ranges"),
        ("local_ip = 192.0.2.2", "is not [ovs_l2pop] local_ip 192.0.2.1"),
        ("local_ip = 2001:db8::1", "is not [ovs_l2pop] local_ip 192.0.2.1"),
    ],
)
def test_refused(settings: Make, vxlan: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(vxlan)
    assert said in str(error.value)


def test_groups_by_range(settings: Make) -> None:
    got = settings(
        "multicast_ranges = 239.1.0.1:10:20, 239.2.0.0/24:15:300\nvxlan_group = 239.9.9.9"
    )
    groups = {vni: got.group(vni) for vni in (9, 10, 20, 21, 300, 301)}
    assert groups == {
        9: "239.9.9.9",
        10: "239.1.0.1",
        20: "239.1.0.1",
        21: "239.2.0.21",
        300: "239.2.0.44",
        301: "239.9.9.9",
    }


def test_a_vni_without_group(settings: Make) -> None:
    got = settings("l2_population = false\nmulticast_ranges = 239.1.0.1:10:20")
    assert got.group(21) is None


def test_groups_of_ipv6(settings: Make) -> None:
    got = settings(
        "multicast_ranges = ff05::1:10:20, [ff05::2]:21:30\nvxlan_group = ff05::/104",
        local_ip="2001:db8::1",
    )
    assert [got.group(vni) for vni in (10, 21, 0x010203)] == ["ff05::1", "ff05::2", "ff05::1:203"]
    assert (got.overhead, settings().overhead) == (70, 50)


@given(st.sets(st.integers(1, 2**24 - 1), min_size=2, max_size=50))
def test_with_a_range_of_24_bits_every_vni_has_its_own_group(vnis: set[int]) -> None:
    """L11."""
    ranges = (Range(ip_network("239.0.0.0/8"), 1, 2**24 - 1),)
    settings = LinuxBridgeSettings("192.0.2.1", ("vxlan",), False, True, 4789, 0, 0, ranges)
    assert len({settings.group(vni) for vni in vnis}) == len(vnis)


def test_every_option_has_help() -> None:
    ((group, options),) = list_opts()
    assert group == "vxlan"
    assert {option.name for option in options} == {
        "arp_responder",
        "l2_population",
        "local_ip",
        "multicast_ranges",
        "tos",
        "ttl",
        "udp_dstport",
        "vxlan_group",
    }
    assert all(option.help for option in options)

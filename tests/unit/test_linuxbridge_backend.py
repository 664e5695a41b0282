"""The backend's decisions: which mode, what is refused, what people read."""

import logging
from ipaddress import ip_network

import pytest
from builders import IP1, MAC1, A, B, N

from ovs_l2pop.backends.linuxbridge import backend as module
from ovs_l2pop.backends.linuxbridge.backend import LinuxBridgeBackend
from ovs_l2pop.backends.linuxbridge.options import LinuxBridgeSettings, Range
from ovs_l2pop.backends.linuxbridge.probe import Missing
from ovs_l2pop.backends.linuxbridge.render import Ways
from ovs_l2pop.backends.linuxbridge.rows import (
    Bridge,
    Flood,
    Neighbour,
    Oversized,
    Tunnel,
    Unicast,
    address_attribute,
    mac_attribute,
)
from ovs_l2pop.backends.linuxbridge.underlay import Underlay
from ovs_l2pop.core.backend import Batch
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment, Segment

UNDERLAY = Underlay(2, "eth1", 1500, "eth1")
GROUPS = (Range(ip_network("239.1.0.0/16"), 1, 2**24 - 1),)


def settings(
    *,
    local_ip: str = "192.0.2.1",
    l2_population: bool = True,
    arp_responder: bool = True,
    ranges: tuple[Range, ...] = (),
) -> LinuxBridgeSettings:
    return LinuxBridgeSettings(
        local_ip, ("vxlan",), l2_population, arp_responder, 4789, 0, 0, ranges
    )


NOTHING_MISSING = Missing()


def ways(
    settings: LinuxBridgeSettings, missing: Missing = NOTHING_MISSING, there: Underlay = UNDERLAY
) -> Ways:
    backend = LinuxBridgeBackend(settings, lambda: missing)
    return backend._make_ways(settings.local_ip or "", there, missing)


def test_unicast_mode() -> None:
    got = ways(settings())
    assert (got.multicast, got.populate, got.responder) == (False, True, "on")
    assert (got.device, got.mtu) == ("eth1", 1450)


def test_multicast_mode() -> None:
    got = ways(settings(l2_population=False, ranges=GROUPS))
    assert (got.multicast, got.populate, got.responder) == (True, False, "off")


def test_a_group_alone_is_no_multicast_mode() -> None:
    """Upstream's files have one by default."""
    assert not ways(settings(ranges=GROUPS)).multicast


def test_a_kernel_without_flooding_entries(caplog: pytest.LogCaptureFixture) -> None:
    lacking = Missing(unicast="several flooding entries (Operation not supported)")
    got = ways(settings(ranges=GROUPS), lacking)
    assert (got.multicast, got.populate) == (True, True)
    assert "multicast mode, because this kernel lacks several flooding entries" in caplog.text
    with pytest.raises(BackendError) as error:
        ways(settings(), lacking)
    assert str(error.value) == (
        "unicast mode: this kernel lacks several flooding entries (Operation not supported);"
        " multicast mode: [vxlan] vxlan_group is not set"
    )


def test_a_kernel_without_vxlan_or_multicast() -> None:
    with pytest.raises(BackendError, match="can't do VXLAN: it lacks devices of the kind vxlan"):
        ways(settings(), Missing(tunnels="devices of the kind vxlan (Operation not supported)"))
    with pytest.raises(BackendError, match="multicast mode: this kernel lacks groups"):
        ways(settings(l2_population=False, ranges=GROUPS), Missing(multicast="groups (no)"))


def test_a_kernel_without_responder(caplog: pytest.LogCaptureFixture) -> None:
    assert ways(settings(), Missing(neighbours="their marks")).responder == "off"
    assert "no ARP and ND responder: this kernel lacks their marks" in caplog.text
    assert ways(settings(), Missing(programs="clsact")).responder == "answers"
    assert ways(settings(), Missing(programs="clsact", suppression="x")).responder == "off"
    assert "announcements don't leave this host" in caplog.text
    caplog.clear()
    assert ways(settings(arp_responder=False), Missing(neighbours="x")).responder == "off"
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("local_ip", "mtu", "tunnel", "nd"),
    [
        ("192.0.2.1", 1500, 1450, True),
        ("2001:db8::1", 1500, 1430, True),
        ("192.0.2.1", 9000, 8950, True),
        ("192.0.2.1", 1300, 1250, False),
    ],
)
def test_mtu(local_ip: str, mtu: int, tunnel: int, nd: bool) -> None:
    got = ways(settings(local_ip=local_ip), there=UNDERLAY._replace(mtu=mtu))
    assert (got.mtu, got.nd) == (tunnel, nd and module._IPV6.is_dir())


def test_an_mtu_too_small() -> None:
    with pytest.raises(BackendError, match="MTU of eth1, 100, is too small for VXLAN \\(50 bytes"):
        ways(settings(), there=UNDERLAY._replace(mtu=100))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("224.0.0.1/32", True),
        ("224.0.0.0/23", True),
        ("224.0.1.1/32", False),
        ("ff02::1/128", False),
    ],
)
def test_groups_that_every_host_hears(
    network: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        LinuxBridgeBackend(settings(ranges=(Range(ip_network(network), 1, 9),)))
    assert ("is in 224.0.0.0/24" in caplog.text) is said


def attachment(kind: str = "vxlan", vni: int = 77) -> Attachment:
    return Attachment(N, Segment(kind, vni), None)


def test_networks_that_are_refused() -> None:
    assert LinuxBridgeBackend(settings()).refuse(attachment()) is None
    reason = LinuxBridgeBackend(settings()).refuse(attachment("geneve"))
    assert reason == "the linuxbridge backend has vxlan tunnels only, not geneve"
    few = settings(l2_population=False, ranges=(Range(ip_network("239.1.0.0/16"), 1, 76),))
    assert LinuxBridgeBackend(few).refuse(attachment(vni=76)) is None
    assert "VNI 77 is in none" in (LinuxBridgeBackend(few).refuse(attachment()) or "")


TUNNEL = Tunnel(
    "vxlan-77", 77, N, "brq1", "192.0.2.1", "", "eth1", 4789, 0, 0, 1450, "on", True, False, True
)
ENTRY = Unicast("vxlan-77", mac_attribute(MAC1) + address_attribute(A), True)


def test_rows_for_people() -> None:
    backend = LinuxBridgeBackend(settings())
    texts = {
        TUNNEL: (
            "tunnel",
            "vxlan-77",
            f"VNI 77 in brq1, network {N}",
            "local=192.0.2.1 device=eth1 port=4789 mtu=1450 responder=on",
        ),
        TUNNEL._replace(
            bridge="", device="", group="239.0.0.1", ttl=4, up=False, learning=False, proxy=True
        ): (
            "tunnel",
            "vxlan-77",
            f"VNI 77 in no bridge, network {N}",
            "local=192.0.2.1 group=239.0.0.1 port=4789 ttl=4 mtu=1450 responder=on"
            " learning=off proxy=on down",
        ),
        Flood("vxlan-77", (A, B)): (
            "flooding",
            "vxlan-77",
            "broadcast (DHCP, ARP), multicast, unknown unicast",
            f"reaches nobody; should be copied to {A} {B}",
        ),
        ENTRY: ("unicast", "vxlan-77", MAC1, f"to {A}, known to the bridge"),
        ENTRY._replace(bridged=False): ("unicast", "vxlan-77", MAC1, f"to {A}"),
        ENTRY._replace(addresses=ENTRY.key): (
            "unicast",
            "vxlan-77",
            MAC1,
            "to nobody, known to the bridge",
        ),
        Neighbour("vxlan-77", "brq1", address_attribute(IP1) + mac_attribute(MAC1)): (
            "neighbour",
            "brq1",
            IP1,
            MAC1,
        ),
        Bridge("brq1"): ("bridge", "brq1", "empty", ""),
        Oversized("tap1", "vxlan-77", 1500, 1450): (
            "mtu",
            "tap1",
            "MTU 1500",
            "vxlan-77 takes 1450",
        ),
    }
    for row, text in texts.items():
        assert tuple(backend.describe(row)) == text
    with pytest.raises(TypeError, match="no row of this backend"):
        backend.describe(("flow", 1))


def test_not_connected() -> None:
    backend = LinuxBridgeBackend(settings())
    for step in (backend.poll, backend.installed, lambda: backend.write([Batch([], [])])):
        with pytest.raises(BackendError, match="not connected"):
            step()
    backend.close()

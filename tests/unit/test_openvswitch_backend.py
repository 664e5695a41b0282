"""The backend without a switch: what it makes of what its parts tell."""

from pathlib import Path

import pytest

from ovs_l2pop.backends.openvswitch.backend import OpenvswitchBackend
from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
from ovs_l2pop.backends.openvswitch.rows import Bridges, Wiring


class Part:
    """A connection that has news once."""

    def __init__(self) -> None:
        self.news = False

    def poll(self) -> bool:
        news, self.news = self.news, False
        return news


class Database(Part):
    """OVSDB. What changes in it may be ours, and mostly is not."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: tuple[tuple[str, str], ...] = ()

    def changed(self) -> bool:
        return self.poll()

    def tunnels(self, bridge: str) -> set[object]:
        return set()

    def wiring(self, bridges: Bridges, patch: int) -> list[Wiring]:
        return [Wiring(bridges.tunnel, "bridge", self.odd)]

    def offloads(self) -> bool:
        return False

    def largest_packet(self, bridges: Bridges) -> int:
        return 0


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        settings = OpenvswitchSettings(
            local_ip="10.0.0.1",
            tunnel_types=("vxlan",),
            arp_responder=True,
            ovsdb_connection="",
            rundir=tmp_path,
            bridges=Bridges("br-int", "br-tun", "system"),
            vxlan_udp_port=4789,
            tunnel_csum=False,
            dont_fragment=True,
            tos=None,
            openflow_library="os_ken",
        )
        self.backend = OpenvswitchBackend(settings)
        self.flows, self.flags, self.database = Part(), Part(), Database()
        self.backend._channel = self.flows  # type: ignore[assignment]
        self.backend._flag_channels = {"br-tun": self.flags}  # type: ignore[dict-item]
        self.backend._ovsdb = self.database  # type: ignore[assignment]
        self.backend._ports = self.backend._read_ports()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_nothing_is_news(bench: Bench) -> None:
    assert not bench.backend.poll()


@pytest.mark.parametrize("part", ["flows", "flags"])
def test_news_of_one_part_are_not_lost_in_the_silence_of_others(bench: Bench, part: str) -> None:
    getattr(bench, part).news = True
    assert bench.backend.poll()
    assert not bench.backend.poll(), "told once"


def test_the_database_has_news_where_ports_of_ours_changed(bench: Bench) -> None:
    bench.database.news = True
    assert not bench.backend.poll(), "somebody's port"
    bench.database.news = True
    bench.database.odd = (("datapath_type", "netdev"),)
    assert bench.backend.poll()


def test_flows_that_changed_with_the_database_are_news(bench: Bench) -> None:
    bench.flows.news = bench.database.news = True
    assert bench.backend.poll()

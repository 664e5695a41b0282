"""What an integration bridge believes against what was announced."""

import pytest

from ovs_l2pop.backends.openvswitch import sightings
from ovs_l2pop.backends.openvswitch.sightings import Sightings
from ovs_l2pop.core.errors import BackendError
from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.core.table import Fact, LocalFact, UnicastFact

HERE = Attachment("11111111-1111-4111-8111-111111111111", Segment("vxlan", 1001), 5)
FAR, NEAR, UNKNOWN = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))
PORTS = {"patch-tun": 1, "tap1": 2}


class FakeAppctl:
    """A bridge's MAC table: (VLAN, MAC) → port and age."""

    def __init__(self) -> None:
        self.table: dict[tuple[int, str], tuple[str, str]] = {}
        self.changes: list[str] = []
        self.fails: str | None = None

    def close(self) -> None:
        pass

    def command(self, name: str, *arguments: str, timeout: float = 0.5) -> str:
        if self.fails is not None and name.startswith(self.fails):
            raise BackendError(f"{name}: not a valid command")
        if name == "fdb/show":
            lines = [
                f"{port:>5} {vlan:>5}  {mac}  {age}"
                for (vlan, mac), (port, age) in self.table.items()
            ]
            return "\n".join([" port  VLAN  MAC                Age", *lines]) + "\n"
        self.changes.append(" ".join((name, *arguments)))
        if name == "fdb/add":
            _, port, vlan, mac = arguments
            self.table[int(vlan), mac] = str(PORTS[port]), "static"
        else:
            _, vlan, mac = arguments
            assert self.table.pop((int(vlan), mac))[1] == "static"
        return ""


def where(vlan: int, mac: str) -> Fact | None:
    if vlan != 5:
        return None
    if mac == FAR:
        return UnicastFact(HERE, FAR, "192.0.2.2")
    return LocalFact(HERE, NEAR) if mac == NEAR else None


@pytest.fixture
def appctl() -> FakeAppctl:
    return FakeAppctl()


@pytest.fixture
def bridge(appctl: FakeAppctl, monkeypatch: pytest.MonkeyPatch) -> Sightings:
    for name in ("_PERIOD", "_PAUSE"):
        monkeypatch.setattr(sightings, name, 0.0)
    monkeypatch.setattr(sightings, "_SHARE", 1e9)
    return Sightings(appctl, "br-int", "patch-tun")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vlan", "mac", "port", "age", "change"),
    [
        (5, FAR, "2", "0", [f"fdb/add br-int patch-tun 5 {FAR}"]),
        (5, FAR, "LOCAL", "17", [f"fdb/add br-int patch-tun 5 {FAR}"]),
        (5, FAR, "1", "3", []),
        (5, FAR, "2", "static", []),
        (6, FAR, "2", "0", []),
        (5, NEAR, "2", "0", []),
        (5, NEAR, "1", "0", [f"fdb/add br-int patch-tun 5 {NEAR}", f"fdb/del br-int 5 {NEAR}"]),
        (5, NEAR, "1", "static", [f"fdb/del br-int 5 {NEAR}"]),
        (5, UNKNOWN, "2", "0", []),
        (5, UNKNOWN, "1", "0", []),
        (5, UNKNOWN, "1", "static", []),
    ],
)
def test_what_is_done(
    bridge: Sightings,
    appctl: FakeAppctl,
    vlan: int,
    mac: str,
    port: str,
    age: str,
    change: list[str],
) -> None:
    appctl.table[vlan, mac] = port, age
    bridge.look(where, PORTS)
    assert appctl.changes == change


def test_told_once_and_shown_as_long_as_it_lasts(bridge: Sightings, appctl: FakeAppctl) -> None:
    appctl.table[5, FAR] = "2", "0"
    (text,) = bridge.look(where, PORTS)
    assert FAR in text
    assert HERE.network_id in text
    assert "tap1 of br-int" in text
    assert bridge.look(where, PORTS) == []
    assert text in (bridge.told() or "")
    del appctl.table[5, FAR]  # somebody flushed the table
    bridge.look(where, PORTS)
    assert bridge.told() is None


def test_withdrawn(bridge: Sightings, appctl: FakeAppctl) -> None:
    appctl.table[5, FAR] = "2", "0"
    bridge.look(where, PORTS)
    bridge.released(5, NEAR)
    assert (5, FAR) in appctl.table
    appctl.fails = "fdb/del"
    bridge.released(5, FAR)
    appctl.fails = None
    bridge.look(lambda vlan, mac: None, PORTS)
    assert (5, FAR) not in appctl.table
    assert bridge.told() is None


def test_a_switch_that_knows_no_static_entries(bridge: Sightings, appctl: FakeAppctl) -> None:
    """Open vSwitch before 2.16: told, and nothing done."""
    appctl.fails = "fdb/add"
    appctl.table[5, FAR] = "2", "0"
    assert len(bridge.look(where, PORTS)) == 1
    assert "not a valid command" in (bridge.trouble or "")
    assert bridge.look(where, PORTS) == []


def test_a_table_that_cannot_be_read(bridge: Sightings, appctl: FakeAppctl) -> None:
    appctl.fails = "fdb/show"
    assert bridge.look(where, PORTS) == []
    assert bridge.trouble
    assert bridge.look(where, {}) == []

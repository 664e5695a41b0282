"""What the agent tells the extension, in any order; the follower is played."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from neutron.plugins.ml2.drivers.openvswitch.agent import vlanmanager

from ovs_l2pop.core.messages import Attachment, Segment
from ovs_l2pop.neutron.agent.extension import L2popExtension

N, M = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
SEGMENTS = {N: 1001, M: 1002}


class Follower:
    """Notes what it was told."""

    def __init__(self) -> None:
        self.networks: dict[str, Attachment] = {}
        #: Networks in which the server knows no port of this host.
        self.gone: set[str] = set()
        self.told: list[Any] = []

    def use(self, attachment: Attachment) -> bool:
        self.told.append(attachment)
        new = attachment.network_id not in self.networks or attachment.network_id in self.gone
        self.networks[attachment.network_id] = attachment
        return new

    def unserved(self, network_id: str) -> bool:
        return network_id not in self.networks or network_id in self.gone

    def leave(self, network_id: str) -> None:
        self.told.append(network_id)
        self.networks.pop(network_id, None)

    def sync(self) -> None:
        self.told.append("sync")


class Host:
    def __init__(self) -> None:
        self.vlans = {N: 5, M: 6}
        self.follower = Follower()
        self.extension = L2popExtension()
        self.extension.consume_api(mock.Mock())
        self.extension._types = ("vxlan",)
        self.extension._vlans = SimpleNamespace(get=self._mapping)
        self.extension._ports = {}
        self.extension._follower = self.follower  # type: ignore[assignment]

    def _mapping(self, network_id: str, segmentation_id: int) -> Any:
        if network_id not in self.vlans:
            raise vlanmanager.MappingNotFound(net_id=network_id, seg_id=segmentation_id)
        return SimpleNamespace(vlan=self.vlans[network_id], tun_ofports={7})

    def wired(self, port: str, network: str = N) -> list[Any]:
        """The agent wires a port, or looks at it again; what the follower was told by that."""
        data = {"port_id": port, "network_id": network, "network_type": "vxlan"}
        return self._told(
            lambda: self.extension.handle_port(None, data | {"segmentation_id": SEGMENTS[network]})
        )

    def unplugged(self, port: str) -> list[Any]:
        return self._told(lambda: self.extension.delete_port(None, {"port_id": port}))

    def _told(self, step: Callable[[], None]) -> list[Any]:
        step()
        told, self.follower.told = self.follower.told, []
        return told

    def attachment(self, network: str = N) -> Attachment:
        return Attachment(network, Segment("vxlan", SEGMENTS[network]), self.vlans[network])


@pytest.fixture
def host() -> Host:
    return Host()


def test_the_first_port_and_the_last(host: Host) -> None:
    assert host.wired("p") == [host.attachment(), "sync"]
    assert host.wired("q") == []
    assert host.wired("p") == []
    assert host.unplugged("p") == []
    assert host.unplugged("q") == [N]
    assert host.unplugged("q") == []


def test_a_port_that_comes_after_the_server_knew_none(host: Host) -> None:
    host.wired("p")
    host.follower.gone.add(N)
    assert host.wired("q") == [host.attachment(), "sync"]
    assert host.wired("p") == [host.attachment(), "sync"], "nothing is known of it yet"
    host.follower.gone.clear()
    assert host.wired("p") == []


def test_the_last_port_goes_after_the_server_knew_none(host: Host) -> None:
    host.wired("p")
    host.follower.gone.add(N)
    assert host.unplugged("p") == [N]


def test_another_local_vlan(host: Host) -> None:
    host.wired("p")
    host.vlans[N] = 9
    assert host.wired("p") == [host.attachment()]
    assert host.wired("q") == []
    assert host.unplugged("p") == []
    assert host.unplugged("q") == [N]


def test_a_local_vlan_that_another_network_got(host: Host) -> None:
    """Without a word of the port that was in it."""
    host.wired("p")
    host.vlans = {M: 5, N: 8}
    assert host.wired("q", M) == [host.attachment(M), "sync"]
    del host.follower.networks[N]  # it was in the way
    assert host.wired("p") == [host.attachment(N), "sync"]
    host.vlans = {N: 5, M: 8}
    del host.follower.networks[M]
    assert host.wired("p") == [host.attachment(N)]
    assert host.wired("q", M) == [host.attachment(M), "sync"]


def test_a_port_without_a_local_vlan_or_of_another_kind(host: Host) -> None:
    del host.vlans[N]
    assert host.wired("p") == []
    data = {"port_id": "p", "network_id": N, "network_type": "vlan", "segmentation_id": 5}
    host.extension.handle_port(None, data)
    assert host.unplugged("p") == []

"""What can happen to a port, and who is told how often.

Each scenario is played in clouds of stock agents, of ours, and of both, in a network in which B and
C have a port unless it says otherwise.
"""

import itertools
import traceback
from typing import Any, ClassVar

import pytest
from cloud_helpers import FLOODING, UPSTREAM_TOPIC, Body, Cast, Cloud
from neutron_lib import constants
from neutron_lib import exceptions as n_exc
from neutron_lib.api.definitions import portbindings

from ovs_l2pop.sync.protocol import Update


class Events(Cloud):
    __test__ = False
    #: Ports of an agent that restarts.
    burst: ClassVar[int] = 5
    _numbers = itertools.count(2000)

    def test_each(self) -> None:
        names = [name for name in dir(self) if name.startswith("event_")]
        assert len(names) > 30
        failed = []
        for name in names:
            self._set_the_scene()
            try:
                getattr(self, name)()
                self.expect()
            except Exception:  # noqa: BLE001 - all are to be seen
                failed.append(f"{name}:\n{traceback.format_exc()}")
        assert not failed, "\n".join(failed)

    def _set_the_scene(self) -> None:
        there = {port["id"] for port in self.plugin.get_ports(self.admin)}
        anchors = [port for port in getattr(self, "anchors", ()) if port["id"] in there]
        for port_id in there - {port["id"] for port in anchors}:
            self.delete({"id": port_id})
        if len(anchors) < 2:
            self.net = self.network_of("vxlan", next(self._numbers))
            self.subnet_id = self.make_subnet(self.net, "10.0.0.0/16")
            self.anchors = [self.port_on(host, up=True) for host in "BC"]
            # Like upstream's driver, ours sends the first host of a network a table with its
            # second port.
            self.delete(self.port_on("B", up=True))
        self.sent()

    # -- coming and going ----------------------------------------------------------------------

    def event_first_port(self) -> None:
        port = self.port_on("A")
        self.expect()
        self.up(port, "A")
        casts = self.expect(("add", "BC"), tables="A")
        self._says(casts, port, "A", flooding=True)

    def event_second_port(self) -> None:
        self.port_on("A", up=True)
        self.sent()
        port = self.port_on("A", up=True)
        self._says(self.expect(("add", "BC")), port, "A", flooding=False)

    def event_first_of_the_network(self) -> None:
        for anchor in self.anchors:
            self.delete(anchor)
        self.sent()
        self.port_on("A", up=True)
        self.expect(("add", ""))

    def event_three_first_ports_in_one_call(self) -> None:
        ports = [self.port_on("A") for _ in range(3)]
        self.wire(ports, "A")
        self.expect(*[("add", "BC")] * 3, tables="A")

    def event_down(self) -> None:
        first, last = (self.port_on("A", up=True) for _ in range(2))
        self.sent()
        self.down(first, "A")
        self._says(self.expect(("remove", "BC")), first, "A", flooding=False)
        self.down(last, "A")
        self._says(self.expect(("remove", "BC")), last, "A", flooding=True)
        self.down(last, "A")
        self.expect()

    def event_down_then_deleted(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.down(port, "A")
        self.expect(("remove", "BC"))
        self.delete(port)
        self.expect()

    def event_down_then_up(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.down(port, "A")
        self.expect(("remove", "BC"))
        self.up(port, "A")
        self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)

    def event_deleted_then_down(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.delete(port)
        self._says(self.expect(("remove", "BC")), port, "A", flooding=True)
        self.down(port, "A")
        self.expect()

    def event_deleted_before_it_was_up(self) -> None:
        self.delete(self.port_on("A"))
        self.expect()

    def event_bulk_creation(self) -> None:
        body = {
            "network_id": self.net,
            "tenant_id": "p",
            "name": "",
            "admin_state_up": True,
            "device_id": "",
            "device_owner": "",
            "mac_address": constants.ATTR_NOT_SPECIFIED,
            "fixed_ips": constants.ATTR_NOT_SPECIFIED,
            "security_groups": [],
            portbindings.HOST_ID: "A",
        }
        made = self.plugin.create_port_bulk(
            self.admin, {"ports": [{"port": dict(body)} for _ in range(3)]}
        )
        self.expect()
        self.wire(made, "A")
        self.expect(*[("add", "BC")] * 3, tables="A")

    def event_network_deleted_with_its_ports(self) -> None:
        self.port_on("A", up=True, device_owner=constants.DEVICE_OWNER_DHCP)
        for anchor in self.anchors:
            self.delete(anchor)
        self.sent()
        self.plugin.delete_network(self.admin, self.net)
        self.expect(("remove", ""))

    # -- changes ---------------------------------------------------------------------------------

    def event_addresses(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        one, two = ({"subnet_id": self.subnet_id, "ip_address": f"10.0.200.{i}"} for i in (1, 2))
        self.update(port, fixed_ips=[one])
        self.expect(("update", "BC"))
        self.update(port, fixed_ips=[one, two])
        self.expect(("update", "BC"))
        self.update(port, fixed_ips=[one, two])
        self.expect()
        self.update(port, fixed_ips=[])
        self.expect(("remove", "BC"))
        self.update(port, fixed_ips=[two])
        self.expect(("add", "BC"))

    def event_addresses_of_a_port_that_is_down(self) -> None:
        port = self.port_on("A")
        fixed = [{"subnet_id": self.subnet_id, "ip_address": "10.0.200.1"}]
        self.update(port, fixed_ips=fixed)
        self.expect()

    def event_port_without_addresses(self) -> None:
        self.port_on("A", up=True)
        self.sent()
        port = self.port_on("A", up=True, fixed_ips=[])
        self.expect(("ours", "BC"))  # upstream's messages have no word for it
        self.delete(port)
        self.expect(("ours", "BC"))

    def event_only_port_is_without_addresses(self) -> None:
        port = self.port_on("A", up=True, fixed_ips=[])
        self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)
        self.delete(port)
        self._says(self.expect(("remove", "BC")), port, "A", flooding=True)

    def event_both_families(self) -> None:
        self.make_subnet(
            self.net,
            "2001:db8::/64",
            ip_version=6,
            ipv6_ra_mode="slaac",
            ipv6_address_mode="slaac",
            enable_dhcp=True,
        )
        # Those that are up have new addresses now. Neutron tells no driver; ours will ask.
        self.expect()
        port = self.port_on("A", up=True)
        assert len(port["fixed_ips"]) == 2
        self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)
        self.anchors = []  # a new network for the others

    def event_what_nobody_needs_to_know(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, name="other", description="other")
        self.update(port, security_groups=[])
        self.update(port, device_id="other")
        self.expect()

    def event_allowed_addresses(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, allowed_address_pairs=[{"ip_address": "10.0.0.77"}])
        self.expect(("ours", "BC"))
        self.update(port, allowed_address_pairs=[{"ip_address": "10.0.0.77"}])
        self.expect()
        self.update(port, allowed_address_pairs=[])
        self.expect(("ours", "BC"))

    def event_admin_state(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, admin_state_up=False)
        self.expect(("remove", "BC"))
        self.down(port, "A")
        self.update(port, admin_state_up=True)
        self.expect()
        self.up(port, "A")
        self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)

    def event_mac_address(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        with pytest.raises(n_exc.NeutronException):
            self.update(port, mac_address="fa:16:3e:00:00:99")
        self.expect()
        unbound = self.port_on("")
        moved = self.update(unbound, mac_address="fa:16:3e:00:00:99")
        self.expect()
        self.rebind(moved, "A")
        self.up(moved, "A")
        self._says(self.expect(("add", "BC")), moved, "A", flooding=False)

    # -- moves -----------------------------------------------------------------------------------

    def event_rebound(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.rebind(port, "D")
        self._says(self.expect(("remove", "BC")), port, "A", flooding=True)
        self.up(port, "D")
        self._says(self.expect(("add", "BC"), tables="D"), port, "D", flooding=True)
        self.down(port, "A")
        self.expect()

    def event_live_migration(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        binding = {"host": "D", "vnic_type": "normal", "profile": {}}
        self.plugin.create_port_binding(self.admin, port["id"], {"binding": binding})
        # The new host sees the port before it is bound to it.
        self.up(port, "D")
        self.expect()
        self.plugin.activate(self.admin, "D", port["id"])
        self._says(self.expect(("remove", "BC")), port, "A", flooding=True)
        self.up(port, "D")
        self._says(self.expect(("add", "BC"), tables="D"), port, "D", flooding=True)
        self.plugin.delete_port_binding(self.admin, "A", port["id"])
        self.down(port, "A")
        self.expect()

    def event_live_migration_that_is_given_up(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        binding = {"host": "D", "vnic_type": "normal", "profile": {}}
        self.plugin.create_port_binding(self.admin, port["id"], {"binding": binding})
        self.plugin.delete_port_binding(self.admin, "D", port["id"])
        self.down(port, "D")
        self.expect()

    def event_two_migrations_to_an_empty_host(self) -> None:
        ports = [self.port_on("A", up=True) for _ in range(2)]
        self.sent()
        for port in ports:
            self.rebind(port, "D")
        self.expect(("remove", "BC"), ("remove", "BC"))
        self.wire(ports, "D")
        self.expect(("add", "BC"), ("add", "BC"), tables="D")

    def event_shelved_and_unshelved(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.rebind(port, "")
        self._says(self.expect(("remove", "BC")), port, "A", flooding=True)
        self.rebind(port, "D")
        self.expect()
        self.up(port, "D")
        self.expect(("add", "BC"), tables="D")

    def event_evacuated(self) -> None:
        """The old host says nothing any more."""
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, **{portbindings.HOST_ID: "D", "device_id": "the same"})
        self.up(port, "D")
        self.expect(("remove", "BC"), ("add", "BC"), tables="D")

    def event_bound_late(self) -> None:
        port = self.port_on("")
        self.rebind(port, "A")
        self.expect()
        self.up(port, "A")
        self.expect(("add", "BC"), tables="A")

    def event_subport_of_a_trunk(self) -> None:
        """As the trunk service does it: a host and an owner, then wiring; unplugged at the end."""
        port = self.port_on("", device_owner="", device_id="")
        self.update(port, **{portbindings.HOST_ID: "A", "device_owner": "trunk:subport"})
        self.expect()
        self.up(port, "A")
        self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)
        self.update(port, **{portbindings.HOST_ID: "D", "device_owner": "trunk:subport"})
        self.up(port, "D")
        self.expect(("remove", "BC"), ("add", "BC"), tables="D")
        self.down(port, "D")  # the trunk is deleted
        self.update(port, device_owner="", device_id="")
        self.expect(("remove", "BC"))
        self.delete(port)
        self.expect()

    def event_dhcp_port_goes_to_another_agent(self) -> None:
        owner = constants.DEVICE_OWNER_DHCP
        port = self.port_on("A", up=True, device_owner=owner, device_id="dhcp-a")
        self.sent()
        self.update(port, device_id=constants.DEVICE_ID_RESERVED_DHCP_PORT)
        self.expect()
        self.update(port, **{portbindings.HOST_ID: "D", "device_id": "dhcp-d"})
        self.up(port, "D")
        self.expect(("remove", "BC"), ("add", "BC"), tables="D")

    # -- restarts --------------------------------------------------------------------------------

    def event_agent_restarts(self) -> None:
        """What others know of its ports is said again, a message each; it gets one table."""
        ports = [self.port_on("A") for _ in range(self.burst)]
        self.wire(ports, "A")
        self.sent()
        self.wire(ports, "A", refresh=True)
        self.expect(*[("add", "BC")] * self.burst, tables="A")

    def event_status_flaps(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        for _ in range(3):
            self._build(port, "A")
            self.expect()
            self._active(port, "A")
            self._says(self.expect(("add", "BC"), tables="A"), port, "A", flooding=True)
        self._active(port, "A")
        self.expect()

    def event_ovs_lost_its_flows(self) -> None:
        """Nothing has changed for others."""
        port = self.port_on("A", up=True)
        self.sent()
        self._active(port, "A", refresh=True)
        self._active(port, "A", refresh=True)
        # The first was served by the table that came with the port a moment ago.
        self.expect(tables="A")

    # -- several places ----------------------------------------------------------------------------

    def event_distributed_interface(self) -> None:
        port = self.dvr_interface("ABD")
        self.expect()
        self.up(port, "A")
        self._says(self.expect(("add", "BC"), tables="A"), None, "A", flooding=True)
        self.up(port, "B")  # which has a port already
        self.expect(("ours", "AC"))
        self.up(port, "D")
        self._says(self.expect(("add", "ABC"), tables="D"), None, "D", flooding=True)
        self.update(port, name="other")
        self.expect()
        self.down(port, "B")
        self.expect(("ours", "ACD"))
        self.down(port, "D")
        self._says(self.expect(("remove", "ABC")), None, "D", flooding=True)
        self.up(port, "D")
        self.expect(("add", "ABC"), tables="D")
        self.delete(port)
        # B's is down already.
        self._says(self.expect(("remove", "BC"), ("remove", "BC")), None, "A", flooding=True)

    def event_highly_available_interface(self) -> None:
        """Active on A, standby on D."""
        router_id = self.ha_router("AD")
        port = self.ha_interface(router_id, "A")
        self.expect()
        self.up(port, "A")
        # D is known of at once, to those who can be told of a port without it being wired.
        self._says(self.expect(("add", "BCD"), tables="A"), None, "A", flooding=True)
        self._active(port, "D")
        self._says(self.expect(("add", "ABC"), tables="D"), None, "D", flooding=True)
        # Failover: the router's traffic needs nothing of it.
        self.rebind(port, "D")
        self.expect()
        self.up(port, "D")
        self.expect(("add", "ABC"), tables="D")
        self.port_on("D", up=True)
        self.sent()
        self.delete(port)
        # D, which it was bound to, has to know as well that nothing of it is behind A any more.
        for cast in self.expect(("remove", "BCD")):
            if cast.topic == UPSTREAM_TOPIC:
                assert cast.fdb[self.net]["ports"] == {self.vtep("A"): [list(FLOODING)]}

    # -- what is not tunnelled ---------------------------------------------------------------------

    def event_vlan(self) -> None:
        vlan = self.network_of("vlan", next(self._numbers))
        subnet = self.make_subnet(vlan, "10.9.0.0/24")
        port = self.port_on("A", net=vlan, up=True)
        self.update(port, fixed_ips=[{"subnet_id": subnet, "ip_address": "10.9.0.77"}])
        self.rebind(port, "D")
        self.up(port, "D")
        self.delete(port)
        self.expect()

    def event_no_host(self) -> None:
        port = self.port_on("")
        self.update(port, admin_state_up=False)
        self.update(port, admin_state_up=True)
        self.delete(port)
        self.expect()

    def event_host_without_agent(self) -> None:
        port = self.port_on("nowhere")
        self.up(port, "nowhere")
        self.down(port, "nowhere")
        self.delete(port)
        self.expect()

    # -- help --------------------------------------------------------------------------------------

    def _build(self, port: Body, host: str) -> None:
        """An agent asks for the port's details."""
        self.callbacks.get_devices_details_list_and_failed_devices(
            self.admin, devices=[port["id"]], agent_id=host, host=host
        )

    def _active(self, port: Body, host: str, *, refresh: bool = False) -> None:
        self.callbacks.update_device_up(
            self.admin, device=port["id"], agent_id=host, host=host, refresh_tunnels=refresh
        )

    def _says(self, casts: list[Cast], port: Body | None, host: str, *, flooding: bool) -> None:
        """That each message about a host has these pairs and no more."""
        pairs = [FLOODING] * flooding + (self.pairs(port) if port else [])
        vtep = self.vtep(host)
        checked = 0
        for cast in casts:
            if cast.topic == UPSTREAM_TOPIC:
                found: Any = cast.fdb[self.net]["ports"]
                if vtep in found:
                    assert cast.pairs(self.net, vtep) == pairs
                    checked += 1
            else:
                states = [s for s in Update.from_wire(cast.body).ports if s.vtep == vtep]
                if states:
                    assert [s.entries for s in states] == [tuple(pairs[flooding:])]
                checked += 1
        assert checked


class TestStock(Events):
    __test__ = True
    burst: ClassVar[int] = 20


class TestOurs(Events):
    __test__ = True
    ours: ClassVar[str] = "ABCD"


class TestBoth(Events):
    """The ports' first host is ours, the one that they move to is stock; of the others one each."""

    __test__ = True
    ours: ClassVar[str] = "AC"

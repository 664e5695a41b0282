"""HA routers whose life the mechanism driver only hears of in passing; C and D are ours."""

from typing import Any, ClassVar

from cloud_helpers import FLOODING, Body, Cloud, OurHost, ours_to, upstream_to
from neutron.db import models_v2
from neutron.db.models import l3ha
from neutron_lib import constants
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api
from oslo_utils.uuidutils import generate_uuid as uuid

from ovs_l2pop.neutron.server.sync import SyncEndpoint


class TestHaRouters(Cloud):
    ours: ClassVar[str] = "CD"

    def setUp(self) -> None:
        super().setUp()
        self.anchor = self.port_on("B", up=True)
        self.port_on("C", up=True)
        self.c = OurHost("C", self.vtep("C"))
        self.c.replica.use(self.net)
        self.c.sync(SyncEndpoint())
        self.history = self.sent()

    def delivered(self) -> None:
        """What was sent has arrived at B, which is stock, and at C."""
        casts = self.sent()
        self.history += casts
        for cast in ours_to(casts, "C"):
            self.c.take(cast)

    def flood_sets(self) -> tuple[set[str], set[str]]:
        """Of B and C."""
        return (
            self.stock_state("B", self.history).flood,
            {vtep for mac, _, vtep in self.c.entries if mac == FLOODING[0]},
        )

    def knows_mac_of(self, port: Body) -> bool:
        return port["mac_address"] in self.stock_state("B", self.history).unicast or any(
            mac == port["mac_address"] for mac, _, _ in self.c.entries
        )

    def wired(self, port: Body, host: str) -> None:
        self.callbacks.update_device_up(self.admin, device=port["id"], agent_id=host, host=host)

    def test_s22_s23_failover_needs_no_server(self) -> None:
        port = self.ha_interface(self.ha_router("AD"), "A")
        self.up(port, "A")
        self.wired(port, "D")
        self.delivered()
        # Everyone floods to both hosts and knows the MAC of neither: what VRRP says is learned.
        before = self.flood_sets()
        assert all({self.vtep("A"), self.vtep("D")} <= flood for flood in before)
        assert not self.knows_mac_of(port)
        # Neutron hears of it afterwards. That takes nothing away, and adds nothing.
        self.rebind(port, "D")
        self.up(port, "D")
        self.delivered()
        assert self.flood_sets() == before
        assert not self.knows_mac_of(port)

    def test_s24_ordinary_router_becomes_highly_available(self) -> None:
        port = self.port_on("A", up=True, device_owner=constants.DEVICE_OWNER_ROUTER_INTF)
        self.delivered()
        assert self.knows_mac_of(port)
        # It is one already when its host unplugs the interface of the old one.
        router_id = self.ha_router("AD")
        with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
            row = session.get(models_v2.Port, port["id"])
            row.device_owner = constants.DEVICE_OWNER_HA_REPLICATED_INT
            row.device_id = router_id
        self.down(port, "A")
        self.delivered()
        assert not self.knows_mac_of(port)
        assert all(self.vtep("A") in flood for flood in self.flood_sets())
        self.rebind(port, "D")
        self.up(port, "D")
        self.wired(port, "A")
        self.delivered()
        assert not self.knows_mac_of(port)
        assert all({self.vtep("A"), self.vtep("D")} <= flood for flood in self.flood_sets())

    def test_standby_host_is_taken_from_the_router(self) -> None:
        router_id = self.ha_router("AD")
        port = self.ha_interface(router_id, "A")
        self.up(port, "A")
        self.wired(port, "D")
        self.delivered()
        with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
            for row in session.query(l3ha.L3HARouterAgentPortBinding):
                if row.agent.host == "D":
                    session.delete(row)
        self.down(port, "D")
        self.delivered()
        assert all(self.vtep("D") not in flood for flood in self.flood_sets())
        assert all(self.vtep("A") in flood for flood in self.flood_sets())

    def test_standby_host_says_it_again(self) -> None:
        port = self.ha_interface(self.ha_router("BD"), "D")
        self.up(port, "D")
        self.sent()
        self.wired(port, "B")
        told = self.sent()
        assert [cast.host for cast in told] != []
        self.wired(port, "B")
        self.wired(port, "B")
        assert self.sent() == []

    def test_distributed_snat(self) -> None:
        """Highly available like the router; of an ordinary distributed router it is one machine."""
        owner = constants.DEVICE_OWNER_ROUTER_SNAT
        alone = self.port_on("A", up=True, device_owner=owner, device_id="ordinary")
        (add,) = upstream_to(self.sent(), "B")
        assert add.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(alone)]
        self.delete(alone)  # S20
        (remove,) = upstream_to(self.sent(), "B")
        assert remove.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(alone)]
        router_id = self.ha_router("AD")
        shared = self.port_on("A", up=True, device_owner=owner, device_id=router_id)
        (add,) = upstream_to(self.sent(), "B")
        assert add.pairs(self.net, self.vtep("A")) == [FLOODING]
        self.delete(shared)  # S19
        (remove,) = upstream_to(self.sent(), "B")
        assert remove.fdb[self.net]["ports"] == {
            self.vtep("A"): [list(FLOODING)],
            self.vtep("D"): [list(FLOODING)],
        }


class TestOrdinaryRouters(Cloud):
    """Their interfaces' addresses, and the one that advertisements come from, are a router's."""

    ours: ClassVar[str] = "CD"

    def setUp(self) -> None:
        super().setUp()
        self.port_on("C", up=True)
        self.c = OurHost("C", self.vtep("C"))
        self.c.replica.use(self.net)
        self.c.sync(SyncEndpoint())
        self.sent()

    def told(self, port: Body) -> set[tuple[str, str]]:
        """What C was told of the port's addresses as a router's."""
        return {
            pair
            for cast in ours_to(self.sent(), "C")
            for told in cast.body["ports"]
            if told[0] == port["id"]
            for pair in map(tuple, told[5])
        }

    def interface(self, **more: Any) -> Body:
        owner = constants.DEVICE_OWNER_ROUTER_INTF
        return self.port_on("D", device_owner=owner, device_id=uuid(), **more)

    def test_cast_and_sync_say_the_same(self) -> None:
        port = self.interface(mac_address="fa:16:3e:00:00:77")
        self.up(port, "D")
        link_local = ("fa:16:3e:00:00:77", "fe80::f816:3eff:fe00:77")
        assert link_local in self.told(port)
        (network,) = SyncEndpoint().sync(None, "C", {self.net: ""}, own=True)["chunks"]
        (state,) = (one for one in network["ports"] if one[0] == port["id"])
        assert link_local in set(map(tuple, state[5]))
        assert link_local not in set(map(tuple, state[3])), "who knows no flags answers for none"

    def test_a_machine_is_no_router(self) -> None:
        port = self.port_on("D")
        self.up(port, "D")
        assert self.told(port) == set()

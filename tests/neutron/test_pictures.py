"""Pictures that are kept: whatever changes in a network is seen, and what doesn't costs nothing."""

import itertools
from typing import Any

from cloud_helpers import Cloud
from cost_helpers import metered
from neutron.db.models import l3ha
from neutron_lib import constants
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api

from ovs_l2pop.neutron.server import pictures
from ovs_l2pop.neutron.server.pictures import Gallery, Picture
from ovs_l2pop.neutron.server.sync import SyncEndpoint


class TestPictures(Cloud):
    def setUp(self) -> None:
        super().setUp()
        self.register("C", "20.0.0.3", ours=True)
        self.clock = itertools.count(0.0, pictures._FRESH)  # every look is one
        self.gallery = Gallery(lambda: next(self.clock))
        self.one = self.port_on("A", up=True)
        self.port_on("C", up=True)

    def picture(self, gallery: Gallery) -> Picture:
        return gallery.picture(gallery.places("C", [self.net])[self.net])

    def check(self, what: str) -> None:
        kept, fresh = self.picture(self.gallery), self.picture(Gallery())
        assert kept.ports == fresh.ports, what
        assert kept.contents == fresh.contents, what

    def test_every_change_is_seen(self) -> None:
        self.check("from the beginning")
        seen = [self.picture(self.gallery).ports]
        for what, change in self.changes():
            change()
            self.check(what)
            ports = self.picture(self.gallery).ports
            assert ports != seen[-1], f"{what} is no change"
            seen.append(ports)

    def changes(self) -> Any:
        one = self.one
        yield "an address", lambda: self.update(one, fixed_ips=[*one["fixed_ips"], self.ip(99)])
        yield "a MAC", lambda: self.down(one, "A")
        yield "up", lambda: self.up(one, "A")
        pairs = [{"ip_address": "10.0.0.250"}]
        yield "an allowed pair", lambda: self.update(one, allowed_address_pairs=pairs)
        yield "off", lambda: self.update(one, admin_state_up=False)
        yield "on", lambda: self.update(one, admin_state_up=True)

        def move() -> None:
            self.rebind(one, "B")
            self.up(one, "B")

        yield "elsewhere", move
        new: list[Any] = []
        yield "a port more", lambda: new.append(self.port_on("A", up=True))

        def another() -> None:
            # In this order: SQLite, unlike others, uses the last number once more.
            new.append(self.port_on("A", up=True))
            self.delete(new.pop(0))

        yield "one for another", another
        yield "a port less", lambda: self.delete(new.pop())
        router = self.dvr_interface("A")
        yield "a distributed router", lambda: self.wire([router], "A")
        yield "on one host more", lambda: self.distributed(router, "B")
        yield "its interface deleted", lambda: self.delete(router)
        ha = self.ha_router("AB")
        interface = self.ha_interface(ha, "A")
        yield "an HA router", lambda: self.up(interface, "A")
        yield "taken from a host", lambda: self.unschedule("B")

    def ip(self, last: int) -> dict[str, str]:
        return {"subnet_id": self.subnet_id, "ip_address": f"10.0.0.{last}"}

    def distributed(self, router: Any, host: str) -> None:
        self.bind_to_distributed(router, host)
        self.wire([router], host)

    def unschedule(self, host: str) -> None:
        with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
            for row in session.query(l3ha.L3HARouterAgentPortBinding):
                if row.agent.host == host:
                    session.delete(row)

    def test_a_host_that_is_elsewhere_now(self) -> None:
        before = self.picture(self.gallery).ports
        self.register("A", "20.0.0.77")
        self.gallery.roster.look()
        self.check("another VTEP")
        assert self.picture(self.gallery).ports != before

    def test_a_port_that_has_come_just_now(self) -> None:
        """Its host asks at once, and the last look may be some seconds old."""
        self.register("D", "20.0.0.4", ours=True)
        endpoint = SyncEndpoint()
        asked = {self.net: ""}
        assert endpoint.sync(None, "D", asked)["gone"] == [self.net]
        self.port_on("D", device_owner=constants.DEVICE_OWNER_DHCP)
        assert endpoint.sync(None, "D", asked)["gone"] == []

    def test_what_costs_nothing(self) -> None:
        endpoint = SyncEndpoint(self.gallery)
        for _ in range(2):
            with metered() as meter:
                endpoint.sync(None, "C", {self.net: ""}, own=True)
        assert meter.statements <= 1

    def test_what_is_kept_is_bounded(self) -> None:
        for name, limit in (("_PORTS", 1), ("_PAIRS", 1)):
            self.addCleanup(setattr, pictures, name, getattr(pictures, name))
            setattr(pictures, name, limit)
        other = self.network_of("vxlan", 1003)
        self.make_subnet(other, "10.1.0.0/24")
        self.port_on("A", net=other)
        for host in ("A", "C"):
            for place in self.gallery.places(host, [self.net, other]).values():
                self.gallery.picture(place)
        assert len(self.gallery._pictures) == 1
        assert list(self.gallery._hosts) == ["C"]
        self.check("what was forgotten")

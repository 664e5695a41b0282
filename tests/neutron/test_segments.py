"""A network of several segments: VXLAN on A, B and E, GRE on C, D and F."""

from typing import Any, ClassVar

import sqlalchemy as sa
from cloud_helpers import FLOODING, Body, Cloud, OurHost, ours_to, upstream_to
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api

from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync.protocol import Answer, Update


class Segments(Cloud):
    __test__ = False
    hosts: ClassVar[str] = "ABCDEF"
    types: ClassVar[dict[str, str]] = dict.fromkeys("ABE", "vxlan") | dict.fromkeys("CDF", "gre")

    def setUp(self) -> None:
        super().setUp()
        for host, kind in self.types.items():
            self.register(host, self.vtep(host), ours=host in self.ours, tunnel_types=[kind])
        self.net = self.network_of_segments(("vxlan", 1002), ("gre", 7))
        self.subnet_id = self.make_subnet(self.net, "10.0.0.0/16")
        self.anchors = [self.port_on(host, up=True) for host in "BDEF"]
        self.sent()

    def activate_on(self, port: Body, host: str) -> None:
        binding = {"host": host, "vnic_type": "normal", "profile": {}}
        self.plugin.create_port_binding(self.admin, port["id"], {"binding": binding})
        self.plugin.activate(self.admin, host, port["id"])


class TestBoth(Segments):
    """B and D are stock; E and F are ours."""

    __test__ = True
    ours: ClassVar[str] = "EF"

    def test_only_the_ports_own_segment_is_told(self) -> None:
        port = self.port_on("A", up=True)
        casts = self.expect(("add", "BE"), tables="A")
        (table,) = upstream_to(casts, "A")
        assert table.fdb[self.net]["segment_id"] == 1002
        assert set(table.fdb[self.net]["ports"]) == {self.vtep("B"), self.vtep("E")}
        self.update(port, fixed_ips=[{"subnet_id": self.subnet_id, "ip_address": "10.0.200.1"}])
        self.expect(("update", "BE"))
        self.delete(port)
        self.expect(("remove", "BE"))

    def test_a_move_to_the_other_segment(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.rebind(port, "C")
        casts = self.expect(("remove", "BE"))
        (remove,) = upstream_to(casts, "B")
        assert remove.fdb[self.net]["segment_id"] == 1002
        assert remove.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(port)]
        self._is_gone(ours_to(casts, "E")[0].body, port)
        self.up(port, "C")
        casts = self.expect(("add", "DF"), tables="C")
        (add,) = upstream_to(casts, "D")
        assert (add.fdb[self.net]["network_type"], add.fdb[self.net]["segment_id"]) == ("gre", 7)
        ((state,),) = [Update.from_wire(ours_to(casts, "F")[0].body).ports]
        assert state.vtep == self.vtep("C")

    def test_a_live_migration_to_the_other_segment(self) -> None:
        """Neutron forgets the old one before any driver hears of it."""
        port = self.port_on("A", up=True)
        self.sent()
        self.activate_on(port, "C")
        casts = self.sent()
        (remove,) = upstream_to(casts, "B")
        assert remove.fdb[self.net]["segment_id"] == 1002
        assert remove.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(port)]
        self._is_gone(ours_to(casts, "E")[0].body, port)
        # A never was in this one.
        assert not upstream_to(casts, "D")
        assert not ours_to(casts, "F")

    def test_sync(self) -> None:
        endpoint = SyncEndpoint()
        for name, segment, vtep in (("E", ("vxlan", 1002), "B"), ("F", ("gre", 7), "D")):
            host = OurHost(name, self.vtep(name))
            host.replica.use(self.net)
            reply = Answer.from_wire(endpoint.sync(None, name, {self.net: ""}))
            assert [chunk.segment for chunk in reply.chunks] == [segment]
            host.sync(endpoint)
            assert {entry[2] for entry in host.entries} == {self.vtep(vtep), host.vtep}
            assert not endpoint.sync(None, name, host.replica.digests(), own=True)["chunks"]

    def test_interfaces_of_routers(self) -> None:
        distributed = self.dvr_interface("AC")
        self.up(distributed, "A")
        self.expect(("add", "BE"), tables="A")
        self.up(distributed, "C")
        self.expect(("add", "DF"), tables="C")
        self.down(distributed, "C")
        self.expect(("remove", "DF"))
        router_id = self.ha_router("AB")
        available = self.ha_interface(router_id, "B")
        self.up(available, "B")
        assert {cast.host for cast in self.sent()} <= set("ABE")

    def test_a_host_in_both(self) -> None:
        """Its agent had one type of tunnels first and then the other; the old port stays."""
        old = self.port_on("A", up=True)
        self.register("A", self.vtep("A"), tunnel_types=["gre", "vxlan"])
        new = self.port_on("A")
        self._rebind_to_gre(new)
        self.sent()
        self.up(new, "A")
        casts = self.expect(("add", "DF"), tables="A")
        (table,) = upstream_to(casts, "A")
        assert table.fdb[self.net]["segment_id"] == 7
        assert set(table.fdb[self.net]["ports"]) == {self.vtep("D"), self.vtep("F")}
        self.delete(old)  # the last one in its segment
        casts = self.expect(("remove", "BE"))
        assert FLOODING in upstream_to(casts, "B")[0].pairs(self.net, self.vtep("A"))
        # One of ours takes part in the first.
        self.register("E", self.vtep("E"), ours=True, tunnel_types=["gre", "vxlan"])
        self._rebind_to_gre(self.port_on("E"))
        reply = Answer.from_wire(SyncEndpoint().sync(None, "E", {self.net: ""}))
        assert [chunk.segment for chunk in reply.chunks] == [("gre", 7)]

    def test_segment_that_only_a_switch_speaks(self) -> None:
        """Hierarchical binding: the host speaks VLAN, a switch makes VXLAN of it."""
        port, other = (self.port_on("A", up=True) for _ in range(2))
        dynamic = self._sql(
            "SELECT id FROM networksegments WHERE network_id = :net",
            net=self.network_of_segments(("vlan", 77)),
        )
        self._sql(
            "UPDATE networksegments SET network_id = :net, is_dynamic = 1, segment_index = 9"
            " WHERE id = :id",
            net=self.net,
            id=dynamic,
        )
        context = n_context.get_admin_context()
        with db_api.CONTEXT_WRITER.using(context) as session:
            session.add(
                ml2_models.PortBindingLevel(
                    port_id=port["id"], host="A", level=1, driver="ovs", segment_id=dynamic
                )
            )
        self.delete(self.anchors[0])
        self.sent()
        self.port_on("B", up=True)
        (table,) = upstream_to(self.sent(), "B")
        assert table.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(other)]
        self.delete(port)
        self.expect()

    def _rebind_to_gre(self, port: Body) -> None:
        """As if the host had had no other choice."""
        self._sql(
            "UPDATE ml2_port_binding_levels SET segment_id = (SELECT id FROM networksegments"
            " WHERE network_id = :net AND network_type = 'gre') WHERE port_id = :port",
            net=self.net,
            port=port["id"],
        )

    def _sql(self, statement: str, **parameters: str) -> Any:
        """:returns: the first column of the first row, if any."""
        with db_api.CONTEXT_WRITER.using(n_context.get_admin_context()) as session:
            result = session.execute(sa.text(statement), parameters)
            return result.scalar() if result.returns_rows else None

    def _is_gone(self, body: Body, port: Body) -> None:
        (state,) = Update.from_wire(body).ports
        assert (state.key, state.vtep) == (port["id"], None)


class TestStock(Segments):
    __test__ = True

    def test_adds_and_removes_go_to_all_and_name_the_segment(self) -> None:
        port = self.port_on("A", up=True)
        self.expect(("add", ""), tables="A")
        self.delete(port)
        (remove,) = self.expect(("remove", ""))
        assert remove.fdb[self.net]["segment_id"] == 1002

    def test_a_change_of_address_names_none(self) -> None:
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, fixed_ips=[{"subnet_id": self.subnet_id, "ip_address": "10.0.200.1"}])
        casts = self.sent()
        assert {(cast.host, cast.method) for cast in casts} == {
            ("B", "update_fdb_entries"),
            ("E", "update_fdb_entries"),
        }

    def test_other_types_of_tunnels(self) -> None:
        for host in "AB":
            self.register(host, self.vtep(host), tunnel_types=["geneve", "gre"])
        self.net = self.network_of("gre", 9)
        self.make_subnet(self.net, "10.0.0.0/16")
        self.port_on("B", up=True)
        self.sent()
        self.port_on("A", up=True)
        table, add = self.sent()
        for cast in (table, add):
            assert cast.fdb[self.net]["network_type"] == "gre"
            assert cast.fdb[self.net]["segment_id"] == 9

    def test_types_for_l2pop_apart_from_those_of_tunnels(self) -> None:
        """An agent may want entries of what it doesn't tunnel, and none of what it does."""
        self.register("A", self.vtep("A"), tunnel_types=["vxlan"], l2pop_network_types=["vlan"])
        self.net = self.network_of("vxlan", 1003)
        self.make_subnet(self.net, "10.0.0.0/16")
        self.port_on("B", up=True)
        self.sent()
        self.port_on("A", up=True)
        self.expect()
        self.net = self.network_of("vlan", 55)
        self.make_subnet(self.net, "10.0.0.0/16")
        port = self.port_on("A", up=True)
        (add,) = self.sent()
        assert add.fdb[self.net]["network_type"] == "vlan"
        self.delete(port)
        (remove,) = self.sent()
        assert remove.method == "remove_fdb_entries"

"""Hosts with a stock agent and hosts with our extension in one cloud, and a cloud of ours."""

from collections.abc import Sequence
from typing import ClassVar

from cloud_helpers import FLOODING, UPSTREAM_TOPIC, Cloud, OurHost, ours_to, upstream_to

from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import Answer, Update
from ovs_l2pop.neutron.server.sync import SyncEndpoint


class TestMixed(Cloud):
    ours: ClassVar[Sequence[str]] = ("C", "D")

    def test_a_host_of_ours_that_turns_stock_gets_the_table(self) -> None:
        self.port_on("A", up=True)
        ports = [self.port_on("C", up=True) for _ in range(3)]
        self.sent()
        self.register("C", self.vtep("C"))
        self.wire(ports, "C", refresh=True)
        (table,) = upstream_to(self.sent(), "C")
        assert len(table.pairs(self.net, self.vtep("A"))) > 1

    def test_upstream_goes_by_name_to_stock_hosts_that_have_the_network(self) -> None:
        self.port_on("A", up=True)
        self.port_on("C", up=True)
        self.sent()
        port = self.port_on("B", up=True)  # D and E have no port
        casts = self.sent()
        assert not upstream_to(casts, None)
        assert {(c.host, c.topic == UPSTREAM_TOPIC) for c in casts} == {
            ("A", True),
            ("B", True),
            ("C", False),
        }
        (table,) = upstream_to(casts, "B")
        assert set(table.fdb[self.net]["ports"]) == {self.vtep("A"), self.vtep("C")}
        (add,) = upstream_to(casts, "A")
        assert add.pairs(self.net, self.vtep("B")) == [FLOODING, *self.pairs(port)]
        (ours,) = ours_to(casts, "C")
        ((state,),) = [Update.from_wire(ours.body).ports]
        assert (state.key, state.vtep) == (port["id"], self.vtep("B"))
        assert list(state.entries) == self.pairs(port)
        assert state.revision > 0

    def test_our_host_gets_no_table(self) -> None:
        self.port_on("A", up=True)
        self.sent()
        self.port_on("C", up=True)
        casts = self.sent()
        assert [cast.host for cast in casts] == ["A"]

    def test_every_change_is_one_message_to_each(self) -> None:
        self.port_on("A", up=True)
        self.port_on("C", up=True)
        port = self.port_on("B", up=True)
        self.sent()

        def hosts() -> list[str]:
            return sorted(str(cast.host) for cast in self.sent())

        self.update(port, name="other")
        assert hosts() == []
        fixed = [{"subnet_id": self.subnet_id, "ip_address": "10.0.200.1"}]
        self.update(port, fixed_ips=fixed)
        assert hosts() == ["A", "C"]
        self.update(port, allowed_address_pairs=[{"ip_address": "10.0.0.77"}])
        assert hosts() == ["C"]  # upstream's messages have no word for it
        self.rebind(port, "D")
        assert hosts() == ["A", "C"]
        self.up(port, "D")
        assert hosts() == ["A", "C"]
        self.update(port, admin_state_up=False)
        assert hosts() == ["A", "C"]
        self.down(port, "D")
        self.delete(port)
        assert hosts() == []

    def test_stock_host_without_l2_population_is_not_told(self) -> None:
        self.register("F", "20.0.0.60", l2_population=False)
        self.port_on("F", up=True)
        self.sent()
        self.port_on("A", up=True)
        casts = self.sent()
        assert "F" not in {cast.host for cast in casts}
        (table,) = upstream_to(casts, "A")
        assert "20.0.0.60" in table.fdb[self.net]["ports"]

    def test_sync_gives_only_networks_of_the_host(self) -> None:
        endpoint = SyncEndpoint()
        self.port_on("A", up=True)
        reply = Answer.from_wire(endpoint.sync(None, "C", {self.net: ""}))
        assert (reply.gone, reply.chunks) == ((self.net,), ())
        self.port_on("C")  # bound is enough
        reply = Answer.from_wire(endpoint.sync(None, "C", {self.net: ""}))
        assert reply.gone == ()
        assert [len(chunk.ports) for chunk in reply.chunks] == [1]
        assert reply.chunks[0].segment == ("vxlan", 1001)

    def test_an_address_that_another_port_may_use_is_not_given_out(self) -> None:
        self.port_on(
            "A", up=True, fixed_ips=[{"subnet_id": self.subnet_id, "ip_address": "10.0.9.9"}]
        )
        host = OurHost("C", self.vtep("C"))
        host.replica.use(self.net)
        self.port_on("C", up=True)
        other = self.port_on("B", up=True)
        host.sync(SyncEndpoint())
        assert "10.0.9.9" in {ip for _, ip, _ in host.entries}
        self.sent()
        self.update(other, allowed_address_pairs=[{"ip_address": "10.0.9.9"}])
        for cast in ours_to(self.sent(), "C"):
            host.take(cast)
        assert "10.0.9.9" not in {ip for _, ip, _ in host.entries}
        assert (*FLOODING, self.vtep("A")) in host.entries
        self.update(other, allowed_address_pairs=[])
        for cast in ours_to(self.sent(), "C"):
            host.take(cast)
        assert "10.0.9.9" in {ip for _, ip, _ in host.entries}

    def test_start_rpc_listeners_serves_our_topic(self) -> None:
        from unittest import mock

        with mock.patch("neutron_lib.rpc.Connection") as connection:
            self.mech.start_rpc_listeners()
        ((topic, endpoints), kwargs) = connection.return_value.create_consumer.call_args
        assert topic == protocol.SERVER_TOPIC
        assert isinstance(endpoints[0], SyncEndpoint)
        assert kwargs == {"fanout": False}

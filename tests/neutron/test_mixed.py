"""Hosts with a stock agent and hosts with our extension in one cloud, and a cloud of ours."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar
from unittest import mock

import pytest
from cloud_helpers import FLOODING, UPSTREAM_TOPIC, Cloud, OurHost, ours_to, upstream_to

from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Update


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
        port = self.port_on("C", up=True)
        casts = self.sent()
        assert [(cast.host, cast.method) for cast in casts] == [
            ("A", "add_fdb_entries"),
            ("C", "update_ports"),  # where its own port is
        ]
        ((state,),) = [Update.from_wire(cast.body).ports for cast in ours_to(casts, "C")]
        assert (state.key, state.vtep) == (port["id"], self.vtep("C"))

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
        assert hosts() == ["A", "C", "D"]
        self.update(port, admin_state_up=False)
        assert hosts() == ["A", "C", "D"]
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

    def test_own_ports_are_told_to_who_asks_for_them(self) -> None:
        other, own = self.port_on("A", up=True), self.port_on("C", up=True)
        endpoint = SyncEndpoint()

        def told(**more: bool) -> set[str]:
            reply = Answer.from_wire(endpoint.sync(None, "C", {self.net: ""}, **more))
            return {port.key for chunk in reply.chunks for port in chunk.ports}

        assert told() == {other["id"]}, "a host of the release before"
        assert told(own=True) == {other["id"], own["id"]}
        # Each has a digest of what it knows.
        for with_own in (False, True):
            host = OurHost("C", self.vtep("C"))
            host.replica.with_own = with_own
            host.replica.use(self.net)
            host.sync(endpoint)
            here = {(*pair, self.vtep("C")) for pair in self.pairs(own)}
            assert here <= host.entries if with_own else not here & host.entries
            asked = host.replica.digests()
            assert not endpoint.sync(None, "C", asked, own=with_own)["chunks"]
            assert endpoint.sync(None, "C", asked, own=not with_own)["chunks"]

    def test_an_allowed_address_of_an_own_port_is_not_given_out(self) -> None:
        fixed = [{"subnet_id": self.subnet_id, "ip_address": "10.0.9.9"}]
        self.port_on("A", up=True, fixed_ips=fixed)
        own = self.port_on("C", up=True)
        host = OurHost("C", self.vtep("C"))
        host.replica.use(self.net)
        host.sync(SyncEndpoint())
        assert "10.0.9.9" in {ip for _, ip, _ in host.entries}
        self.sent()
        self.update(own, allowed_address_pairs=[{"ip_address": "10.0.9.9"}])
        for cast in ours_to(self.sent(), "C"):
            host.take(cast)
        assert "10.0.9.9" not in {ip for _, ip, _ in host.entries}

    def test_an_answer_is_bounded_whatever_is_asked_for(self) -> None:
        self.port_on("A", up=True)
        self.port_on("C", up=True)
        endpoint = SyncEndpoint()
        unknown = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(5000)]
        asked = dict.fromkeys([*unknown, self.net], "")
        gone: list[str] = []
        chunks: list[str] = []
        cursor: Any = None
        while not chunks or cursor is not None:
            reply = endpoint.sync(None, "C", asked, cursor)
            assert len(json.dumps(reply)) <= protocol.MAX_CHUNK
            assert cursor is None or reply["cursor"] is None or reply["cursor"] > cursor
            gone += reply["gone"]
            chunks += [chunk["network_id"] for chunk in reply["chunks"]]
            cursor = reply["cursor"]
        assert sorted(gone) == sorted(unknown)
        assert chunks == [self.net]

    def test_what_no_host_would_ask(self) -> None:
        self.port_on("C", up=True)
        endpoint = SyncEndpoint()
        many = dict.fromkeys(map(str, range(200_000)), "")
        for host, networks, cursor in (
            ("C", many, None),
            ("C", [self.net], None),
            ("C", {self.net: ""}, [self.net, "k" * 10**6]),
            (None, {self.net: ""}, None),
        ):
            with pytest.raises(protocol.ProtocolError) as caught:
                endpoint.sync(None, host, networks, cursor)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 200
        with mock.patch("ovs_l2pop.neutron.server.sync.LOG.warning") as warned:
            odd: Any = {5: "", "x" * 10**6: "", self.net: ["no digest"]}
            (chunk,) = endpoint.sync(None, "C", odd)["chunks"]
        assert chunk["network_id"] == self.net
        assert len(str(warned.call_args)) < 300

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
        with mock.patch("neutron_lib.rpc.Connection") as connection:
            self.mech.start_rpc_listeners()
        ((topic, endpoints), kwargs) = connection.return_value.create_consumer.call_args
        assert topic == protocol.SERVER_TOPIC
        assert isinstance(endpoints[0], SyncEndpoint)
        assert kwargs == {"fanout": False}

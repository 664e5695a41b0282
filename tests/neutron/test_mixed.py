"""Hosts with a stock agent and hosts with our extension in one cloud, and a cloud of ours."""

import random
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from cloud_helpers import FLOODING, UPSTREAM_TOPIC, Body, Cast, Cloud, ours_to, upstream_to
from neutron.db import models_v2
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api

from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import Answer, Update
from ovs_l2pop.neutron.replica import Replica
from ovs_l2pop.neutron.server.sync import Gallery, SyncEndpoint


class OurHost:
    """A host with our extension: a replica, and the entries that it gave out."""

    def __init__(self, name: str, vtep: str) -> None:
        self.name, self.vtep = name, vtep
        self.now = time.monotonic()
        self.replica = Replica(vtep, lambda: self.now)
        self.entries: set[tuple[str, str, str]] = set()

    def take(self, cast: Cast) -> None:
        self.now += 0.001
        self.absorb(self.replica.updated(Update.from_wire(cast.body)))

    def sync(self, endpoint: SyncEndpoint) -> int:
        """Ask until all is told; how many calls that took."""
        asked, cursor, calls = self.replica.digests(), None, 0
        while True:
            self.now += 1.0
            before = self.now
            reply = endpoint.sync(None, self.name, asked, cursor)
            calls += 1
            messages, cursor = self.replica.synced(Answer.from_wire(reply), before)
            self.absorb(messages)
            if cursor is None:
                return calls

    def absorb(self, messages: list[Body]) -> None:
        for message in messages:
            for body in message["fdb_entries"].values():
                for vtep, pairs in body["ports"].items():
                    for mac, ip in pairs:
                        entry = (mac, ip, vtep)
                        adds = message["method"] == "add_fdb_entries"
                        assert (entry in self.entries) is not adds, "told twice"
                        (self.entries.add if adds else self.entries.remove)(entry)


class Mixed(Cloud):
    ours: ClassVar[Sequence[str]] = ("C", "D")

    def expected(self, host: str) -> set[tuple[str, str, str]]:
        """What the database says that a host must know, read in the plainest way."""
        vteps = {name: self.vtep(name) for name in self.hosts}
        entries = set()
        context = n_context.get_admin_context()
        with db_api.CONTEXT_READER.using(context) as session:
            for port in session.query(models_v2.Port).filter_by(network_id=self.net):
                query = session.query(ml2_models.PortBinding)
                (binding,) = query.filter_by(port_id=port.id, status="ACTIVE")
                if port.status != "ACTIVE" or not port.admin_state_up or binding.host == host:
                    continue
                vtep = vteps[binding.host]
                entries.add((*FLOODING, vtep))
                entries |= {(port.mac_address, a.ip_address, vtep) for a in port.fixed_ips}
        return entries


class TestMixed(Mixed):
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


class TestRandom(Mixed):
    """Ports made, moved, changed and removed at random (S33)."""

    def test_everyone_ends_where_the_database_is(self) -> None:
        seed = random.SystemRandom().randrange(10**6)
        print(f"seed {seed}")
        rng = random.Random(seed)
        endpoint = SyncEndpoint(Gallery(lambda: next(ticks)))
        ticks = iter(range(0, 10**9, 10))  # no picture is fresh twice
        ours = {name: OurHost(name, self.vtep(name)) for name in self.ours}
        # Every host has a port throughout, so that all are to know all.
        anchors = [self.port_on(host, up=True) for host in self.hosts]
        for host in ours.values():
            host.replica.use(self.net)
        history = self.sent()
        ports: list[tuple[Body, str]] = []
        for _ in range(3):
            for _ in range(12):
                self._step(rng, ports)
            casts = self.sent()
            history += casts
            for name, host in ours.items():
                mine = ours_to(casts, name)
                lossy = [c for c in mine + mine if rng.random() < 0.6]
                rng.shuffle(lossy)
                for cast in lossy:
                    host.take(cast)
                host.sync(endpoint)
                assert host.entries == self.expected(name), f"seed {seed}"
                assert not endpoint.sync(None, name, host.replica.digests())["chunks"]
            for name in ("A", "B"):
                stock = self.stock_state(name, history)
                expected = self.expected(name)
                assert stock.flood == {v for m, _, v in expected if m == FLOODING[0]}
                unicast = {(m, i, v) for m, i, v in expected if m != FLOODING[0]}
                assert stock.unicast == {m: v for m, _, v in unicast}, f"seed {seed}"
                assert stock.arp == {i: m for m, i, _ in unicast}, f"seed {seed}"
        assert len(anchors) == len(self.hosts)

    def test_lossless_delivery_needs_no_sync(self) -> None:
        host = OurHost("C", self.vtep("C"))
        endpoint = SyncEndpoint()
        for name in self.hosts:
            self.port_on(name, up=True)
        host.replica.use(self.net)
        host.sync(endpoint)
        self.sent()
        rng, ports = random.Random(5), list[tuple[Body, str]]()
        for _ in range(25):
            self._step(rng, ports)
            for cast in ours_to(self.sent(), "C"):
                host.take(cast)
            assert host.entries == self.expected("C")

    def _step(self, rng: random.Random, ports: list[tuple[Body, str]]) -> None:
        what = rng.choice(["new", "new", "delete", "move", "down", "up", "ip", "admin", "flap"])
        if what == "new" or not ports:
            host = rng.choice(self.hosts)
            ports.append((self.port_on(host, up=True), host))
            return
        index = rng.randrange(len(ports))
        port, host = ports[index]
        if what == "delete":
            self.delete(port)
            del ports[index]
        elif what == "move":
            target = rng.choice([name for name in self.hosts if name != host])
            self.rebind(port, target)
            self.up(port, target)
            if rng.random() < 0.5:
                self.down(port, host)  # the old host notices late
            ports[index] = port, target
        elif what == "down":
            self.down(port, host)
        elif what == "ip":
            address = f"10.0.{rng.randrange(100, 200)}.{rng.randrange(1, 250)}"
            fixed: list[Any] = [{"subnet_id": self.subnet_id, "ip_address": address}]
            self.update(port, fixed_ips=fixed if rng.random() < 0.7 else [])
        elif what == "admin":
            self.update(port, admin_state_up=rng.random() < 0.5)
        else:
            self.up(port, host)

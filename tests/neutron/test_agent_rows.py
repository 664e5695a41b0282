"""Agents that are deleted, come back, or move to another address; C and D are ours."""

from typing import ClassVar
from unittest import mock

from cloud_helpers import FLOODING, Cloud, OurHost, ours_to, upstream_to
from neutron.tests.common import helpers

from ovs_l2pop.neutron.protocol import DELETED, Update
from ovs_l2pop.neutron.server import queries
from ovs_l2pop.neutron.server.sync import Gallery, SyncEndpoint


class TestAgentRows(Cloud):
    ours: ClassVar[str] = "CD"

    def setUp(self) -> None:
        super().setUp()
        self.port_on("B", up=True)
        self.ports = [self.port_on("A", up=True) for _ in range(2)]
        self.port_on("C", up=True)
        ticks = iter(range(0, 10**9, 10))
        self.endpoint = SyncEndpoint(Gallery(lambda: next(ticks)))
        self.c = OurHost("C", self.vtep("C"))
        self.c.replica.use(self.net)
        self.c.sync(self.endpoint)
        self.sent()

    def delete_agent(self, host: str) -> None:
        self.plugin.delete_agent(self.admin, self.agent_on(host)["id"])

    def behind(self, vtep: str) -> set[tuple[str, str]]:
        """What C knows of a VTEP."""
        return {(mac, ip) for mac, ip, at in self.c.entries if at == vtep}

    @property
    def all_of_a(self) -> set[tuple[str, str]]:
        return {FLOODING} | {pair for port in self.ports for pair in self.pairs(port)}

    def test_row_deleted_before_its_ports(self) -> None:
        self.delete_agent("A")
        (remove,) = self.sent()  # while the VTEP is still known; ours will ask
        assert (remove.host, remove.method) == ("B", "remove_fdb_entries")
        assert set(remove.pairs(self.net, self.vtep("A"))) == self.all_of_a
        assert self.behind(self.vtep("A")) == self.all_of_a
        # Ours know ports by name, so they need no VTEP to forget one.
        self.delete(self.ports[0])
        (gone,) = self.sent()
        assert gone.host == "C"
        (state,) = Update.from_wire(gone.body).ports
        assert (state.key, state.revision, state.vtep) == (self.ports[0]["id"], DELETED, None)
        self.c.take(gone)
        assert self.behind(self.vtep("A")) == {FLOODING, *self.pairs(self.ports[1])}
        self.rebind(self.ports[1], "D")
        (gone,) = self.sent()
        self.c.take(gone)
        assert self.behind(self.vtep("A")) == set()

    def test_next_sync_says_so_too(self) -> None:
        self.delete_agent("A")
        self.c.sync(self.endpoint)
        assert self.behind(self.vtep("A")) == set()

    def test_row_comes_back(self) -> None:
        """An operator deleted that of a running agent; meanwhile it wasn't told anything."""
        self.delete_agent("A")
        self.c.sync(self.endpoint)
        self.port_on("B", up=True)
        self.sent()
        self.register("A", self.vtep("A"))
        casts = self.expect(("add", "BC"), tables="A")
        (add,) = upstream_to(casts, "B")
        assert set(add.pairs(self.net, self.vtep("A"))) == self.all_of_a
        (table,) = upstream_to(casts, "A")
        assert len(table.pairs(self.net, self.vtep("B"))) == 3
        self.c.take(*ours_to(casts, "C"))
        assert self.behind(self.vtep("A")) == self.all_of_a

    def test_address_changes(self) -> None:
        self.register("A", "20.0.9.9")
        remove, add = upstream_to(self.casts, "B")
        assert remove.method == "remove_fdb_entries"
        assert set(remove.pairs(self.net, self.vtep("A"))) == self.all_of_a
        assert add.method == "add_fdb_entries"
        assert set(add.pairs(self.net, "20.0.9.9")) == self.all_of_a
        # The ports are the same as before, so only an answer settles it for those of ours.
        self.c.sync(self.endpoint)
        assert self.behind(self.vtep("A")) == set()
        assert self.behind("20.0.9.9") == self.all_of_a

    def test_what_concerns_nobody(self) -> None:
        with mock.patch.object(queries, "_fetch", side_effect=AssertionError("asked")):
            self.register("A", self.vtep("A"))  # a report as any other
        self.register("E", "20.0.0.77")  # no port there
        row = helpers.register_l3_agent("A")
        self.plugin.delete_agent(self.admin, row["id"])
        # One of two that claim to be the VTEP, and not the one that is believed.
        self.register("A", "20.0.9.9", agent_type="Linux bridge agent", binary="lb")
        (row,) = self.plugin.get_agents(self.admin, filters={"binary": ["lb"]})
        helpers.kill_agent(row["id"])
        self.sent()
        self.plugin.delete_agent(self.admin, row["id"])
        assert self.sent() == []

    def test_large_host(self) -> None:
        """What is told of a host at once is cut like any other table."""
        addresses = [
            {"subnet_id": self.subnet_id, "ip_address": f"10.0.{100 + i // 200}.{i % 200 + 1}"}
            for i in range(1000)
        ]
        with mock.patch.object(queries, "ports_at") as ports_at:
            place = mock.Mock(mac="fa:16:3e:00:00:01", ips=[a["ip_address"] for a in addresses])
            ports_at.return_value = [place]
            self.delete_agent("A")
        removes = upstream_to(self.sent(), "B")
        assert len(removes) == 2
        assert sum(len(cast.pairs(self.net, self.vtep("A"))) for cast in removes) == 1001

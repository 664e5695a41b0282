"""Agents that are deleted, come back, or move to another address; C and D are ours."""

from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

from cloud_helpers import FLOODING, Cast, Cloud, OurHost, ours_to, upstream_to
from neutron.tests.common import helpers

from ovs_l2pop.neutron.server import queries
from ovs_l2pop.neutron.server.pictures import Gallery
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync.protocol import DELETED, Update

GRACE = 3600.0  #: ``agent_down_time`` of these tests


class TestAgentRows(Cloud):
    ours: ClassVar[str] = "CD"

    def setUp(self) -> None:
        super().setUp()
        self.now = 0.0
        self.mech._roster._clock = lambda: self.now
        #: What is to be done when a row has been gone for so long.
        self.later: list[Callable[[], None]] = []
        mock.patch("threading.Timer", self._timer).start()
        self.port_on("B", up=True)
        self.ports = [self.port_on("A", up=True) for _ in range(2)]
        self.port_on("C", up=True)
        ticks = iter(range(0, 10**9, 10))
        # The process that serves hosts is another one than that of the API.
        roster = Roster(lambda: GRACE, lambda: self.now)
        self.endpoint = SyncEndpoint(Gallery(lambda: next(ticks), roster))
        self.c = OurHost("C", self.vtep("C"))
        self.c.replica.use(self.net)
        self.c.sync(self.endpoint)
        self.sent()

    def _timer(self, seconds: float, function: Any, arguments: Any) -> mock.Mock:
        assert GRACE < seconds < GRACE + 10
        self.later.append(lambda: function(*arguments))
        return mock.Mock()

    def delete_agent(self, host: str) -> None:
        """Of a living one."""
        self.plugin.delete_agent(self.admin, self.agent_on(host)["id"])

    def dies_and_is_deleted(self, host: str) -> None:
        agent = self.agent_on(host)
        helpers.kill_agent(agent["id"])
        self.plugin.delete_agent(self.admin, agent["id"])

    def after_the_grace(self) -> list[Cast]:
        self.now += GRACE + 1
        while self.later:
            self.later.pop()()
        return self.sent()

    def behind(self, vtep: str) -> set[tuple[str, str]]:
        """What C knows of a VTEP."""
        return {(mac, ip) for mac, ip, at in self.c.entries if at == vtep}

    @property
    def all_of_a(self) -> set[tuple[str, str]]:
        return {FLOODING} | {pair for port in self.ports for pair in self.pairs(port)}

    def test_row_of_a_dead_agent(self) -> None:
        self.dies_and_is_deleted("A")
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
        for cast in ours_to(self.sent(), "C"):
            self.c.take(cast)
        assert self.behind(self.vtep("A")) == set()
        assert self.after_the_grace() == []

    def test_row_of_a_living_agent_comes_back(self) -> None:
        """Nobody is told anything for what is known to pass."""
        self.delete_agent("A")
        assert self.sent() == []
        self.now += GRACE / 2
        self.c.sync(self.endpoint)
        assert self.behind(self.vtep("A")) == self.all_of_a
        # What happens meanwhile is told, with the VTEP that it had.
        self.delete(self.ports[1])
        casts = self.sent()
        (remove,) = upstream_to(casts, "B")
        assert remove.pairs(self.net, self.vtep("A")) == self.pairs(self.ports[1])
        self.c.take(*ours_to(casts, "C"))
        self.port_on("B", up=True)
        self.sent()
        self.register("A", self.vtep("A"))
        casts = self.sent()
        (table,) = upstream_to(casts, "A")  # it wasn't told meanwhile
        assert len(table.pairs(self.net, self.vtep("B"))) == 3
        self.c.take(*ours_to(casts, "C"))
        assert self.behind(self.vtep("A")) == {FLOODING, *self.pairs(self.ports[0])}
        assert self.after_the_grace() == []

    def test_row_of_a_living_agent_stays_away(self) -> None:
        self.delete_agent("A")
        (remove,) = self.after_the_grace()
        assert (remove.host, remove.method) == ("B", "remove_fdb_entries")
        assert set(remove.pairs(self.net, self.vtep("A"))) == self.all_of_a
        self.c.sync(self.endpoint)
        assert self.behind(self.vtep("A")) == set()

    def test_row_comes_back_with_another_vtep(self) -> None:
        self.delete_agent("A")
        self.register("A", "20.0.9.9")
        self.c.take(*ours_to(self.sent(), "C"))
        assert self.behind("20.0.9.9") == self.all_of_a
        assert self.behind(self.vtep("A")) == set()
        remove, add = upstream_to(self.after_the_grace(), "B")
        assert set(remove.pairs(self.net, self.vtep("A"))) == self.all_of_a
        assert set(add.pairs(self.net, "20.0.9.9")) == self.all_of_a

    def test_a_process_that_never_saw_the_row(self) -> None:
        self.delete_agent("A")
        self.c.sync(SyncEndpoint(Gallery(roster=Roster(lambda: GRACE))))
        assert self.behind(self.vtep("A")) == set()

    def test_a_host_of_ours_that_comes_back_is_told_to_ask(self) -> None:
        self.delete_agent("C")
        self.sent()
        self.register("C", self.vtep("C"), ours=True)
        hints = [Update.from_wire(cast.body).ports for cast in ours_to(self.sent(), "C")]
        assert () in hints

    def test_address_changes(self) -> None:
        self.register("A", "20.0.9.9")
        remove, add = upstream_to(self.casts, "B")
        assert remove.method == "remove_fdb_entries"
        assert set(remove.pairs(self.net, self.vtep("A"))) == self.all_of_a
        assert add.method == "add_fdb_entries"
        assert set(add.pairs(self.net, "20.0.9.9")) == self.all_of_a
        # Ours are told at once, though the ports are the same as before.
        self.c.take(*ours_to(self.sent(), "C"))
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
            self.dies_and_is_deleted("A")
        removes = upstream_to(self.sent(), "B")
        assert len(removes) == 2
        assert sum(len(cast.pairs(self.net, self.vtep("A"))) for cast in removes) == 1001

"""S41: a host whose agent is dead leaves flooding. B and D are stock, C is ours, A dies."""

from datetime import timedelta
from typing import ClassVar

import sqlalchemy as sa
from cloud_helpers import FLOODING, Cloud, OurHost, upstream_to
from neutron.db.models import agent as agent_model
from neutron_lib.db import api as db_api
from oslo_utils import timeutils

from ovs_l2pop.neutron.server import liveness
from ovs_l2pop.neutron.server.liveness import Liveness
from ovs_l2pop.neutron.server.pictures import Gallery
from ovs_l2pop.neutron.server.sync import SyncEndpoint

LIMIT = 100


class TestDeadHosts(Cloud):
    ours: ClassVar[str] = "C"

    def setUp(self) -> None:
        super().setUp()
        self.patch_fresh()
        self.port_on("B", up=True)
        self.ports = [self.port_on("A", up=True) for _ in range(2)]
        self.port_on("C", up=True)
        ticks = iter(range(0, 10**9, 10))
        self.endpoint = SyncEndpoint(Gallery(lambda: next(ticks)), Liveness(LIMIT))
        self.c = OurHost("C", self.vtep("C"))
        self.c.replica.use(self.net)
        self.sent()

    def patch_fresh(self) -> None:
        old, liveness._FRESH = liveness._FRESH, 0.0
        self.addCleanup(setattr, liveness, "_FRESH", old)

    def silent_for(self, host: str, seconds: float) -> None:
        """Its last report was so long ago."""
        then = timeutils.utcnow() - timedelta(seconds=seconds)
        with db_api.CONTEXT_WRITER.using(self.admin) as session:
            session.execute(
                sa.update(agent_model.Agent)
                .where(agent_model.Agent.host == host)
                .values(heartbeat_timestamp=then)
            )

    def flooding_at_c(self) -> set[str]:
        self.c.sync(self.endpoint)
        return {vtep for mac, ip, vtep in self.c.entries if (mac, ip) == FLOODING}

    def test_hosts_of_ours_learn_with_their_next_sync(self) -> None:
        everywhere = {self.vtep("A"), self.vtep("B")}
        assert self.flooding_at_c() == everywhere
        entries = set(self.c.entries)
        self.silent_for("A", LIMIT + 1)
        assert self.flooding_at_c() == {self.vtep("B")}
        assert set(self.c.entries) == entries - {(*FLOODING, self.vtep("A"))}, "unicast stays"
        # What comes up behind it meanwhile (its agent can't have said so) changes nothing of that.
        port = self.port_on("A", up=True)
        for cast in self.sent():
            if cast.host == "C":
                self.c.take(cast)
        assert self.flooding_at_c() == {self.vtep("B")}
        assert {(*pair, self.vtep("A")) for pair in self.pairs(port)} <= set(self.c.entries)
        self.silent_for("A", 0)
        assert self.flooding_at_c() == everywhere

    def test_stock_hosts_go_on(self) -> None:
        """Their agents would take the tunnel away, and unicast with it."""
        self.silent_for("A", LIMIT + 1)
        self.flooding_at_c()
        assert self.sent() == []
        self.port_on("D", up=True)
        (table,) = upstream_to(self.sent(), "D")
        assert FLOODING in table.pairs(self.net, self.vtep("A"))

    def test_by_default_nobody_is_dead(self) -> None:
        self.silent_for("A", 10**6)
        self.endpoint = SyncEndpoint()
        assert self.flooding_at_c() == {self.vtep("A"), self.vtep("B")}

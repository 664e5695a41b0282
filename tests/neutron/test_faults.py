"""Whatever fails while hosts are told, what was done to the port stays done."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import oslo_messaging
from cloud_helpers import Body, Cloud, OurHost
from neutron.tests.common import helpers
from neutron_lib import context as n_context
from oslo_db import exception as db_exc

from ovs_l2pop.neutron.server import driver, queries
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.sync import SyncEndpoint

FAULTS: dict[str, Callable[[], Any]] = {
    "the database is away": lambda: mock.patch.object(
        queries, "_fetch", side_effect=db_exc.DBConnectionError("away")
    ),
    "the database is broken": lambda: mock.patch.object(
        queries, "_fetch", side_effect=RuntimeError("broken")
    ),
    "the broker is away": lambda: mock.patch.multiple(
        Notifier,
        upstream=mock.Mock(side_effect=oslo_messaging.MessageDeliveryFailure("away")),
        ours=mock.Mock(side_effect=oslo_messaging.MessageDeliveryFailure("away")),
    ),
    "a host has a strange report": lambda: mock.patch.object(
        queries, "host", side_effect=KeyError("strange")
    ),
}


class TestFaults(Cloud):
    ours: ClassVar[str] = "CD"

    def _watch_the_log(self) -> None:
        pass

    def test_no_hook_raises(self) -> None:
        for host in "BCD":
            self.port_on(host, up=True)
        distributed = self.dvr_interface("AB")
        available = self.ha_interface(self.ha_router("AB"), "A")
        for fault, inject in FAULTS.items():
            for name, life in self._lives(distributed, available).items():
                with (
                    inject(),
                    mock.patch.object(driver.LOG, "exception") as logged,
                    self.assertNoLogs("neutron.plugins.ml2.managers", logging.ERROR),
                ):
                    life()
                assert logged.called, (fault, name)

    def test_hosts_of_ours_miss_nothing_for_long(self) -> None:
        c = OurHost("C", self.vtep("C"))
        c.replica.use(self.net)
        self.port_on("C", up=True)
        with FAULTS["the broker is away"](), mock.patch.object(driver.LOG, "exception"):
            port = self.port_on("A", up=True)
        c.sync(SyncEndpoint())
        assert {(mac, ip) for mac, ip, _ in c.entries} >= set(self.pairs(port))

    def test_a_deadlock_is_tried_again(self) -> None:
        self.port_on("B", up=True)
        self.sent()
        failures = [db_exc.DBDeadlock()] * 3

        def context() -> Any:
            if failures:
                raise failures.pop()
            return n_context.get_admin_context()

        port = self.port_on("A")
        with mock.patch.object(queries, "n_context", mock.Mock(get_admin_context=context)):
            self.up(port, "A")
        self.expect(("add", "B"), tables="A")
        assert not failures

    def _dies_and_is_deleted(self, agent: Body) -> None:
        helpers.kill_agent(agent["id"])
        self.plugin.delete_agent(self.admin, agent["id"])

    def _lives(self, distributed: Body, available: Body) -> dict[str, Callable[[], object]]:
        up, down, gone, moved = (self.port_on("A") for _ in range(4))
        for port in (down, gone, moved):
            self.up(port, "A")
        agent = self.agent_on("D")
        return {
            "up": lambda: self.up(up, "A"),
            "down": lambda: self.down(down, "A"),
            "delete": lambda: self.delete(gone),
            "rebind": lambda: self.rebind(moved, "B"),
            "address": lambda: self.update(up, fixed_ips=[]),
            "distributed": lambda: self.wire([distributed], "A"),
            "standby": lambda: self.down(available, "B"),
            "agent deleted": lambda: self._dies_and_is_deleted(agent),
            "agent created": lambda: self.register("D", self.vtep("D"), ours=True),
            "agent moved": lambda: self.register("D", "20.0.9.9", ours=True),
        }

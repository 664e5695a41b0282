"""Rows of UPSTREAM-DEFECTS A.1 that are open upstream: they fail there and pass here.

Each scenario runs twice: against our driver, and against upstream's, where it must fail.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import pytest
from cloud_helpers import FLOODING, Body, Cloud, OurHost, upstream_to
from cost_helpers import fill, metered
from neutron_lib.plugins import constants as plugin_constants
from neutron_lib.plugins import directory

from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync.protocol import Update


class _L3:
    """As much of an L3 plugin as upstream's ``update_port_down`` asks for."""

    def list_router_ids_on_host(self, *_: Any, **__: Any) -> list[str]:
        return []

    def disassociate_floatingips(self, *_: Any, **__: Any) -> set[str]:
        return set()

    def __getattr__(self, name: str) -> Any:
        return mock.MagicMock()


class OpenRows(Cloud):
    """The scenarios."""

    __test__ = False

    def setUp(self) -> None:
        super().setUp()
        directory.add_plugin(plugin_constants.L3, _L3())

    def hold(self) -> list[Any]:
        """Have postcommits wait; they come back as calls to make."""
        manager = self.plugin.mechanism_manager
        real = manager.update_port_postcommit
        held: list[Any] = []
        patch = mock.patch.object(
            manager,
            "update_port_postcommit",
            lambda context: held.append(functools.partial(real, context)),
        )
        patch.start()
        self.addCleanup(patch.stop)
        self.release = patch.stop
        return held

    def test_s3_burst_of_three_first_ports(self) -> None:
        remote = self.port_on("B", up=True)
        ports = [self.port_on("A") for _ in range(3)]
        self.sent()
        held = self.hold()
        # All are ACTIVE before the first is told of; Neutron's second call of l2pop finds it so.
        with mock.patch.object(self.callbacks, "notify_l2pop_port_wiring") as wired:
            for port in ports:
                self.up(port, "A")
        self.release()
        for call in held:
            call()
        for call in wired.call_args_list:
            type(self.callbacks).notify_l2pop_port_wiring(self.callbacks, *call.args)
        casts = self.sent()
        a, b = self.stock_state("A", casts), self.stock_state("B", casts)
        assert a.flood == {self.vtep("B")}, casts
        assert a.unicast == {remote["mac_address"]: self.vtep("B")}
        assert b.flood == {self.vtep("A")}
        assert b.unicast == {port["mac_address"]: self.vtep("A") for port in ports}
        assert len(upstream_to(casts, "A")) == 1

    def test_s8_late_down_from_the_old_host(self) -> None:
        self.port_on("C", up=True)
        port = self.port_on("A", up=True)
        self.rebind(port, "B")
        self.up(port, "B")
        self.down(port, "A")
        c = self.stock_state("C", self.sent())
        assert c.unicast[port["mac_address"]] == self.vtep("B")
        assert c.arp == {ip: mac for mac, ip in self.pairs(port)}
        assert c.flood == {self.vtep("B")}

    def test_s21_two_agents_claim_to_be_the_vtep(self) -> None:
        # The leftover's row is the older one, and found first.
        for host in ("A",):
            agent = self.plugin.get_agents(self.admin, filters={"host": [host]})[0]
            self.plugin.delete_agent(self.admin, agent["id"])
        self.register("A", "99.0.0.1", agent_type="Linux bridge agent", binary="lb")
        leftover = self.plugin.get_agents(self.admin, filters={"host": ["A"]})[0]
        from neutron.tests.common import helpers

        helpers.kill_agent(leftover["id"])
        self.register("A", self.vtep("A"))
        port = self.port_on("A", up=True)
        (cast,) = upstream_to(self.sent(), None)[-1:]
        assert cast.pairs(self.net, self.vtep("A"))[-1:] == self.pairs(port)

    def test_s31_restart_costs_one_table(self) -> None:
        self.port_on("B", up=True)
        ports = [self.port_on("A") for _ in range(8)]
        self.wire(ports, "A")
        self.sent()
        self.wire(ports, "A", refresh=True)
        assert len(upstream_to(self.sent(), "A")) == 1
        self.wire(ports, "A", refresh=True)  # and once again
        assert len(upstream_to(self.sent(), "A")) == 1

    def test_s32_agent_that_was_cut_off(self) -> None:
        """When it is back it looks at all of its ports again, but asks for no tables."""
        stays, goes = (self.port_on("B", up=True) for _ in range(2))
        ports = [self.port_on("A", up=True) for _ in range(3)]
        history = self.sent()
        self.delete(goes)
        comes = self.port_on("C", up=True)
        self.sent()  # lost
        if self.driver_name == "ovs_l2pop":
            a = OurHost("A", self.vtep("A"))
            a.replica.use(self.net)
            a.sync(SyncEndpoint())
            elsewhere = [entry for entry in a.entries if entry[2] != a.vtep]
            unicast = {mac: vtep for mac, _, vtep in elsewhere if mac != FLOODING[0]}
        else:
            self.wire(ports, "A")
            unicast = self.stock_state("A", [*history, *self.sent()]).unicast
        assert unicast == {
            stays["mac_address"]: self.vtep("B"),
            comes["mac_address"]: self.vtep("C"),
        }

    def test_s37_s38_cost_of_a_table(self) -> None:
        """Statements do not grow with ports, nor does decoding with hosts times ports."""
        port = self.port_on("A")
        fill(self, 40, 15)
        held = self.hold()
        with mock.patch.object(self.callbacks, "notify_l2pop_port_wiring"):
            self.up(port, "A")
        self.release()
        with metered() as meter:
            for call in held:
                call()
        assert len(upstream_to(self.sent(), "A")) == 1
        assert meter.statements <= 5
        assert meter.decoded <= 42

    def test_s42_allowed_addresses_are_told(self) -> None:
        self.register("B", self.vtep("B"), ours=True)
        self.port_on("B", up=True)
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, allowed_address_pairs=[{"ip_address": "10.0.0.77"}])
        (cast,) = self.sent()
        ((state,),) = [Update.from_wire(cast.body).ports]
        assert state.allowed == ("10.0.0.77",)

    def test_s34_one_message_for_a_port_that_comes_up(self) -> None:
        self.port_on("B", up=True)
        self.port_on("A", up=True)
        self.sent()
        port = self.port_on("A", up=True)
        (cast,) = self.sent()
        assert (cast.host, cast.method) == (None, "add_fdb_entries")
        assert cast.pairs(self.net, self.vtep("A")) == self.pairs(port)

    def test_s34_one_table_for_a_first_port(self) -> None:
        self.port_on("B", up=True)
        self.sent()
        self.port_on("A", up=True)
        assert [cast.host for cast in self.sent()] == ["A", None]

    def test_s35_down_then_delete_is_one_removal(self) -> None:
        self.port_on("B", up=True)
        port = self.port_on("A", up=True)
        self.sent()
        self.down(port, "A")
        self.delete(port)
        (cast,) = self.sent()
        assert cast.method == "remove_fdb_entries"
        assert cast.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(port)]

    def test_s40_qinq_is_not_vetoed(self) -> None:
        context = mock.Mock()
        context.current = {"id": "n", "qinq": True, "vlan_transparent": True}
        others = {"check_vlan_qinq": True, "check_vlan_transparency": True}
        driver = self.plugin.mechanism_manager.mech_drivers["openvswitch"].obj
        with mock.patch.multiple(
            driver, **{name: mock.Mock(return_value=value) for name, value in others.items()}
        ):
            try:
                self.plugin.mechanism_manager._check_vlan_qinq(context)
                self.plugin.mechanism_manager._check_vlan_transparency(context)
            except Exception as error:
                raise AssertionError(repr(error)) from error

    def test_s42_admin_down_is_told_at_once(self) -> None:
        self.port_on("B", up=True)
        port = self.port_on("A", up=True)
        self.sent()
        self.update(port, admin_state_up=False)
        (cast,) = self.sent()
        assert cast.method == "remove_fdb_entries"
        self.down(port, "A")
        assert self.sent() == []

    def test_activating_a_binding_takes_the_old_place_back(self) -> None:
        self.port_on("C", up=True)
        port = self.port_on("A", up=True)
        self._create_binding(port, "B")
        self.sent()
        self._activate(port, "B")
        casts = self.sent()
        assert [cast.method for cast in casts] == ["remove_fdb_entries"], casts
        assert casts[0].pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(port)]
        self.up(port, "B")
        c = self.stock_state("C", self.sent())
        assert c.flood == {self.vtep("B")}

    def test_s5_last_port_goes_while_another_comes(self) -> None:
        """The removal is decided on before the new port is up, and cast after it was announced."""
        self.port_on("B", up=True)
        old, new = self.port_on("A", up=True), self.port_on("A")
        base = self.sent()
        held = self._in_the_middle_of_the_removal(lambda: self.up(new, "A"))
        self.delete(old)
        held.stop()
        state = self.stock_state("B", [*base, *self.sent()])
        assert state.flood == {self.vtep("A")}
        assert state.unicast == {new["mac_address"]: self.vtep("A")}

    def test_port_deleted_while_it_comes_up(self) -> None:
        """Its removal is cast before its announcement."""
        self._deleted_before_it_is_told(up=False)

    # -- help --------------------------------------------------------------------------------

    def _deleted_before_it_is_told(self, *, up: bool) -> None:
        """B has nothing of a port of A that came up, or went down, and was deleted at once.

        :param up: whether it was up before.
        """
        self.port_on("B", up=True)
        port = self.port_on("A", up=up)
        base = self.sent()
        held = self.hold()
        (self.down if up else self.up)(port, "A")
        self.release()
        self.delete(port)
        for call in held:
            call()
        b = self.stock_state("B", [*base, *self.sent()])
        assert (b.flood, b.unicast, b.arp) == (set(), {}, {})

    def _create_binding(self, port: Body, host: str) -> None:
        binding = {"host": host, "vnic_type": "normal", "profile": {}}
        self.plugin.create_port_binding(self.admin, port["id"], {"binding": binding})

    def _activate(self, port: Body, host: str) -> None:
        self.plugin.activate(self.admin, host, port["id"])

    def _in_the_middle_of_the_removal(self, action: Any) -> Any:
        """Run something after the removal was decided on and before it is cast."""
        import oslo_messaging.rpc.client as rpc_client

        cast = rpc_client._BaseCallContext.cast
        pending = [action]

        def late(context: Any, ctxt: Any, method: str, **body: Any) -> None:
            if method == "remove_fdb_entries" and pending:
                pending.pop()()
            cast(context, ctxt, method, **body)

        patch = mock.patch.object(rpc_client._BaseCallContext, "cast", late)
        patch.start()
        return patch


class TestOurs(OpenRows):
    __test__ = True

    def test_port_deleted_before_anyone_hears_that_it_is_down(self) -> None:
        """The database doesn't name its segment any more. Upstream tells with the deletion."""
        self._deleted_before_it_is_told(up=True)


class TestUpstream(OpenRows):
    """The same scenarios fail."""

    __test__ = True
    driver_name: ClassVar[str] = "l2population"


def _must_fail(scenario: Callable[[OpenRows], None]) -> Callable[[OpenRows], None]:
    @functools.wraps(scenario)
    def fails(self: OpenRows) -> None:
        with pytest.raises((AssertionError, KeyError, ValueError)) as caught:
            scenario(self)
        print(f"upstream, {scenario.__name__}: {caught.value!s:.300}")

    return fails


for _name in dir(OpenRows):
    if _name.startswith("test_"):
        setattr(TestUpstream, _name, _must_fail(getattr(OpenRows, _name)))

"""HA routers, whose interface is bound to one host and wired on several (S22 to S24)."""

from typing import Any, ClassVar
from unittest import mock

from cloud_helpers import FLOODING
from neutron.tests.common import helpers
from neutron.tests.unit.plugins.ml2.drivers.l2pop import test_mech_driver as upstream
from neutron_lib import constants
from neutron_lib import context as n_context
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins import constants as plugin_constants
from neutron_lib.plugins import directory

from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.sync import SyncEndpoint
from ovs_l2pop.sync.protocol import Answer, PortState

A, B, OURS = upstream.HOST, upstream.HOST_2, upstream.HOST_4
VTEP_A, VTEP_B, VTEP_OURS = "20.0.0.1", "20.0.0.2", "20.0.0.4"


class TestHa(upstream.TestL2PopulationRpcTestCase):  # type: ignore[misc]
    """Built on upstream's fixture for HA routers; its own cases run in test_upstream_cases."""

    _mechanism_drivers: ClassVar[list[str]] = ["openvswitch", "fake_agent", "ovs_l2pop"]

    def setUp(self) -> None:
        super().setUp()
        self.to_ours: list[tuple[str, tuple[PortState, ...]]] = []
        mock.patch.object(Notifier, "ours", self._ours).start()

    def _ours(self, updates: Any, hosts: Any) -> None:
        found = list(updates)
        self.to_ours += [(host, update.ports) for host in hosts for update in found]

    def _register_ml2_agents(self) -> None:
        super()._register_ml2_agents()
        agent = helpers._get_l2_agent_dict(
            OURS, constants.AGENT_TYPE_OVS, constants.AGENT_PROCESS_OVS, ["vxlan"], VTEP_OURS
        )
        agent["configurations"]["extensions"] = ["ovs_l2pop"]
        helpers._register_agent(agent)

    def _stock(self) -> list[Any]:
        """(host, method, VTEP → pairs) since the last time."""
        assert not self.mock_fanout.called
        calls = [call.args for call in self.mock_cast.call_args_list]
        self.mock_cast.reset_mock()
        return [(args[3], args[1], next(iter(args[2].values()))["ports"]) for args in calls]

    def test_interface(self) -> None:
        router = self._create_ha_router()
        directory.add_plugin(plugin_constants.L3, self.plugin)
        with self.subnet(network=self._network, enable_dhcp=False) as subnet:
            network_id = subnet["subnet"]["network_id"]
            arguments = {portbindings.HOST_ID: OURS, "admin_state_up": True}
            with self.port(
                subnet=subnet,
                is_admin=True,
                device_owner=upstream.DEVICE_OWNER_COMPUTE,
                arg_list=(portbindings.HOST_ID,),
                **arguments,
            ) as made:
                vm = made["port"]
                self.callbacks.update_device_up(
                    self.adminContext, agent_id=OURS, device="tap" + vm["id"]
                )
                pair = (vm["mac_address"], vm["fixed_ips"][0]["ip_address"])
                self.to_ours.clear()
                port = self._add_router_interface(subnet["subnet"], router, A)

                # The active host comes into the network, the standby one is known of: it is
                # announced to hosts of ours, which need not wait for its wiring.
                table, add = self._stock()
                assert table == (A, "add_fdb_entries", mock.ANY)
                assert table[2] == {VTEP_B: [FLOODING], VTEP_OURS: [FLOODING, pair]}
                assert add == (B, "add_fdb_entries", {VTEP_A: [FLOODING]})
                ((host, states),) = self.to_ours[-1:]
                assert host == OURS
                assert {(s.key, s.vtep, s.entries) for s in states} == {
                    (f"{port['id']}@{A}", VTEP_A, ()),
                    (f"{port['id']}@{B}", VTEP_B, ()),
                }
                # The standby host, which is stock, gets its table when it has wired the port.
                self.callbacks.update_device_up(
                    self.adminContext, agent_id=B, device=port["id"], host=B
                )
                table, add = self._stock()
                assert table[:2] == (B, "add_fdb_entries")
                assert table[2] == {VTEP_A: [FLOODING], VTEP_OURS: [FLOODING, pair]}
                assert add == (A, "add_fdb_entries", {VTEP_B: [FLOODING]})

                # Failover: the port is rebound and down for a while. Nobody is to lose anything.
                self.to_ours.clear()
                self.plugin.update_routers_states(
                    self.adminContext, {router["id"]: constants.HA_ROUTER_STATE_ACTIVE}, B
                )
                assert "remove_fdb_entries" not in {method for _, method, _ in self._stock()}
                assert not [s for _, states in self.to_ours for s in states if s.vtep is None]
                reply = Answer.from_wire(SyncEndpoint().sync(None, OURS, {network_id: ""}))
                told = [state for chunk in reply.chunks for state in chunk.ports]
                assert {state.vtep for state in told} == {VTEP_A, VTEP_B}
                assert not [state for state in told if state.entries]

                self._stock()
                self.to_ours.clear()
                interface = {"subnet_id": subnet["subnet"]["id"]}
                self.plugin.remove_router_interface(
                    n_context.get_admin_context(), router["id"], interface
                )
                assert self.to_ours
                assert all(s.vtep is None for _, states in self.to_ours for s in states)


def _not_here() -> None: ...


# Neutron's metaclass copies inherited cases into the class.
_not_here.__test__ = False  # type: ignore[attr-defined]
for _name in dir(TestHa):
    if _name.startswith("test_") and _name != "test_interface":
        setattr(TestHa, _name, _not_here)

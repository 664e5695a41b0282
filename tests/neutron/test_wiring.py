"""Our driver answers to the name `l2population` too, by which alone Neutron reports wiring."""

from typing import ClassVar
from unittest import mock

from cloud_helpers import Cloud
from neutron.plugins.ml2 import managers
from neutron_lib import context as n_context
from neutron_lib.plugins import directory

from ovs_l2pop.neutron.server import wiring


class TestWiring(Cloud):
    ours: ClassVar[str] = "D"

    def setUp(self) -> None:
        super().setUp()
        self.port_on("B", up=True)
        self.port_on("D", up=True)
        self.sent()
        self.manager = self.plugin.mechanism_manager

    def test_it_is_called_and_says_nothing_twice(self) -> None:
        port = self.port_on("A")
        driver = self.manager.mech_drivers["l2population"].obj
        assert driver is self.mech
        for name in ("update_port_up", "update_port_down"):
            patch = mock.patch.object(driver, name, wraps=getattr(driver, name))
            setattr(self, name, patch.start())
        self.up(port, "A")  # get_devices_details_list and update_device_list
        assert self.update_port_up.call_count == 1
        self.expect(("add", "BD"), tables="A")
        self.callbacks.update_device_up(
            n_context.get_admin_context(), device=port["id"], agent_id="A", host="A"
        )
        assert self.update_port_up.call_count == 2
        self.expect()
        self.down(port, "A")
        assert self.update_port_down.call_count == 1
        self.expect(("remove", "BD"))
        self.callbacks.update_device_list(
            n_context.get_admin_context(),
            devices_up=[],
            devices_down=[port["id"]],
            agent_id="A",
            host="A",
        )
        assert self.update_port_down.call_count == 2
        self.expect()

    def test_each_hook_is_called_once(self) -> None:
        """The second name is in the index only; what is called goes by the list."""
        assert wiring.hear(self.mech)
        drivers = [extension.obj for extension in self.manager.ordered_mech_drivers]
        assert drivers.count(self.mech) == 1
        with mock.patch.object(self.mech, "create_port_postcommit") as hook:
            self.port_on("A")
        assert hook.call_count == 1

    def test_without_being_called_only_what_no_hook_tells_is_missing(self) -> None:
        del self.manager.mech_drivers["l2population"]
        with mock.patch.object(wiring, "hear", return_value=True):
            port = self.port_on("A", up=True)
            self.expect(("add", "BD"), tables="A")
            self.rebind(port, "C")
            self.up(port, "C")
            self.expect(("remove", "BD"), ("add", "BD"), tables="C")
            self.down(port, "C")
            self.delete(port)
            self.expect(("remove", "BD"))

    def test_on_the_port_of_a_live_migration(self) -> None:
        """The new host wires it before the port is bound there; the old one is late."""
        port = self.port_on("A", up=True)
        self.sent()
        binding = {"host": "C", "vnic_type": "normal", "profile": {}}
        self.plugin.create_port_binding(self.admin, port["id"], {"binding": binding})
        self.wire([port], "C", refresh=True)
        self.expect()
        self.plugin.activate(self.admin, "C", port["id"])
        self.expect(("remove", "BD"))
        self.wire([port], "A", refresh=True)
        self.expect()
        self.wire([port], "C", refresh=True)
        self.expect(("add", "BD"), tables="C")
        self.down(port, "A")
        self.expect()

    def test_before_the_plugin_is_made(self) -> None:
        with mock.patch.object(directory, "get_plugin", return_value=None):
            assert not wiring.hear(self.mech)

    def test_upstreams_driver_beside_ours_is_a_mistake_that_is_named(self) -> None:
        other = mock.Mock()
        manager = mock.Mock(spec=managers.MechanismManager)
        ours = mock.Mock(obj=self.mech)
        manager.mech_drivers = {"l2population": other, "ovs_l2pop": ours}
        manager.ordered_mech_drivers = [other, ours]
        plugin = mock.Mock(mechanism_manager=manager)
        with (
            mock.patch.object(directory, "get_plugin", return_value=plugin),
            mock.patch.object(wiring.LOG, "error") as logged,
        ):
            assert wiring.hear(self.mech)
        assert logged.call_count == 1
        assert manager.mech_drivers["l2population"] is other

"""What upstream got right in the end (rows of A.1 marked fixed), and what surrounds it."""

from typing import Any, ClassVar
from unittest import mock

import pytest
import sqlalchemy as sa
from cloud_helpers import FLOODING, Cloud, ours_to, upstream_to
from neutron.api.rpc.handlers import dhcp_rpc
from neutron.tests.common import helpers
from neutron_lib import constants
from neutron_lib import exceptions as n_exc
from neutron_lib.api.definitions import portbindings
from neutron_lib.db import api as db_api
from oslo_config import cfg
from oslo_utils import uuidutils

from ovs_l2pop.neutron.server import driver, queries
from ovs_l2pop.sync.protocol import DELETED, Update

DVR = constants.DEVICE_OWNER_DVR_INTERFACE


class TestRegressions(Cloud):
    def test_s1_s16_only_active_ports_count(self) -> None:
        self.port_on("B")  # DOWN: not in A's table
        other = self.port_on("B", up=True)
        first, _second = self.port_on("A"), self.port_on("A")
        self.sent()
        self.up(first, "A")
        table, add = self.sent()
        assert table.host == "A"
        assert table.fdb[self.net]["ports"].keys() == {self.vtep("B")}
        assert table.pairs(self.net, self.vtep("B")) == [FLOODING, *self.pairs(other)]
        assert add.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(first)]

    def test_s2_two_first_ports_at_once(self) -> None:
        """Both are ACTIVE before either is told of."""
        remote = self.port_on("B", up=True)
        ports = [self.port_on("A") for _ in range(2)]
        self.sent()
        manager = self.plugin.mechanism_manager
        held: list[Any] = []
        with (
            mock.patch.object(manager, "update_port_postcommit", held.append),
            mock.patch.object(self.callbacks, "notify_l2pop_port_wiring"),
        ):
            for port in ports:
                self.up(port, "A")
        for context in held:
            manager.update_port_postcommit(context)
        casts = self.sent()
        (table,) = upstream_to(casts, "A")
        assert table.pairs(self.net, self.vtep("B")) == [FLOODING, *self.pairs(remote)]
        b = self.stock_state("B", casts)
        assert b.flood == {self.vtep("A")}
        assert b.unicast == {port["mac_address"]: self.vtep("A") for port in ports}

    def test_s4_last_port_takes_the_flooding_entry_along(self) -> None:
        first, last = (self.port_on("A", up=True) for _ in range(2))
        self.sent()
        self.delete(first)
        self.delete(last)
        one, two = self.sent()
        assert one.pairs(self.net, self.vtep("A")) == self.pairs(first)
        assert two.pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(last)]

    def test_s6_s7_bulk_migration_to_an_empty_host(self) -> None:
        ports = [self.port_on("A", up=True) for _ in range(2)]
        remote = self.port_on("B", up=True)
        history = self.sent()
        for port in ports:
            self.rebind(port, "C")
        for port in ports:
            self.up(port, "C")
        casts = self.sent()
        c, b = self.stock_state("C", casts), self.stock_state("B", [*history, *casts])
        assert c.unicast == {remote["mac_address"]: self.vtep("B")}
        assert b.flood == {self.vtep("C")}
        assert b.unicast == {port["mac_address"]: self.vtep("C") for port in ports}
        assert len(upstream_to(casts, "C")) == 1

    def test_s11_s12_s14_addresses(self) -> None:
        self.port_on("B", up=True)
        port = self.port_on("A", up=True)
        mac, before = port["mac_address"], port["fixed_ips"][0]["ip_address"]
        self.sent()
        ips = [{"ip_address": before}, {"ip_address": "10.0.50.1"}]
        ips = [ip | {"subnet_id": self.subnet_id} for ip in ips]

        def change(ips: list[Any]) -> Any:
            self.update(port, fixed_ips=ips)
            (cast,) = self.sent()
            return cast

        cast = change(ips)
        assert cast.fdb == {"chg_ip": {self.net: {self.vtep("A"): {"after": [[mac, "10.0.50.1"]]}}}}
        cast = change(ips[1:])
        assert cast.fdb == {"chg_ip": {self.net: {self.vtep("A"): {"before": [[mac, before]]}}}}
        self.update(port, name="nothing else")
        assert self.sent() == []
        # Without any address there is no unicast entry either, so it goes and comes back whole.
        cast = change([])
        assert (cast.method, cast.pairs(self.net, self.vtep("A"))) == (
            "remove_fdb_entries",
            [(mac, "10.0.50.1")],
        )
        cast = change(ips[:1])
        assert (cast.method, cast.pairs(self.net, self.vtep("A"))) == (
            "add_fdb_entries",
            [(mac, before)],
        )

    def test_addresses_of_a_port_that_is_down_are_nobodys_business(self) -> None:
        port = self.port_on("A")
        fixed = [{"subnet_id": self.subnet_id, "ip_address": "10.0.50.1"}]
        self.update(port, fixed_ips=fixed)
        assert self.sent() == []

    def test_s13_s15_s39_other_networks(self) -> None:
        vlan = self.network_of("vlan", 7)
        subnet = self.make_subnet(vlan, "10.9.0.0/24")
        self.port_on("B", up=True)
        self.sent()
        port = self.port_on("A", net=vlan)
        with mock.patch.object(queries, "_located", wraps=queries._located) as located:
            self.up(port, "A")
            self.update(port, fixed_ips=[{"subnet_id": subnet, "ip_address": "10.9.0.77"}])
            self.delete(port)
            assert not located.called  # nothing but the agent is looked up
        assert self.sent() == []

    def test_s17_mac_of_an_active_port(self) -> None:
        port = self.port_on("A", up=True)
        context = mock.Mock(status="ACTIVE", original=port)
        context.current = port | {"mac_address": "fa:16:3e:00:00:01"}
        context.network.network_segments = [{"network_type": "vxlan"}]
        with pytest.raises(n_exc.InvalidInput):
            self.mech.update_port_precommit(context)
        context.network.network_segments = [{"network_type": "vlan"}]
        self.mech.update_port_precommit(context)  # no tunnel, no business of ours

    def test_s18_what_is_gone_or_was_never_there(self) -> None:
        unbound = self.port_on("")
        self.delete(unbound)
        with mock.patch.object(driver.LOG, "exception") as logged:
            port = self.port_on("A", up=True)
            for agent in self.plugin.get_agents(self.admin, filters={"host": ["A"]}):
                helpers.kill_agent(agent["id"])
                self.plugin.delete_agent(self.admin, agent["id"])
            self.sent()
            self.delete(port)
            assert self.sent() == []
            other = self.port_on("B")
            with mock.patch.object(queries, "_fetch", return_value=[]):
                self.up(other, "B")
        assert not logged.called

    def test_s40_being_loaded_restricts_nothing(self) -> None:
        mech = self.mech
        assert mech.check_vlan_qinq(None) is not False
        assert mech.check_vlan_transparency(None) is not False
        assert mech.filter_hosts_with_segment_access(None, [], {"A"}, None) == set()
        assert mech.is_host_filtering_supported()
        assert mech.supported_extensions({"qos"}) == {"qos"}
        assert mech.responsible_for_ports_allocation(None) is False
        assert mech.get_workers() == ()

    def test_s10_trunk_subport_moves_with_its_parent(self) -> None:
        self.port_on("B", up=True)
        subport = self.port_on("A", up=True, device_owner="trunk:subport")
        self.sent()
        self.rebind(subport, "C")
        self.up(subport, "C")
        methods = [(cast.method, cast.host) for cast in self.sent()]
        assert methods == [
            ("remove_fdb_entries", None),
            ("add_fdb_entries", "C"),
            ("add_fdb_entries", None),
        ]

    def test_s28_dhcp_agent_fails_over(self) -> None:
        """As the handler of the agents' RPC does it."""
        handler = dhcp_rpc.DhcpRpcCallback()
        self.port_on("B", up=True)
        port = self.port_on(
            "A",
            up=True,
            device_owner=constants.DEVICE_OWNER_DHCP,
            device_id=constants.DEVICE_ID_RESERVED_DHCP_PORT,
        )
        self.sent()
        with mock.patch.object(handler, "_is_dhcp_agent_hosting_network", return_value=True):
            body = {"port": {"network_id": self.net, "device_id": "dhcp-of-c"}}
            handler.update_dhcp_port(self.admin, host="C", port_id=port["id"], port=body)
        self.up(port, "C")
        casts = self.expect(("remove", "B"), ("add", "B"), tables="C")
        assert casts[0].pairs(self.net, self.vtep("A")) == [FLOODING, *self.pairs(port)]
        assert casts[-1].pairs(self.net, self.vtep("C")) == [FLOODING, *self.pairs(port)]

    def test_another_process_announced_the_first_port_long_ago(self) -> None:
        self.port_on("B", up=True)
        old = self.port_on("A", up=True)
        self.mech._publisher._memory._places.clear()
        session = db_api.get_writer_session()
        with session.begin():
            session.execute(
                sa.text(
                    "UPDATE standardattributes SET created_at='2020-01-01 00:00:00',"
                    " updated_at='2020-01-01 00:00:00' WHERE id ="
                    " (SELECT standard_attr_id FROM ports WHERE id = :id)"
                ),
                {"id": old["id"]},
            )
        self.sent()
        self.port_on("A", up=True)
        (add,) = self.sent()
        assert FLOODING not in add.pairs(self.net, self.vtep("A"))


class TestDistributed(Cloud):
    """DVR interfaces (S26, S27), with C and D ours."""

    ours: ClassVar[tuple[str, ...]] = ("C", "D")

    def setUp(self) -> None:
        super().setUp()
        self.router_id = uuidutils.generate_uuid()
        self.interface = self.port_on("", device_owner=DVR, device_id=self.router_id)
        for host in ("A", "B", "C"):
            self._bind(host)

    def _bind(self, host: str) -> None:
        attributes = {portbindings.HOST_ID: host, "device_id": self.router_id}
        self.plugin.update_distributed_port_binding(
            self.admin, self.interface["id"], {"port": attributes}
        )

    def test_flooding_entries_only(self) -> None:
        self.sent()
        self.up(self.interface, "A")
        assert self.sent() == []  # nobody else is there
        self.up(self.interface, "C")
        casts = self.sent()
        assert {cast.host for cast in casts} == {"A", "C"}
        (add,) = upstream_to(casts, "A")
        assert add.pairs(self.net, self.vtep("C")) == [FLOODING]
        vm = self.port_on("B", up=True)
        casts = self.sent()
        (table,) = upstream_to(casts, "B")
        assert table.fdb[self.net]["ports"] == {
            self.vtep("A"): [list(FLOODING)],
            self.vtep("C"): [list(FLOODING)],
        }
        self.up(self.interface, "B")  # B has been in the network before: nothing new to A
        casts = self.sent()
        assert not upstream_to(casts, "A")
        (ours,) = ours_to(casts, "C")
        (state,) = Update.from_wire(ours.body).ports
        assert (state.key, state.entries) == (f"{self.interface['id']}@B", ())
        self.down(self.interface, "B")
        casts = self.sent()
        assert not upstream_to(casts, "A")  # the machine is still there
        (state,) = Update.from_wire(ours_to(casts, "C")[0].body).ports
        assert state.vtep is None
        self.delete(vm)
        (remove,) = upstream_to(self.sent(), "A")
        assert remove.pairs(self.net, self.vtep("B")) == [FLOODING, *self.pairs(vm)]

    def test_s27_agent_restart(self) -> None:
        self.up(self.interface, "A")
        self.port_on("B", up=True)
        self.sent()
        self.up(self.interface, "A")
        assert next(cast.host for cast in self.sent()) == "A"

    def test_update_of_the_port_is_not_a_report_of_status(self) -> None:
        for host in ("A", "B", "C"):
            self.up(self.interface, host)
        self.sent()
        self.update(self.interface, name="gateway")
        assert self.sent() == []

    def test_delete(self) -> None:
        for host in ("A", "C"):
            self.up(self.interface, host)
        self.port_on("D", up=True)
        self.sent()
        self.delete(self.interface)
        casts = ours_to(self.sent(), "D")
        states = [state for cast in casts for state in Update.from_wire(cast.body).ports]
        assert {state.key for state in states} == {f"{self.interface['id']}@{h}" for h in "AC"}
        assert all(state.order == (DELETED, True) for state in states)


class TestFanout(Cloud):
    ours: ClassVar[str] = "ABC"

    def test_many_hosts_of_ours_hear_at_once(self) -> None:
        """However many there are: a worker would be held by each of them."""
        for host in "ABCD":
            self.port_on(host, up=True)
        port = self.port_on("A")
        for above, hosts in ((2, [None]), (3, ["A", "B", "C"]), (0, [None])):
            cfg.CONF.set_override("fanout_above", above, group="ovs_l2pop")
            self.sent()
            self.up(port, "A")
            casts = self.sent()
            told = [cast for cast in casts if cast.method == "update_ports"]
            assert [cast.host for cast in told] == hosts
            assert {state.key for cast in told for state in Update.from_wire(cast.body).ports} == {
                port["id"]
            }
            # A stock host's own half would hear upstream's words.
            assert [cast.host for cast in casts if cast not in told] == ["D"]
            self.down(port, "A")

"""Ports live at random; in the end every host knows what the database says.

Messages to stock hosts arrive, in the order in which they were cast; hosts of ours lose, repeat and
reorder theirs, and ask once. Neutron runs several processes: whatever happens to a port happens in
one of three, and what a driver is told after a commit may come late.

``OVS_L2POP_STEPS`` makes it longer, ``OVS_L2POP_SEED`` repeats a run.
"""

import functools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple
from unittest import mock

from cloud_helpers import FLOODING, UPSTREAM_TOPIC, Body, Cast, Cloud, OurHost, StockHost, ours_to
from neutron.db import models_v2
from neutron.db.models import agent as agent_model
from neutron.db.models import l3ha
from neutron.db.models import segment as segment_model
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants
from neutron_lib import context as n_context
from neutron_lib.db import api as db_api
from oslo_config import cfg

from ovs_l2pop.neutron.server.memory import Memory
from ovs_l2pop.neutron.server.pictures import Gallery
from ovs_l2pop.neutron.server.sync import SyncEndpoint

STEPS = int(os.environ.get("OVS_L2POP_STEPS", "30"))

Entry = tuple[str, str, str]  #: MAC, IP, VTEP
Place = tuple[str, str, list[tuple[str, str]]]  #: host, host that it is bound to, (MAC, IP)


class Fact(NamedTuple):
    """A port at a host."""

    host: str
    entries: list[tuple[str, str]]
    allowed: set[str]


class Life(Cloud):
    __test__ = False
    #: Segments of the network: type, id, hosts that are bound to it.
    segments: ClassVar[list[tuple[str, int, str]]] = [("vxlan", 1001, "ABCD")]

    def setUp(self) -> None:
        super().setUp()
        self.seed = int(os.environ.get("OVS_L2POP_SEED") or random.SystemRandom().randrange(10**6))
        self.chance = random.Random(self.seed)
        for kind, _, hosts in self.segments:
            for host in hosts:
                self.register(host, self.vtep(host), ours=host in self.ours, tunnel_types=[kind])
        if len(self.segments) > 1:
            self.net = self.network_of_segments(*((kind, n) for kind, n, _ in self.segments))
            self.subnet_id = self.make_subnet(self.net, "10.0.0.0/16")
        ticks = iter(range(0, 10**9, 10))  # no picture is fresh twice
        self.endpoint = SyncEndpoint(Gallery(lambda: next(ticks)))
        self.number = {host: n for _, n, hosts in self.segments for host in hosts}
        #: Hosts that have wired a port: a stock agent takes no notice of other networks.
        self.stock: dict[str, StockHost] = {}
        self.our_hosts: dict[str, OurHost] = {}
        #: Keys only: unlike in a set, their order is the same in every run.
        self.wired: dict[str, dict[str, None]] = {host: {} for host in self.hosts}
        self.ports: dict[str, str] = {}  # ordinary port → host
        self.distributed: dict[str, Body] = {}
        self.available: dict[str, str] = {}  # interface of the HA router → active host
        self.held: list[Callable[[], None]] = []
        self.processes = [Memory() for _ in range(3)]
        self._hold_back()

    def test_everyone_ends_where_the_database_is(self) -> None:
        steps = [name for name in dir(self) if name.startswith("step_")]
        for number in range(1, STEPS + 1):
            self.mech._publisher._memory = self.chance.choice(self.processes)
            name = self.chance.choice([*steps, *["step_new", "step_move", "step_delete"] * 2])
            getattr(self, name)()
            if self.chance.random() < 0.3:
                self._let_go()
            if number % 15 == 0:
                self._let_go()
                self._compare()
        self._let_go()
        self._compare()

    # -- what happens ----------------------------------------------------------------------------

    def step_new(self) -> None:
        host = self.chance.choice(self.hosts)
        fixed: Body = {} if self.chance.random() < 0.8 else {"fixed_ips": []}
        port = self.port_on(host, **fixed)
        self.ports[port["id"]] = host
        self._plug(port["id"], host)

    def step_delete(self) -> None:
        if self.ports:
            port_id = self._any_port()
            self.delete({"id": port_id})
            self._unplug(port_id, self.ports.pop(port_id))

    def step_move(self) -> None:
        if self.ports:
            port_id = self._any_port()
            old, new = self.ports[port_id], self.chance.choice(self.hosts)
            if old != new:
                self.rebind({"id": port_id}, new)
                self._arrives(port_id, old, new)

    def step_live_migration(self) -> None:
        if self.ports:
            port_id = self._any_port()
            old, new = self.ports[port_id], self.chance.choice(self.hosts)
            if old != new:
                binding = {"host": new, "vnic_type": "normal", "profile": {}}
                self.plugin.create_port_binding(self.admin, port_id, {"binding": binding})
                if self.chance.random() < 0.8:
                    self.plugin.activate(self.admin, new, port_id)
                    self._arrives(port_id, old, new)
                    old, new = new, old
                self.plugin.delete_port_binding(self.admin, new, port_id)

    def step_down_or_up(self) -> None:
        if self.ports:
            port_id = self._any_port()
            if self.chance.random() < 0.5:
                self.down({"id": port_id}, self.ports[port_id])
                self._unplug(port_id, self.ports[port_id])
            else:
                self._plug(port_id, self.ports[port_id])

    def step_addresses(self) -> None:
        if self.ports:
            one = f"10.0.{self.chance.randrange(100, 200)}.{self.chance.randrange(1, 250)}"
            fixed = [{"subnet_id": self.subnet_id, "ip_address": one}]
            self.update(
                {"id": self._any_port()}, fixed_ips=fixed if self.chance.random() < 0.8 else []
            )

    def step_allowed(self) -> None:
        if self.ports:
            other = self.plugin.get_port(self.admin, self._any_port())
            pairs = [{"ip_address": ip["ip_address"]} for ip in other["fixed_ips"]]
            self.update({"id": self._any_port()}, allowed_address_pairs=pairs)

    def step_admin_state(self) -> None:
        if self.ports:
            port_id = self._any_port()
            self.update({"id": port_id}, admin_state_up=self.chance.random() < 0.6)

    def step_restart(self) -> None:
        host = self.chance.choice(self.hosts)
        if self.wired[host]:
            self._forget(host)
            self._attach(host)
            self.wire([{"id": port_id} for port_id in self.wired[host]], host, refresh=True)

    def step_distributed(self) -> None:
        """The interface of a distributed router appears on a host, or leaves it."""
        if not self.distributed:
            port = self.dvr_interface("")
            self.distributed[port["id"]] = port
        ((port_id, port),) = self.distributed.items()
        host = self.chance.choice(self.hosts)
        if port_id in self.wired[host]:
            self.down(port, host)
            self._unplug(port_id, host)
        else:
            self.bind_to_distributed(port, host)
            self._plug(port_id, host)

    def step_available(self) -> None:
        """The interface of an HA router is made, fails over, or is removed."""
        hosts = self.segments[0][2][:3]
        if not hasattr(self, "router_id"):
            self.router_id = self.ha_router(hosts)
        if not self.available:
            active, *standby = self.chance.sample(hosts, len(hosts))
            port_id = self.ha_interface(self.router_id, active)["id"]
            self.available[port_id] = active
            for host in (active, *standby):
                self._plug(port_id, host)
            return
        ((port_id, active),) = self.available.items()
        if self.chance.random() < 0.3:
            self.delete({"id": port_id})
            self.available.clear()
            for host in hosts:
                self._unplug(port_id, host)
        else:
            new = self.chance.choice([host for host in hosts if host != active])
            self.rebind({"id": port_id}, new)
            self.up({"id": port_id}, new)
            self.available[port_id] = new

    def step_agent_row(self) -> None:
        """Deleted, and back with the next report."""
        host = self.chance.choice(self.hosts)
        self._let_go()
        agent = self.agent_on(host)
        self.plugin.delete_agent(self.admin, agent["id"])
        self.register(host, self.vtep(host), **agent["configurations"])

    # -- help --------------------------------------------------------------------------------------

    def _any_port(self) -> str:
        return self.chance.choice(list(self.ports))

    def _plug(self, port_id: str, host: str) -> None:
        self._attach(host)
        self.wired[host][port_id] = None
        self.up({"id": port_id}, host)

    def _unplug(self, port_id: str, host: str) -> None:
        self.wired[host].pop(port_id, None)
        if not self.wired[host]:
            self._forget(host)

    def _arrives(self, port_id: str, old: str, new: str) -> None:
        self.ports[port_id] = new
        self._plug(port_id, new)
        if self.chance.random() < 0.5:
            self.down({"id": port_id}, old)  # the old host notices late
        self._unplug(port_id, old)

    def _attach(self, host: str) -> None:
        if host in self.ours and host not in self.our_hosts:
            self.our_hosts[host] = OurHost(host, self.vtep(host))
            self.our_hosts[host].replica.use(self.net)
        elif host not in self.ours and host not in self.stock:
            self.stock[host] = StockHost(self.vtep(host), self.number[host])

    def _forget(self, host: str) -> None:
        self.stock.pop(host, None)
        self.our_hosts.pop(host, None)

    def _hold_back(self) -> None:
        """Some of what drivers are told after a commit waits."""
        manager = self.plugin.mechanism_manager
        for name in ("update_port_postcommit", "delete_port_postcommit"):
            real = getattr(manager, name)
            patch = mock.patch.object(manager, name, functools.partial(self._perhaps, real))
            patch.start()
            self.addCleanup(patch.stop)

    def _perhaps(self, real: Callable[[Any], None], context: Any) -> None:
        if self.chance.random() < 0.25:
            self.held.append(functools.partial(real, context))
        else:
            real(context)

    def _let_go(self) -> None:
        self.chance.shuffle(self.held)
        while self.held:
            self.mech._publisher._memory = self.chance.choice(self.processes)
            self.held.pop()()

    def _catch(self) -> Any:
        real = super()._catch()

        def cast(*args: Any, **kwargs: Any) -> None:
            known = len(self.casts)
            real(*args, **kwargs)
            for message in self.casts[known:]:
                if message.topic == UPSTREAM_TOPIC:
                    for name, host in getattr(self, "stock", {}).items():
                        if message.host in (None, name):
                            host.take(message, self.net)

        return cast

    # -- what must be -----------------------------------------------------------------------------

    def _compare(self) -> None:
        casts = self.sent()
        run = f"OVS_L2POP_SEED={self.seed}, host %s"
        for name, ours in self.our_hosts.items():
            self._lose_and_shuffle(ours, ours_to(casts, name))
            ours.sync(self.endpoint)
            assert ours.entries == self._known_to_ours(name), run % name
            assert not self.endpoint.sync(None, name, ours.replica.digests(), own=True)["chunks"]
        for name, stock in self.stock.items():
            facts = list(self._facts(name))
            if name not in {fact.host for fact in facts}:
                continue  # what it misses it will be sent when a port of it is up
            facts = [fact for fact in facts if fact.host != name]
            entries = {(m, i, self.vtep(f.host)) for f in facts for m, i in f.entries}
            assert stock.flood == {self.vtep(fact.host) for fact in facts}, run % name
            assert stock.unicast == {mac: vtep for mac, _, vtep in entries}, run % name
            assert stock.arp == {ip: mac for mac, ip, _ in entries}, run % name

    def _lose_and_shuffle(self, ours: OurHost, casts: list[Cast]) -> None:
        arriving = [cast for cast in casts * 2 if self.chance.random() < 0.6]
        self.chance.shuffle(arriving)
        for cast in arriving:
            ours.take(cast)

    def _known_to_ours(self, name: str) -> set[Entry]:
        facts = list(self._facts(name))
        # Who may use an address besides its owner may have it: nobody answers for it.
        contested = {ip for f in facts for ip in f.allowed - {ip for _, ip in f.entries}}
        entries = {(*FLOODING, self.vtep(fact.host)) for fact in facts if fact.host != name}
        return entries | {
            (mac, ip, self.vtep(fact.host))
            for fact in facts
            for mac, ip in fact.entries
            if fact.host == name or ip not in contested
        }

    def _facts(self, asked_by: str) -> Iterator[Fact]:
        """What the database says, read in the plainest way."""
        context = n_context.get_admin_context()
        with db_api.CONTEXT_READER.using(context) as session:
            for port in session.query(models_v2.Port).filter_by(network_id=self.net):
                if not port.admin_state_up:
                    continue
                for host, bound, entries in self._places(session, port):
                    if self._segment(session, port, bound) != self.number[asked_by]:
                        continue
                    agents = session.query(agent_model.Agent).filter_by(host=host).all()
                    if any("tunneling_ip" in agent.configurations for agent in agents):
                        allowed = {pair.ip_address for pair in port.allowed_address_pairs}
                        yield Fact(host, entries, allowed)

    def _places(self, session: Any, port: Any) -> Iterator[Place]:
        if port.device_owner == constants.DEVICE_OWNER_DVR_INTERFACE:
            query = session.query(ml2_models.DistributedPortBinding)
            for row in query.filter_by(port_id=port.id, status="ACTIVE"):
                yield row.host, row.host, []
            return
        query = session.query(ml2_models.PortBinding)
        (binding,) = query.filter_by(port_id=port.id, status="ACTIVE")
        if port.device_owner == constants.DEVICE_OWNER_HA_REPLICATED_INT:
            scheduled = session.query(l3ha.L3HARouterAgentPortBinding)
            for row in scheduled.filter_by(router_id=port.device_id):
                yield row.agent.host, binding.host, []
        elif port.status == "ACTIVE":
            entries = [(port.mac_address, address.ip_address) for address in port.fixed_ips]
            yield binding.host, binding.host, entries

    def _segment(self, session: Any, port: Any, host: str) -> int:
        query = session.query(ml2_models.PortBindingLevel)
        (level,) = query.filter_by(port_id=port.id, host=host)
        segment = session.get(segment_model.NetworkSegment, level.segment_id)
        return int(segment.segmentation_id)


class TestStock(Life):
    __test__ = True


class TestBoth(Life):
    __test__ = True
    ours: ClassVar[str] = "CD"


class TestSegments(Life):
    """No tunnel leads from one segment to another."""

    __test__ = True
    ours: ClassVar[str] = "BD"
    hosts: ClassVar[str] = "ABCDEF"
    segments: ClassVar[list[tuple[str, int, str]]] = [("vxlan", 1002, "ABE"), ("gre", 7, "CDF")]


class TestFanout(Life):
    """What is for two hosts of ours or more, all of them hear."""

    __test__ = True
    ours: ClassVar[str] = "BCD"

    def setUp(self) -> None:
        super().setUp()
        cfg.CONF.set_override("fanout_above", 1, group="ovs_l2pop")

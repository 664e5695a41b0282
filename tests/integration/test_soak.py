"""Whatever happens, a sync period later every host does what it should.

Daemons on two Open vSwitch hosts and a Linux bridge host listen, over a real broker, to a server
that is played here. Ports come, move and go at random; messages to hosts are lost, repeated and
held back; agents, switches and broker are killed; somebody deletes what the agents have written.
Then all that is left to be wrong has one sync period to come right.

``make soak`` runs it for long, each time with another seed: ``SOAK_SECONDS``, ``SOAK_SEED``.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from neutronlab import forwarding, management
from neutronlab.broker import Broker

from l2pop_lab.topology import AgentProcess, Host, Lab, LabError, LinuxBridgeHost
from l2pop_lab.topology.place import Place

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "1"))

#: Options of the daemons, in seconds.
PERIOD = 4.0
#: What is left to be wrong is right after a period, and what the last fault costs by itself: a
#: broker that is found again, a switch that starts, or that answers again (32 s were seen, on a
#: machine with other work).
DEADLINE = PERIOD + 60.0

FAR = [f"10.200.9.{number}" for number in range(1, 6)]
NETWORKS = [str(uuid5(NAMESPACE_DNS, f"network {number}")) for number in range(5)]
HERE = Path(__file__).parent

Expected = dict[str, dict[str, Any]]
NOTHING: dict[str, Any] = {"unicast": {}, "answers": {}, "flood": []}


class Member:
    """A host with its daemon."""

    def __init__(self, host: Host, url: str) -> None:
        self.host = host
        self.config = host.agent_config(
            DEFAULT={"transport_url": url, "host": host.name},
            ovs_l2pop={
                "report_interval": 0,
                "sync_interval": PERIOD,
                "drift_interval": PERIOD,
            },
        )
        #: Networks attached here, with their local VLANs.
        self.attached: dict[str, int] = {}
        self.agent = self.start()
        self.agent.wait_ready()

    @property
    def bridged(self) -> bool:
        return isinstance(self.host, LinuxBridgeHost)

    def start(self) -> AgentProcess:
        self.agent = self.host.start_agent(config=self.config, wait=False)
        return self.agent

    def tell(self, message: dict[str, Any]) -> None:
        """What an operator does; with the agent or its dataplane away it waits for them."""
        self.agent.wait_ready()
        done = self.agent.cli("send", input=json.dumps(message) + "\n", timeout=150)
        assert done.returncode == 0 or "as soon as it can be" in done.stderr, done.stderr

    def there(self) -> Expected:
        """What the dataplane does, by network."""
        return self._linux_bridge() if self.bridged else self._open_vswitch()

    def _open_vswitch(self) -> Expected:
        found = forwarding.read(self.host)
        return {
            network_id: {
                "unicast": found[vlan].unicast,
                "answers": found[vlan].arp | found[vlan].nd,
                "flood": sorted(found[vlan].flood),
            }
            for network_id, vlan in self.attached.items()
            if vlan in found
        }

    def _linux_bridge(self) -> Expected:
        result: Expected = {}
        for network_id in self.attached:
            tunnel, bridge = f"vxlan-{segment(network_id)}", f"brq{network_id[:11]}"
            unicast, flood = {}, []
            for entry in self._json("bridge", "-j", "fdb", "show", "dev", tunnel):
                elsewhere = entry.get("dst", "::") not in ("::", "0.0.0.0")
                if elsewhere and entry["state"] == "permanent":
                    if entry["mac"] == "00:00:00:00:00:00":
                        flood.append(entry["dst"])
                    else:
                        unicast[entry["mac"]] = entry["dst"]
            shown = self._json("ip", "-j", "neigh", "show", "dev", bridge, "nud", "permanent")
            answers = {entry["dst"]: entry["lladdr"] for entry in shown}
            if unicast or answers or flood:
                result[network_id] = {
                    "unicast": unicast,
                    "answers": answers,
                    "flood": sorted(flood),
                }
        return result

    def _json(self, *command: str) -> list[dict[str, Any]]:
        found = json.loads(self.host.exec(*command) or "[]")
        return [entry for entry in found if entry]


def segment(network_id: str) -> int:
    return 1000 + NETWORKS.index(network_id)


class World:
    """The truth, and all that may happen to it."""

    def __init__(self, lab: Lab, place: Place, broker: Broker, choice: random.Random) -> None:
        self.lab, self.place, self.broker, self.choice = lab, place, broker, choice
        self.log: list[str] = []
        self.ports: dict[str, tuple[str, list[Any]]] = {}  # key → network, what a server says of it
        self.revision = 0
        self.held: list[tuple[str, dict[str, Any]]] = []
        self.members: list[Member] = []
        self.server: subprocess.Popen[str] | None = None
        #: What is to be done about what is down, at the latest when all is to come right.
        self.down: dict[str, Callable[[], object]] = {}

    # -- the server --------------------------------------------------------------------------

    def start_server(self) -> None:
        self.server = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.place.namespace),
                *(sys.executable, "-m", "neutronlab.hostile", self.broker.url),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.place.directory / "hostile.out").open("a"),
            env=os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}"},
            text=True,
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"
        self.command(vteps={member.host.name: member.host.vtep for member in self.members})
        self.tell_truth()

    def command(self, **command: Any) -> None:
        assert self.server is not None
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(command) + "\n")
        self.server.stdin.flush()
        assert self.server.stdout.readline()

    def tell_truth(self) -> None:
        truth: dict[str, Any] = {
            network_id: {"type": "vxlan", "segment": segment(network_id), "ports": {}}
            for network_id in NETWORKS
        }
        for key, (network_id, port) in self.ports.items():
            truth[network_id]["ports"][key] = port
        self.command(truth=truth)

    # -- what happens ------------------------------------------------------------------------

    def step(self) -> None:
        events: list[tuple[int, Callable[[], None]]] = [
            (30, self.port_comes),
            (20, self.port_changes),
            (12, self.port_goes),
            (6, self.network_comes_or_goes),
            (8, self.damage),
            (4, self.agent_ends),
            (2, self.switch_ends),
            (2, self.database_ends),
            (2, self.switch_or_database_hangs),
            (2, self.server_is_deaf),
            (1, self.broker_ends),
            (6, self.something_comes_back),
            (8, self.release),
        ]
        weights = [weight for weight, _ in events]
        event = self.choice.choices([event for _, event in events], weights)[0]
        self.log.append(event.__name__)
        event()

    def port_comes(self) -> None:
        if len(self.ports) > 60:
            return
        network_id = self.choice.choice(NETWORKS)
        number = self.choice.randrange(1, 250)
        there = [port for other, port in self.ports.values() if other == network_id]
        taken = {ip for port in there for _, ip in port[2]}
        ips = [f"10.0.0.{number}"]
        ips += [f"fd00::{number:x}"] if self.choice.random() < 0.3 else []
        if taken.isdisjoint(ips):
            mac = f"fa:16:3e:00:{NETWORKS.index(network_id):02x}:{number:02x}"
            self.set(f"port-{self.revision + 1}", network_id, [[mac, ip] for ip in ips])

    def port_changes(self) -> None:
        if self.ports:
            key = self.choice.choice(sorted(self.ports))
            network_id, port = self.ports[key]
            self.set(key, network_id, port[2])

    def port_goes(self) -> None:
        if self.ports:
            key = self.choice.choice(sorted(self.ports))
            network_id, port = self.ports.pop(key)
            self.tell_truth()
            self.cast(network_id, [key, 2**63 - 1, None, [], []], port[1])

    def set(self, key: str, network_id: str, pairs: list[list[str]]) -> None:
        self.revision += 1
        vteps = [member.host.vtep for member in self.members] * 2 + FAR
        before = self.ports.get(key, ("", [0, ""]))[1][1]
        port = [self.revision, self.choice.choice(vteps), pairs, []]
        self.ports[key] = network_id, port
        self.tell_truth()
        self.cast(network_id, [key, *port], before)

    def cast(self, network_id: str, port: list[Any], before: str) -> None:
        """To all hosts that have the network; by a network that is no good."""
        update = {
            "network_id": network_id,
            "network_type": "vxlan",
            "segment_id": segment(network_id),
            "ports": [port],
        }
        for member in self.members:
            chance = self.choice.random()
            if chance < 0.25:
                continue
            if chance < 0.5:
                self.held.append((member.host.name, update))
                continue
            for _ in range(1 if chance < 0.85 else 2):
                self.deliver(member.host.name, update)

    def release(self) -> None:
        """What was held back comes, in another order."""
        self.choice.shuffle(self.held)
        for host, update in self.held:
            self.deliver(host, update)
        self.held.clear()

    def deliver(self, host: str, update: dict[str, Any]) -> None:
        if "broker" not in self.down:  # else it is lost; the library would wait for the broker
            self.command(cast=host, update=update)

    def network_comes_or_goes(self) -> None:
        member = self.choice.choice(self.members)
        kinds = ("agent", "switch", "database")
        if not self.down.keys().isdisjoint(f"{kind} {member.host.name}" for kind in kinds):
            return  # the command would wait for it, up to a minute
        network_id = self.choice.choice(NETWORKS)
        if network_id in member.attached:
            del member.attached[network_id]
            member.tell({"method": "detach_network", "network_id": network_id})
        else:
            self.attach(member, network_id)

    def attach(self, member: Member, network_id: str) -> None:
        vlan = NETWORKS.index(network_id) + 1
        member.attached[network_id] = vlan
        message = {
            "method": "attach_network",
            "network_id": network_id,
            "network_type": "vxlan",
            "segment_id": segment(network_id),
        }
        member.tell(message if member.bridged else message | {"local_vlan": vlan})

    # -- what goes wrong ---------------------------------------------------------------------

    def damage(self) -> None:
        member = self.choice.choice(self.members)
        host, choice = member.host, self.choice
        if member.bridged:
            network_id = choice.choice(NETWORKS)
            name, bridge = f"vxlan-{segment(network_id)}", f"brq{network_id[:11]}"
            commands = [
                ["ip", "link", "delete", name],
                ["ip", "link", "set", name, "down"],
                ["ip", "link", "set", name, "nomaster"],
                ["bridge", "fdb", "flush", "dev", name, "self"],
                ["ip", "neigh", "flush", "nud", "permanent", "dev", bridge],
            ]
            host.exec(*choice.choice(commands), check=False)
            return
        if not {f"switch {host.name}", f"database {host.name}"}.isdisjoint(self.down):
            return
        table, vlan = choice.choice([20, 21, 22, 23, 24]), choice.randrange(1, 6)
        commands = [
            ["del-flows", "br-tun", f"table={table},dl_vlan={vlan}"],
            ["del-flows", "br-tun", f"table={table}"],
            ["del-flows", "br-tun"],
            ["mod-flows", "br-tun", f"table={table},actions=drop"],
            ["del-groups", "br-tun"],
        ]
        try:
            if choice.random() < 0.3:
                ports = host.vsctl("list-ports", "br-tun").split()
                host.vsctl("--if-exists", "del-port", choice.choice(ports))
            elif choice.random() < 0.1:
                host.vsctl("--if-exists", "del-br", "br-tun")
            else:
                host.ofctl(*choice.choice(commands))
        except (LabError, IndexError):
            pass  # it is away already

    def agent_ends(self) -> None:
        member = self.choice.choice(self.members)
        name = f"agent {member.host.name}"
        if name not in self.down:
            member.agent.stop(self.choice.choice([signal.SIGTERM, signal.SIGKILL]))
            self.down[name] = member.start
            if self.choice.random() < 0.5:
                self.down.pop(name)()

    def switch_ends(self) -> None:
        self.ends("switch", Host.stop_vswitchd, Host.start_vswitchd)

    def database_ends(self) -> None:
        self.ends("database", Host.stop_ovsdb_server, Host.start_ovsdb_server)

    def ends(self, what: str, stop: Callable[..., Any], start: Callable[[Host], Any]) -> None:
        host = self.choice.choice([m.host for m in self.members if not m.bridged])
        # vswitchd can't be waited for without its database.
        if {f"{kind} {host.name}" for kind in ("switch", "database")}.isdisjoint(self.down):
            stop(host, self.choice.choice([signal.SIGTERM, signal.SIGKILL]))
            self.down[f"{what} {host.name}"] = lambda: start(host)

    def switch_or_database_hangs(self) -> None:
        kind = self.choice.choice(["switch", "database"])
        program = {"switch": "ovs-vswitchd", "database": "ovsdb-server"}[kind]
        thawing = ExitStack()
        self.ends(
            kind,
            lambda host, _: thawing.enter_context(host.frozen(program)),
            lambda _: thawing.close(),
        )

    def server_is_deaf(self) -> None:
        if "server" not in self.down:
            self.command(deaf=True)
            self.down["server"] = lambda: self.command(deaf=False)

    def broker_ends(self) -> None:
        if "broker" not in self.down:
            self.broker.kill()
            self.down["broker"] = self.broker_comes_back

    def broker_comes_back(self) -> None:
        self.broker.start()
        self.broker.wait_ready()

    def something_comes_back(self) -> None:
        if self.down:
            name = self.choice.choice(sorted(self.down))
            self.log.append(f"  {name}")
            self.down.pop(name)()

    # -- and comes right ---------------------------------------------------------------------

    def wanted(self, member: Member) -> Expected:
        """Of the networks that the server says something of: those that the host has a port in."""
        result: Expected = {}
        for network_id in member.attached:
            ports = [port for other, port in self.ports.values() if other == network_id]
            others = [port for port in ports if port[1] != member.host.vtep]
            if len(others) < len(ports):
                result[network_id] = {
                    "unicast": {mac: port[1] for port in others for mac, _ in port[2]},
                    "answers": {ip: mac for port in others for mac, ip in port[2]},
                    "flood": sorted({port[1] for port in others}),
                }
        return result

    def comes_right(self) -> float:
        """Seconds until every host does what it should."""
        for name in sorted(self.down, key=lambda name: "switch" in name):
            self.log.append(f"  at last {name}")
            self.down.pop(name)()
        self.release()
        start = time.monotonic()
        for member in self.members:
            member.agent.wait_ready()
            self.wait_for(member, start + DEADLINE)
        return time.monotonic() - start

    def wait_for(self, member: Member, deadline: float) -> None:
        while True:
            wanted = self.wanted(member)
            try:
                there = member.there()
            except LabError as error:
                there = {"unreadable": {"error": str(error)}}
            if all(there.get(network_id, NOTHING) == wanted[network_id] for network_id in wanted):
                return
            assert time.monotonic() < deadline, self.complaint(member, wanted, there)
            time.sleep(0.3)

    def complaint(self, member: Member, wanted: Expected, there: Expected) -> str:
        return "\n".join(
            [
                f"SOAK_SEED={SEED}: {member.host.name} is wrong after {DEADLINE:g} s",
                f"wanted {json.dumps(wanted, sort_keys=True)}",
                f"there  {json.dumps(there, sort_keys=True)}",
                f"check  {member.agent.cli('check').stdout}",
                f"health {member.agent.cli('show', 'health').stdout}",
                f"events {self.log[-40:]}",
                *member.agent.log().splitlines()[-30:],
            ]
        )


@pytest.fixture
def world() -> Iterator[World]:
    with Lab(3, linuxbridge=[3]) as lab:
        place = lab.add_place("ctl")
        management.make(place)
        broker = Broker(place, management.ADDRESS)
        broker.start()
        for number, host in enumerate(lab.hosts, 1):
            management.connect(host, place, number)
        broker.wait_ready()
        world = World(lab, place, broker, random.Random(SEED))
        try:
            world.members += [Member(host, broker.url) for host in lab.hosts]
            world.start_server()
            yield world
        finally:
            for member in world.members:
                member.agent.kill()
            if world.server is not None:
                world.server.kill()
                world.server.wait()
            broker.kill()


def test_whatever_happens(world: World) -> None:
    for member in world.members:
        for network_id in NETWORKS[:3]:
            world.attach(member, network_id)
    end = time.monotonic() + SECONDS
    steps, rounds, slowest = 0, 0, 0.0
    while time.monotonic() < end:
        for _ in range(world.choice.randrange(5, 40)):
            world.step()
            steps += 1
        took = world.comes_right()
        rounds, slowest = rounds + 1, max(slowest, took)
    told = f"{steps} events, {rounds} times right again, in {slowest:.1f} s at the most"
    print(f"\nSOAK_SEED={SEED}: {told}")
    for member in world.members:
        assert "internal error" not in member.agent.log()
        assert "Traceback" not in member.agent.log()
    assert rounds

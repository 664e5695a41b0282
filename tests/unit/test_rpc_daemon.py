"""The daemon on RPC, with oslo.messaging's transport in memory and a Neutron server of our own."""

import ovs_l2pop.daemon  # noqa: F401, I001 - it has oslo.messaging take native threads

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from builders import FLOODING, IP1, IP2, MAC1, MAC2, add, attach, change_ip, remove, told
from ovs_l2pop.core.wire import Message
from fake_backend import FakeBackend
from oslo_config import cfg
from oslo_messaging.rpc.dispatcher import UnsupportedVersion

from ovs_l2pop import config
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.agent.store import Store
from ovs_l2pop.core.errors import ConfigError
from ovs_l2pop.core.messages import Segment
from ovs_l2pop.sync import protocol
from ovs_l2pop.daemon import listener, presence, rpc, upstream
from ovs_l2pop.daemon.listener import Listener
from ovs_l2pop.sync.protocol import Answer, Chunk, PortState, Update

N, M = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
OWN, A, B = "192.0.2.1", "192.0.2.2", "192.0.2.3"
HOST = "gw1"


def wait(probe: Callable[[], Any], what: str = "that") -> None:
    deadline = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < deadline, f"{what}: not within 10 s"
        time.sleep(0.01)


class Neutron:
    """A server's endpoints, in the form in which Neutron has them."""

    target = oslo_messaging.Target(version="1.9")

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.status = "alive"
        self.ports: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.contexts: list[Any] = []
        #: Of our driver: what each network holds in which this host has a port.
        self.states: dict[str, list[PortState]] | None = None
        self.old = False
        self.transport = oslo_messaging.get_rpc_transport(cfg.CONF, url="fake://")

    def cast(self, topic: str, method: str, to: str | None = None, **arguments: Any) -> None:
        """To one host by name, or to all."""
        target = oslo_messaging.Target(topic=topic, version="1.0")
        client = oslo_messaging.get_rpc_client(self.transport, target)
        where = {"fanout": True} if to is None else {"server": to}
        client.prepare(**where).cast({}, method, **arguments)

    def tell(self, message: Message, to: str | None = None, **more: Any) -> None:
        """Upstream's message."""
        entries = message["fdb_entries"]
        self.cast(upstream.TOPIC, message["method"], to, fdb_entries=entries, **more)

    # -- what agents call ---------------------------------------------------------------------

    def report_state(self, context: Any, agent_state: Any, time: str) -> str:
        self.contexts.append(context)
        self.reports.append(agent_state["agent_state"])
        return self.status

    def get_ports_by_vnic_type_and_host(self, context: Any, vnic_type: str, host: str) -> Any:
        assert (vnic_type, host) == ("normal", HOST)
        return self.ports

    def update_device_list(self, context: Any, **arguments: Any) -> dict[str, Any]:
        self.updates.append(arguments)
        for port in self.ports:
            for key, status in (("devices_up", "ACTIVE"), ("devices_down", "DOWN")):
                if port["id"] in arguments[key]:
                    port["status"] = status
        return {"devices_up": arguments["devices_up"], "failed_devices_up": []}

    def sync(
        self, context: Any, host: str, networks: dict[str, str], cursor: Any, own: bool = False
    ) -> Any:
        assert (host, cursor) == (HOST, None)
        if own and self.old:
            raise UnsupportedVersion("1.1")  # as oslo.messaging does it for endpoints of 1.0
        if self.states is None:
            raise RuntimeError("no such driver")
        segment = Segment("vxlan", 1001)
        served = [network for network in networks if network in self.states]
        chunks = [Chunk(one, segment, "", None, tuple(self.states[one])) for one in served]
        return Answer(0.0, tuple(set(networks) - set(served)), tuple(chunks), None).to_wire()


class Daemon:
    """An agent with a listener, as ``ovs-l2pop agent`` puts them together."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.backend = FakeBackend()
        path = directory / "ovs-l2pop.conf"
        lines = [f"{name} = {value}" for name, value in options.items()]
        path.write_text(
            f"[DEFAULT]\ntransport_url = fake://\nhost = {HOST}\n"
            f"[ovs_l2pop]\nlocal_ip = {OWN}\n" + "\n".join(lines)
        )
        arguments = [f"--config-file={path}"]
        conf = config.load(arguments)
        store = Store(directory / "state")
        self.agent = Worker(OWN, self.backend, store, speaker=lambda: self.listener)
        self.listener = Listener(conf, arguments, self.agent)

    def start(self) -> None:
        self.agent.start().result()
        self.listener.start()

    def stop(self) -> None:
        self.listener.stop()
        self.agent.stop()

    def send(self, *messages: Message) -> None:
        self.agent.submit(*told(*messages, local_ip=OWN)).result()

    def entries(self, network_id: str = N) -> set[tuple[str, str, str]]:
        """All of a network in the table, flooding entries among them."""
        table = self.agent.table

        def look() -> set[Any]:
            there = network_id in table.network_ids()
            return set(table.announced(network_id)) if there else set()

        found: set[tuple[str, str, str]] = self.agent.call(look).result()
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Neutron]:
    """Stopping an endpoint takes a second: all tests share them."""
    oslo_messaging.set_transport_defaults("neutron")
    cfg.CONF([], project="ovs-l2pop")
    server = Neutron()
    running = []
    for topic in (presence.REPORTS_TOPIC, presence.PLUGIN_TOPIC, protocol.SERVER_TOPIC):
        target = oslo_messaging.Target(topic=topic, server="server")
        running.append(oslo_messaging.get_rpc_server(server.transport, target, [server]))
        running[-1].start()
    yield server
    for one in running:
        one.stop()
        one.wait()


@pytest.fixture
def neutron(server: Neutron) -> Iterator[Neutron]:
    server.reports, server.ports, server.updates, server.contexts = [], [], [], []
    server.status, server.states, server.old = "alive", None, False
    yield server
    cfg.CONF.reset()


@pytest.fixture
def daemon(tmp_path: Path, neutron: Neutron) -> Iterator[Daemon]:
    running = Daemon(tmp_path, report_interval=3600, sync_interval=3600)
    running.start()
    wait(lambda: neutron.reports, "the first report")
    yield running
    running.stop()


# -- upstream's messages ----------------------------------------------------------------------


def test_upstreams_messages_reach_the_table(daemon: Daemon, neutron: Neutron) -> None:
    neutron.tell(add(N, A, FLOODING, [MAC1, IP1]))
    neutron.tell(add(N, B, [MAC2, IP2]), to=HOST)
    wait(lambda: daemon.entries() == {(*FLOODING, A), (MAC1, IP1, A), (MAC2, IP2, B)})
    neutron.tell(change_ip(N, B, before=[[MAC2, IP2]], after=[[MAC2, "10.0.0.9"]]))
    neutron.tell(remove(N, A, FLOODING, [MAC1, IP1]))
    wait(lambda: daemon.entries() == {(MAC2, "10.0.0.9", B)})
    daemon.send(attach(N))
    assert ("UnicastFact", daemon.agent.table.attachment(N), MAC2, B) in daemon.backend.rows


def test_what_came_over_rpc_is_there_after_a_restart(
    daemon: Daemon, neutron: Neutron, tmp_path: Path
) -> None:
    neutron.tell(add(N, A, [MAC1, IP1]))
    wait(lambda: daemon.entries() == {(MAC1, IP1, A)})
    lines = (tmp_path / "state" / "table.jsonl").read_text().splitlines()
    assert add(N, A, [MAC1, IP1]) in map(json.loads, lines)


def test_calls_come_one_after_the_other(neutron: Neutron, tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("[DEFAULT]\ntransport_url = fake://\n")
    taken: list[int] = []

    class Slow:
        def take(self, context: Any, number: int) -> None:
            time.sleep(0.3 if number == 0 else 0)
            taken.append(number)

    client = rpc.Rpc([f"--config-file={path}"], HOST)
    client.serve("slow", Slow())
    client.start()
    try:
        for number in range(5):
            neutron.cast("slow", "take", HOST if number % 2 else None, number=number)
        wait(lambda: len(taken) == 5)
        assert taken == [0, 1, 2, 3, 4]
    finally:
        client.stop()


def test_an_entry_that_comes_and_goes_is_where_it_was_last(
    daemon: Daemon, neutron: Neutron
) -> None:
    for number in range(200):
        neutron.tell(add(N, A, [MAC1, IP1]), to=HOST)
        neutron.tell(remove(N, A, [MAC1, IP1]), to=HOST)
        neutron.tell(add(N, B, [MAC2, f"10.0.1.{number}"]), to=HOST)
    wait(lambda: len(daemon.entries()) == 200 and (MAC2, "10.0.1.199", B) in daemon.entries())
    assert (MAC1, IP1, A) not in daemon.entries()


def test_a_message_may_name_the_host_that_it_is_for(daemon: Daemon, neutron: Neutron) -> None:
    neutron.tell(add(N, A, [MAC1, IP1]), host="gw2")
    neutron.tell(add(N, A, [MAC2, IP1]), host=HOST)
    neutron.tell(add(N, A, [MAC2, IP2]), host=None)
    wait(lambda: daemon.entries() == {(MAC2, IP1, A), (MAC2, IP2, A)})


def test_bad_messages_are_refused_by_name_and_the_next_is_taken(
    daemon: Daemon, neutron: Neutron, caplog: pytest.LogCaptureFixture
) -> None:
    method = "add_fdb_entries"
    neutron.cast(upstream.TOPIC, method)
    neutron.cast(upstream.TOPIC, method, fdb_entries=5)
    neutron.cast(upstream.TOPIC, method, fdb_entries={"no uuid": {}}, later="keys", are="ignored")
    neutron.tell(add(N, A, ["no mac", IP1], [MAC1, "no ip"], [MAC2], [MAC1, IP1]))
    neutron.cast(upstream.TOPIC, "update_fdb_entries", fdb_entries={"chg_mac": {}})
    neutron.cast(upstream.TOPIC, "no_such_method", fdb_entries={})
    neutron.tell(add(M, A, [MAC1, IP1]))
    wait(lambda: daemon.entries(M) == {(MAC1, IP1, A)})
    assert daemon.entries() == {(MAC1, IP1, A)}
    log = "\n".join(record.getMessage() for record in caplog.records)
    for offender in ("no uuid", "no mac", "no ip", MAC2, "chg_mac"):
        assert offender in log


def test_what_is_no_message_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another serializer than RPC's could bring it."""
    agent = Worker(OWN, FakeBackend(), Store(tmp_path))
    agent.start().result()
    endpoint = upstream.UpstreamMessages(agent, HOST)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for nonsense in ({"a": object()}, {5: {}, "b": float("nan")}, deep, b"bytes"):
        endpoint.add_fdb_entries({}, nonsense)
    agent.call(lambda: None).result()
    agent.stop()
    texts = [record.getMessage() for record in caplog.records]
    refused = {text.rsplit(": ", 1)[1] for text in texts if text.startswith("refused: ")}
    assert refused == {"not a UUID", "fdb_entries must be an object"}


# -- our own protocol -------------------------------------------------------------------------


def test_attached_networks_follow_the_server(daemon: Daemon, neutron: Neutron) -> None:
    neutron.states = {N: [PortState("one", 1, A, ((MAC1, IP1),))]}
    daemon.send(attach(N), attach(M, local_vlan=6, segment_id=1002), add(M, B, [MAC2, IP2]))
    wait(lambda: daemon.entries() == {(*FLOODING, A), (MAC1, IP1, A)})
    moved = PortState("one", 2, B, ((MAC1, IP1),))
    update = Update(N, Segment("vxlan", 1001), (moved,)).to_wire()
    neutron.cast(protocol.AGENT_TOPIC, "update_ports", HOST, **update)
    wait(lambda: daemon.entries() == {(*FLOODING, B), (MAC1, IP1, B)})
    assert daemon.entries(M) == {(MAC2, IP2, B)}


def test_a_server_of_the_release_before(daemon: Daemon, neutron: Neutron) -> None:
    neutron.old = True
    neutron.states = {N: [PortState("one", 1, A, ((MAC1, IP1),))]}
    daemon.send(attach(N))
    wait(lambda: daemon.entries() == {(*FLOODING, A), (MAC1, IP1, A)})


def test_an_update_that_can_not_be_read_asks_for_all(daemon: Daemon, neutron: Neutron) -> None:
    neutron.states = {N: []}
    daemon.send(attach(N))
    neutron.states[N] = [PortState("one", 1, A, ((MAC1, IP1),))]
    neutron.cast(protocol.AGENT_TOPIC, "update_ports", HOST, nonsense=5)
    wait(lambda: daemon.entries() == {(*FLOODING, A), (MAC1, IP1, A)})


# -- this host is there -----------------------------------------------------------------------


def test_report(daemon: Daemon, neutron: Neutron) -> None:
    # The last one of the daemon before may come late.
    report = next(report for report in reversed(neutron.reports) if report.get("start_flag"))
    assert report.pop("uuid")
    assert report == {
        "agent_type": "Open vSwitch agent",
        "binary": "ovs-l2pop-agent",
        "host": HOST,
        "topic": "N/A",
        "start_flag": True,
        "configurations": {
            "tunneling_ip": OWN,
            "tunnel_types": ["vxlan"],
            "l2_population": True,
            "arp_responder_enabled": True,
            "extensions": ["ovs_l2pop"],
            "bridge_mappings": {},
            "integration_bridge": "br-int",
            "datapath_type": "system",
            "ovs_hybrid_plug": False,
            "enable_distributed_routing": False,
            "in_distributed_mode": False,
        },
    }
    assert neutron.contexts[0]["is_admin"] is True


def test_reports_go_on_and_only_the_first_is_a_start(tmp_path: Path, neutron: Neutron) -> None:
    running = Daemon(tmp_path, report_interval=0.05)
    running.start()
    try:
        wait(lambda: len(neutron.reports) > 2)
    finally:
        running.stop()
    assert ["start_flag" in report for report in neutron.reports[:3]] == [True, False, False]


def test_ports_of_attached_networks_are_up_and_no_others(daemon: Daemon, neutron: Neutron) -> None:
    def port(name: str, network: str, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": name,
            "network_id": network,
            "status": status,
            "admin_state_up": True,
            "binding:host_id": HOST,
        } | more

    neutron.ports = [
        port("down here", N, "DOWN"),
        port("being built here", N, "BUILD"),
        port("up here", N, "ACTIVE"),
        port("switched off", N, "DOWN", admin_state_up=False),
        port("still elsewhere", N, "DOWN", **{"binding:host_id": "gw2"}),
        port("up, not attached", M, "ACTIVE"),
        port("down, not attached", M, "DOWN"),
        *(port(f"one of many {number}", N, "DOWN") for number in range(30)),
    ]
    daemon.send(attach(N))
    wait(lambda: [one["status"] for one in neutron.ports].count("ACTIVE") == 33)
    down = {one["id"] for one in neutron.ports if one["status"] == "DOWN"}
    assert down == {
        *("switched off", "still elsewhere", "up, not attached", "down, not attached"),
    }
    assert max(len(update["devices_up"]) for update in neutron.updates) <= 20
    assert {update["host"] for update in neutron.updates} == {HOST}
    neutron.updates.clear()
    daemon.send({"method": "detach_network", "network_id": N})
    wait(lambda: not any(one["status"] == "ACTIVE" for one in neutron.ports))
    assert not any(update["devices_up"] for update in neutron.updates)


def test_the_first_time_the_server_is_asked_for_what_was_missed(
    tmp_path: Path, neutron: Neutron
) -> None:
    """Upstream's agents can't ask; the server casts all of a network to who says so."""
    neutron.ports = [
        {"id": "p", "network_id": N, "status": "ACTIVE", "admin_state_up": True},
    ]
    running = Daemon(tmp_path, report_interval=0.05)
    running.start()
    try:
        running.send(attach(N))
        wait(lambda: any(update["devices_up"] for update in neutron.updates))
        (up,) = [update for update in neutron.updates if update["devices_up"]]
        assert (up["devices_up"], up["refresh_tunnels"]) == (["p"], True)
        seen = len(neutron.reports)
        wait(lambda: len(neutron.reports) > seen + 2)
        assert len([update for update in neutron.updates if update["devices_up"]]) == 1
        # The server took this host for dead, or the broker was away.
        neutron.status = "revived"
        wait(lambda: len([u for u in neutron.updates if u["refresh_tunnels"]]) > 1)
    finally:
        running.stop()


def test_a_host_whose_switch_is_away_does_not_report(tmp_path: Path, neutron: Neutron) -> None:
    running = Daemon(tmp_path, report_interval=0.05)
    running.backend.down = True
    running.start()
    try:
        time.sleep(0.5)
        assert neutron.reports == []
        running.backend.down = False
        wait(lambda: neutron.reports)
    finally:
        running.stop()


def test_without_reports_nothing_is_called(tmp_path: Path, neutron: Neutron) -> None:
    running = Daemon(tmp_path, report_interval=0)
    running.start()
    try:
        running.send(attach(N))
        neutron.tell(add(N, A, [MAC1, IP1]), to=HOST)
        wait(lambda: running.entries() == {(MAC1, IP1, A)})
        assert neutron.reports == neutron.updates == []
    finally:
        running.stop()


# -- the library ------------------------------------------------------------------------------


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_native_threads_and_nothing_on_stderr() -> None:
    done = run("""
import sys
import ovs_l2pop.daemon.listener
import oslo_messaging._drivers.impl_rabbit
assert "oslo_service.backend._eventlet" not in sys.modules
if patcher := sys.modules.get("eventlet.patcher"):
    for module in ("os", "select", "socket", "thread", "time"):
        assert not patcher.is_monkey_patched(module), module
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_broker_the_library_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text(f"[ovs_l2pop]\nlocal_ip = {OWN}\n")
    done = run(f"""
import sys
from ovs_l2pop import config
from ovs_l2pop.cli.agent import _listener
import ovs_l2pop.agent.worker, ovs_l2pop.backends.openvswitch.backend
arguments = ["--config-file={path}"]
assert _listener(config.load(arguments), arguments, None) is None
assert not [name for name in sys.modules if name.startswith(("oslo_messaging", "kombu"))]
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_library_is_named_with_what_brings_it(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://guest:guest@192.0.2.9/\n"
        f"[ovs_l2pop]\nlocal_ip = {OWN}\nstate_path = {tmp_path}\n"
        f"control_socket = {tmp_path}/agent.sock\n"
    )
    done = run(f"""
import sys
sys.modules["oslo_messaging"] = None
from ovs_l2pop.cli.main import main
sys.exit(main(["agent", "--config-file", "{path}"]))
""")
    assert done.returncode == 1
    assert "[DEFAULT] transport_url needs oslo.messaging" in done.stderr
    assert "pip install 'ovs-l2pop[rpc]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "agent.sock").exists()


@pytest.mark.parametrize("url", ["rabbit", "nobody://user:secret@host/", "rabbit://user:secret@[/"])
def test_a_bad_url_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    path = tmp_path / "conf"
    path.write_text(f"[DEFAULT]\ntransport_url = {url}\n")
    with pytest.raises(ConfigError, match="transport_url") as caught:
        rpc.Rpc([f"--config-file={path}"], HOST)
    assert "secret" not in str(caught.value)


def test_a_bad_option_of_the_library_is_told(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://192.0.2.9/\n"
        "[oslo_messaging_rabbit]\nrpc_conn_pool_size = many\n"
    )
    with pytest.raises(ConfigError, match="rpc_conn_pool_size"):
        rpc.Rpc([f"--config-file={path}"], HOST)


def test_neutrons_exchange_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("[DEFAULT]\ntransport_url = fake://\n")
    rpc.Rpc([f"--config-file={path}"], HOST)
    assert cfg.CONF.control_exchange == "neutron"
    path.write_text("[DEFAULT]\ntransport_url = fake://\ncontrol_exchange = other\n")
    rpc.Rpc([f"--config-file={path}"], HOST)
    assert cfg.CONF.control_exchange == "other"
    cfg.CONF.reset()


def test_a_broker_that_refuses_is_tried_again_and_told_once(
    tmp_path: Path,
    neutron: Neutron,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, refusals = oslo_messaging.get_rpc_server, 3

    def refuse(*arguments: Any) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise ConnectionError("(403) ACCESS_REFUSED\nsee its log")
        return make(*arguments)

    monkeypatch.setattr(oslo_messaging, "get_rpc_server", refuse)
    monkeypatch.setattr(listener, "_RETRY", 0.01)
    running = Daemon(tmp_path, report_interval=0)
    running.start()
    try:
        neutron.tell(add(N, A, [MAC1, IP1]), to=HOST)
        wait(lambda: running.entries() == {(MAC1, IP1, A)})
    finally:
        running.stop()
    (complaint,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert complaint == "can't listen to the broker, will go on trying: (403) ACCESS_REFUSED"


def test_calls_that_fail_say_which(neutron: Neutron, tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("[DEFAULT]\ntransport_url = fake://\n")
    client = rpc.Rpc([f"--config-file={path}"], HOST)
    with pytest.raises(rpc.RpcError, match=r"^sync on nobody: no answer within 0.1 s$"):
        client.call("nobody", "sync", version="1.0", timeout=0.1)
    with pytest.raises(rpc.RpcError, match=r"^sync on q-plugin: ") as caught:
        client.call("q-plugin", "sync", version="1.0", timeout=5, unknown="argument")
    assert "\n" not in str(caught.value)


def test_the_librarys_log_while_the_broker_is_away() -> None:
    told = threading.Event()
    watch = rpc._Watch(told.set)

    def says(level: int, text: str, *arguments: object) -> bool:
        return watch.filter(logging.LogRecord("", level, "", 0, text, arguments, None))

    assert says(logging.ERROR, "[%s] AMQP server is unreachable", "one")
    assert not says(logging.ERROR, "[%s] AMQP server is unreachable", "two")
    assert says(logging.ERROR, "Failed to process message")
    assert says(logging.INFO, "anything")
    assert not told.is_set()
    assert says(logging.INFO, "[%s] Reconnected to AMQP server on %s", "one", "host")
    assert told.is_set()
    assert says(logging.ERROR, "[%s] AMQP server is unreachable", "one")

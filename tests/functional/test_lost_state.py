"""The agent's table is lost, damaged, or can't be kept; the machines must not notice.

h1            h2
vm1 ─ br-int  vm2     a network; a ping runs from vm1 to vm2. h1's agent is the one with bad luck.
"""

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feed_helpers import FLOODING, Net, Site, drift, lines, pairs_of, send, wait_healthy, wait_until
from linuxbridge_helpers import Kernel, announce, attach, plug
from switch_helpers import Switch

from l2pop_lab.topology import AgentProcess, Host, Lab
from l2pop_lab.topology.place import run
from ovs_l2pop.core.wire import Message

MAC1, MAC2 = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
A, B = "10.200.0.11", "10.200.0.12"
NET, OTHER = Net(1, 77), Net(2, 78)


class World:
    """A site of either kind, and what was told to its first host."""

    def __init__(self, lab: Lab, kind: str) -> None:
        self.kind = kind
        self.site = Site.start(lab)
        one, two = lab.hosts
        ips = (["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"])
        if kind == "linuxbridge":
            self.attach = [attach(NET), attach(OTHER)]
            for agent in self.site.agents.values():
                send(agent, attach(NET))
            machines = [
                plug(host, f"vm{n}", mac, NET, ip)
                for n, host, mac, ip in zip((1, 2), (one, two), (MAC1, MAC2), ips, strict=True)
            ]
            announce(self.site, NET, machines)
        else:
            self.attach = [NET.attach(5), OTHER.attach(9)]
            machines = [
                host.add_machine(f"vm{n}", mac, ip, tag=4 + n, dad=False)
                for n, host, mac, ip in zip((1, 2), (one, two), (MAC1, MAC2), ips, strict=True)
            ]
            self.site.populate(NET, machines)
        ports = {
            one.vtep: pairs_of(machines[0]),
            two.vtep: [FLOODING, *pairs_of(machines[1])],
            A: [FLOODING],
            B: [FLOODING],
        }
        many = [[f"fa:16:3f:00:00:{number:02x}", f"10.1.0.{number}"] for number in range(1, 99)]
        self.entries = [
            NET.add(ports),
            OTHER.add({A: [FLOODING, *many]}),
        ]
        send(self.agent, *self.attach, *self.entries)
        self.machine = machines[0]
        assert self.machine.ping("10.0.0.2").lost == 0

    @property
    def host(self) -> Host:
        return self.site.lab.hosts[0]

    @property
    def agent(self) -> AgentProcess:
        return self.site.agent(self.host)

    @property
    def state(self) -> Path:
        return self.host.directory / "state"

    def installed(self) -> object:
        return Kernel.of(self.host) if self.kind == "linuxbridge" else Switch.of(self.host)

    def start(self, **options: object) -> AgentProcess:
        config = self.host.agent_config(ovs_l2pop=options)
        self.site.agents[self.host.name] = self.host.start_agent(config=config)
        return self.agent

    def entries_shown(self) -> int:
        return len(json.loads(self.agent.cli("show", "entries", "-f", "json").stdout))


@pytest.fixture(scope="module", params=["openvswitch", "linuxbridge"])
def world(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> World:
    options = {"linuxbridge": [1, 2]} if request.param == "linuxbridge" else {}
    return World(make_module_lab(2, **options), request.param)


def health(agent: AgentProcess) -> dict[str, list[str]]:
    """What → state and detail."""
    rows = json.loads(agent.cli("show", "health", "-f", "json").stdout)
    return {row["what"]: [row["state"], row["detail"]] for row in rows}


def kept(agent: AgentProcess) -> str:
    return health(agent).get("kept of before", ["", ""])[1]


# -- lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lost_table_costs_nothing(world: World, number: int) -> None:
    """Nothing is deleted until somebody has spoken; then what that leaves out goes."""
    before = world.installed()
    with world.machine.ping_forever("10.0.0.2") as running:
        world.agent.stop(number)
        shutil.rmtree(world.state)
        agent = world.start()
        assert world.installed() == before
        assert "rows of networks that nobody has spoken for" in kept(agent)
        assert agent.cli("show", "health").returncode == 1
        assert drift(agent) == []
        assert agent.cli("repair").returncode == 0
        # Also for the next life, if nothing was said in this one.
        agent.kill()
        agent = world.start()
        assert world.installed() == before
        # Told as a feeder tells it, one after the other, and not all of what was.
        send(agent, world.attach[0])
        for message in one_by_one(world.entries[0], without=B):
            send(agent, message)
        assert len(json.loads(agent.cli("show", "health", "-f", "json").stdout)) > 4
        wait_until(lambda: gone(world, B), "what nobody knows any more of NET has gone", 15)
        assert kept(agent), "of OTHER nobody has spoken"
        send(agent, world.attach[1], *world.entries)
        wait_healthy(agent, 15)
    result = running.stop()
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.sent > 100
    assert world.installed() == before
    assert drift(agent) == []


def one_by_one(message: Message, without: str) -> Iterator[Message]:
    ((_, body),) = message["fdb_entries"].items()
    for vtep, pairs in body["ports"].items():
        if vtep != without:
            for pair in pairs:
                yield NET.add({vtep: [pair]})


def gone(world: World, vtep: str) -> bool:
    if world.kind == "linuxbridge":
        return vtep not in world.host.exec("bridge", "fdb", "show", "dev", "vxlan-77")
    return "vxlan-0ac8000c" not in world.host.ofctl(
        "--names", "dump-flows", "br-tun", "table=22,dl_vlan=5"
    )


def test_what_nobody_speaks_for_goes_later_and_is_told(world: World) -> None:
    before = world.installed()
    world.agent.stop()
    shutil.rmtree(world.state)
    agent = world.start(orphan_time=3)
    send(agent, world.attach[0], world.entries[0])
    wait_until(lambda: "nobody has spoken for networks" in agent.log(), "the rest goes", 20)
    assert "deleted: " in agent.log()
    wait_healthy(agent, 10)
    assert world.installed() != before
    assert world.machine.ping("10.0.0.2").lost == 0
    assert drift(agent) == []
    agent.stop()
    agent = world.start()  # all is known to be known: nothing is kept
    assert kept(agent) == ""
    send(agent, *world.attach, *world.entries)
    assert drift(agent) == []


def test_a_place_that_another_network_gets_is_that_ones(world: World) -> None:
    """Its frames must not come to who was there before."""
    world.agent.stop()
    shutil.rmtree(world.state)
    agent = world.start()
    if world.kind == "openvswitch":
        send(agent, Net(3, 79).attach(9))
        shown = world.host.ofctl("dump-flows", "br-tun")
        assert "10.1.0.7" not in shown, "of the network that had VLAN 9"
        assert "0x4e" not in shown, "VNI 78"
        assert "0x4f" in shown
        send(agent, Net(3, 79).detach())
    send(agent, *world.attach, *world.entries)
    wait_healthy(agent, 15)
    assert drift(agent) == []
    assert world.machine.ping("10.0.0.2").lost == 0


# -- not kept --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """The agent's state is on a disk of its own, of 256 KiB; what it knew is on it."""
    place = world.host.directory / "disk"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)])
    try:
        world.agent.stop()
        shutil.copytree(world.state, place / "state")
        world.start(state_path=place / "state")
        yield place
        world.agent.stop()
        shutil.rmtree(world.state)
        shutil.copytree(place / "state", world.state)
        world.start(state_path=world.host.directory / "state")
    finally:
        run(["umount", "-l", str(place)])
        place.rmdir()


def filled(place: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = place / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            continue
    return ballast


def machines(start: int, count: int) -> list[Message]:
    numbers = range(start, start + count)
    pairs = (
        (f"fa:16:3e:01:{n >> 8:02x}:{n & 255:02x}", f"10.2.{n >> 8}.{n & 255}") for n in numbers
    )
    return [OTHER.add({A: [list(pair)]}) for pair in pairs]


def told_unkept(agent: AgentProcess, messages: list[Message]) -> None:
    done = agent.cli("send", input=lines(messages))
    assert done.returncode == 1
    assert "not kept on disk" in done.stderr
    assert "kept, and written" not in done.stderr
    assert health(agent)["table on disk"][0] == "trouble"


def test_a_full_disk(world: World, small_disk: Path) -> None:
    """It is told, tried again by the clock, and costs nothing that was on disk."""
    known = world.entries_shown()
    ballast = filled(small_disk)
    told_unkept(world.agent, machines(0, 200))
    ballast.unlink()
    wait_healthy(world.agent, 15)
    before = world.installed()
    world.agent.kill()
    agent = world.start(state_path=small_disk / "state")
    assert world.entries_shown() == known + 200
    assert world.installed() == before

    # Freed only just before the end.
    ballast = filled(small_disk)
    told_unkept(agent, machines(200, 200))
    ballast.unlink()
    agent.stop()
    agent = world.start(state_path=small_disk / "state")
    assert world.entries_shown() == known + 400

    # Never freed: what was on disk is there, and what is installed is kept.
    ballast = filled(small_disk)
    told_unkept(agent, machines(400, 100))
    before = world.installed()
    agent.stop()
    agent = world.start(state_path=small_disk / "state")
    assert world.entries_shown() == known + 400
    assert world.installed() == before
    assert kept(agent)
    ballast.unlink()
    send(agent, *world.attach, *machines(400, 100))
    wait_healthy(agent, 15)
    assert world.installed() == before
    assert world.entries_shown() == known + 500
    send(agent, *(m | {"method": "remove_fdb_entries"} for m in machines(0, 500)))


def removed(world: World) -> None:
    shutil.rmtree(world.state)


def file_removed(world: World) -> None:
    (world.state / "table.jsonl").unlink()


def file_replaced(world: World) -> None:
    shutil.copy(world.state / "table.jsonl", world.state / "other")
    (world.state / "other").replace(world.state / "table.jsonl")


def truncated(world: World) -> None:
    (world.state / "table.jsonl").write_bytes(b"")


def overwritten(world: World) -> None:
    path = world.state / "table.jsonl"
    with path.open("r+b") as file:
        file.write(b"#" * path.stat().st_size)


def moved_away(world: World) -> None:
    world.state.rename(world.state.with_name("elsewhere"))
    shutil.rmtree(world.state.with_name("elsewhere"))


DAMAGES = [removed, file_removed, file_replaced, truncated, overwritten, moved_away]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("told", [True, False], ids=["told more", "idle"])
def test_somebody_meddles_with_the_file(
    world: World, damage: Callable[[World], None], told: bool
) -> None:
    """It is written anew: with the next message, by the clock, or at the end."""
    before, entries = world.installed(), world.entries_shown()
    file = world.state / "table.jsonl"
    damage(world)
    if told:
        send(world.agent, *machines(0, 1))
        send(world.agent, *(m | {"method": "remove_fdb_entries"} for m in machines(0, 1)))
    else:
        wait_until(lambda: file.exists() and OTHER.id in file.read_text(), "it is written anew")
    second = world.host.start_agent(wait=False)
    assert second.process.wait(20) == 1
    assert "another agent" in second.log()
    world.agent.kill()
    agent = world.start()
    assert world.entries_shown() == entries
    assert world.installed() == before
    assert kept(agent) == ""


def test_a_directory_that_can_t_be_written_any_more(world: World) -> None:
    before, entries = world.installed(), world.entries_shown()
    # As the agent sees it: "ip netns exec" gives it mounts of its own.
    there = ["nsenter", f"--target={world.agent.pid}", "--mount"]
    run([*there, "mount", "-t", "tmpfs", "-o", "ro", "none", str(world.state)])
    try:
        told_unkept(world.agent, machines(0, 10))
        wait_until(lambda: health(world.agent)["table on disk"][0] == "trouble", "it is told", 10)
    finally:
        run([*there, "umount", "-l", str(world.state)])
    wait_healthy(world.agent, 15)
    world.agent.kill()
    agent = world.start()
    assert world.entries_shown() == entries + 10
    send(agent, *(m | {"method": "remove_fdb_entries"} for m in machines(0, 10)))
    assert world.installed() == before


# -- damaged -----------------------------------------------------------------------------------


def one_line_flipped(data: bytes) -> bytes:
    at = data.index(MAC2.encode())
    return data[:at] + b"\xff" + data[at + 1 :]


def one_address_flipped(data: bytes) -> bytes:
    return data.replace(MAC2.encode(), MAC2.encode()[:-1] + b"g", 1)


def nul_tail(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(4096)


def newer_format(data: bytes) -> bytes:
    return data.replace(b'"format":1', b'"format":2')


def garbage(data: bytes) -> bytes:
    return bytes(range(256)) * 100


BREAKS = [one_line_flipped, one_address_flipped, nul_tail, newer_format, garbage]


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_damaged_file(world: World, damage: Callable[[bytes], bytes]) -> None:
    """Moved aside and told; what it no longer says is kept until it is said again."""
    before = world.installed()
    path = world.state / "table.jsonl"
    with world.machine.ping_forever("10.0.0.2") as running:
        world.agent.stop()
        damaged = damage(path.read_bytes())
        path.write_bytes(damaged)
        agent = world.start()
        assert world.installed() == before
        state, detail = health(agent)["table on disk"]
        assert (state, "damaged" in detail) == ("trouble", True)
        copy = max(world.state.glob("table.jsonl.damaged-*"))
        assert copy.read_bytes() == damaged
        assert copy.stat().st_mode & 0o777 == 0o600
        send(agent, *world.attach, *world.entries)
        wait_healthy(agent, 15)
    assert running.stop().lost == 0
    assert world.installed() == before
    copy.unlink()


# -- another configuration -----------------------------------------------------------------------


@pytest.mark.expected_warnings(r"receive tunnel port not found")
def test_what_another_local_ip_takes_outlives_a_file_written_anew(world: World) -> None:
    before = world.installed()
    world.agent.stop()
    file = world.state / "table.jsonl"
    far, pairs = "2001:db8::9", [["fa:16:3f:00:01:00", "10.1.1.0"]]
    with file.open("a") as appended:
        appended.write(json.dumps(NET.add({far: pairs})) + "\n")
    agent = world.start()
    unused = Net(3, 79)  # of no network of this host: nothing of it is written but on disk
    many = {
        A: [
            [f"fa:16:3e:01:{n // 256:02x}:{n % 256:02x}", f"10.9.{n // 256}.{n % 256}"]
            for n in range(9999)
        ]
    }
    sizes = [file.stat().st_size]
    while len(sizes) < 30 and sizes == sorted(sizes):  # it grows until it is bloated
        sizes.append(file.stat().st_size)
        send(agent, unused.add(many), unused.remove(many))
    assert sizes != sorted(sizes), "written anew"
    agent.stop()
    agent = world.start(local_ip="2001:db8::1")
    entries = json.loads(agent.cli("show", "entries", "-f", "json").stdout)
    assert [entry["vtep"] for entry in entries] == [far]
    agent.stop()
    wait_healthy(world.start(), 15)
    assert world.installed() == before

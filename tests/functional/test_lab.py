"""The laboratory itself: what the other functional tests rely on.

h1                       h2
vm1, vm2 ─ br-int        br-int ─ vm3        no tunnel unless a test makes one
           br-phy ────── br-phy
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l2pop_lab.topology import Host, Lab, LabError, Machine, destroy, left_behind
from l2pop_lab.topology.frames import ArpOperation, decode
from l2pop_lab.topology.namespaces import NAMESPACE_DIRECTORY, processes_in

MAC1, MAC2, MAC3 = (f"fa:16:3e:00:00:0{number}" for number in (1, 2, 3))


def namespaces_of(prefix: str) -> list[str]:
    return sorted(path.name for path in NAMESPACE_DIRECTORY.glob(f"{prefix}-*"))


def add_tunnel(host: Host, peer: Host, vni: int) -> None:
    """Connect br-int to *peer* by a VXLAN port, as simply as can be."""
    host.vsctl(
        *("add-port", "br-int", "vx0"),
        *("--", "set", "Interface", "vx0", "type=vxlan", f"options:key={vni}"),
        *(f"options:remote_ip={peer.vtep}", f"options:local_ip={host.vtep}"),
    )


@pytest.fixture(scope="module")
def machines(lab2: Lab) -> Iterator[tuple[Machine, Machine]]:
    """Two machines of one network on h1, with an address of each family."""
    host = lab2.hosts[0]
    vm1 = host.add_machine("vm1", MAC1, ["10.0.0.1", "fd00::1"], tag=1, dad=False)
    vm2 = host.add_machine("vm2", MAC2, ["10.0.0.2", "fd00::2/64"], tag=1, dad=False)
    yield vm1, vm2
    vm1.remove()
    vm2.remove()


def test_vteps_reach_each_other(lab2: Lab) -> None:
    one, two = lab2.hosts
    assert (one.name, one.vtep, two.vtep) == ("h1", "10.200.0.1", "10.200.0.2")
    result = one.ping(two.vtep)
    assert (result.lost, result.duplicates) == (0, 0)


def test_ovs_commands(lab2: Lab) -> None:
    host = lab2.host("h1")
    assert set(host.vsctl("list-br").split()) == {"br-int", "br-phy"}
    assert "NORMAL" in host.ofctl("dump-flows", "br-int")
    assert "ovs-vswitchd" in host.appctl("version")
    assert "Datapath actions" in host.trace("br-int", "in_port=LOCAL,arp")
    with pytest.raises(LabError, match="no-such-bridge"):
        host.ofctl("dump-flows", "no-such-bridge")


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_machines_on_one_host_reach_each_other(
    machines: tuple[Machine, Machine], address: str
) -> None:
    vm1, _ = machines
    vm1.forget_neighbours()
    result = vm1.ping(address)
    assert (result.lost, result.duplicates) == (0, 0)
    assert len(result.rtts) == 3
    assert vm1.neighbours()[address][0] == MAC2


def test_tcp_checksums_survive_the_userspace_switch(machines: tuple[Machine, Machine]) -> None:
    vm1, vm2 = machines
    server = (
        "import socket; s = socket.create_server(('10.0.0.2', 5000)); s.accept()[0].send(b'hi')"
    )
    client = (
        "import socket, time\n"
        "for _ in range(100):\n"
        "    try: print(socket.create_connection(('10.0.0.2', 5000), 2).recv(9)); break\n"
        "    except ConnectionRefusedError: time.sleep(0.05)\n"
    )
    process = vm2.popen([sys.executable, "-c", server])
    assert vm1.exec(sys.executable, "-c", client).strip() == "b'hi'"
    assert process.wait(5) == 0


def test_raw_frame_and_capture(machines: tuple[Machine, Machine]) -> None:
    vm1, vm2 = machines
    # A local experimental Ethertype (IEEE 802) that no kernel answers.
    frame = bytes.fromhex("fa163e000002fa163e00000188b5") + b"hello".ljust(46, b"\0")
    before = time.time()
    with vm2.capture() as capture, vm1.capture("out") as sent:
        vm1.send(frame)
        (captured,) = capture.wait_for(lambda data: data == frame)
    assert frame in sent.data
    assert not captured.outgoing
    assert before - 1 < captured.time < time.time() + 1


def test_capture_keeps_vlan_tags(lab2: Lab, machines: tuple[Machine, Machine]) -> None:
    vm1, _ = machines
    trunk = lab2.hosts[0].add_machine("trunk", MAC3)
    with trunk.capture() as capture:
        vm1.send(bytes.fromhex("fffffffffffffa163e00000188b5") + bytes(46))
        capture.wait_for(lambda data: decode(data).ethertype == 0x88B5)
    trunk.remove()
    assert {decode(data).vlans for data in capture.data} == {(1,)}


@pytest.mark.expected_warnings(r"tap-vm2: Network is down")
def test_ping_forever_counts_an_outage(lab2: Lab, machines: tuple[Machine, Machine]) -> None:
    vm1, vm2 = machines
    with vm1.ping_forever("10.0.0.2") as running:
        time.sleep(0.3)
        lab2.hosts[0].exec("ip", "link", "set", vm2.port, "down")
        time.sleep(0.3)
        lab2.hosts[0].exec("ip", "link", "set", vm2.port, "up")
        time.sleep(0.5)
    result = running.stop()
    assert 10 <= result.longest_gap <= 60
    assert result.received > 30


def test_frames_on_the_underlay_count_once(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(3)
    one, two, three = lab.hosts
    add_tunnel(one, two, vni=77)
    add_tunnel(two, one, vni=77)
    vm1 = one.add_machine("vm1", MAC1, "10.0.0.1")
    vm3 = two.add_machine("vm3", MAC3, "10.0.0.3")
    with lab.capture_underlay() as underlay:
        result = vm1.ping("10.0.0.3")
    assert result.lost == 0
    tunnels = [tunnel for data in underlay.data if (tunnel := decode(data).tunnel)]
    assert {tunnel.vni for tunnel in tunnels} == {77}
    assert [
        (tunnel.source, tunnel.destination, tunnel.inner.arp.operation)
        for tunnel in tunnels
        if tunnel.inner.arp
    ] == [
        (one.vtep, two.vtep, ArpOperation.REQUEST),
        (two.vtep, one.vtep, ArpOperation.REPLY),
    ]
    assert sum(tunnel.inner.ip is not None for tunnel in tunnels) == 6
    # No ARP for the outer header, and the kernel answers no VXLAN with "port unreachable".
    assert all(decode(data).tunnel for data in underlay.data)
    assert vm3.host is two
    assert three.machines == {}


def test_ipv6_underlay(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2, family=6)
    one, two = lab.hosts
    assert (one.vtep, two.vtep) == ("fd00:200::1", "fd00:200::2")
    assert one.ping(two.vtep).lost == 0
    add_tunnel(one, two, vni=77)
    add_tunnel(two, one, vni=77)
    vm1 = one.add_machine("vm1", MAC1, "10.0.0.1")
    two.add_machine("vm3", MAC3, "10.0.0.3")
    assert vm1.ping("10.0.0.3").lost == 0
    assert "1 received" in vm1.exec("ping", "-c1", "-s1422", "-Mdo", "10.0.0.3")


def test_switch_and_database_restart(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    one, two = lab.hosts
    vm1 = one.add_machine("vm1", MAC1, "10.0.0.1", tag=1)
    one.add_machine("vm2", MAC2, "10.0.0.2", tag=1)
    assert one.stop_vswitchd(signal.SIGKILL) == -signal.SIGKILL
    one.start_vswitchd()
    assert vm1.ping("10.0.0.2").lost == 0
    assert one.ping(two.vtep).lost == 0
    assert one.stop_ovsdb_server(signal.SIGKILL) == -signal.SIGKILL
    one.start_ovsdb_server()
    assert vm1.ping("10.0.0.2").lost == 0
    assert one.stop_vswitchd() != 0
    with pytest.raises(LabError):
        one.appctl("version")
    one.start_vswitchd()
    with pytest.raises(LabError, match="runs already"):
        one.start_vswitchd()
    assert one.ping(two.vtep).lost == 0


def test_unexpected_warnings_are_found(make_lab: Callable[..., Lab]) -> None:
    host = make_lab(1).hosts[0]
    start = len(host.vswitchd_log())
    host.vsctl("--no-wait", "add-port", "br-int", "missing0")
    host.vsctl("del-port", "missing0")
    try:
        assert any("missing0" in line for line in host.unexpected_warnings())
        assert host.unexpected_warnings([r"missing0"]) == []
        assert host.unexpected_warnings(start=len(host.vswitchd_log())) == []
        assert host.unexpected_warnings(start=start) != []
    finally:
        # This test means it; the check after each test shall not.
        log = host.rundir / "ovs-vswitchd.log"
        log.write_text("")


def test_agent_process(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    # A stand-in for the agent: its way of being started, not what it does.
    package = tmp_path / "ovs_l2pop"
    package.mkdir()
    (package / "__main__.py").write_text(
        textwrap.dedent(
            """
            import configparser, socket, sys
            if sys.argv[1] == "agent":
                parser = configparser.ConfigParser()
                parser.read(sys.argv[sys.argv.index("--config-file") + 1])
                path = parser["ovs_l2pop"]["control_socket"]
                print("hello", parser["openvswitch"]["datapath_type"], flush=True)
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(path)
                    server.listen()
                    while True:
                        server.accept()
            print(sys.argv[1:], sys.stdin.read())
            """
        )
    )
    host = make_lab(1).hosts[0]
    config = host.agent_config(ovs_l2pop={"extra": 5}, openvswitch={"rundir": None})
    text = config.read_text()
    assert f"local_ip = {host.vtep}" in text
    assert "extra = 5" in text
    assert "rundir" not in text
    agent = host.start_agent(config=config, source=tmp_path)
    assert agent.pid in processes_in([host.namespace])
    assert "hello netdev" in agent.log()
    done = agent.cli("show", "networks", input="text")
    assert done.stdout == f"['--socket', '{agent.control_socket}', 'show', 'networks'] text\n"
    assert agent.stop() == -signal.SIGTERM
    agent.control_socket.unlink()
    with pytest.raises(LabError, match="names no"):
        host.start_agent(config=Path("/dev/null"))


def test_nothing_is_left() -> None:
    before = os.listdir("/sys/class/net")
    with Lab(2) as lab:
        host = lab.hosts[0]
        machine = host.add_machine("vm1", MAC1, "10.0.0.1", tag=1)
        # Neither a stray process nor a grandchild, nor one that ignores SIGTERM, may survive.
        machine.popen(["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"])
        time.sleep(0.1)
        names = namespaces_of(lab.prefix)
        pids = processes_in(names)
        directory = lab.directory
        assert names == [f"{lab.prefix}-{name}" for name in ("h1", "h1-vm1", "h2", "ul")]
        assert len(pids) == 2 * 2 + 3
        assert os.listdir("/sys/class/net") == before
    assert namespaces_of(lab.prefix) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and is_alive(pid)]
    assert not directory.exists()
    lab.stop()


def is_alive(pid: int) -> bool:
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_labs_side_by_side() -> None:
    with Lab(1) as first, Lab(1) as second:
        assert first.prefix != second.prefix
        with pytest.raises(LabError, match="already"):
            Lab(1, prefix=first.prefix).start()
        assert first.hosts[0].vsctl("list-br") == second.hosts[0].vsctl("list-br")


def test_a_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    directories: list[Path] = []
    start = Host.start

    def fail_on_h2(host: Host) -> None:
        directories.append(host.directory)
        if host.name == "h2":
            raise KeyboardInterrupt
        start(host)

    monkeypatch.setattr(Host, "start", fail_on_h2)
    lab = Lab(2)
    with pytest.raises(KeyboardInterrupt):
        lab.start()
    assert namespaces_of(lab.prefix) == []
    assert len(directories) == 2
    assert not directories[0].parent.exists()


def test_a_namespace_of_somebody_else_is_spared() -> None:
    prefix = f"l2p{os.getpid()}t"
    subprocess.run(["ip", "netns", "add", f"{prefix}-h1"], check=True)
    try:
        with pytest.raises(LabError, match=f"{prefix}-h1 already"):
            Lab(1, prefix=prefix).start()
        assert namespaces_of(prefix) == [f"{prefix}-h1"]
    finally:
        subprocess.run(["ip", "netns", "delete", f"{prefix}-h1"], check=True)


def test_keep_and_destroy() -> None:
    # In a process of its own, which ends before what it has made.
    program = (
        "from l2pop_lab.topology import Lab; lab = Lab(1).start(); print(lab.prefix, lab.leave())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    prefix, path = done.stdout.split()
    names = namespaces_of(prefix)
    pids = processes_in(names)
    assert names == [f"{prefix}-h1", f"{prefix}-ul"]
    assert len(pids) == 2
    assert Path(path) in left_behind()
    Lab.remove(path)
    assert namespaces_of(prefix) == []
    assert not processes_in(names)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and is_alive(pid)]
    assert not Path(path).parent.exists()
    with pytest.raises(LabError, match="no laboratory"):
        destroy(path)


def test_destroy_after_the_owner_was_killed() -> None:
    program = (
        "import time; from l2pop_lab.topology import Lab; lab = Lab(1).start();"
        "print(lab.prefix, lab.directory, flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        prefix, directory = owner.stdout.readline().split()
        try:
            with pytest.raises(LabError, match=f"in use by process {owner.pid}"):
                destroy(directory)
        finally:
            owner.kill()
    destroy(directory)
    assert namespaces_of(prefix) == []
    assert not Path(directory).exists()


def test_destroy_spares_a_process_that_got_a_recorded_number() -> None:
    lab = Lab(1).start()
    path = lab.leave()
    with subprocess.Popen(["sleep", "100"]) as other:
        # As if the number of an ended daemon had gone over to it: other start time, same number.
        path.write_text(
            path.read_text().replace('"processes": [', f'"processes": [[{other.pid}, 1],')
        )
        destroy(path)
        assert other.poll() is None
        other.kill()
    assert namespaces_of(lab.prefix) == []


def test_interrupt_cleans_up() -> None:
    program = (
        "import time; from l2pop_lab.topology import Lab\n"
        "with Lab(1) as lab:\n"
        "    print(lab.prefix, lab.directory, flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout
        prefix, directory = owner.stdout.readline().split()
        owner.send_signal(signal.SIGINT)
        owner.wait(20)
    assert namespaces_of(prefix) == []
    assert not Path(directory).exists()


@pytest.mark.parametrize("hosts", [0, 251])
def test_number_of_hosts_is_limited(hosts: int) -> None:
    with pytest.raises(LabError, match="1 to 250"):
        Lab(hosts)


def test_machine_names_are_limited(lab2: Lab) -> None:
    with pytest.raises(LabError, match="1 to 11"):
        lab2.hosts[0].add_machine("twelve-chars", MAC1)

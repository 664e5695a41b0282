"""Whatever arrives: the good is in the switch, the bad is named, the agent goes on."""

import json
import random
import socket
from collections.abc import Callable, Iterator

import pytest
from feed_helpers import FLOODING, Net, Pair, answer_to, drift, lines, network_id, send
from switch_helpers import Switch, flows, table

from l2pop_lab.topology import AgentProcess, Host, Lab

A, B = "10.200.0.11", "10.200.0.12"
NET = Net(1, 77)
MAC1 = "fa:16:3e:00:00:01"


@pytest.fixture(scope="module")
def host(make_module_lab: Callable[..., Lab]) -> Host:
    return make_module_lab(1).hosts[0]


@pytest.fixture(scope="module")
def agent(host: Host) -> Iterator[AgentProcess]:
    agent = host.start_agent()
    yield agent
    assert agent.process.poll() is None
    assert agent.stop() == 0
    assert "Traceback" not in agent.log()


def test_good_and_bad_in_one_message(agent: AgentProcess, host: Host) -> None:
    good: list[Pair] = [FLOODING, [MAC1, "10.0.0.1"], ["FA-16-3E-00-00-02", "fd00:0::2"]]
    bad: dict[str, object] = {
        "fa:16:3e:00:00": ["fa:16:3e:00:00", "10.0.0.3"],
        "fa:16:3e:00:00:0g": ["fa:16:3e:00:00:0g", "10.0.0.3"],
        "ff:ff:ff:ff:ff:ff": ["ff:ff:ff:ff:ff:ff", "10.0.0.3"],
        "10.0.0.300": ["fa:16:3e:00:00:03", "10.0.0.300"],
        "10.0.0.3/24": ["fa:16:3e:00:00:03", "10.0.0.3/24"],
        "224.0.0.1": ["fa:16:3e:00:00:03", "224.0.0.1"],
        "fe80::1%eth0": ["fa:16:3e:00:00:03", "fe80::1%eth0"],
        "lonely": ["lonely"],
        "a string": "a string",
        "None": None,
        "10.0.0.33": [None, "10.0.0.33"],
    }
    message = NET.add(
        {
            A: [good[0], *bad.values(), good[1]],
            B: good[2:],
            "10.200.0.1000": good,
            "fd00::99": good,
            "10.200.0.13": "not a list",
        }
    )
    message["fdb_entries"]["not-a-uuid"] = message["fdb_entries"][NET.id]
    message["fdb_entries"][network_id(7)] = {"network_type": "vlan", "segment_id": 5, "ports": {}}
    message["fdb_entries"][network_id(8)] = {
        "network_type": "vxlan",
        "segment_id": 1 << 24,
        "ports": {},
    }
    done = agent.cli("send", input=lines([NET.attach(5), message, {"method": "format_disk"}]))
    assert done.returncode == 1
    told = done.stderr.splitlines()
    assert all(line.startswith("refused: ") for line in told)
    offenders = [
        *(offender for offender in bad if offender != "10.0.0.33"),
        *("10.200.0.1000", "fd00::99", "not a list", "not-a-uuid", "vlan", "16777216"),
        "format_disk",
    ]
    for offender in offenders:
        assert [line for line in told if offender in line], offender
    assert len(told) == len(bad) + 7
    assert len(table(host, 20)) == 2
    assert [f for f in flows(host) if "arp_tpa=10.0.0.1," in f and MAC1 in f]
    assert [f for f in flows(host) if "nd_target=fd00::2" in f and "fa:16:3e:00:00:02" in f]
    assert [f for f in table(host, 22) if "vxlan-0ac8000b" in f and "vxlan-0ac8000c" not in f]
    assert drift(agent) == []


def test_each_kind_of_nonsense_once(agent: AgentProcess, host: Host) -> None:
    before = Switch.of(host)
    nonsense = [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"17",
        b'"text"',
        b"{}",
        b'{"method": null}',
        b'{"method": ["add_fdb_entries"]}',
        b'{"method": "add_fdb_entries"}',
        b'{"method": "add_fdb_entries", "fdb_entries": []}',
        b'{"method": "update_fdb_entries", "fdb_entries": {"chg_mac": {}}}',
        b'{"method": "attach_network", "network_id": "x"}',
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"method": "\\ud800"}',
        b'{"a":' * 50_000,
    ]
    answer = answer_to(agent, b"\n".join(nonsense))
    assert answer["refused_count"] == len(nonsense) - 1  # the empty line is none
    assert all(len(line) < 500 for line in answer["refused"])
    assert Switch.of(host) == before


def test_a_line_without_end(agent: AgentProcess) -> None:
    data = lines([NET.add({A: [[MAC1, "10.0.0.8"]]})]).rstrip("\n")
    assert answer_to(agent, data.encode())["refused"] == []
    send(agent, NET.remove({A: [[MAC1, "10.0.0.8"]]}))


def test_fuzzed_lines(agent: AgentProcess, host: Host) -> None:
    """Real messages, bitten: bytes changed, lost, doubled; values of a wrong kind put in."""
    chance = random.Random(2013)
    net = Net(3, 300)
    whole = [
        net.attach(30),
        net.add({A: [FLOODING, [MAC1, "10.0.0.1"]], B: [FLOODING, [MAC1, "fd00::1"]]}),
        net.chg_ip(A, [[MAC1, "10.0.0.1"]], [[MAC1, "10.0.0.2"]]),
        net.remove({A: [FLOODING, [MAC1, "10.0.0.1"]]}),
        net.detach(),
    ]
    for _ in range(20):
        batch = [bitten(chance, chance.choice(whole)) for _ in range(100)]
        answer = answer_to(agent, b"\n".join(batch))
        assert answer["pending"] is None
        assert "internal error" not in json.dumps(answer)
    assert agent.process.poll() is None
    assert drift(agent) == []
    for attached in json.loads(agent.cli("show", "networks", "-f", "json").stdout):
        if attached["network_id"] != NET.id:
            message = {"method": "detach_network", "network_id": attached["network_id"]}
            answer_to(agent, json.dumps(message).encode())
    send(agent, NET.attach(5))
    assert drift(agent) == []
    assert not [flow for flow in flows(host) if "dl_vlan=30," in flow]


def bitten(chance: random.Random, message: dict[str, object]) -> bytes:
    if chance.random() < 0.6:
        text = json.dumps(message)
        swap = chance.choice(
            [
                (MAC1, chance.choice(["", "x", "fa:16:3e:00:00:01:02", "00:00:00:00:00:00"])),
                ("300", chance.choice(["-1", "1e99", "NaN", "null", "{}", "4294967296", "true"])),
                ("10.200.0.11", chance.choice(["", "0.0.0.0", "::1", "10.200.0.1", "٣.1.1.1"])),
                ("10.0.0.1", chance.choice(["255.255.255.255", "0", "::ffff:10.0.0.1", "1" * 999])),
                ('"ports"', chance.choice(['"PORTS"', "7", '"\\u0000"'])),
                ("[", chance.choice(["{", "[[", ""])),
                ("30,", chance.choice(["0,", "4095,", "[],", "2.5,"])),
            ]
        )
        return text.replace(*swap).encode()
    data = bytearray(json.dumps(message).encode())
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case _:
                data[at:at] = data[at : at + chance.randrange(1, 20)]
        data = data or bytearray(b"x")
    return bytes(data).replace(b"\n", b" ")


def raw(agent: AgentProcess, data: bytes, shut: bool = True) -> bytes:
    """What the control socket answers to bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(agent.control_socket))
        try:
            connection.sendall(data)
            if not shut:
                return b""
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_garbage_on_the_control_socket(agent: AgentProcess, host: Host) -> None:
    before = Switch.of(host)
    chance = random.Random(7348)
    garbage = [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 100_000,
        b"\xff" * 100_000 + b"\n",
        chance.randbytes(200_000),
        b"[" * 100_000 + b"\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "send"',
        b'{"command": {"send": 1}}\n',
        b'{"command": "show", "what": "passwords"}\n',
        b'{"command": "show", "what": ["networks"]}\n',
        b'{"command": "show", "what": {}}\n',
        b'{"command": "check", "what": [[[]]]} trailing\n',
    ]
    for data in garbage:
        answer = raw(agent, data)
        if answer:
            assert answer.count(b"\n") == 1
            assert set(json.loads(answer)) == {"error"}, data[:50]
            assert b"internal error" not in answer, data[:50]
        raw(agent, data, shut=False)  # and one who doesn't wait for the answer
    # Those who connect and say nothing keep nobody from being served.
    silent = []
    for _ in range(50):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(agent.control_socket))
    try:
        assert agent.cli("check").returncode == 0
    finally:
        for connection in silent:
            connection.close()
    assert Switch.of(host) == before


def test_a_message_far_over_64_kib(agent: AgentProcess, host: Host) -> None:
    net = Net(5, 500)
    pairs: list[Pair] = [
        [
            f"fa:16:3f:00:{number // 256:02x}:{number % 256:02x}",
            f"10.1.{number // 250}.{number % 250}",
        ]
        for number in range(10_000)
    ]
    before = Switch.of(host)
    message = net.add({A: [FLOODING, *pairs]})
    assert len(json.dumps(message)) > 5 * 65_536
    send(agent, net.attach(50), message)
    assert len(table(host, 20)) == 10_000 + len(
        [f for f in before.flows if "table=20, priority=10" in f]
    )
    send(agent, net.remove({A: [FLOODING, *pairs]}), net.detach())
    assert Switch.of(host) == before


def test_the_log_of_a_hostile_sender_stays_short(agent: AgentProcess) -> None:
    before = len(agent.log().splitlines())
    for start in range(0, 3000, 1000):
        bad = [[f"not a MAC {number}", "10.0.0.1"] for number in range(start, start + 1000)]
        answer = answer_to(agent, lines([NET.add({A: bad})]).encode())
        assert answer["refused_count"] == 1000
    assert len(agent.log().splitlines()) - before <= 2

"""A table as a document, and what makes one of another: asked of the real table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import FLOODING, IP1, IP2, LOCAL, MAC1, MAC2, A, B, M, N, add, attach, built, remove
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from ovs_l2pop.agent.control import ControlServer
from ovs_l2pop.agent.store import Store
from ovs_l2pop.agent.worker import Worker
from ovs_l2pop.cli.declare import _Loader
from ovs_l2pop.cli.main import main
from ovs_l2pop.core import declared, wire
from ovs_l2pop.core.errors import CommandError
from ovs_l2pop.core.messages import Properties, Segment
from ovs_l2pop.core.table import ForwardingTable
from ovs_l2pop.core.wire import Message

ROUTER = Properties(router=True)


def content(table: ForwardingTable) -> list[Any]:
    """Who claims what, and what is attached; not in which order."""
    claims = [
        (network_id, *entry, network.properties.get(entry), network.vteps[entry.vtep].segment)
        for network_id, network in table._networks.items()
        for entry in network.entries
    ]
    floods = [
        (network_id, vtep, known.segment)
        for network_id, network in table._networks.items()
        for vtep, known in network.vteps.items()
        if known.flooding
    ]
    return [sorted(claims, key=str), sorted(floods, key=str), sorted(table.attachments(), key=str)]


def owned(network: str, vtep: str, mac: str, ip: str) -> Message:
    return wire.add(
        network, Segment("vxlan", 1001), {vtep: [[mac, ip]]}, owners={(mac, ip): ROUTER}
    )


SOME = st.lists(
    st.one_of(
        st.builds(attach, st.sampled_from([N]), st.sampled_from([5, 6])),
        st.builds(attach, st.just(M), st.just(7), st.just(1002)),
        st.builds(
            add,
            st.sampled_from([N, M]),
            st.sampled_from([A, B, LOCAL]),
            st.sampled_from([FLOODING, [MAC1, IP1], [MAC1, IP2], [MAC2, IP2]]),
            segment_id=st.sampled_from([1001, 1002]),
        ),
        st.builds(
            owned, st.just(N), st.sampled_from([A, B]), st.just(MAC1), st.sampled_from([IP1, IP2])
        ),
    ),
    max_size=8,
)


@given(SOME, SOME)
def test_the_difference_leads_from_one_to_the_other(
    before: list[Message], after: list[Message]
) -> None:
    one, other = built(*before), built(*after)
    changes = declared.difference(one.messages(), other.messages(), LOCAL)
    assert content(built(*one.messages(), *changes)) == content(other)
    assert declared.difference(other.messages(), other.messages(), LOCAL) == []


@given(SOME)
def test_a_document_is_the_table(told: list[Message]) -> None:
    table = built(*told)
    document = declared.document(table.messages())
    for text in (json.dumps(document), yaml.safe_dump(document)):
        again = list(declared.messages(yaml.load(text, _Loader)))
        assert content(built(*again)) == content(table)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a document is a mapping"),
        ("[]", "a document is a mapping"),
        ("networks: 5", "a document is a mapping"),
        ("networks: []\nmore: 1", "a document is a mapping"),
        ("networks: [5]", "network 1: 5 is no mapping"),
        ("networks: [{network_id: x, vlan: 5}]", "unknown: vlan; there are attach,"),
        ("networks: [{network_id: x, attach: 5}]", "network 1 (x): attach: 5 is no mapping"),
    ],
)
def test_what_is_no_document_is_named(text: str, why: str) -> None:
    with pytest.raises(CommandError) as error:
        list(declared.messages(yaml.load(text, _Loader)))
    assert why in str(error.value)


def test_what_can_not_be_is_named() -> None:
    for bad, offender in ((add(N, "nobody", [MAC1, IP1]), "nobody"), (attach(N, 5000), "5000")):
        with pytest.raises(CommandError, match=offender):
            declared.difference([], [bad])


def test_a_mac_of_digits_is_a_mac() -> None:
    text = "{mac: 10:20:30:40:50:01, vlan: 5, zero: 00:00:00:00:00:00}"
    assert yaml.load(text, _Loader) == {
        "mac": "10:20:30:40:50:01",
        "vlan": 5,
        "zero": "00:00:00:00:00:00",
    }


# -- the commands --------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Worker, str]]:
    worker = Worker(LOCAL, FakeBackend(), Store(tmp_path / "state"))
    path = tmp_path / "agent.sock"
    server = ControlServer(path, worker)
    worker.start().result()
    server.start()
    yield worker, str(path)
    server.close()
    worker.stop()


def run(path: str, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["--socket", path, *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


WANTED = f"""
networks:
- network_id: {N}
  network_type: vxlan
  segment_id: 1001
  attach: {{local_vlan: 5}}
  ports:
    {A}: [[00:00:00:00:00:00, 0.0.0.0], [{MAC1}, {IP1}]]
"""


def test_apply_and_dump(
    agent: tuple[Worker, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker, path = agent
    file = tmp_path / "wanted.yaml"
    file.write_text(WANTED)
    code, out, _ = run(path, "apply", "--dry-run", "-f", "json", str(file), capsys=capsys)
    assert code == 1
    assert [row["change"] for row in json.loads(out)] == ["attach", "add", "add"]
    assert list(worker.table.network_ids()) == []
    assert run(path, "apply", str(file), capsys=capsys)[0] == 0
    assert content(worker.table) == content(built(attach(N), add(N, A, FLOODING, [MAC1, IP1])))
    assert run(path, "apply", "--dry-run", str(file), capsys=capsys)[0] == 0
    for form in ([], ["--json"]):
        code, out, _ = run(path, "dump", *form, capsys=capsys)
        (tmp_path / "dumped").write_text(out)
        assert code == 0
        assert run(path, "apply", "--dry-run", str(tmp_path / "dumped"), capsys=capsys)[0] == 0
    file.write_text("networks: []")
    code, out, _ = run(path, "apply", "-f", "json", str(file), capsys=capsys)
    assert code == 0
    assert {row["change"] for row in json.loads(out)} == {"detach", "remove"}
    assert content(worker.table) == [[], [], []]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("networks: [", "while parsing"),
        ("networks: [{network_id: x}, 5]", "network 2: 5 is no mapping"),
        (WANTED.replace(IP1, "10.0.0.999"), "10.0.0.999"),
    ],
)
def test_nothing_is_sent_of_a_file_with_an_error(
    text: str,
    why: str,
    agent: tuple[Worker, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker, path = agent
    file = tmp_path / "wanted.yaml"
    file.write_text(text)
    code, _, err = run(path, "apply", str(file), capsys=capsys)
    assert code == 1
    assert why in err
    assert list(worker.table.network_ids()) == []


def test_removals_go_first() -> None:
    """A local VLAN that another network takes over is free when it does."""
    before = [attach(N, 5), add(N, A, [MAC1, IP1])]
    after = [attach(M, 5, 1002), add(N, A, [MAC2, IP2])]
    methods = [change["method"] for change in declared.difference(before, after)]
    assert methods == ["detach_network", "remove_fdb_entries", "attach_network", "add_fdb_entries"]
    assert remove(N, A, [MAC1, IP1]) in declared.difference(before, after)

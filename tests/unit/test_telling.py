"""What the log says of messages."""

import json
from typing import Any

from builders import FLOODING, IP1, MAC1, A, N, add, attach, detach, remove

from ovs_l2pop.agent.telling import Causes, changed
from ovs_l2pop.core.messages import AddEntries, Parser, Refusal, read


def _lines(*messages: Any) -> list[str]:
    told, refused = read([json.dumps(message).encode() for message in messages], Parser())
    assert refused == []
    return changed(change for one in told for change in one.changes)


def test_networks_by_name_and_entries_by_number() -> None:
    assert _lines(attach(N), add(N, A, [MAC1, IP1]), remove(N, A, [MAC1, IP1]), detach(N)) == [
        f"attached network {N}: vxlan 1001",
        f"detached network {N}",
        f"told of 1 entries and that 1 go, behind VTEPs {A}, in networks {N}",
    ]
    (text,) = _lines(add(N, A, FLOODING), add(N, A, [MAC1, IP1]))
    assert text.startswith("told of 2 entries and that 0 go")


def test_a_message_that_was_refused_whole_changed_nothing() -> None:
    assert changed([AddEntries(N, None, A, [], flooding=False)]) == []


def test_a_cause_is_told_once_a_minute_with_a_count() -> None:
    now = 0.0
    causes = Causes(lambda: now)
    bad, other = Refusal("add", "x", "bad MAC"), Refusal("add", "y", "bad IP")
    assert causes.lines([bad, bad, other]) == [
        "refused: add: x: bad MAC",
        "refused: add: y: bad IP",
    ]
    now = 59.0
    assert causes.lines([bad]) == []
    now = 60.0
    assert causes.lines([bad]) == ["refused: add: x: bad MAC (2 more of this cause since)"]
    now = 120.0
    assert causes.lines([bad]) == ["refused: add: x: bad MAC"]


def test_causes_are_bounded_and_make_room() -> None:
    now = 0.0
    causes = Causes(lambda: now)
    many = [Refusal("add", "x", f"bad {number}") for number in range(2000)]
    assert len(causes.lines(many)) == 1000
    now = 61.0
    assert causes.lines(many[1999:]) == ["refused: add: x: bad 1999"]

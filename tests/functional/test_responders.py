"""Others' responders, asked what ours are asked: what ``ovs-l2pop compare`` says of each."""

from collections.abc import Callable, Iterator

import pytest

from l2pop_lab.compare.checking import Places
from l2pop_lab.compare.features import BY_FRAMES, Check
from l2pop_lab.compare.responders import (
    RESPONDERS,
    Frr,
    NeighSuppress,
    NeutronFlows,
    Proxy,
    Responder,
)
from l2pop_lab.compare.sides import Side
from l2pop_lab.compare.streams import BLUE
from l2pop_lab.topology import Lab

#: Rows that each keeps; the others it doesn't, at least not all of.
KEPT: dict[type[Side], set[str]] = {
    # It answers no solicitation at all.
    NeutronFlows: {"invalid", "checksum", "incomplete", "padded", "own-tags", "unicast-questions"},
    # What it can't answer it drops, and so does the vxlan device with questions to one machine.
    Proxy: {
        *("undisturbed", "asks-for-another", "padded", "own-tags", "same-host", "group-source"),
    },
    NeighSuppress: {
        *("undisturbed", "asks-for-another", "padded", "unicast-questions", "group-source"),
    },
    # Who is on the host is a neighbour too, so the kernel answers for it.
    Frr: {
        *("undisturbed", "asks-for-another", "padded", "unicast-questions", "group-source"),
        "same-host",
    },
}


@pytest.fixture(scope="module", params=RESPONDERS, ids=lambda kind: kind.title)
def places(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Iterator[Places]:
    kind: type[Responder] = request.param
    assert kind.missing() == ""
    side = kind(make_module_lab(3, linuxbridge=[1, 2, 3] if kind.linux else []))
    side.populate(BLUE, (1, 2, 3))
    yield Places(side, side, side, {})
    side.close()


@pytest.mark.expected_warnings(r"dropping VLAN 7 tagged packet received on port tap-blue1")
@pytest.mark.parametrize("check", BY_FRAMES, ids=lambda check: check.key)
def test_row(places: Places, check: Check) -> None:
    kind = type(places.side)
    cell = check.run(places)
    wanted = ("yes",) if check.key in KEPT[kind] else ("no", "partly")
    assert cell.answer in wanted, cell.seen

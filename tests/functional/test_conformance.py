"""What a responder may say, by RFC: each row on real frames, on both backends.

The rows are those of ``ovs-l2pop compare``. :data:`KNOWN` says which a Linux bridge host does not
keep, and why.
"""

from collections.abc import Callable, Iterator

import pytest

from l2pop_lab.compare.checking import Places
from l2pop_lab.compare.dataplanes import Dataplane, LinuxBridge, Openvswitch
from l2pop_lab.compare.features import CHECKS, RESPONDER
from l2pop_lab.compare.sides import Side
from l2pop_lab.topology import Lab

ROWS = {check.key: check for check in CHECKS if check.section == RESPONDER}

#: What each can't be told, and why. What the kernel's own responder answers, and by which rules,
#: is in its net/bridge/br_arp_nd_proxy.c.
KNOWN = {
    "openvswitch": {"checksum": "no flow can tell whether a checksum is right"},
    "linuxbridge": {},
}


@pytest.fixture(scope="module", params=[Openvswitch, LinuxBridge], ids=lambda kind: kind.name)
def places(request: pytest.FixtureRequest, make_module_lab: Callable[..., Lab]) -> Iterator[Places]:
    dataplane: Dataplane = request.param()
    linux = [1, 2, 3] if dataplane.name == "linuxbridge" else []
    lab = make_module_lab(3, linuxbridge=linux)
    side = Side(lab, lab.hosts, dataplane)
    side.launch_agents()
    side.wait_for_agents()
    side.populate_all()
    yield Places(side, side, side, {})
    side.close()


@pytest.mark.expected_warnings(r"dropping VLAN 7 tagged packet received on port tap-blue1")
@pytest.mark.parametrize("key", ROWS)
def test_row(places: Places, key: str) -> None:
    cell = ROWS[key].run(places)
    if reason := KNOWN[places.side.name].get(key):
        assert cell.answer in ("no", "partly"), f"{key} is kept: take it out of KNOWN"
        pytest.xfail(f"{reason}: {cell.seen}")
    assert cell.answer == "yes", cell.seen

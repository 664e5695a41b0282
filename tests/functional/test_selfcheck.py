"""An Open vSwitch that returns flows in another form than ours.

There is one version here, so the other side is varied: templates written in a form that this Open
vSwitch doesn't return.
"""

import json
import shutil
from pathlib import Path

import ovs_l2pop
from l2pop_lab.topology import Lab

SOURCE = Path(ovs_l2pop.__file__).parents[1]
NETWORK = "5c6b1f0e-0000-4000-8000-000000000001"


def _stream() -> str:
    body = {
        "segment_id": 7,
        "network_type": "vxlan",
        "ports": {
            "10.200.0.9": [["00:00:00:00:00:00", "0.0.0.0"], ["fa:16:3e:00:00:09", "10.0.0.9"]]
        },
    }
    attach = {
        "method": "attach_network",
        "network_id": NETWORK,
        "network_type": "vxlan",
        "segment_id": 7,
        "local_vlan": 3,
    }
    add = {"method": "add_fdb_entries", "fdb_entries": {NETWORK: body}}
    return json.dumps(attach) + "\n" + json.dumps(add) + "\n"


def test_flows_are_compared_in_the_form_of_this_switch(lab2: Lab, tmp_path: Path) -> None:
    for folder in ("ovs_l2pop", "flows", "etc"):
        shutil.copytree(SOURCE / folder, tmp_path / folder)
    shutil.copy(SOURCE / "setup.cfg", tmp_path)
    templates = tmp_path / "flows" / "l2pop.yaml"
    text = templates.read_text()
    other = text.replace("{eth_dst: $mac, vlan_vid: $vlan}", "{vlan_vid: $vlan, eth_dst: $mac}")
    other = other.replace("arp_sha_nxm", "arp_sha")
    assert other.count("arp_sha}") + other.count("arp_sha,") >= 3
    templates.write_text(other)
    host = lab2.hosts[0]

    agent = host.start_agent(source=tmp_path)
    sent = agent.cli("send", input=_stream())
    checked = agent.cli("check")
    assert (sent.returncode, checked.returncode) == (0, 0), sent.stderr + checked.stdout
    assert "another form" in agent.log()
    assert "table=5" not in host.ofctl("dump-flows", "br-tun")
    agent.stop()

    # The flows are those of the usual form: an agent with that finds nothing to do or to check.
    agent = host.start_agent()
    assert agent.cli("check").returncode == 0
    assert "another form" not in agent.log()
    agent.stop()

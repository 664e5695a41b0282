"""A slip of the hand in a configuration file is told, with what was meant."""

from pathlib import Path

import pytest

from ovs_l2pop import config
from ovs_l2pop.backends import loader


def told(path: Path, text: str) -> list[str]:
    path.write_text("[ovs_l2pop]\nlocal_ip = 192.0.2.1\n" + text)
    conf = config.load([f"--config-file={path}"])
    loader.load(conf)
    return [line.removeprefix(f"{path}: ") for line in config.unknown(conf)]


@pytest.mark.parametrize(
    ("text", "slips"),
    [
        ("", []),
        ("drift_interval = 5", []),
        ("drift-interval = 5", ["[ovs_l2pop] drift-interval is no option: drift_interval?"]),
        ("drift_intervall = 5", ["[ovs_l2pop] drift_intervall is no option: drift_interval?"]),
        ("zzz = 5", ["[ovs_l2pop] zzz is no option"]),
        (
            "[openvswitch]\nbroadcast-rat = 9\nrundir = /run",
            ["[openvswitch] broadcast-rat is no option: broadcast_rate?"],
        ),
        ("[openvswich]\nrundir = /run", ["[openvswich] is no group of options: [openvswitch]?"]),
        # A Neutron file: others read it too.
        ("[DEFAULT]\ncore_plugin = ml2\n[ml2_type_vxlan]\nvni_ranges = 1:2\n[vxlan]\nfoo = 1", []),
        (
            "[DEFAULT]\ntransport_ur = fake://",
            ["[DEFAULT] transport_ur is no option: transport_url?"],
        ),
        ("[vxlan]\nudp_dstpor = 4789", ["[vxlan] udp_dstpor is no option: udp_dstport?"]),
    ],
)
def test_what_nobody_reads(text: str, slips: list[str], tmp_path: Path) -> None:
    assert told(tmp_path / "agent.conf", text) == slips


def test_files_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "agent.conf").write_text("[ovs_l2pop]\nlocal_ip = 192.0.2.1\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "more.conf").write_text("[ovs_l2pop]\nlocal_pi = 192.0.2.1\n")
    arguments = [f"--config-file={tmp_path}/agent.conf", f"--config-dir={tmp_path}/conf.d"]
    (slip,) = config.unknown(config.load(arguments))
    assert slip == f"{tmp_path}/conf.d/more.conf: [ovs_l2pop] local_pi is no option: local_ip?"

"""``etc/ovs-l2pop.conf.sample`` says what ``ovs_l2pop/config.py`` says."""

from pathlib import Path

from oslo_config import generator

ETC = Path(__file__).resolve().parents[2] / "etc"


def test_committed_sample_is_up_to_date(tmp_path: Path) -> None:
    fresh = tmp_path / "sample"
    settings = ETC / "oslo-config-generator" / "ovs-l2pop.conf"
    generator.main(["--config-file", str(settings), "--output-file", str(fresh)])
    assert (ETC / "ovs-l2pop.conf.sample").read_text() == fresh.read_text(), "run: make sample"

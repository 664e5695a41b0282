"""``etc/*.sample`` say what the options in the code say."""

import configparser
from pathlib import Path

import pytest
from oslo_config import generator

ETC = Path(__file__).resolve().parents[2] / "etc"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ETC / "oslo-config-generator").iterdir())
)
def test_committed_sample_is_up_to_date(name: str, tmp_path: Path) -> None:
    settings = ETC / "oslo-config-generator" / name
    parser = configparser.ConfigParser(strict=False)  # several namespaces
    parser.read(settings)
    committed = ETC.parent / parser["DEFAULT"]["output_file"]
    fresh = tmp_path / "sample"
    generator.main(["--config-file", str(settings), "--output-file", str(fresh)])
    assert committed.read_text() == fresh.read_text(), "run: make sample"

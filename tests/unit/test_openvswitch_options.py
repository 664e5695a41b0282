"""Bridges that can't be are refused at start, by option and name."""

from pathlib import Path

import pytest

from ovs_l2pop import config
from ovs_l2pop.backends.openvswitch.options import OpenvswitchSettings
from ovs_l2pop.core.errors import ConfigError


def load(tmp_path: Path, **options: str) -> None:
    path = tmp_path / "agent.conf"
    lines = [f"{name} = {value}" for name, value in options.items()]
    path.write_text("\n".join(["[ovs_l2pop]", "local_ip = 192.0.2.1", "[openvswitch]", *lines]))
    OpenvswitchSettings.from_config(config.load(["--config-file", str(path)]))


@pytest.mark.parametrize("option", ["integration_bridge", "tunnel_bridge"])
@pytest.mark.parametrize("name", ["", "a-bridge-of-sixteen"[:16], "a/b", "a b", "a:b", ".", ".."])
def test_what_no_device_can_be_called(tmp_path: Path, option: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[openvswitch\] {option} '{name}': "):
        load(tmp_path, **{option: name})


@pytest.mark.parametrize("option", ["integration_bridge", "tunnel_bridge"])
@pytest.mark.parametrize("name", ["patch-int", "patch-tun"])
def test_what_a_patch_port_is_called(tmp_path: Path, option: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} '{name}': a patch port has this name"):
        load(tmp_path, **{option: name})


def test_one_bridge_for_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="integration_bridge and tunnel_bridge are both 'br-int'"):
        load(tmp_path, tunnel_bridge="br-int")


def test_names_that_are_taken(tmp_path: Path) -> None:
    load(tmp_path, integration_bridge="fifteen-letters", tunnel_bridge="br.tun_1")

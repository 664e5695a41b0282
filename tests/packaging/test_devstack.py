"""The DevStack plugin: what the phases of ``devstack/plugin.sh`` leave in Neutron's files.

The phases run in stack.sh's order (``devstack_standins/run.sh``) on stand-ins of the functions that
DevStack provides. With ``DEVSTACK_DIR`` naming a checkout of DevStack, every test runs once more on
DevStack's own functions, ``configure_neutron`` included, and has to find the same.
"""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
STANDINS = Path(__file__).parent / "devstack_standins"

FUNCTIONS = {"stand-ins": STANDINS}
if "DEVSTACK_DIR" in os.environ:
    FUNCTIONS["devstack"] = Path(os.environ["DEVSTACK_DIR"]).resolve()

#: Sections, each with its options.
Ini = dict[str, dict[str, str]]
Done = subprocess.CompletedProcess[str]

LOCALRC = "[[local|localrc]]\n"

#: What local.conf has on every host, and how it enables the plugin.
HOST = "HOST_IP=192.0.2.11\nDATABASE_PASSWORD=x\nRABBIT_PASSWORD=x\nSERVICE_PASSWORD=x\n"
PLUGIN = "enable_plugin ovs-l2pop https://git.example.org/ovs-l2pop main\n"

ALL_IN_ONE = "Q_AGENT=openvswitch\nENABLED_SERVICES=key,mysql,n-cpu,q-svc,q-agt,q-dhcp,q-l3\n"
SERVER = "Q_AGENT=openvswitch\nENABLED_SERVICES=key,mysql,q-svc\n"
AGENT = "Q_AGENT=openvswitch\nENABLED_SERVICES=n-cpu,q-agt\n"

#: Commands that DevStack runs on the machine. They are only written down, but for the removal of
#: the state, which stays within the test's folder.
COMMANDS = {
    "sudo": """
echo "$*" >>"$ROOT/calls"
case "$*" in "rm -rf $ROOT/"*) "$@" ;; esac
""",
    "neutron-ovs-cleanup": "",
    "lsb_release": 'case "$1" in -i) echo Debian;; -r) echo 12;; *) echo bookworm;; esac\n',
    "id": "echo 1000\n",
}


class Host:
    """A host that is stacked in a folder of its own."""

    def __init__(self, root: Path, functions: Path) -> None:
        self._root = root
        self._top = root / "devstack"
        self._dest = root / "opt/stack"
        self.conf = root / "etc/neutron/plugins/ml2/ml2_conf.ini"
        self.state = self._dest / "data/neutron/ovs-l2pop"
        for folder in (self._top, root / "after", self.conf.parent, self._dest / "neutron/etc"):
            folder.mkdir(parents=True)
        for name in ("functions", "functions-common", "inc", "lib", "openrc", "stackrc"):
            if (functions / name).exists():
                (self._top / name).symlink_to(functions / name)
        for name, script in COMMANDS.items():
            _program(root / "bin" / name, script)
        # What DevStack installs with: pip in its virtual environment, after this one.
        _program(self._dest / "data/venv/bin/pip", 'echo "pip $*" >>"$ROOT/calls"\n')
        _program(self._dest / "requirements/.venv/bin/edit-constraints", "")
        # What it copies from Neutron.
        neutron = self._dest / "neutron"
        _program(neutron / "tools/generate_config_file_samples.sh", "")
        for name in ("neutron.conf.sample", "api-paste.ini", "neutron/api-paste.ini"):
            _write(neutron / "etc" / name, "[DEFAULT]\n")
        sample = f"{neutron}{self.conf}.sample"
        _write(Path(sample), "[DEFAULT]\n\n[ml2]\n\n#mechanism_drivers =\n")
        (self._dest / "ovs-l2pop").symlink_to(CHECKOUT)

    def plugin(self, name: str, script: str) -> str:
        """Make another plugin, of a plugin.sh alone; the line that enables it."""
        _write(self._dest / name / "devstack/plugin.sh", script)
        return f"enable_plugin {name} https://git.example.org/{name}\n"

    def run(self, script: str, localrc: str, sections: str = "") -> Done:
        """Run stack, unstack or clean with this local.conf."""
        return self.run_local_conf(script, f"{LOCALRC}{HOST}{localrc}{sections}")

    def run_local_conf(self, script: str, text: str) -> Done:
        places = f"DEST={self._dest}\nDATA_DIR={self._dest}/data\n"
        assert text.count(LOCALRC) == 1
        _write(self._top / "local.conf", text.replace(LOCALRC, LOCALRC + places))
        environment = {
            "HOME": str(self._root),
            "PATH": f"{self._root}/bin:{os.environ['PATH']}",
            "ROOT": str(self._root),
            "TOP_DIR": str(self._top),
            "Q_USE_ROOTWRAP": "False",
        }
        return subprocess.run(
            ["bash", STANDINS / "run.sh", script], env=environment, capture_output=True, text=True
        )

    def stack(self, localrc: str, sections: str = "") -> Ini:
        """Stack; the core plugin's file as the server and the agents find it when they start."""
        done = self.run("stack", localrc, sections)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.after("post-config")

    def after(self, phase: str) -> Ini:
        return _read(self._root / "after" / phase)

    @property
    def written(self) -> Ini:
        """What post-config changed in the file that configure_neutron left."""
        before, after = self.after("configure_neutron"), self.after("post-config")
        for section, options in before.items():
            assert options.keys() <= after[section].keys()
        changes = {
            section: {
                option: value
                for option, value in options.items()
                if before.get(section, {}).get(option) != value
            }
            for section, options in after.items()
        }
        return {section: options for section, options in changes.items() if options}

    @property
    def services(self) -> set[str]:
        return set((self._root / "after/services").read_text().strip().split(","))

    @property
    def installations(self) -> int:
        """How often this checkout was installed, editable, in DevStack's virtual environment."""
        pips = [call for call in self.calls if call.startswith("pip install ")]
        return sum(call.endswith(" -e ROOT/opt/stack/ovs-l2pop") for call in pips)

    @property
    def calls(self) -> list[str]:
        """The commands that were run, in order, with ROOT for the test's folder."""
        calls = self._root / "calls"
        text = calls.read_text() if calls.exists() else ""
        return text.replace(str(self._root), "ROOT").splitlines()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _program(path: Path, script: str) -> None:
    _write(path, f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def _read(path: Path) -> Ini:
    ini = configparser.ConfigParser(strict=True, interpolation=None)
    ini.read_string(path.read_text())
    return {name: dict(ini[name]) for name in ini.sections()}


@pytest.fixture(params=FUNCTIONS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, FUNCTIONS[request.param])


def agent_options(host: Host, **more: str) -> Ini:
    """What the plugin writes for an agent where nobody asked for more."""
    agent = {"extensions": "ovs_l2pop", "l2_population": "True", "arp_responder": "True"}
    return {"agent": agent | more, "ovs_l2pop": {"state_path": str(host.state)}}


def test_server_and_agent_on_one_host(host: Host) -> None:
    conf = host.stack(ALL_IN_ONE + PLUGIN)
    assert host.written == agent_options(host)
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,ovs_l2pop"
    assert conf["agent"]["tunnel_types"] == "vxlan"
    assert conf["ovs"]["local_ip"] == "192.0.2.11"
    assert host.installations == 1
    assert host.after("test-config") == conf


def test_one_line_is_enough(host: Host) -> None:
    """DevStack's default is OVN, with services of its own."""
    conf = host.stack(PLUGIN)
    assert host.written == agent_options(host)
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,ovs_l2pop"
    assert conf["agent"]["tunnel_types"] == "vxlan"
    assert host.services >= {"key", "n-cpu", "q-svc", "q-agt", "q-dhcp", "q-l3", "q-meta"}
    assert not host.services & {"ovn-controller", "ovn-northd", "ovsdb-server", "q-ovn-agent"}


def test_compute_host_of_ovn_gets_the_agent_alone(host: Host) -> None:
    host.stack("ENABLED_SERVICES=n-cpu,ovn-controller,ovs-vswitchd,q-ovn-agent\n" + PLUGIN)
    assert host.written == agent_options(host)
    assert host.services == {"n-cpu", "q-agt"}


def test_chosen_services_stay(host: Host) -> None:
    host.stack("Q_AGENT=openvswitch\nENABLED_SERVICES=q-svc,q-agt,ovn-controller\n" + PLUGIN)
    assert host.services >= {"q-svc", "q-agt", "ovn-controller"}
    assert not host.services & {"q-dhcp", "q-l3", "q-meta"}


def test_server_alone(host: Host) -> None:
    conf = host.stack(SERVER + PLUGIN)
    assert host.written == {}
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,ovs_l2pop"
    assert "ovs_l2pop" not in conf
    assert "agent" not in conf
    assert host.installations == 1


def test_agent_alone(host: Host) -> None:
    host.stack(AGENT + PLUGIN)
    assert host.written == agent_options(host)
    assert host.installations == 1


def test_host_without_neutron_is_left_alone(host: Host) -> None:
    done = host.run("stack", "ENABLED_SERVICES=key,mysql\nQ_AGENT=ovn\n" + PLUGIN)
    assert done.returncode == 0, done.stderr
    assert not host.conf.exists()
    assert host.calls == []


@pytest.mark.parametrize(
    ("drivers", "expected"),
    [
        ("openvswitch,l2population", "openvswitch,ovs_l2pop"),
        ("l2population,openvswitch,sriovnicswitch", "openvswitch,sriovnicswitch,ovs_l2pop"),
        ("logger", "logger,openvswitch,ovs_l2pop"),
        ("ovs_l2pop,openvswitch", "ovs_l2pop,openvswitch"),
    ],
)
def test_mechanism_drivers_of_others_stay(host: Host, drivers: str, expected: str) -> None:
    conf = host.stack(f"{ALL_IN_ONE}Q_ML2_PLUGIN_MECHANISM_DRIVERS={drivers}\n{PLUGIN}")
    assert conf["ml2"]["mechanism_drivers"] == expected


def test_distributed_routers(host: Host) -> None:
    """There DevStack sets upstream's driver whatever local.conf says."""
    conf = host.stack(f"{ALL_IN_ONE}Q_DVR_MODE=dvr_snat\n{PLUGIN}")
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,ovs_l2pop"
    assert conf["agent"]["enable_distributed_routing"] == "True"
    assert host.written["agent"] == {"extensions": "ovs_l2pop"}


@pytest.mark.parametrize(
    ("kinds", "tunnel_types"),
    [("vxlan", "vxlan"), ("gre", "gre,vxlan"), ("geneve,vlan", "gre,vxlan,geneve")],
)
def test_tunnel_types(host: Host, kinds: str, tunnel_types: str) -> None:
    conf = host.stack(f"{ALL_IN_ONE}Q_ML2_TENANT_NETWORK_TYPE={kinds}\n{PLUGIN}")
    assert conf["agent"]["tunnel_types"] == tunnel_types


def drivers_plugin(host: Host, phase: str) -> str:
    """Another plugin, which sets the mechanism drivers in a phase before configure_neutron."""
    script = f"""
if [[ "$1 $2" == "stack {phase}" ]]; then
    Q_ML2_PLUGIN_MECHANISM_DRIVERS=openvswitch,l2population,other
fi
"""
    return host.plugin("other", script)


@pytest.mark.parametrize("phase", ["pre-install", "install"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_plugin_sets_the_drivers(host: Host, phase: str, ours_first: bool) -> None:
    other = drivers_plugin(host, phase)
    conf = host.stack(ALL_IN_ONE + (PLUGIN + other if ours_first else other + PLUGIN))
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,other,ovs_l2pop"


def test_file_without_drivers(host: Host) -> None:
    """Then the variable tells them."""
    script = """
if [[ "$1 $2" == "stack post-config" ]]; then
    sed -i "/^mechanism_drivers/d" "/$Q_PLUGIN_CONF_FILE"
fi
"""
    drivers = "Q_ML2_PLUGIN_MECHANISM_DRIVERS=openvswitch,sriovnicswitch\n"
    other = host.plugin("other", script)
    conf = host.stack(ALL_IN_ONE + drivers + other + PLUGIN)
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,sriovnicswitch,ovs_l2pop"


def test_without_a_server_its_options_are_left_alone(host: Host) -> None:
    host.stack(AGENT + PLUGIN + drivers_plugin(host, "install"))
    assert host.written == agent_options(host)


@pytest.mark.parametrize("ours_first", [True, False])
def test_neutrons_plugin_writes_the_extensions(host: Host, ours_first: bool) -> None:
    """It collects them in a variable, as DevStack does for QoS, and writes that in post-config."""
    script = """
if [[ "$1 $2" == "stack post-config" ]]; then
    L2_AGENT_EXTENSIONS+=${L2_AGENT_EXTENSIONS:+,}log
    iniset "/$NEUTRON_CORE_PLUGIN_CONF" agent extensions "$L2_AGENT_EXTENSIONS"
fi
"""
    neutron = host.plugin("neutron-plugin", script)
    services = ALL_IN_ONE.replace("q-agt", "q-agt,q-qos")
    conf = host.stack(services + (PLUGIN + neutron if ours_first else neutron + PLUGIN))
    assert sorted(conf["agent"]["extensions"].split(",")) == ["log", "ovs_l2pop", "qos"]


def test_another_plugin_wrote_an_extension(host: Host) -> None:
    script = """
if [[ "$1 $2" == "stack post-config" ]]; then
    iniset "/$Q_PLUGIN_CONF_FILE" agent extensions dhcp
fi
"""
    conf = host.stack(ALL_IN_ONE + host.plugin("other", script) + PLUGIN)
    assert conf["agent"]["extensions"] == "dhcp,ovs_l2pop"


@pytest.mark.parametrize("ours_first", [True, False])
def test_sriov_agent_does_not_get_the_extension(host: Host, ours_first: bool) -> None:
    """Neutron's plugin writes the same variable to its file in post-config, and starts it in
    extra."""
    started = host.conf.parent / "started.ini"
    script = f"""
SRIOV_AGENT_CONF={str(host.conf.parent)[1:]}/sriov_agent.ini
if [[ "$1 $2" == "stack post-config" ]]; then
    iniset "/$SRIOV_AGENT_CONF" agent extensions "qos,$L2_AGENT_EXTENSIONS"
elif [[ "$1 $2" == "stack extra" ]]; then
    cp "/$SRIOV_AGENT_CONF" {started}
fi
"""
    neutron = host.plugin("neutron-plugin", script)
    services = ALL_IN_ONE.replace("q-agt", "q-agt,q-sriov-agt")
    conf = host.stack(services + (PLUGIN + neutron if ours_first else neutron + PLUGIN))
    assert conf["agent"]["extensions"] == "ovs_l2pop"
    assert _read(started) == {"agent": {"extensions": "qos"}}


def test_options_of_the_extension(host: Host, tmp_path: Path) -> None:
    settings = (
        f"OVS_L2POP_STATE_PATH={tmp_path}/elsewhere\n"
        "OVS_L2POP_SYNC_INTERVAL=15\n"
        "OVS_L2POP_OPENVSWITCH_RUNDIR=/usr/local/var/run/openvswitch\n"
    )
    expected = {
        "state_path": f"{tmp_path}/elsewhere",
        "sync_interval": "15",
        "openvswitch_rundir": "/usr/local/var/run/openvswitch",
    }
    assert host.stack(AGENT + settings + PLUGIN)["ovs_l2pop"] == expected
    source = "".join(path.read_text() for path in (CHECKOUT / "ovs_l2pop/neutron").rglob("*.py"))
    assert expected.keys() <= set(re.findall(r'cfg\.\w+Opt\(\s*"(\w+)"', source))


def test_names_are_those_of_the_entry_points(host: Host) -> None:
    conf = host.stack(ALL_IN_ONE + PLUGIN)
    points = _read(CHECKOUT / "setup.cfg")["options.entry_points"]
    for group, names in (
        ("neutron.ml2.mechanism_drivers", conf["ml2"]["mechanism_drivers"]),
        ("neutron.agent.l2.extensions", conf["agent"]["extensions"]),
    ):
        ours = re.findall(r"^(\w+) *=", points[group], re.MULTILINE)
        assert ours == ["ovs_l2pop"]
        assert ours[0] in names.split(",")


def test_stacking_again_leaves_the_same(host: Host) -> None:
    first = host.stack(ALL_IN_ONE + PLUGIN)
    assert host.stack(ALL_IN_ONE + PLUGIN) == first


def test_post_config_twice_leaves_the_same_file(host: Host) -> None:
    host.stack(ALL_IN_ONE + PLUGIN)
    once = host.conf.read_text()
    script = """
if [[ "$1 $2" == "stack post-config" ]]; then
    source "${GITDIR[ovs-l2pop]}/devstack/plugin.sh" stack post-config
fi
"""
    host.stack(ALL_IN_ONE + PLUGIN + host.plugin("again", script))
    assert host.conf.read_text() == once


@pytest.mark.parametrize("services", [SERVER, AGENT])
def test_another_agent_is_refused(host: Host, services: str) -> None:
    done = host.run("stack", services.replace("openvswitch", "ovn") + PLUGIN)
    assert done.returncode == 1
    assert "ovs-l2pop needs Q_AGENT=openvswitch, not ovn" in done.stderr
    assert not host.conf.exists()
    assert host.installations == 0


def test_no_tunnels_is_refused(host: Host) -> None:
    done = host.run("stack", AGENT + "ENABLE_TENANT_TUNNELS=False\n" + PLUGIN)
    assert done.returncode == 1
    assert "ovs-l2pop needs tunnels" in done.stderr
    assert not host.conf.exists()


LAST_WORD = "[[post-config|/$Q_PLUGIN_CONF_FILE]]\n"


@pytest.mark.parametrize(
    ("section", "option", "expected"),
    [
        ("ml2", "mechanism_drivers = openvswitch", "openvswitch,ovs_l2pop"),
        ("ml2", "mechanism_drivers = openvswitch,l2population,ovs_l2pop", "openvswitch,ovs_l2pop"),
        ("agent", "extensions = qos", "qos,ovs_l2pop"),
    ],
)
def test_overriding_in_local_conf_is_told(
    host: Host, section: str, option: str, expected: str
) -> None:
    """These sections are merged after the plugins' post-config."""
    done = host.run("stack", ALL_IN_ONE + PLUGIN, f"{LAST_WORD}[{section}]\n{option}\n")
    assert done.returncode == 1
    assert f"ovs-l2pop needs {expected}" in done.stderr


def test_overriding_in_local_conf_may_keep_us(host: Host) -> None:
    sections = f"{LAST_WORD}[agent]\nextensions=qos, ovs_l2pop\ntunnel_types=vxlan,gre\n"
    host.stack(ALL_IN_ONE + PLUGIN, sections)
    agent = host.after("test-config")["agent"]
    assert (agent["extensions"], agent["tunnel_types"]) == ("qos, ovs_l2pop", "vxlan,gre")


def test_unstack_ends_the_agent_and_removes_its_state(host: Host) -> None:
    _write(host.state / "table.jsonl", "{}\n")
    done = host.run("unstack", AGENT + PLUGIN)
    assert done.returncode == 0, done.stderr
    stop = host.calls.index("systemctl stop devstack@q-agt.service")
    assert host.calls.index("rm -rf ROOT/opt/stack/data/neutron/ovs-l2pop") > stop
    assert not host.state.exists()
    assert host.state.parent.exists()


def test_clean_removes_the_state(host: Host) -> None:
    _write(host.state / "table.jsonl", "{}\n")
    for _ in range(2):
        done = host.run("clean", ALL_IN_ONE + PLUGIN)
        assert done.returncode == 0, done.stderr
        assert not host.state.exists()
    assert host.state.parent.exists()


@pytest.mark.parametrize("script", ["unstack", "clean"])
def test_unstack_of_an_empty_host(host: Host, script: str) -> None:
    done = host.run(script, ALL_IN_ONE + PLUGIN)
    assert done.returncode == 0, done.stderr


#: The samples, with the services of Neutron that they enable.
SAMPLES = {
    "local.conf.sample": {"q-svc", "q-agt", "q-dhcp", "q-l3", "q-meta"},
    "local.conf.controller.sample": {"q-svc", "q-agt", "q-dhcp", "q-l3", "q-meta"},
    "local.conf.compute.sample": {"q-agt"},
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples(host: Host, sample: str) -> None:
    """They stack as they are, with the line that most hosts do without."""
    text = (CHECKOUT / "devstack" / sample).read_text()
    done = host.run_local_conf("stack", text.replace("#HOST_IP=", "HOST_IP="))
    assert done.returncode == 0, done.stdout + done.stderr
    conf = host.after("test-config")
    assert conf["ml2"]["mechanism_drivers"] == "openvswitch,ovs_l2pop"
    assert conf["agent"]["extensions"] == "ovs_l2pop"
    assert conf["agent"]["tunnel_types"] == "vxlan"
    assert {name for name in host.services if name.startswith("q-")} == SAMPLES[sample]
    assert not {name for name in host.services if name.startswith("ov")}


def test_every_sample_is_tried() -> None:
    assert SAMPLES.keys() == {path.name for path in (CHECKOUT / "devstack").glob("*.sample")}


@pytest.mark.parametrize("name", ["settings", "override-defaults", "plugin.sh"])
def test_plugin_is_bash_without_an_error(name: str) -> None:
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", CHECKOUT / "devstack" / name], check=True)

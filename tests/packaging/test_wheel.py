"""The wheel is complete: in an empty virtual environment it does what the checkout does.

It is made as a release is, the sdist from the checkout and the wheel from the sdist, then installed
with its dependencies and nothing else. Everything runs from a folder outside the checkout.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# What a module may import though `pip install ovs-l2pop` does not bring it: the extras.
EXTRAS = (
    *("ryu", "neutron", "neutron_lib", "oslo_messaging", "oslo_log", "prometheus_client"),
    "sqlalchemy",
)


# What a checkout has beside its own files; .ci and .gitignore are of those.
LEFT_OUT = shutil.ignore_patterns(
    *("__pycache__", "build", "dist", "*.egg-info", ".git", ".venv*", ".tox", ".*_cache"),
    *(".hypothesis", "mutants"),
)


def run(cwd: Path, *command: str | Path) -> str:
    """The command's output; a failure shows it all."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no import finds anything in."""
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, outside: Path) -> Path:
    """The folder with sdist and wheel."""
    # Built from a copy: a build leaves build/ behind and would take up what an earlier one left.
    source = tmp_path_factory.mktemp("build") / "source"
    shutil.copytree(CHECKOUT, source, ignore=LEFT_OUT)
    run(outside, sys.executable, "-m", "build", "--outdir", source / "dist", source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(released: Path) -> Path:
    [wheel] = released.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, outside: Path, wheel: Path) -> Path:
    """The ``bin`` folder of a virtual environment with the wheel and what it requires."""
    empty = tmp_path_factory.mktemp("empty")
    run(outside, sys.executable, "-m", "venv", "--without-pip", empty)
    run(outside, sys.executable, "-m", "pip", "--python", empty, "install", wheel)
    return empty / "bin"


def expected_files() -> Iterator[str]:
    for path in (CHECKOUT / "ovs_l2pop").rglob("*.py"):
        yield str(path.relative_to(CHECKOUT))
    yield "ovs_l2pop/py.typed"
    for pattern in ("flows/*.yaml", "etc/*.sample", "etc/*.service"):
        yield from (f"ovs_l2pop/{path.relative_to(CHECKOUT)}" for path in CHECKOUT.glob(pattern))


def test_wheel_holds_every_file_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(expected_files()), "setup.cfg, packages: one line for each folder"


def test_sdist_holds_the_checkout(released: Path) -> None:
    """Whoever makes a package of it runs the tests and reads the documentation."""
    [sdist] = released.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    source = released.parent
    here = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    built = {name for name in here if name.startswith(("dist/", "build/")) or "egg-info" in name}
    assert here - built - names == {".gitignore"}, "MANIFEST.in"


def test_what_is_installed_fits_together(installed: Path, outside: Path) -> None:
    run(outside, sys.executable, "-m", "pip", "--python", installed.parent, "check")


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_commands_of_the_laboratory_say_where_they_are(command: str, installed: Path) -> None:
    done = subprocess.run([installed / "ovs-l2pop", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ovs-l2pop: {command} is of the laboratory, a distribution of its own:"
        " pip install l2pop-lab\n"
    )


def test_with_the_laboratory_its_commands_are_there(
    tmp_path: Path, wheel: Path, outside: Path
) -> None:
    """Its wheel holds what a checkout's folder does, and brings all that it needs."""
    source = tmp_path / "lab"
    shutil.copytree(CHECKOUT / "lab", source, ignore=LEFT_OUT)
    run(outside, sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source)
    (lab,) = (tmp_path / "dist").glob("*.whl")
    names = {name for name in zipfile.ZipFile(lab).namelist() if ".dist-info/" not in name}
    here = (CHECKOUT / "lab" / "l2pop_lab").rglob("*")
    files = {path for path in here if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(CHECKOUT / "lab")) for path in files}
    run(outside, sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty")
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "empty")
    run(outside, *pip, "install", wheel, lab)
    for command in ("demo", "compare"):
        usage = run(outside, tmp_path / "empty" / "bin" / "ovs-l2pop", command, "--help")
        assert usage.startswith(f"usage: ovs-l2pop {command}")


def test_requirements_are_complete(installed: Path, outside: Path) -> None:
    """Every module can be imported, save for those of an extra; every entry point exists."""
    script = f"""
import importlib, importlib.metadata, pkgutil, ovs_l2pop
missing = []
def of_an_extra(error):
    return isinstance(error, ModuleNotFoundError) and error.name.partition(".")[0] in {EXTRAS!r}
for module in pkgutil.walk_packages(ovs_l2pop.__path__, "ovs_l2pop."):
    if module.name.endswith(".__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if not of_an_extra(error):
            missing.append(f"{{module.name}}: {{error}}")
for entry_point in importlib.metadata.distribution("ovs-l2pop").entry_points:
    try:
        entry_point.load()
    except Exception as error:
        if not of_an_extra(error):
            missing.append(f"{{entry_point}}: {{error!r}}")
print("\\n".join(missing), end="")
"""
    assert run(outside, installed / "python", "-c", script) == ""


@pytest.mark.parametrize("name", ["flows", "etc"])
def test_data_files_are_those_of_the_checkout(name: str, installed: Path, outside: Path) -> None:
    script = f"""
import json
from ovs_l2pop import resources
folder = resources.{name}()
files = {{path.name: path.read_text() for path in folder.iterdir() if path.is_file()}}
print(json.dumps([str(folder), files]))
"""
    wheel_folder, wheel_files = json.loads(run(outside, installed / "python", "-c", script))
    here_folder, here_files = json.loads(run(outside, sys.executable, "-c", script))
    assert Path(wheel_folder).is_relative_to(installed.parent)
    assert Path(here_folder) == CHECKOUT / name
    assert wheel_files == here_files
    assert wheel_files


def test_pipeline_is_that_of_the_checkout(installed: Path, outside: Path) -> None:
    of_wheel = run(outside, installed / "ovs-l2pop", "pipeline", "-f", "json")
    of_checkout = run(outside, Path(sys.executable).parent / "ovs-l2pop", "pipeline", "-f", "json")
    assert json.loads(of_wheel) == json.loads(of_checkout)
    assert json.loads(of_wheel)

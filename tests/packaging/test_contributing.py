"""The worked examples of ``doc/contributing.md``, applied to a copy of the tree and run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

TREE = Path(__file__).resolve().parents[2]
#: What the examples touch, and what their tests need.
PARTS = ("ovs_l2pop", "flows", "lab", "tests", "setup.cfg", "pyproject.toml")
_BLOCK = re.compile(r"^```(diff|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    title: str
    patch: str
    commands: list[str]


def examples() -> list[Example]:
    """The sections that have something to run."""
    found = []
    for section in (TREE / "doc" / "contributing.md").read_text().split("\n## ")[1:]:
        blocks = _BLOCK.findall(section)
        patch = "".join(text for kind, text in blocks if kind == "diff")
        console = "".join(text for kind, text in blocks if kind == "console")
        if commands := re.findall(r"^\$ (.*)$", console, re.MULTILINE):
            found.append(Example(section.partition("\n")[0], patch, commands))
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for part in PARTS:
        if (TREE / part).is_dir():
            shutil.copytree(TREE / part, copy / part, ignore=ignored)
        else:
            shutil.copy(TREE / part, copy / part)
    return copy


def run(tree: Path, command: str, given: str = "") -> None:
    paths = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tree}:{tree / 'lab'}",
    }
    done = subprocess.run(
        *(command,), shell=True, cwd=tree, input=given, env=os.environ | paths,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"


def test_every_example_is_found() -> None:
    titles = [example.title for example in EXAMPLES]
    assert titles == ["A flow", "A message", "A fact", "A listing", "A backend"]


def test_examples_work_one_after_the_other(tree: Path) -> None:
    for example in EXAMPLES:
        if example.patch:
            run(tree, "patch --strip=1 --fuzz=0", example.patch)
        for command in example.commands:
            run(tree, command)
    run(tree, "ruff check --quiet --no-cache && ruff format --check --quiet --no-cache")

"""``ovs-l2pop compare`` as far as it goes without hosts."""

import io
import subprocess
import sys

import pytest

from l2pop_lab.cli.compare import Progress
from ovs_l2pop.cli.main import main

LATE = ("jinja2", "matplotlib", "numpy")


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module",
    ["cli.compare", "compare.run", "compare.results", "compare.words"],
)
def test_the_reports_libraries_are_loaded_by_nobody_else(module: str) -> None:
    done = run(f"import sys, l2pop_lab.{module}; print([n for n in {LATE!r} if n in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("module", ["streams", "results", "words"])
def test_what_is_pure_does_nothing_to_the_system(module: str) -> None:
    done = run(
        f"import sys, l2pop_lab.compare.{module};"
        "print([n for n in ('subprocess', 'socket', 'threading') if n in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["compare", "--quick"]) == 1
    assert "compare needs root: it makes network namespaces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--entries", "0"], "--entries 0: must be 1 to 200000"),
        (["--vteps", "500"], "--vteps 500: must be 1 to 240"),
        (["--report", "/"], "--report /: is a directory"),
        (["--report", "/nowhere/file"], "--report /nowhere/file: can't be written there"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"ovs-l2pop: {message}\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    with progress:
        progress.total(2)
        progress.start("the first")
        progress.detail("round 1 of 2")
        progress.start("the second")


def test_progress_is_one_line_each() -> None:
    stream = io.StringIO()
    work(Progress(stream))
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" s   1 of 2  the first")
    assert second.endswith(" s   2 of 2  the second")


def test_progress_on_a_terminal_is_one_line_that_changes() -> None:
    stream = Terminal()
    work(Progress(stream))
    shown = stream.getvalue()
    assert "\n" not in shown
    assert "the first: round 1 of 2" in shown
    assert not shown.rstrip("\r").rpartition("\r")[2].strip(), "nothing stays"


def test_long_steps_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "SILENCE", -1.0)
    stream = io.StringIO()
    work(Progress(stream))
    assert "the first: round 1 of 2\n" in stream.getvalue()


def test_quiet() -> None:
    work(Progress(None))

"""``ovs-l2pop compare`` as far as it goes without hosts."""

import io
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_told_of_before_any_work(library: str, tmp_path: Path) -> None:
    done = run(
        "import importlib.util, os, sys\n"
        "found = importlib.util.find_spec\n"
        "def find_spec(name, *more):\n"
        f"    return None if name == {library!r} else found(name, *more)\n"
        "importlib.util.find_spec = find_spec\n"
        "os.geteuid = lambda: 1000\n"  # so that it would end with another error
        "from ovs_l2pop.cli.main import main\n"
        f"sys.exit(main(['compare', '--report', {str(tmp_path / 'r.html')!r}]))"
    )
    assert (done.returncode, done.stdout) == (1, "")
    wanted = f"ovs-l2pop: --report needs {library}: pip install 'ovs-l2pop[compare]'\n"
    assert done.stderr == wanted


def test_without_a_report_the_libraries_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2pop_lab.cli.compare.find_spec", lambda name: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["compare"]) == 1


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
    assert shown.endswith("\r\x1b[K")


def test_long_steps_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "SILENCE", -1.0)
    stream = io.StringIO()
    work(Progress(stream))
    assert "the first: round 1 of 2\n" in stream.getvalue()


def test_quiet() -> None:
    work(Progress(None))

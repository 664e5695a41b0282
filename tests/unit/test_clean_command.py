"""``ovs-l2pop clean`` asks."""

import io
from collections import Counter

import pytest

from ovs_l2pop.cli.app import Main
from ovs_l2pop.cli.clean import Clean
from ovs_l2pop.core.errors import CommandError


class Person(io.StringIO):
    def isatty(self) -> bool:
        return True


def asked(stdin: io.StringIO) -> str:
    app = Main()
    app.stdin, app.stderr = stdin, io.StringIO()
    Clean(app, None)._ask(Counter(flow=3, tunnel=1))
    return str(app.stderr.getvalue())


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_a_person_says_yes(answer: str) -> None:
    assert "Remove 3 flow, 1 tunnel? [y/N]" in asked(Person(answer))


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yesterday\n"])
def test_all_else_is_no(answer: str) -> None:
    with pytest.raises(CommandError, match="nothing was removed"):
        asked(Person(answer))


def test_a_pipe_is_no_person() -> None:
    with pytest.raises(CommandError, match="--yes"):
        asked(io.StringIO("y\n"))


@pytest.mark.parametrize("words", [["cl"], ["show", "ent"], ["che"], ["clean", "--dry"]])
def test_nothing_is_taken_for_what_begins_so(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = Main().run(words)
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2

"""What can go wrong, as exceptions with one base.

A refused *entry* is not an exception but a :class:`ovs_l2pop.core.messages.Refusal`: the good
entries beside it still apply.
"""

#: Characters of a text that libraries and others give us, and that goes on to people.
_MAX_TEXT = 500


def brief(text: object, limit: int = _MAX_TEXT) -> str:
    """A text on one line, with its middle left out where it is long.

    Others' texts may hold all that they were about: an OVSDB transaction that timed out, megabytes.
    """
    whole = str(text)
    if len(whole) > 20 * limit:
        whole = whole[: 10 * limit] + whole[-10 * limit :]
    words = " ".join(whole.split())
    if len(words) <= limit:
        return words
    return f"{words[: limit * 2 // 3]} … {words[len(words) - limit // 3 + 3 :]}"


def first_line(error: BaseException) -> str:
    """The first line of an exception: RPC's carry the server's traceback."""
    text = str(error).strip()
    return brief(text.splitlines()[0], 300) if text else type(error).__name__


class L2popError(Exception):
    """Base of every error that this package raises; its text is fit for an operator."""

    def __str__(self) -> str:
        return brief(super().__str__())


class ConfigError(L2popError):
    """The configuration can't be used; the text names the option."""


class PipelineError(L2popError):
    """A file of ``flows/`` can't be used; the text names file, table or template, and reason."""


class BackendError(L2popError):
    """The dataplane can't be reached or refused the whole operation; worth another try."""


class ControlError(L2popError):
    """The agent's control socket can't be reached or answered with an error."""


class CommandError(L2popError):
    """A command is not carried out; the text says what it wants."""

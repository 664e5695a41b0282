"""What can go wrong, as exceptions with one base.

A refused *entry* is not an exception but a :class:`ovs_l2pop.messages.Refusal`: the good entries
beside it still apply.
"""


class L2popError(Exception):
    """Base of every error that this package raises; its text is fit for an operator."""


class ConfigError(L2popError):
    """The configuration can't be used; the text names the option."""


class PipelineError(L2popError):
    """A file of ``flows/`` can't be used; the text names file, table or template, and reason."""


class BackendError(L2popError):
    """The dataplane can't be reached or refused the whole operation; worth another try."""


class ControlError(L2popError):
    """The agent's control socket can't be reached or answered with an error."""

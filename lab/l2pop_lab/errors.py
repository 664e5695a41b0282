"""The one exception of the laboratory."""

from ovs_l2pop.core.errors import L2popError


class LabError(L2popError):
    """A part of the laboratory didn't come up, or a command in it failed; the text says which."""

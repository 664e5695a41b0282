"""Which backend: an entry point of the group ``ovs_l2pop.backends``."""

from typing import Any

from stevedore.driver import DriverManager
from stevedore.exception import NoMatches

from ovs_l2pop.core.backend import Backend
from ovs_l2pop.core.errors import ConfigError


def load(conf: Any) -> Backend:
    """The backend that ``[ovs_l2pop] backend`` names, made from its options.

    :raises ConfigError: there is none of that name.
    """
    name = conf.ovs_l2pop.backend
    try:
        kind: Any = DriverManager("ovs_l2pop.backends", name).driver
    except NoMatches as error:
        raise ConfigError(f"[ovs_l2pop] backend {name} is not installed") from error
    backend: Backend = kind.from_config(conf)
    return backend

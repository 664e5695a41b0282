"""Where the data files lie: the pipeline (``flows/``) and the configuration samples (``etc/``).

In a checkout, and in an editable install of one, they lie at its top, where an operator looks for
them; a wheel carries them inside the package (``package_dir`` in ``setup.cfg``).
"""

from pathlib import Path

from ovs_l2pop.core.errors import L2popError

_PACKAGE = Path(__file__).resolve().parent


def flows() -> Path:
    """The folder of the pipeline's declaration, ``*.yaml``."""
    return _folder("flows")


def etc() -> Path:
    """The folder of the configuration samples, ``*.sample``."""
    return _folder("etc")


def _folder(name: str) -> Path:
    packaged = _PACKAGE / name
    if packaged.is_dir():
        return packaged
    checkout = _PACKAGE.parent
    # In site-packages another distribution's top-level "flows" could lie beside us.
    if (checkout / "setup.cfg").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise L2popError(
        f"the folder {name}/ is neither in {_PACKAGE} nor in a checkout around it: "
        "the installation is incomplete, install ovs-l2pop again"
    )

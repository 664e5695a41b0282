"""Where Neutron is installed."""

import os
from dataclasses import dataclass
from pathlib import Path

from l2pop_lab.topology import LabError

CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Installation:
    """A virtual environment with Neutron, PyMySQL, pyuwsgi and (for our tests) this package."""

    prefix: Path

    @classmethod
    def find(cls) -> "Installation":
        """Return ``$NEUTRON_VENV``, or else ``.venv-neutron`` of the checkout.

        :raises LabError: if there is no Neutron in it.
        """
        prefix = Path(os.environ.get("NEUTRON_VENV") or CHECKOUT / ".venv-neutron")
        installation = cls(prefix.absolute())
        installation.program("neutron-openvswitch-agent")
        return installation

    def program(self, name: str) -> str:
        """Return the path of a program of the environment.

        :raises LabError: if it has no such program.
        """
        path = self.prefix / "bin" / name
        if not path.exists():
            raise LabError(f"there is no {path}: run `make venv-neutron` or set NEUTRON_VENV")
        return str(path)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment variables for its programs."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "OS_", "VIRTUAL_ENV"))
        }
        path = f"{self.prefix / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return inherited | {"PATH": path, "PYTHONUNBUFFERED": "1"} | more

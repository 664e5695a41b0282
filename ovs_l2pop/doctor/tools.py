"""Programs that are run, none for longer than it is waited for."""

import json
import subprocess
from typing import Any

from ovs_l2pop.core.errors import L2popError

#: Seconds for a program. A switch of 100,000 flows lists them in one or two.
PATIENCE = 10.0


class UnseenError(L2popError):
    """Something can't be looked at."""


def run(*argv: str, timeout: float = PATIENCE) -> str:
    """What a program prints.

    :raises UnseenError: it isn't there, fails, or takes longer.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise UnseenError(f"{argv[0]}: no answer in {timeout:g} s") from None
    except OSError as error:
        raise UnseenError(f"{argv[0]}: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise UnseenError(f"{argv[0]}: {said[-1]}")
    return done.stdout


def listed(*argv: str) -> list[dict[str, Any]]:
    """What a program of iproute2 prints as JSON.

    :raises UnseenError: as :func:`run`.
    """
    try:
        found = json.loads(run(*argv) or "[]")
    except ValueError as error:
        raise UnseenError(f"{argv[0]}: {error}") from error
    return [entry for entry in found if entry]

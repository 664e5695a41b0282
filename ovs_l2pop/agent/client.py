"""The other side of the control socket (:mod:`ovs_l2pop.agent.control`)."""

import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovs_l2pop.core.errors import ControlError


def ask(path: Path, request: dict[str, Any], messages: Iterable[bytes] = ()) -> dict[str, Any]:
    """Send a request, and behind it messages, to the agent; its answer.

    :raises ControlError: no agent answers, or it answers with an error.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError as error:
            raise ControlError(
                f"no agent answers at {path}: {error.strerror or error}."
                " Is it running? --socket picks another one"
            ) from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            for chunk in messages:
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: connection.recv(1 << 20), b""))
            answer = json.loads(data)
        except (OSError, ValueError) as error:
            raise ControlError(f"the agent at {path} went away: {error}") from error
    if not isinstance(answer, dict):
        raise ControlError(f"the agent at {path} gave no answer")
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    return answer

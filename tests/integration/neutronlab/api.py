"""Neutron's REST API, over a unix socket, with nothing but the standard library."""

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from l2pop_lab.topology import LabError

Resource = dict[str, Any]

REQUEST_TIMEOUT = 120.0
"""Seconds; a request on an idle machine takes 0.05 to 0.5."""


class ApiError(LabError):
    """The API refused a request."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: {status} {text}")
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("neutron", timeout=REQUEST_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class NeutronApi:
    """Requests as an administrator; safe to use from several threads."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Resource:
        """Send one request below ``/v2.0`` and return the answer's body.

        :raises ApiError: on any status but 2xx.
        :raises OSError: if nobody listens.
        """
        connection = _UnixConnection(self._socket_path)
        try:
            # With auth_strategy = noauth, who names no project is the administrator of one that
            # Neutron makes up. Port bindings want the role that Nova has.
            headers = {"Accept": "application/json", "X-Roles": "service"}
            text = None
            if body is not None:
                headers["Content-Type"] = "application/json"
                text = json.dumps(body)
            connection.request(method, f"/v2.0{path}", text, headers)
            response = connection.getresponse()
            answer = response.read().decode()
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise ApiError(method, path, response.status, answer)
        return cast(Resource, json.loads(answer)) if answer else {}

    def answers(self) -> bool:
        """Tell whether the server is up."""
        try:
            self.request("GET", "/networks")
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True

    # Collections are named as in the URL, "port-bindings" never: "networks", "subnets", "ports".

    def create(self, collection: str, **attributes: Any) -> Resource:
        """Create one resource."""
        kind = _singular(collection)
        answer = self.request("POST", f"/{collection}", {kind: attributes})
        return cast(Resource, answer[kind])

    def create_many(
        self, collection: str, attributes: Sequence[Mapping[str, Any]]
    ) -> Sequence[Resource]:
        """Create several resources of a kind in one request ("bulk")."""
        answer = self.request("POST", f"/{collection}", {_key(collection): list(attributes)})
        return cast(Sequence[Resource], answer[_key(collection)])

    def get(self, collection: str, id: str) -> Resource:  # noqa: A002
        """Read one resource."""
        answer = self.request("GET", f"/{collection}/{id}")
        return cast(Resource, answer[_singular(collection)])

    def list(self, collection: str, **filters: Any) -> Sequence[Resource]:
        """Read all resources of a kind that have these attributes."""
        query = f"?{urlencode(filters, doseq=True)}" if filters else ""
        answer = self.request("GET", f"/{collection}{query}")
        return cast(Sequence[Resource], answer[_key(collection)])

    def update(self, collection: str, id: str, **attributes: Any) -> Resource:  # noqa: A002
        """Change attributes of one resource."""
        kind = _singular(collection)
        answer = self.request("PUT", f"/{collection}/{id}", {kind: attributes})
        return cast(Resource, answer[kind])

    def delete(self, collection: str, id: str) -> None:  # noqa: A002
        """Delete one resource."""
        self.request("DELETE", f"/{collection}/{id}")

    # What Nova does around a live migration, see the API reference, "Port bindings".

    def add_binding(self, port: str, host: str) -> Resource:
        """Give a port a second, inactive binding on the host it is to move to."""
        wanted = {"host": host, "vnic_type": "normal"}
        answer = self.request("POST", f"/ports/{port}/bindings", {"binding": wanted})
        return cast(Resource, answer["binding"])

    def activate_binding(self, port: str, host: str) -> None:
        """Make the binding on *host* the active one, and the other one inactive."""
        self.request("PUT", f"/ports/{port}/bindings/{host}/activate")

    def delete_binding(self, port: str, host: str) -> None:
        """Delete the binding on a host."""
        self.request("DELETE", f"/ports/{port}/bindings/{host}")

    def bindings(self, port: str) -> Sequence[Resource]:
        """Return all bindings of a port."""
        answer = self.request("GET", f"/ports/{port}/bindings")
        return cast(Sequence[Resource], answer["bindings"])


def _key(collection: str) -> str:
    return collection.rpartition("/")[2].replace("-", "_")


def _singular(collection: str) -> str:
    key = _key(collection)
    return key.removesuffix("ies") + "y" if key.endswith("ies") else key.removesuffix("s")

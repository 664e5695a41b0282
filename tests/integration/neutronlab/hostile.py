"""A Neutron server that lies, and a network that loses, repeats and reorders; run as a program.

    python -m neutronlab.hostile <transport URL>

Standard input is a line of JSON a command, answered by a line when it is done:

    {"truth": {network id: {"type", "segment", "ports": {key: [revision, vtep, pairs, allowed]}}}}
    {"vteps": {host: vtep}}
    {"cast": host, "update": {…}}      an ``update_ports`` as it would be cast; nothing is lost here
    {"deaf": true}                     answers no question until it is told false
"""

import bisect
import json
import sys
import threading
from typing import Any

import oslo_messaging
from oslo_config import cfg

from ovs_l2pop.core.messages import Segment
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, PortState

#: Ports in a chunk; few, so that answers come in several.
CHUNK = 7


class Server:
    """Serves ``sync`` from a truth that somebody else tells."""

    target = oslo_messaging.Target(version=protocol.VERSION)

    def __init__(self) -> None:
        self.truth: dict[str, Any] = {}
        self.vteps: dict[str, str] = {}
        self.deaf = False
        self.lock = threading.Lock()

    def sync(
        self, context: Any, host: str, networks: dict[str, str], cursor: Any = None
    ) -> dict[str, Any]:
        """What differs from these digests, one chunk a call."""
        if self.deaf:
            raise RuntimeError("the database is away")
        with self.lock:
            return self._answer(self.vteps[host], networks, cursor).to_wire()

    def _answer(self, own: str, networks: dict[str, str], cursor: Any) -> Answer:
        here = [n for n in sorted(networks) if self._has(n, own)]
        gone = tuple(sorted(set(networks) - set(here))) if cursor is None else ()
        for network_id in here:
            if cursor is not None and network_id < cursor[0]:
                continue
            after = cursor[1] if cursor is not None and cursor[0] == network_id else ""
            network = self.truth[network_id]
            segment = Segment(network["type"], network["segment"])
            ports = [PortState(key, *_port(port)) for key, port in sorted(network["ports"].items())]
            others = [port for port in ports if port.vtep != own]
            digest = protocol.digest(segment, sum(port.content() for port in others))
            if not after and digest == networks[network_id]:
                continue
            left = others[bisect.bisect_right([port.key for port in others], after) :]
            taken = tuple(left[:CHUNK])
            until = taken[-1].key if len(taken) < len(left) else None
            follows = (network_id, until) if until is not None else self._next(here, network_id)
            chunk = Chunk(network_id, segment, after, until, taken)
            return Answer(0.0, gone, (chunk,), follows)
        return Answer(0.0, gone, (), None)

    def _has(self, network_id: str, vtep: str) -> bool:
        ports = self.truth.get(network_id, {}).get("ports", {})
        return any(port[1] == vtep for port in ports.values())

    @staticmethod
    def _next(here: list[str], network_id: str) -> tuple[str, str] | None:
        later = [other for other in here if other > network_id]
        return (later[0], "") if later else None


def _port(port: list[Any]) -> tuple[int, str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    revision, vtep, pairs, allowed = port
    return revision, vtep, tuple((mac, ip) for mac, ip in pairs), tuple(allowed)


def main(url: str) -> None:
    """Serve until standard input ends."""
    oslo_messaging.set_transport_defaults("neutron")
    cfg.CONF([], project="hostile")
    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url)
    server = Server()
    target = oslo_messaging.Target(topic=protocol.SERVER_TOPIC, server="hostile")
    listener = oslo_messaging.get_rpc_server(transport, target, [server])
    listener.start()
    client = oslo_messaging.get_rpc_client(
        transport, oslo_messaging.Target(topic=protocol.AGENT_TOPIC, version=protocol.VERSION)
    )
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        with server.lock:
            server.truth = command.get("truth", server.truth)
            server.vteps = command.get("vteps", server.vteps)
            server.deaf = command.get("deaf", server.deaf)
        problem = ""
        if "cast" in command:
            to = client.prepare(server=command["cast"], fanout=False, retry=0)
            try:
                to.cast({}, "update_ports", **command["update"])
            except oslo_messaging.MessagingException as error:
                problem = str(error)  # the broker is away: lost like any other
        print(json.dumps({"done": True, "problem": problem}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

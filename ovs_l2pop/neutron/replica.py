"""A host's copy of what the server told it, as messages for the forwarding table.

Pure. The agent puts in what arrives and passes on what comes out, which has upstream's form
(:mod:`ovs_l2pop.messages`): one way into the table for all senders.

The server states where ports are (:mod:`ovs_l2pop.neutron.protocol`); a forwarding table wants
entries and flooding VTEPs. So each state is taken as a set of *claims*, and a claim that nobody
made before is added, one that nobody makes any more is removed::

    (FLOODING_MAC, FLOODING_IP, vtep)      a port is behind the VTEP
    (mac, ip, vtep)                        a machine is

Others may fill the table too: this replica's process before a restart, upstream's messages, an
operator. :meth:`Replica.held` says what the table holds. In a network that the server serves for
this host, the server's word is complete: what it doesn't know goes with the next sync, whoever told
it. A network in which the server knows no port of this host is left to the others.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from ovs_l2pop.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    AddEntries,
    Parser,
    Segment,
)
from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import Answer, Chunk, Cursor, PortState, Update

#: Seconds for which it is remembered that a port was heard of, or is gone: longer than any message
#: may be under way (Neutron's ``rpc_response_timeout`` is 60).
_MEMORY = 600.0

Claim = tuple[str, str, str]  #: (MAC, IP, VTEP)
Message = dict[str, Any]  #: of upstream's form, with its method


class _Network:
    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.ports: dict[str, PortState] = {}
        self.contents = 0
        #: When a key was last heard of in an update, and what was heard if it is gone.
        self.heard: dict[str, tuple[float, PortState]] = {}
        self.claims: Counter[Claim] = Counter()
        #: IP → how many ports may use it besides their own.
        self.allowed: Counter[str] = Counter()
        #: Claims of an IP: it may be one that nobody shall answer for.
        self.by_ip: dict[str, set[Claim]] = {}
        #: What the forwarding table was told.
        self.told: set[Claim] = set()
        #: What it holds besides, and what it lacks of what it was told.
        self.strange: set[Claim] = set()
        self.lost: set[Claim] = set()


class Replica:
    """Ports of the networks that this host uses.

    :param own_vtep: states of ports behind it are left out, here as in the server's digests.
    """

    def __init__(self, own_vtep: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._own_vtep = own_vtep
        self._clock = clock
        self._parser = Parser(own_vtep)
        self._networks: dict[str, _Network] = {}
        #: VTEPs that broadcast isn't copied to.
        self._dead: frozenset[str] = frozenset()

    @property
    def network_ids(self) -> set[str]:
        """Networks that this host uses."""
        return set(self._networks)

    def use(self, network_id: str) -> bool:
        """This host has a port in the network.

        :returns: whether it is new: nothing is known of it before a :meth:`synced`.
        """
        new = network_id not in self._networks
        self._networks.setdefault(network_id, _Network())
        return new

    def held(self, network_id: str, segment: Segment, claims: Iterable[Claim]) -> None:
        """The table holds these claims; where it was not this replica that told them, or where it
        told others, the next sync says which stand.

        :param segment: the network's as far as this host knows.
        """
        network = self._networks.setdefault(network_id, _Network())
        if network.segment is None:
            network.segment = segment
        held = {claim for claim in claims if claim[2] != self._own_vtep}
        network.strange = held - network.told
        network.lost = network.told - held
        if network.lost:  # the table does not hold what it refuses, and never will
            network.lost &= self._acceptable(network_id, segment, network.lost)
            network.told -= network.lost

    def drop(self, network_id: str, *, all_of_it: bool = True) -> list[Message]:
        """This host has no port in the network any more.

        :param all_of_it: take away what the table holds of it, whoever told it.
        """
        network = self._networks.pop(network_id, None)
        if network is None or network.segment is None:
            return []
        gone = network.told | network.strange if all_of_it else network.told
        return _messages(network_id, network.segment, set(), gone)

    def digests(self) -> dict[str, str]:
        """``networks`` of the next ``sync``."""
        return {
            network_id: protocol.UNKNOWN
            if network.segment is None or network.strange or network.lost
            else protocol.digest(network.segment, network.contents)
            for network_id, network in self._networks.items()
        }

    def updated(self, update: Update) -> list[Message]:
        """An ``update_ports`` came."""
        network = self._networks.get(update.network_id)
        if network is None or network.segment not in (None, update.segment):
            return []  # the network may have several segments; a sync says which is this host's
        now = self._clock()
        touched: set[Claim] = set()
        for state in update.ports:
            if self._newer(network, state):
                touched |= self._set(network, state)
                network.heard[state.key] = now, state
        for key in [k for k, (at, _) in network.heard.items() if at < now - _MEMORY]:
            del network.heard[key]
        return self._tell(update.network_id, network, update.segment, touched)

    def synced(
        self, answer: Answer, asked_at: float, *, all_of_it: bool = True
    ) -> tuple[list[Message], Cursor | None]:
        """An answer to ``sync`` came.

        :param asked_at: this replica's clock before the call was made.
        :param all_of_it: as in :meth:`drop`, of networks in which this host has no port.
        :returns: messages for the table, and the cursor to go on with.
        """
        messages = self._bury(frozenset(map(_canonical, answer.dead)))
        for chunk in answer.chunks:
            messages += self._replace(chunk, asked_at - answer.age)
        for network_id in answer.gone:
            messages += self.drop(network_id, all_of_it=all_of_it)
        return messages, answer.cursor

    def _bury(self, dead: frozenset[str]) -> list[Message]:
        """These VTEPs are dead, and no others."""
        changed, self._dead = self._dead ^ dead, dead
        claims = {(FLOODING_MAC, FLOODING_IP, vtep) for vtep in changed}
        return [
            message
            for network_id, network in self._networks.items()
            if network.segment is not None
            for message in self._tell(
                network_id, network, network.segment, claims & network.claims.keys()
            )
        ]

    def _replace(self, chunk: Chunk, as_of: float) -> list[Message]:
        network = self._networks.get(chunk.network_id)
        if network is None:
            return []
        touched: set[Claim] = set()
        named = set()
        for state in chunk.ports:
            named.add(state.key)
            if self._newer(network, state, as_of):
                touched |= self._set(network, state)
        for key in list(network.ports):
            if key in named or not _within(key, chunk):
                continue
            at, _ = network.heard.get(key, (as_of, None))
            if at <= as_of:
                touched |= self._set(network, PortState(key, 0, None))
        if chunk.until is None:
            touched |= network.strange | network.lost
            network.told |= network.strange
            network.strange, network.lost = set(), set()
        return self._tell(chunk.network_id, network, chunk.segment, touched)

    def _acceptable(self, network_id: str, segment: Segment, claims: set[Claim]) -> set[Claim]:
        """Those that the table would take."""
        found: set[Claim] = set()
        for message in _messages(network_id, segment, claims, set()):
            for change in self._parser.parse(message)[0]:
                assert isinstance(change, AddEntries)
                found.update(change.entries)
                if change.flooding:
                    found.add((FLOODING_MAC, FLOODING_IP, change.vtep))
        return found

    def _newer(self, network: _Network, state: PortState, as_of: float | None = None) -> bool:
        """
        :param as_of: when an answer of the server was made. It also settles what has changed
            without the port, and so without its revision: the VTEP of a whole host.
        """
        at, heard = network.heard.get(state.key, (float("-inf"), None))
        known = network.ports.get(state.key, heard)
        if known is None or state.order > known.order:
            return True
        return as_of is not None and at <= as_of and state.revision == known.revision

    def _set(self, network: _Network, state: PortState) -> set[Claim]:
        """Take over a state; the claims that may have come or gone with it."""
        touched: set[Claim] = set()
        for known, sign in ((network.ports.pop(state.key, None), -1), (state, 1)):
            if known is None or known.vtep in (None, self._own_vtep):
                continue
            network.contents += sign * known.content()
            claims = _claims(known)
            for claim in claims:
                network.claims[claim] += sign
                touched.add(claim)
                network.by_ip.setdefault(claim[1], set()).add(claim)
            own = {ip for _, ip, _ in claims}
            for ip in map(_canonical, known.allowed):
                if ip not in own:
                    network.allowed[ip] += sign
                    touched |= network.by_ip.get(ip, set())
        if state.vtep is not None:
            network.ports[state.key] = state
        return touched

    def _tell(
        self, network_id: str, network: _Network, segment: Segment, touched: Iterable[Claim]
    ) -> list[Message]:
        messages = []
        if network.segment not in (None, segment):
            touched = set(network.claims)
            messages += _messages(network_id, segment, set(), network.told)
            network.told.clear()
        network.segment = segment
        added, removed = set(), set()
        for claim in touched:
            if claim[0] == FLOODING_MAC:
                excepted = claim[2] in self._dead
            else:
                excepted = network.allowed[claim[1]] > 0
            wanted = network.claims[claim] > 0 and not excepted
            if wanted and claim in network.strange:
                network.strange.remove(claim)
                network.told.add(claim)
            elif wanted and claim not in network.told:
                added.add(claim)
            elif not wanted and claim in network.told:
                removed.add(claim)
            if not network.claims[claim]:
                del network.claims[claim]
                claims = network.by_ip.get(claim[1], set())
                claims.discard(claim)
                if not claims:
                    network.by_ip.pop(claim[1], None)
        network.told |= added
        network.told -= removed
        return messages + _messages(network_id, segment, added, removed)


def _claims(state: PortState) -> set[Claim]:
    """In the table's notation, or what it holds could not be compared with what it was told."""
    assert state.vtep is not None
    vtep = _canonical(state.vtep)
    claims = {(mac.lower().replace("-", ":"), _canonical(ip), vtep) for mac, ip in state.entries}
    claims.add((FLOODING_MAC, FLOODING_IP, vtep))
    return claims


def _canonical(address: str) -> str:
    """What is no address stays as it is, and will be refused by that name."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _within(key: str, chunk: Chunk) -> bool:
    return key > chunk.after and (chunk.until is None or key <= chunk.until)


def _messages(
    network_id: str, segment: Segment, added: set[Claim], removed: set[Claim]
) -> list[Message]:
    """Adds first: a machine that moved must not be nowhere in between."""
    return [
        {
            "method": method,
            "fdb_entries": {
                network_id: {
                    "network_type": segment.network_type,
                    "segment_id": segment.segment_id,
                    "ports": _by_vtep(claims),
                }
            },
        }
        for method, claims in (("add_fdb_entries", added), ("remove_fdb_entries", removed))
        if claims
    ]


def _by_vtep(claims: Iterable[Claim]) -> Mapping[str, list[list[str]]]:
    ports: dict[str, list[list[str]]] = {}
    for mac, ip, vtep in sorted(claims, key=lambda claim: (claim[2], claim[0], claim[1])):
        ports.setdefault(vtep, []).append([mac, ip])
    return ports

"""A host's copy of what the server told it, as changes of the forwarding table.

Pure. The agent puts in what arrives and passes on what comes out.

The server states where ports are (:mod:`ovs_l2pop.sync.protocol`); a forwarding table wants
entries and flooding VTEPs. So each state is taken as a set of *claims*, and a claim that nobody
made before is added, one that nobody makes any more is removed::

    (FLOODING_MAC, FLOODING_IP, vtep)      a port is behind the VTEP, which is another host's
    (mac, ip, vtep)                        a machine is

Others may fill the table too: this replica's process before a restart, upstream's messages, an
operator. :meth:`Replica.held` says what the table holds. In a network that the server serves for
this host, the server's word is complete: what it doesn't know goes with the next sync, whoever told
it. A network in which the server knows no port of this host is left to the others.

An update obeys the order of revisions, an answer to ``sync`` settles what stands, whatever that
order says: what was heard before the answer was made is in it, or is not so.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

from ovs_l2pop.core.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    AddEntries,
    Change,
    Entry,
    InvalidError,
    Owners,
    Properties,
    Refusal,
    RemoveEntries,
    Segment,
    check_vtep,
    entry,
)
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import Answer, Chunk, Cursor, PortState, Update

#: Seconds for which it is remembered that a port was heard of, or is gone: longer than any message
#: may be under way (Neutron's ``rpc_response_timeout`` is 60).
_MEMORY = 600.0

#: Seconds after which an update is no longer one that another overtook. Is its revision lower than
#: what has been known for so long, then that is doubtful: a database may have gone back in time.
_OVERTAKEN = 10.0

Claim = tuple[str, str, str]  #: (MAC, IP, VTEP)


class _Copy:
    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.ports: dict[str, PortState] = {}
        #: Sums of contents: of ports elsewhere, of ports at this host.
        self.contents = 0
        self.own_contents = 0
        #: When this host was last said to have a port here; None: only what is left tells of it.
        self.used_at: float | None = None
        #: Whether the server knows a port of this host here; None: it has not said.
        self.served: bool | None = None
        #: When a key was last heard of in an update, and what was heard if it is gone.
        self.heard: dict[str, tuple[float, PortState]] = {}
        self.claims: Counter[Claim] = Counter()
        #: IP → how many ports may use it besides their own.
        self.allowed: Counter[str] = Counter()
        #: Claims that are of routers, and those of which the table was told so.
        self.routers: Counter[Claim] = Counter()
        self.told_routers: set[Claim] = set()
        #: Claims of an IP: it may be one that nobody shall answer for.
        self.by_ip: dict[str, set[Claim]] = {}
        #: What the forwarding table was told.
        self.told: set[Claim] = set()
        #: What it holds besides, and what it lacks of what it was told.
        self.strange: set[Claim] = set()
        self.lost: set[Claim] = set()


class Replica:
    """Ports of the networks that this host uses.

    Which those are others say (:meth:`use`, :meth:`drop`); no answer of the server changes that.

    :param own_vtep: this host's.
    """

    def __init__(self, own_vtep: str, clock: Callable[[], float] = time.monotonic) -> None:
        #: Whether answers are of this host's own ports too (protocol 1.1). If not, they say nothing
        #: of those.
        self.with_own = True
        self._own_vtep = _canonical(own_vtep)
        self._clock = clock
        self._networks: dict[str, _Copy] = {}
        #: VTEPs that broadcast isn't copied to.
        self._dead: frozenset[str] = frozenset()
        self._doubtful = False
        #: What can't be taken into a table.
        self._refusals: list[Refusal] = []

    @property
    def network_ids(self) -> set[str]:
        """Networks that this host uses."""
        return set(self._networks)

    def use(self, network_id: str) -> bool:
        """This host has a port in the network.

        :returns: whether nothing is known of it before a :meth:`synced`: it is new, or the server
            knew no port of this host when it last answered.
        """
        new = network_id not in self._networks
        network = self._networks.setdefault(network_id, _Copy())
        network.used_at = self._clock()
        if network.served is False:
            new, network.served = True, None
        return new

    def has(self, network_id: str) -> bool:
        """Whether the network is one of this host's. Safe to ask from any thread."""
        return network_id in self._networks

    def unserved(self, network_id: str) -> bool:
        """Whether the network is not in use, or the server knew no port of this host in it."""
        network = self._networks.get(network_id)
        return network is None or network.served is False

    def held(self, network_id: str, segment: Segment, claims: Iterable[Claim]) -> None:
        """The table holds these claims; where it was not this replica that told them, or where it
        told others, the next sync says which stand.

        :param segment: the network's as far as this host knows.
        """
        network = self._networks.setdefault(network_id, _Copy())
        if network.segment is None:
            network.segment = segment
        own = self._own_vtep
        held = {claim for claim in claims if claim[2] != own or claim[0] != FLOODING_MAC}
        network.strange = held - network.told
        if not self.with_own:
            network.strange = {claim for claim in network.strange if claim[2] != own}
        network.lost = network.told - held
        network.told -= network.lost

    def drop(self, network_id: str, *, all_of_it: bool = True) -> list[Change]:
        """This host has no port in the network any more.

        :param all_of_it: take away what the table holds of it, whoever told it.
        """
        network = self._networks.pop(network_id, None)
        if network is None or network.segment is None:
            return []
        gone = network.told | network.strange if all_of_it else network.told
        return _changes(network_id, network.segment, set(), gone)

    def digests(self) -> dict[str, str]:
        """``networks`` of the next ``sync``."""
        return {
            network_id: protocol.UNKNOWN
            if network.segment is None or not network.served or network.strange or network.lost
            else protocol.digest(
                network.segment,
                network.contents + (network.own_contents if self.with_own else 0),
            )
            for network_id, network in self._networks.items()
        }

    def updated(self, update: Update) -> list[Change]:
        """An ``update_ports`` came."""
        network = self._networks.get(update.network_id)
        if network is None or network.segment not in (None, update.segment):
            return []  # the network may have several segments; a sync says which is this host's
        now = self._clock()
        touched: set[Claim] = set()
        for state in update.ports:
            if self._newer(network, state, now):
                touched |= self._set(network, state)
                network.heard[state.key] = now, state
        for key in [k for k, (at, _) in network.heard.items() if at < now - _MEMORY]:
            del network.heard[key]
        return self._tell(update.network_id, network, update.segment, touched)

    def take_refusals(self) -> list[Refusal]:
        """What could not be taken in since the last call."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def take_doubt(self) -> bool:
        """Whether an update since the last call leaves in doubt what stands: time to ask."""
        doubtful, self._doubtful = self._doubtful, False
        return doubtful

    def synced(
        self, answer: Answer, asked_at: float, *, all_of_it: bool = True
    ) -> tuple[list[Change], Cursor | None]:
        """An answer to ``sync`` came.

        :param asked_at: this replica's clock before the call was made.
        :param all_of_it: as in :meth:`drop`, of networks in which the server knows no port of this
            host. Those that nobody said in this life to be in use are dropped.
        :returns: changes of the table, and the cursor to go on with.
        """
        changes = self._bury(frozenset(map(_canonical, answer.dead)))
        for chunk in answer.chunks:
            changes += self._replace(chunk, asked_at - answer.age)
        for network_id in answer.gone:
            changes += self._gone(network_id, asked_at, all_of_it)
        return changes, answer.cursor

    def _gone(self, network_id: str, asked_at: float, all_of_it: bool) -> list[Change]:
        """The server knows no port of this host in the network."""
        network = self._networks.get(network_id)
        if network is None or (network.used_at is not None and network.used_at > asked_at):
            return []  # not in use, or since then only
        changes = self.drop(network_id, all_of_it=all_of_it)
        if network.used_at is not None:
            again = self._networks[network_id] = _Copy()
            again.segment, again.used_at, again.served = network.segment, network.used_at, False
        return changes

    def _bury(self, dead: frozenset[str]) -> list[Change]:
        """These VTEPs are dead, and no others."""
        changed, self._dead = self._dead ^ dead, dead
        claims = {(FLOODING_MAC, FLOODING_IP, vtep) for vtep in changed}
        return [
            change
            for network_id, network in self._networks.items()
            if network.segment is not None
            for change in self._tell(
                network_id, network, network.segment, claims & network.claims.keys()
            )
        ]

    def _replace(self, chunk: Chunk, as_of: float) -> list[Change]:
        network = self._networks.get(chunk.network_id)
        if network is None:
            return []
        touched: set[Claim] = set()
        named: dict[str, PortState] = {}
        for state in chunk.ports:
            if _within(state.key, chunk) and named.get(state.key, state).order <= state.order:
                named[state.key] = state
        # A port that the chunk leaves out is gone.
        left_out = () if chunk.refused else network.ports.keys() - named.keys()
        for key in left_out:
            if _within(key, chunk) and (self.with_own or not self._is_own(network.ports[key])):
                named[key] = PortState(key, -1, None)
        for key, state in named.items():
            at, heard = network.heard.get(key, (as_of, None))
            if at <= as_of:
                network.heard.pop(key, None)
            elif state.order <= network.ports.get(key, heard or state).order:
                continue
            touched |= self._set(network, state)
        if chunk.until is None and not chunk.refused:
            network.served = True
            touched |= network.strange | network.lost
            network.told |= network.strange
            network.strange, network.lost = set(), set()
        return self._tell(chunk.network_id, network, chunk.segment, touched)

    def _newer(self, network: _Copy, state: PortState, now: float) -> bool:
        """Whether a state of an update stands against what is known."""
        at, heard = network.heard.get(state.key, (float("-inf"), None))
        known = network.ports.get(state.key, heard)
        if known is None or state.order > known.order:
            return True
        if state[2:] == known[2:]:
            return False
        # A host has another VTEP, or its agent's row is back, and its ports are as they were.
        equal = state.revision == known.revision
        self._doubtful = self._doubtful or equal or at < now - _OVERTAKEN
        return equal and known.vtep is not None

    def _is_own(self, state: PortState) -> bool:
        return state.vtep is not None and _canonical(state.vtep) == self._own_vtep

    def _set(self, network: _Copy, state: PortState) -> set[Claim]:
        """Take over a state; the claims that may have come or gone with it."""
        touched: set[Claim] = set()
        for known, sign in ((network.ports.pop(state.key, None), -1), (state, 1)):
            if known is None or known.vtep is None:
                continue
            claims = self._claims(known, told=sign > 0)
            if self._is_own(known):
                network.own_contents += sign * known.content()
                claims.discard((FLOODING_MAC, FLOODING_IP, self._own_vtep))
            else:
                network.contents += sign * known.content()
            for claim in self._routers(known, claims):
                network.routers[claim] += sign
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

    def _claims(self, state: PortState, told: bool) -> set[Claim]:
        """In the table's notation, or what it holds could not be compared with what it was told.

        :param told: note what is refused.
        """
        assert state.vtep is not None
        vtep = _canonical(state.vtep)
        where = f"port {state.key}, VTEP {vtep}"
        refusals: list[Refusal] = []
        claims: set[Claim] = set()
        try:
            claims.add((FLOODING_MAC, FLOODING_IP, check_vtep(vtep, self._own_vtep)))
            for mac, ip in dict.fromkeys((*state.entries, *state.routers)):
                try:
                    claims.add(entry(mac, ip, vtep))
                except InvalidError as error:
                    refusals.append(error.at(where))
        except InvalidError as error:
            refusals.append(error.at(where))
        self._refusals += refusals if told else ()
        return claims

    @staticmethod
    def _routers(state: PortState, claims: set[Claim]) -> set[Claim]:
        """Those of a port's claims that are of a router."""
        routers = {(mac.lower(), _canonical(ip)) for mac, ip in state.routers}
        return {claim for claim in claims if claim[:2] in routers} if routers else set()

    def _tell(
        self, network_id: str, network: _Copy, segment: Segment, touched: Iterable[Claim]
    ) -> list[Change]:
        changes = []
        if network.segment not in (None, segment):
            touched = set(network.claims)
            changes += _changes(network_id, segment, set(), network.told)
            network.told.clear()
        network.segment = segment
        added, removed = set(), set()
        for claim in touched:
            if claim[0] == FLOODING_MAC:
                excepted = claim[2] in self._dead
            else:
                # Nobody answers for a machine of this host, whoever else may have its address.
                excepted = network.allowed[claim[1]] > 0 and claim[2] != self._own_vtep
            wanted = network.claims[claim] > 0 and not excepted
            router = network.routers[claim] > 0
            if wanted and claim in network.strange:
                network.strange.remove(claim)
                network.told.add(claim)
                if router:
                    added.add(claim)  # whether it was told of that as well isn't known
            elif wanted and (
                claim not in network.told or router is not (claim in network.told_routers)
            ):
                added.add(claim)
            elif not wanted and claim in network.told:
                removed.add(claim)
            if not router:
                network.routers.pop(claim, None)
            if not network.claims[claim]:
                del network.claims[claim]
                claims = network.by_ip.get(claim[1], set())
                claims.discard(claim)
                if not claims:
                    network.by_ip.pop(claim[1], None)
        routers = {claim for claim in added if network.routers[claim] > 0}
        plain = added & network.told_routers - routers
        network.told_routers = (network.told_routers - added - removed) | routers
        network.told |= added
        network.told -= removed
        owners = {claim[:2]: Properties(router=True) for claim in routers}
        owners |= {claim[:2]: Properties() for claim in plain}
        return changes + _changes(network_id, segment, added, removed, owners)


def _canonical(address: str) -> str:
    """What is no address stays as it is, and will be refused by that name."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _within(key: str, chunk: Chunk) -> bool:
    return key > chunk.after and (chunk.until is None or key <= chunk.until)


def _changes(
    network_id: str,
    segment: Segment,
    added: set[Claim],
    removed: set[Claim],
    owners: Owners | None = None,
) -> list[Change]:
    """Adds first: a machine that moved must not be nowhere in between."""
    return [
        *(
            AddEntries(network_id, segment, vtep, entries, flooding, None, _of(entries, owners))
            for vtep, entries, flooding in _by_vtep(added)
        ),
        *(
            RemoveEntries(network_id, vtep, entries, flooding)
            for vtep, entries, flooding in _by_vtep(removed)
        ),
    ]


def _of(entries: list[Entry], owners: Owners | None) -> Owners | None:
    """What is to be told of these."""
    return {e[:2]: owners[e[:2]] for e in entries if e[:2] in owners} or None if owners else None


def _by_vtep(claims: set[Claim]) -> Iterator[tuple[str, list[Entry], bool]]:
    ordered = sorted(claims, key=lambda claim: (claim[2], claim[0], claim[1]))
    for vtep, group in itertools.groupby(ordered, key=lambda claim: claim[2]):
        mine = list(group)
        entries = [Entry(*claim) for claim in mine if claim[0] != FLOODING_MAC]
        yield vtep, entries, len(entries) < len(mine)

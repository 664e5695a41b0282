"""The forwarding table: what should be, whatever order it was told in.

Entries are kept by (network, MAC, IP, VTEP) and flooding VTEPs by network, for networks on this
host and for others alike: an attachment may come after the entries it needs. A remove takes away
exactly the entry that it names, so the late "gone from the old host" of a migration can't touch
the entry of the new one.

Two VTEPs may claim one MAC (a migration whose remove has not come yet), two MACs one IP (an address
given to a new machine). The newest claim wins and the others wait; when the winner is removed the
newest of those left takes over. Only a claim that is sticky doesn't give way, and where that is
asked for, an address that two claim in turn is held where it was (RFC 7432 §15). What is resolved
this way is a *fact*, the only thing that backends see.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ovs_l2pop.core.flaps import Flap, Flaps
from ovs_l2pop.core.messages import (
    FLOODING_IP,
    FLOODING_MAC,
    AddEntries,
    Attachment,
    Change,
    Detach,
    Entry,
    Owners,
    Properties,
    Refusal,
    RemoveEntries,
    Segment,
)
from ovs_l2pop.core.revisions import Revisions
from ovs_l2pop.core.wire import add, to_message


class NetworkFact(NamedTuple):
    """The network is on this host."""

    attachment: Attachment
    #: Remote VTEPs of the network are known (a :class:`VtepFact` each): what comes from any other
    #: is a stranger's. As long as none is, nothing says who may be one.
    closed: bool = False


class VtepFact(NamedTuple):
    """This remote VTEP has an entry or a flooding entry in the network: a tunnel is needed."""

    attachment: Attachment
    vtep: str


class FloodFact(NamedTuple):
    """BUM traffic of the network is copied to these remote VTEPs; never empty, sorted."""

    attachment: Attachment
    vteps: tuple[str, ...]


class UnicastFact(NamedTuple):
    """Frames to this MAC go to this remote VTEP."""

    attachment: Attachment
    mac: str
    vtep: str


class LocalFact(NamedTuple):
    """This MAC was announced to be behind an address of this host: it is nowhere else."""

    attachment: Attachment
    mac: str


class NeighbourFact(NamedTuple):
    """Who asks for this IP is told this MAC, which is behind a remote VTEP."""

    attachment: Attachment
    ip: str
    mac: str
    #: Flags of advertisements: :class:`.messages.Properties`.
    router: bool = False
    override: bool = True


class LocalNeighbourFact(NamedTuple):
    """Who has this IP is at this host: it answers for itself, and nobody elsewhere needs to be
    asked."""

    attachment: Attachment
    ip: str
    mac: str


Fact = (
    NetworkFact
    | VtepFact
    | FloodFact
    | UnicastFact
    | LocalFact
    | NeighbourFact
    | LocalNeighbourFact
)

#: Kinds of facts. Where a machine is here, what is of kind ``UNICAST`` is a :class:`LocalFact`, and
#: of kind ``NEIGHBOUR`` a :class:`LocalNeighbourFact`.
NETWORK, VTEP, FLOOD, UNICAST, NEIGHBOUR = "network", "vtep", "flood", "unicast", "neighbour"

#: Names a fact, also while it does not hold: its kind, the network's id, and the VTEP, MAC or IP
#: that it is about. There are two for every entry: a plain tuple of strings, which the garbage
#: collector needn't look at again (with a class in it, a bulk message takes a third longer).
Key = tuple[str, str, str]


@dataclass(slots=True)
class _Vtep:
    """What one VTEP has announced in one network."""

    #: The segment it announced last. A network of several segments has VTEPs that this host's
    #: segment doesn't reach; a VTEP known from an address change alone has told none.
    segment: Segment | None = None
    flooding: bool = False
    entries: int = 0


#: Those who claim a MAC or an IP, the newest last. Nearly always one, which then stands alone:
#: a dict for each would be most of the table's memory.
_Claims = Entry | dict[Entry, None]


class _KnownNetwork:
    """What is known of one network. Dicts of entries are in the order of claims, newest last."""

    __slots__ = ("attachment", "entries", "held", "ips", "macs", "properties", "vteps")

    def __init__(self) -> None:
        self.attachment: Attachment | None = None
        self.entries: dict[Entry, None] = {}
        self.macs: dict[str, _Claims] = {}
        self.ips: dict[str, _Claims] = {}
        self.vteps: dict[str, _Vtep] = {}
        #: Of entries of which something is to be told.
        self.properties: dict[Entry, Properties] = {}
        #: MAC or IP that two claim in turn → the VTEP where it stays until that ends.
        self.held: dict[str, str] = {}

    def reaches(self, vtep: str, attachment: Attachment) -> bool:
        """Whether this VTEP is known, in the segment that this host is attached to."""
        known = self.vteps.get(vtep)
        return known is not None and (known.segment is None or known.segment == attachment.segment)

    def winner(self, claims: _Claims | None, address: str, attachment: Attachment) -> Entry | None:
        """The newest claim of an address by a VTEP that can be reached; before that the one that is
        sticky, or held."""
        if isinstance(claims, Entry):
            segment = self.vteps[claims.vtep].segment
            return claims if segment is None or segment == attachment.segment else None
        reached = [entry for entry in claims or () if self.reaches(entry.vtep, attachment)]
        if not reached:
            return None
        for entry in reached if self.properties else ():
            if entry in self.properties and self.properties[entry].sticky:
                return entry
        held = self.held.get(address)
        return next((e for e in reversed(reached) if e.vtep == held), reached[-1])

    def owners(self, entries: Iterable[Entry]) -> Owners | None:
        """The properties of those of which something is to be told."""
        known = self.properties
        return {e[:2]: known[e] for e in entries if e in known} or None if known else None

    def contested(self) -> Iterator[Entry]:
        """Entries that stand in an order with others: several claim an IP that their MAC claims, or
        several VTEPs their MAC. In the order of claims."""
        macs = {
            mac
            for mac, claims in self.macs.items()
            if not isinstance(claims, Entry) and len({entry.vtep for entry in claims}) > 1
        }
        for claims in self.ips.values():
            if not isinstance(claims, Entry):
                macs.update(entry.mac for entry in claims)
        if macs:
            yield from (entry for entry in self.entries if entry.mac in macs)

    def copy(self) -> "_KnownNetwork":
        """As far as :meth:`ForwardingTable.messages` needs it."""
        copy = _KnownNetwork()
        copy.attachment = self.attachment
        copy.entries = self.entries.copy()
        copy.macs, copy.ips = _copied(self.macs), _copied(self.ips)
        copy.vteps = {v: _Vtep(k.segment, k.flooding, k.entries) for v, k in self.vteps.items()}
        copy.properties = self.properties.copy()
        return copy

    def newest(self, entry: Entry) -> bool:
        """Whether nobody has claimed the entry's MAC or IP after it."""
        return _newest(self.macs[entry.mac]) == entry and _newest(self.ips[entry.ip]) == entry


_NOTHING = _KnownNetwork()


def _copied(index: dict[str, _Claims]) -> dict[str, _Claims]:
    copy = index.copy()
    for address, claims in index.items():
        if type(claims) is dict:
            copy[address] = claims.copy()
    return copy


def _newest(claims: _Claims) -> Entry:
    return claims if isinstance(claims, Entry) else next(reversed(claims))


def _claim(index: dict[str, _Claims], address: str, entry: Entry) -> None:
    claims = index.get(address)
    if claims is None:
        index[address] = entry
    elif isinstance(claims, Entry):
        index[address] = {claims: None, entry: None}
    else:
        claims[entry] = None


def _release(index: dict[str, _Claims], address: str, entry: Entry) -> None:
    claims = index[address]
    if isinstance(claims, Entry):
        del index[address]
        return
    del claims[entry]
    if len(claims) == 1:
        (index[address],) = claims


class Claim(NamedTuple):
    """That a machine is behind a VTEP, as somebody claims."""

    network_id: str
    entry: Entry
    wins_mac: bool  #: frames to the MAC go there
    wins_ip: bool  #: questions for the IP are answered with its MAC


class EntryState(NamedTuple):
    """An entry as an operator sees it."""

    network_id: str
    entry: Entry
    #: "active", "waiting" (a newer claim has its MAC and its IP), "local" (at this host),
    #: "other segment", or "not attached"
    state: str


class Limits(NamedTuple):
    """How much a table takes; beyond, a sender is refused by name and what is there stays."""

    vteps: int = 5_000  #: remote VTEPs in all, for each of which there may be a tunnel
    networks: int = 20_000
    entries: int = 1_000_000  #: 1.3 kB each


#: Entries in one message, of those that build a table again.
_PORTION = 1000

#: Claims that one message takes back and that are looked at for moves: more are no machine's.
_MAX_LEFT = 100


class ForwardingTable:
    """What every VTEP has been announced to hold, and which networks this host has.

    Pure: it knows no backend. :meth:`apply` notes what may have changed; :meth:`take_dirty` hands
    that over and :meth:`facts` tells what holds now.

    :param local_ip: this host's VTEP.
    :param holds: an address that two claim in turn stays where it was; else the newest claim wins
        in any case.
    """

    def __init__(self, local_ip: str, limits: Limits | None = None, *, holds: bool = False) -> None:
        self._holds_moving = holds
        self.local_ip = local_ip
        self.flaps = Flaps()
        self._limits = limits or Limits()
        self._revisions = Revisions()
        #: VTEP → networks that it is known in.
        self._vteps: Counter[str] = Counter()
        #: VTEPs that get no floods.
        self.dead: frozenset[str] = frozenset()
        self._count = 0  # of entries
        #: All addresses of this host: what is behind any of them is here.
        self.own = frozenset({local_ip})
        self._networks: dict[str, _KnownNetwork] = {}
        #: Which network holds a local VLAN or a segment.
        self._holders: dict[int | Segment, str] = {}
        self._dirty: dict[Key, None] = {}
        #: (network, address) that are held.
        self._held: set[tuple[str, str]] = set()

    def apply(self, change: Change) -> Refusal | None:
        """Take one change; what it can't hold is refused and leaves it as it was."""
        match change:
            case AddEntries():
                self._add(change)
            case RemoveEntries():
                self._remove(change)
            case Attachment():
                return self._attach(change)
            case Detach():
                self._detach(change.network_id)
        return None

    def admit(self, change: Change) -> tuple[Change | None, list[Refusal]]:
        """What of a change is to be applied: what is older than what is known is not, nor what
        there is no room for."""
        refused: list[Refusal] = []
        if isinstance(change, AddEntries | RemoveEntries) and change.revision is not None:
            change = self._without_stale(change, refused)
        if isinstance(change, AddEntries | Attachment):
            where = "attach_network" if isinstance(change, Attachment) else "add_fdb_entries"
            network_id = change.network_id
            if network_id not in self._networks and len(self._networks) >= self._limits.networks:
                reason = f"max_networks ({self._limits.networks}) others are known"
                return None, [*refused, Refusal(where, f"network {network_id}", reason)]
        if isinstance(change, AddEntries):
            change = self._without_excess(change, refused)
        if isinstance(change, AddEntries | RemoveEntries) and refused:
            return (change if change.entries or change.flooding else None), refused
        return change, refused

    def _without_stale(
        self, change: AddEntries | RemoveEntries, refused: list[Refusal]
    ) -> AddEntries | RemoveEntries:
        network_id, vtep, revision = change.network_id, change.vtep, change.revision
        assert revision is not None
        adding = isinstance(change, AddEntries)

        def fresh(entry: Entry) -> bool:
            known = self._revisions.newer(network_id, entry, revision, adding=adding)
            if known is not None:
                where = f"{'add' if adding else 'remove'}_fdb_entries of network {network_id}"
                offender = f"{entry.mac} {entry.ip} at VTEP {vtep}"
                reason = f"stale: revision {revision}, known is {known}"
                refused.append(Refusal(where, offender, reason))
            return known is None

        entries = list(filter(fresh, change.entries))
        flooding = change.flooding and fresh(Entry(FLOODING_MAC, FLOODING_IP, vtep))
        return change._replace(entries=entries, flooding=flooding) if refused else change

    def _without_excess(self, change: AddEntries, refused: list[Refusal]) -> AddEntries:
        limits, vtep, where = self._limits, change.vtep, f"network {change.network_id}"
        known = len(self._vteps) - sum(own in self._vteps for own in self.own)
        if vtep not in self._vteps and vtep not in self.own and known >= limits.vteps:
            reason = f"max_vteps ({limits.vteps}) others are known"
            refused.append(Refusal(f"add_fdb_entries of {where}", f"VTEP {vtep}", reason))
            return change._replace(entries=[], flooding=False)
        room = limits.entries - self._count
        if len(change.entries) <= room:
            return change
        there = self._networks.get(change.network_id, _NOTHING).entries
        new = [entry for entry in change.entries if entry not in there][room:]
        if not new:
            return change
        reason = f"no room for these {len(new)}: max_entries ({limits.entries}) are known"
        refused.append(Refusal(f"add_fdb_entries of {where}", f"{new[0].mac} at {vtep} …", reason))
        beyond = set(new)
        return change._replace(entries=[one for one in change.entries if one not in beyond])

    def set_own(self, addresses: Iterable[str]) -> None:
        """This host has these addresses, in canonical notation, besides :attr:`local_ip`."""
        before, self.own = self.own, frozenset({self.local_ip, *addresses})
        changed = before ^ self.own
        for network_id, network in self._networks.items():
            if not changed.isdisjoint(network.vteps):
                self._touch(network_id)

    def peers(self) -> list[str]:
        """All VTEPs that are known but this host's."""
        return [vtep for vtep in self._vteps if vtep not in self.own]

    def set_dead(self, vteps: frozenset[str]) -> bool:
        """These VTEPs get no floods; whether that is new."""
        changed = self.dead ^ vteps
        self.dead = vteps
        for network_id, network in self._networks.items() if changed else ():
            if not changed.isdisjoint(network.vteps):
                self._dirty[(FLOOD, network_id, "")] = None
        return bool(changed)

    def take_dirty(self) -> dict[Key, None]:
        """Keys whose fact may differ from what it was at the last call, each once."""
        dirty, self._dirty = self._dirty, {}
        return dirty

    def keys(self) -> Iterator[Key]:
        """The key of every fact that holds or could."""
        for network_id in self._networks:
            yield from self._keys(network_id)

    def facts(self, keys: Iterable[Key]) -> Iterator[tuple[Key, Fact | None]]:
        """What holds now for each key; None where nothing is to be done on this host."""
        network_id, network, attachment = None, None, None
        own = self.own
        for key in keys:
            kind, of, address = key
            if of is not network_id:
                network_id = of
                network = self._networks.get(network_id)
                attachment = None if network is None else network.attachment
            fact: Fact | None = None
            if network is None or attachment is None:
                pass
            elif kind == UNICAST:
                entry = network.winner(network.macs.get(address), address, attachment)
                if entry is not None:
                    mac, _, vtep = entry
                    here = vtep in own
                    fact = (
                        LocalFact(attachment, mac) if here else UnicastFact(attachment, mac, vtep)
                    )
            elif kind == NEIGHBOUR:
                entry = network.winner(network.ips.get(address), address, attachment)
                if entry is None:
                    pass
                elif entry.vtep in own:
                    fact = LocalNeighbourFact(attachment, address, entry.mac)
                elif entry in network.properties:
                    router, override, _ = network.properties[entry]
                    fact = NeighbourFact(attachment, address, entry.mac, router, override)
                else:
                    fact = NeighbourFact(attachment, address, entry.mac)
            else:
                fact = self._network_fact(key, network, attachment)
            yield key, fact

    def hold(self) -> tuple[list[Flap], bool]:
        """Addresses that two claim in turn stay where they were, until they have been quiet, if
        that is asked for.

        :returns: those that began to move too often since the last call, and whether facts may
            differ for it.
        """
        began = self.flaps.news()
        if not self._holds_moving:
            return began, False
        held = {(flap.network_id, flap.address) for flap in self.flaps.current()}
        for flap in began:
            if (network := self._networks.get(flap.network_id)) is not None:
                network.held[flap.address] = flap.old
                self._dirty_address(flap.network_id, flap.address)
                self._held.add((flap.network_id, flap.address))
        ended = self._held - held
        for network_id, address in ended:
            if (network := self._networks.get(network_id)) is not None:
                network.held.pop(address, None)
                self._dirty_address(network_id, address)
        self._held -= ended
        return began, bool(began or ended)

    def _dirty_address(self, network_id: str, address: str) -> None:
        kind = UNICAST if _is_mac(address) else NEIGHBOUR
        self._dirty[kind, network_id, address] = None

    def machine(self, local_vlan: int, mac: str) -> Fact | None:
        """What holds of a MAC in a local VLAN: where it is, if it was announced."""
        network_id = self._holders.get(local_vlan)
        if network_id is None:
            return None
        ((_, fact),) = self.facts([(UNICAST, network_id, mac)])
        return fact

    def _network_fact(
        self, key: Key, network: _KnownNetwork, attachment: Attachment
    ) -> Fact | None:
        """A fact that is not about one entry."""
        kind, _, vtep = key
        if kind == VTEP:
            if not self._is_peer(network, vtep, attachment):
                return None
            return VtepFact(attachment, vtep)
        if kind == FLOOD:
            vteps = [
                vtep
                for vtep, known in network.vteps.items()
                if known.flooding
                and vtep not in self.dead
                and self._is_peer(network, vtep, attachment)
            ]
            return FloodFact(attachment, tuple(sorted(vteps))) if vteps else None
        closed = any(self._is_peer(network, vtep, attachment) for vtep in network.vteps)
        return NetworkFact(attachment, closed)

    def _is_peer(self, network: _KnownNetwork, vtep: str, attachment: Attachment) -> bool:
        return vtep not in self.own and network.reaches(vtep, attachment)

    def attachments(self) -> Iterator[Attachment]:
        for network in self._networks.values():
            if network.attachment is not None:
                yield network.attachment

    def network_ids(self) -> Iterable[str]:
        return self._networks.keys()

    def attachment(self, network_id: str) -> Attachment | None:
        network = self._networks.get(network_id)
        return None if network is None else network.attachment

    def vteps(self, network_id: str) -> Iterator[tuple[str, bool, int]]:
        """(VTEP, flooding or not, number of entries) of a network, this host's own among them."""
        for vtep, known in self._networks[network_id].vteps.items():
            yield vtep, known.flooding, known.entries

    def announced(self, network_id: str) -> set[Entry]:
        """All that was announced of a network, flooding entries in the form that messages have."""
        network = self._networks[network_id]
        flooding = (vtep for vtep, known in network.vteps.items() if known.flooding)
        return {*network.entries, *(Entry(FLOODING_MAC, FLOODING_IP, vtep) for vtep in flooding)}

    def entries(self, network_id: str) -> Iterator[EntryState]:
        """The network's entries in the order of their claims."""
        network = self._networks[network_id]
        attachment = network.attachment
        for entry in network.entries:
            if attachment is None:
                state = "not attached"
            elif not network.reaches(entry.vtep, attachment):
                state = "other segment"
            elif entry.vtep in self.own:
                state = "local"
            elif entry in (
                network.winner(network.macs[entry.mac], entry.mac, attachment),
                network.winner(network.ips[entry.ip], entry.ip, attachment),
            ):
                state = "active"
            else:
                state = "waiting"
            yield EntryState(network_id, entry, state)

    def claims(self, address: str) -> Iterator[Claim]:
        """Who claims a MAC or an IP in which network, the oldest first."""
        for network_id, network in self._networks.items():
            found = network.macs.get(address) or network.ips.get(address) or ()
            here = network.attachment
            for entry in [found] if isinstance(found, Entry) else list(found):
                mac, ip = (
                    here is not None and network.winner(claims, of, here) == entry
                    for claims, of in (
                        (network.macs[entry.mac], entry.mac),
                        (network.ips[entry.ip], entry.ip),
                    )
                )
                yield Claim(network_id, entry, mac, ip)

    def messages(self) -> Iterator[dict[str, object]]:
        """Messages that build an equal table, few of them, claims of one address in their order."""
        # Those of claims made again without a number come first, or they would take these away; the
        # others last, or older claims that hold would be stale.
        yield from map(to_message, self._revisions.messages(self._holds))
        for network_id, network in self._networks.items():
            if network.attachment is not None:
                yield to_message(network.attachment)
            in_turn = dict.fromkeys(network.contested())
            yield from self._announcements(network_id, network, in_turn)
            for vtep, entries in _runs(in_turn):
                segment = network.vteps[vtep].segment
                for revision, some in self._by_revision(network_id, entries):
                    owners = network.owners(some)
                    change = AddEntries(network_id, segment, vtep, some, False, revision, owners)
                    yield to_message(change)
        gone = self._revisions.messages(lambda *claim: not self._holds(*claim))
        yield from map(to_message, gone)

    def frozen(self) -> "ForwardingTable":
        """A copy that stays as this is now, to take :meth:`messages` from in another thread.

        Made in a tenth of the time that they take.
        """
        copy = ForwardingTable(self.local_ip, self._limits)
        copy._revisions = self._revisions.copy()
        copy._networks = {known_id: known.copy() for known_id, known in self._networks.items()}
        return copy

    @property
    def size(self) -> int:
        """Entries, and networks."""
        return self._count + len(self._networks)

    def _announcements(
        self, network_id: str, network: _KnownNetwork, in_turn: dict[Entry, None]
    ) -> Iterator[dict[str, object]]:
        """What each VTEP of a network announces, all that is of one segment and revision together.

        :param in_turn: what can't be told so; takes that of which no segment is known.
        """
        groups: dict[tuple[Segment, int | None], dict[str, list[Entry]]] = {}
        numbered = bool(self._revisions)
        for vtep, known in network.vteps.items():
            if not known.flooding:
                continue
            entry = _flooding(vtep)
            revision = self._revisions.of(network_id, entry) if numbered else None
            if known.segment is None:
                yield to_message(AddEntries(network_id, None, vtep, [], True, revision))
            else:
                groups.setdefault((known.segment, revision), {})[vtep] = [entry]
        for entry in network.entries:
            if entry in in_turn:
                continue
            segment = network.vteps[entry.vtep].segment
            if segment is None:
                in_turn[entry] = None
                continue
            revision = self._revisions.of(network_id, entry) if numbered else None
            groups.setdefault((segment, revision), {}).setdefault(entry.vtep, []).append(entry)
        for (segment, revision), by_vtep in groups.items():
            for ports in _portions(by_vtep):
                owners = network.owners(itertools.chain.from_iterable(ports.values()))
                pairs = {vtep: [[mac, ip] for mac, ip, _ in some] for vtep, some in ports.items()}
                yield add(network_id, segment, pairs, revision, owners)

    def _holds(self, network_id: str, entry: Entry) -> bool:
        network = self._networks.get(network_id)
        if network is None:
            return False
        if entry.mac != FLOODING_MAC:
            return entry in network.entries
        return (known := network.vteps.get(entry.vtep)) is not None and known.flooding

    def _by_revision(
        self, network_id: str, entries: list[Entry]
    ) -> Iterator[tuple[int | None, list[Entry]]]:
        """Runs of one revision."""
        if not self._revisions:
            yield None, entries
            return
        runs = itertools.groupby(entries, lambda entry: self._revisions.of(network_id, entry))
        for revision, run in runs:
            yield revision, list(run)

    def _keys(self, network_id: str) -> Iterator[Key]:
        network = self._networks[network_id]
        # VTEPs first: a network that is closed to others must have let them in.
        for vtep in network.vteps:
            yield (VTEP, network_id, vtep)
        yield (NETWORK, network_id, "")
        yield (FLOOD, network_id, "")
        for mac in network.macs:
            yield (UNICAST, network_id, mac)
        for ip in network.ips:
            yield (NEIGHBOUR, network_id, ip)

    def _touch(self, network_id: str) -> None:
        """Everything of the network may have changed."""
        self._dirty.update(dict.fromkeys(self._keys(network_id)))

    def _add(self, change: AddEntries) -> None:
        network_id, segment, vtep, entries, flooding, revision, owners = change
        if not entries and not flooding:
            return
        network = self._networks.setdefault(network_id, _KnownNetwork())
        if (known := network.vteps.get(vtep)) is None:
            known = network.vteps[vtep] = _Vtep()
            self._vteps[vtep] += 1
            self._vtep_changed(network_id, vtep)
        if segment is not None and known.segment != segment:
            known.segment = segment
            if known.entries or known.flooding:
                self._touch(network_id)
        if flooding and not known.flooding:
            known.flooding = True
            self._dirty[(FLOOD, network_id, "")] = None
        if revision is not None:
            self._number(change)
        all_entries, macs, ips, dirty = network.entries, network.macs, network.ips, self._dirty
        before = len(all_entries)
        for entry in entries:
            mac, ip, _ = entry
            if entry in all_entries:
                if network.newest(entry):
                    continue
                # Said again: the claim is renewed.
                del all_entries[entry]
                _release(macs, mac, entry)
                _release(ips, ip, entry)
            else:
                known.entries += 1
            self._watch(network, entry, network_id)
            all_entries[entry] = None
            _claim(macs, mac, entry)
            _claim(ips, ip, entry)
            dirty[UNICAST, network_id, mac] = None
            dirty[NEIGHBOUR, network_id, ip] = None
        self._count += len(all_entries) - before
        if not owners:
            return
        for entry in entries:
            if (owner := owners.get(entry[:2])) is None:
                continue
            if owner == Properties():
                network.properties.pop(entry, None)
            else:
                network.properties[entry] = owner
            dirty[UNICAST, network_id, entry.mac] = None
            dirty[NEIGHBOUR, network_id, entry.ip] = None

    def _number(self, change: AddEntries | RemoveEntries) -> None:
        """Remember the revision of what is applied."""
        network_id, revision = change.network_id, change.revision
        flooding = [_flooding(change.vtep)] if change.flooding else []
        for entry in (*change.entries, *flooding):
            if isinstance(change, AddEntries):
                self._revisions.added(network_id, entry, revision)
            else:
                self._revisions.removed(network_id, entry, revision)

    def _watch(self, network: _KnownNetwork, entry: Entry, network_id: str) -> None:
        """Is this a move?"""
        mac, ip, vtep = entry
        claims = network.macs.get(mac)
        before = None if claims is None else _newest(claims).vtep
        if before != vtep and (before or self.flaps):
            self.flaps.came(network_id, mac, vtep, before)
        holders = network.ips.get(ip)
        holder = None if holders is None else _newest(holders)
        if holder is None:
            if self.flaps:
                self.flaps.came(network_id, ip, vtep, None, mac)
        elif holder.vtep != vtep and holder.mac != mac:
            self.flaps.came(network_id, ip, vtep, holder.vtep, mac)

    def _remove(self, change: RemoveEntries) -> None:
        network_id, vtep, entries, flooding, revision = change
        if revision is not None or self._revisions:
            self._number(change)
        network = self._networks.get(network_id)
        if network is None or (known := network.vteps.get(vtep)) is None:
            return
        if flooding and known.flooding:
            known.flooding = False
            self._dirty[(FLOOD, network_id, "")] = None
        for entry in entries:
            if entry not in network.entries:
                continue
            if len(entries) <= _MAX_LEFT and network.newest(entry):
                self.flaps.left(network_id, entry.mac, vtep, entry.mac)
                self.flaps.left(network_id, entry.ip, vtep, entry.mac)
            del network.entries[entry]
            network.properties.pop(entry, None)
            self._count -= 1
            known.entries -= 1
            _release(network.macs, entry.mac, entry)
            _release(network.ips, entry.ip, entry)
            self._dirty[(UNICAST, network_id, entry.mac)] = None
            self._dirty[(NEIGHBOUR, network_id, entry.ip)] = None
        if not known.flooding and not known.entries:
            del network.vteps[vtep]
            self._vteps[vtep] -= 1
            if not self._vteps[vtep]:
                del self._vteps[vtep]
            self._vtep_changed(network_id, vtep)
        self._forget_if_empty(network_id)

    def _vtep_changed(self, network_id: str, vtep: str) -> None:
        """It came or went; it may have been the only one."""
        self._dirty[(VTEP, network_id, vtep)] = None
        self._dirty[(NETWORK, network_id, "")] = None

    def _attach(self, attachment: Attachment) -> Refusal | None:
        network_id, segment, local_vlan, *_ = attachment
        claimed: list[int | Segment] = [segment] if local_vlan is None else [local_vlan, segment]
        for claim in claimed:
            if (holder := self._holders.get(claim, network_id)) != network_id:
                # Two networks in one VLAN or VNI would see each other's frames.
                return Refusal(
                    "attach_network",
                    f"network {network_id}",
                    f"{f'local VLAN {claim}' if isinstance(claim, int) else claim} belongs to"
                    f" network {holder}; detach that one first",
                )
        network = self._networks.setdefault(network_id, _KnownNetwork())
        if network.attachment != attachment:
            self._release(network.attachment)
            network.attachment = attachment
            self._holders.update(dict.fromkeys(claimed, network_id))
            self._touch(network_id)
        return None

    def _detach(self, network_id: str) -> None:
        network = self._networks.get(network_id)
        if network is None or network.attachment is None:
            return
        self._release(network.attachment)
        network.attachment = None
        self._touch(network_id)
        self._forget_if_empty(network_id)

    def _release(self, attachment: Attachment | None) -> None:
        if attachment is not None:
            del self._holders[attachment.segment]
            if attachment.local_vlan is not None:
                del self._holders[attachment.local_vlan]

    def _forget_if_empty(self, network_id: str) -> None:
        network = self._networks[network_id]
        if network.attachment is None and not network.vteps:
            del self._networks[network_id]


def _is_mac(address: str) -> bool:
    return len(address) == 17 and address.count(":") == 5


def _flooding(vtep: str) -> Entry:
    return Entry(FLOODING_MAC, FLOODING_IP, vtep)


def _portions(by_vtep: Mapping[str, list[Entry]]) -> Iterator[dict[str, list[Entry]]]:
    """The same, at most :data:`_PORTION` entries at a time."""
    portion: dict[str, list[Entry]] = {}
    room = _PORTION
    for vtep, entries in by_vtep.items():
        start = 0
        while start < len(entries):
            portion[vtep] = entries[start : start + room]
            start += room
            room -= len(portion[vtep])
            if not room:
                yield portion
                portion, room = {}, _PORTION
    if portion:
        yield portion


def _runs(entries: Iterable[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The entries as (VTEP, entries), a new run whenever the VTEP changes: order is kept."""
    for vtep, group in itertools.groupby(entries, attrgetter("vtep")):
        while run := list(itertools.islice(group, _PORTION)):
            yield vtep, run

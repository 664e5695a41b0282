"""Who must know of what happened to a port, in which language.

Stock hosts are told upstream's way: differences, and the whole table of a network to a host that
comes into it. They can't ask, so what is cast must be right in the end although several processes
cast at once. Therefore each cast is followed by another look at the database: where that says by
now the opposite of what was cast, the opposite is cast too. Whoever committed last thus also has
the last word, since it looks, or is seen, after its commit.

Hosts of ours are told where the port is now, whatever the step was, with its revision.

Upstream's messages are fanned out only in a cloud where no host is ours: a fanout would reach the
stock half of such a host as well.

All of this is of one segment: in a network of several, a host hears of its own only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from oslo_log import log as logging

from ovs_l2pop.core import wire
from ovs_l2pop.core.messages import MAX_SEGMENT_ID
from ovs_l2pop.core.wire import FLOODING
from ovs_l2pop.neutron.server import agents, queries, states, upstream
from ovs_l2pop.neutron.server.agents import Agent, Language
from ovs_l2pop.neutron.server.decisions import (
    Appear,
    Kind,
    Pairs,
    Readdress,
    Reallow,
    Step,
    Vanish,
    View,
)
from ovs_l2pop.neutron.server.memory import KnownPort, Memory
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.queries import Located
from ovs_l2pop.neutron.server.roster import Roster
from ovs_l2pop.neutron.server.segments import NetworkSegment
from ovs_l2pop.neutron.server.upstream import Pair
from ovs_l2pop.sync import protocol
from ovs_l2pop.sync.protocol import PortState, key_of

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Audience:
    """Hosts to tell."""

    #: By name; None for a fanout.
    stock: tuple[str, ...] | None
    ours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scene:
    """A segment, seen from a host that is a VTEP in it."""

    where: NetworkSegment
    host: str
    agent: Agent
    #: Whether any host of the cloud is ours.
    mixed: bool


class Publisher:
    """Tells hosts. Safe to use from several threads."""

    def __init__(self, notifier: Notifier, memory: Memory, roster: Roster) -> None:
        self._notifier = notifier
        self._memory = memory
        self._roster = roster

    def publish(
        self, step: Step, where: NetworkSegment | None = None, *, deleted: bool = False
    ) -> bool:
        """Tell everyone who needs to know of the step.

        :param where: None for the segment that the port is bound to.
        :param deleted: the port is not in the database any more.
        :returns: whether the segment is known.
        """
        about = queries.host(step.view.host, step.view.port_id if where is None else None)
        where = where or about.bound
        if where is None:
            return False
        scene = self._scene(step.view.host, where, about)
        if scene is None or not (scene.agent.vtep or isinstance(step, Vanish)):
            return True
        match step:
            case Appear(view):
                self._appear(view, scene)
            case Vanish(view):
                self._vanish(view, scene, deleted)
            case Readdress(view, before, after):
                self._readdress(view, scene, before, after)
            case Reallow(view):
                audience = self._audience(scene)
                if audience.ours:
                    self._tell_ours(view, scene, audience)
        return True

    def announce(self, view: View, where: NetworkSegment) -> None:
        """The port is up; tell it unless this process has told so already."""
        scene = self._scene(view.host, where)
        if scene is not None and scene.agent.vtep:
            self._appear(view, scene, unless_announced=True)

    def withdraw(self, view: View, where: NetworkSegment) -> None:
        """An HA router's interface is down at a host: nobody may have entries of its addresses.

        They can be left from when the router was an ordinary one (Neutron bug 1785582).
        """
        scene = self._scene(view.host, where)
        if scene is None:
            return
        pairs: list[Pair] = [(view.mac, ip) for ip in view.ips]
        if not queries.ports_at(view.host, where):
            pairs.insert(0, FLOODING)
        audience = self._audience(scene, disabled=True)
        self._cast("remove_fdb_entries", scene, pairs, audience)
        if audience.ours:
            found = self._states(view, scene, queries.port(view.port_id, where))
            ordinary = PortState(view.port_id, max(state.revision for state in found), None)
            self._send_ours(scene, [*found, ordinary], audience)

    def refresh(self, view: View, where: NetworkSegment) -> None:
        """The port's host lost its table of the network and asks for it, once for each port."""
        scene = self._scene(view.host, where)
        if scene is None or scene.agent.language is not Language.UPSTREAM:
            return
        if not self._memory.take_served(view.host, view.network_id, _key(view)):
            here = queries.ports_at(view.host, where)
            self._send_table(scene, [_known_port(place) for place in here], _key(view))

    def rewiring(self, view: View) -> None:
        """The port's agent looks at it anew; it may be that all of its host is."""
        self._memory.forget(view.host, view.network_id, _key(view))

    def host_changed(self, before: Agent | None, after: Agent | None) -> None:
        """A host that may have ports is no VTEP any more, or is one again, or another."""
        if (before and before.vtep) != (after and after.vtep):
            if before is not None:
                self._host_left(before)
            if after is not None:
                self._host_came(after, missed_some=before is None)

    # -- what can happen ---------------------------------------------------------------------

    def _host_came(self, agent: Agent, *, missed_some: bool) -> None:
        """:param missed_some: it was not told of what happened while it wasn't known."""
        for scene in self._scenes(agent):
            here = queries.ports_at(agent.host, scene.where, allowed=True)
            if not here:
                continue
            presences = [_known_port(place) for place in here]
            audience = self._audience(scene, self._send_table(scene, presences))
            self._memory.announced(agent.host, scene.where.network_id, (), presences)
            up = [place for place in here if place.active or place.kind is Kind.HA]
            if up:
                self._cast("add_fdb_entries", scene, [FLOODING, *_pairs(up)], audience)
            found = states.states(here, {agent.host: agent})
            self._send_ours(scene, found, audience)
            if missed_some and agent.language is Language.OURS:
                self._notifier.ours([protocol.Update(*scene.where[:2], ())], [agent.host])
                missed_some = False

    def _host_left(self, agent: Agent) -> None:
        """What is behind the VTEP can't be reached any more.

        Hosts of ours are not told: their next ``sync`` says so.
        """
        for scene in self._scenes(agent):
            here = queries.ports_at(agent.host, scene.where)
            self._memory.leave(agent.host, scene.where.network_id)
            if here:
                pairs = [FLOODING, *_pairs(here)]
                self._cast("remove_fdb_entries", scene, pairs, self._audience(scene, disabled=True))

    def _appear(self, view: View, scene: _Scene, *, unless_announced: bool = False) -> None:
        key = _key(view)
        here = [_known_port(p) for p in queries.ports_at(view.host, scene.where)]
        own = [port for port in here if port.key == key]
        memory, at = self._memory, (view.host, view.network_id)
        if unless_announced:
            # Wired is not yet up where another part of the port (DHCP) is still being made.
            up = [port for port in own if port.active or view.kind is Kind.HA]
            if not up or memory.has_announced(*at, up[0]):
                return
        enters = not memory.is_in(*at, here, key)
        there = None
        if enters or memory.owes_table(*at):
            there = self._send_table(scene, here)
        memory.announced(*at, own, here if enters else ())
        pairs: list[Pair] = [FLOODING] if enters else []
        audience = self._audience(scene, there)
        self._cast("add_fdb_entries", scene, [*pairs, *view.pairs], audience)
        places = self._tell_ours(view, scene, audience)
        now = [place for place in places if place.host == view.host and place.present]
        if not now:
            self._vanish(view, scene, deleted=not places)
        elif set(view.pairs) - set(_pairs(now)):
            self._cast_change(scene, view.pairs, tuple(_pairs(now)), audience)

    def _vanish(self, view: View, scene: _Scene, deleted: bool) -> None:
        self._memory.forget(view.host, view.network_id, _key(view))
        if view.kind is Kind.HA:
            self._vanish_ha(view, scene)
            return
        here = _others(queries.ports_at(view.host, scene.where), view, deleted)
        if _is_up(here, view):
            return
        pairs: list[Pair] = [] if here else [FLOODING]
        pairs += view.pairs
        audience = self._audience(scene, disabled=True)
        if self._cast("remove_fdb_entries", scene, pairs, audience):
            here = _others(queries.ports_at(view.host, scene.where), view, deleted)
            again: list[Pair] = [FLOODING] if here and FLOODING in pairs else []
            again += view.pairs if _is_up(here, view) else ()
            self._cast("add_fdb_entries", scene, again, audience)
        if deleted and not audience.ours:
            return
        for place in self._tell_ours(view, scene, audience, deleted=deleted):
            # Stock agents forget a MAC and its addresses, behind whichever VTEP they are by now.
            if view.pairs and place.active and place.present and place.host != view.host:
                vtep = self._roster.on([place.host]).get(place.host)
                if vtep is not None:
                    there = replace(scene, host=place.host, agent=vtep)
                    self._cast("add_fdb_entries", there, _pairs([place]), audience)

    def _vanish_ha(self, view: View, scene: _Scene) -> None:
        """A port of an HA router was deleted: it was on all of the router's hosts."""
        hosts = {view.host, *queries.ha_hosts(view.router_id)}
        left = {place.host for place in queries.ports_in(scene.where)}
        vteps = self._roster.on(hosts)
        gone = {vteps[host].vtep: [FLOODING] for host in sorted(hosts - left) if host in vteps}
        audience = self._audience(scene, disabled=True, with_itself=True)
        if gone:
            fdb = wire.entries(scene.where.network_id, gone, scene.where.segment)
            self._notifier.upstream("remove_fdb_entries", fdb, audience.stock)
        keys = (key_of(view.port_id, host) for host in sorted(hosts))
        self._send_ours(scene, [PortState(k, protocol.DELETED, None) for k in keys], audience)

    def _readdress(self, view: View, scene: _Scene, before: Pairs, after: Pairs) -> None:
        # `chg_ip` doesn't name the segment, so who is in another one must not hear it.
        audience = self._audience(scene, disabled=True, fan_out=scene.where.row is None)
        self._cast_change(scene, before, after, audience)
        places = self._tell_ours(view, scene, audience)
        here = [place for place in places if place.host == view.host and place.present]
        now = tuple(_pairs(here))
        gone, new = set(before) - set(after), set(after) - set(before)
        if gone & set(now) or new - set(now):
            # It has changed again, and what that was may have been told before this.
            self._cast_change(scene, after, now, audience)

    def _cast_change(self, scene: _Scene, before: Pairs, after: Pairs, audience: _Audience) -> None:
        gone = [pair for pair in before if pair not in after]
        new = [pair for pair in after if pair not in before]
        # `chg_ip` touches ARP only. Where the MAC's first address comes or its last one goes,
        # its unicast entry does too.
        if not before or not after or len({mac for mac, _ in (*before, *after)}) > 1:
            self._cast("remove_fdb_entries", scene, gone, audience)
            self._cast("add_fdb_entries", scene, new, audience)
        elif audience.stock != () and (gone or new):
            where = scene.where.network_id, scene.agent.vtep
            fdb = wire.changed_ip(*where, gone or None, new or None)
            self._notifier.upstream("update_fdb_entries", fdb, audience.stock)

    # -- stock hosts -------------------------------------------------------------------------

    def _send_table(
        self, scene: _Scene, present: Sequence[KnownPort], asked_by: str | None = None
    ) -> dict[str, Agent] | None:
        """Everything of the network to the scene's host, if that can't ask for it.

        :returns: who else has the network, where that turned out on the way.
        """
        if scene.agent.language is not Language.UPSTREAM:
            return None
        rows = queries.table_for(scene.host, scene.where)
        vteps = self._roster.on({host for host, _, _ in rows})
        ports: dict[str, list[Pair]] = {}
        for host, mac, ip in rows:
            if host in vteps:
                pairs = ports.setdefault(vteps[host].vtep, [FLOODING])
                if ip is not None:
                    pairs.append((mac, ip))
        ports.pop(scene.agent.vtep, None)
        if ports:
            for fdb in upstream.table(*scene.where[:2], ports.items()):
                self._notifier.upstream("add_fdb_entries", fdb, [scene.host])
            served = [port for port in present if port.key != asked_by]
            self._memory.sent_table(scene.host, scene.where.network_id, served)
        return vteps

    def _cast(
        self, method: str, scene: _Scene, pairs: Sequence[Pair], audience: _Audience
    ) -> Sequence[Pair]:
        """What is behind the scene's VTEP, to stock hosts.

        :returns: ``pairs``, none if there was nobody to tell. Where the agent's row is gone, the
            VTEP is not known after a while, but then stock hosts heard of that already.
        """
        if audience.stock == () or not scene.agent.vtep:
            return ()
        for fdb in upstream.table(*scene.where[:2], [(scene.agent.vtep, list(pairs))]):
            self._notifier.upstream(method, fdb, audience.stock)
        return pairs

    # -- hosts of ours -----------------------------------------------------------------------

    def _tell_ours(
        self, view: View, scene: _Scene, audience: _Audience, *, deleted: bool = False
    ) -> list[Located]:
        """Where the port is, as the database says now, which is also returned."""
        places = queries.port(view.port_id, scene.where)
        if audience.ours:
            if deleted or not places:
                found = [PortState(_key(view), protocol.DELETED, None)]
            else:
                found = self._states(view, scene, places)
            self._send_ours(scene, found, audience)
        return places

    def _states(self, view: View, scene: _Scene, places: Sequence[Located]) -> list[PortState]:
        if view.kind is Kind.DISTRIBUTED:
            places = [place for place in places if place.host == view.host]
        hosts = {place.host for place in places if place.present} - {scene.host}
        vteps = self._roster.on(hosts)
        if scene.agent.vtep:
            vteps[scene.host] = scene.agent
        found = [states.state(place, vteps) for place in places]
        if _key(view) not in {state.key for state in found}:
            # It was of another kind, or distributed and has left this host.
            revision = max((place.revision for place in places), default=protocol.DELETED)
            found.append(PortState(_key(view), revision, None))
        return found

    def _send_ours(self, scene: _Scene, found: Iterable[PortState], audience: _Audience) -> None:
        if audience.ours:
            updates = protocol.updates(*scene.where[:2], found)
            self._notifier.ours(updates, audience.ours)

    # -- who ---------------------------------------------------------------------------------

    def _scene(
        self, host: str, where: NetworkSegment, about: queries.Host | None = None
    ) -> _Scene | None:
        """:returns: None where the host takes no part in the segment."""
        about = about or queries.host(host)
        kind = where.segment.network_type
        agent = self._roster.complete(about.agents, [host]).get(host)
        if agent is None and kind in MAX_SEGMENT_ID:
            agent = agents.gone(host)
        elif agent is None or kind not in agent.network_types:
            LOG.debug("network %s: host %s has no VTEP for %s", where.network_id, host, kind)
            return None
        return _Scene(where, host, agent, about.mixed)

    def _scenes(self, agent: Agent) -> Iterable[_Scene]:
        """All segments that a host takes part in."""
        mixed = queries.host(agent.host).mixed
        for where in queries.segments_of(agent.host):
            if where.segment.network_type in agent.network_types:
                yield _Scene(where, agent.host, agent, mixed)

    def _audience(
        self,
        scene: _Scene,
        there: Mapping[str, Agent] | None = None,
        *,
        disabled: bool = False,
        with_itself: bool = False,
        fan_out: bool = True,
    ) -> _Audience:
        """
        :param there: other hosts that have the network, if known.
        :param disabled: also those with ports that are administratively down. They must hear of
            what goes, or would still have it when the port is up again; what has come they will be
            sent then.
        :param with_itself: the scene's host is to be told too if it is a stock one.
        :param fan_out: where all hosts are stock, tell all at once.
        """
        if fan_out and not scene.mixed:
            return _Audience(None, ())
        if there is None:
            there = agents.by_host(queries.agents_in(scene.where, disabled=disabled))
        found = [agent for host, agent in there.items() if with_itself or host != scene.host]
        ours = {agent.host for agent in found if agent.language is Language.OURS}
        if scene.agent.language is Language.OURS:
            ours.add(scene.host)  # where its own ports are is for the server to say, too
        return _Audience(
            tuple(agent.host for agent in found if agent.language is Language.UPSTREAM),
            tuple(sorted(ours)),
        )


def _key(view: View) -> str:
    return key_of(view.port_id, None if view.kind is Kind.ORDINARY else view.host)


def _pairs(places: Iterable[Located]) -> list[Pair]:
    return [(place.mac, ip) for place in places for ip in place.ips]


def _known_port(place: Located) -> KnownPort:
    # An HA router's port says nothing of a host that it isn't bound to: it may not be wired yet.
    active = place.active and (place.kind is not Kind.HA or place.bound)
    return KnownPort(states.key(place), place.revision, active, place.age)


def _others(places: Iterable[Located], view: View, deleted: bool) -> list[Located]:
    """Without the port itself where it is known to be on its way out."""
    return [
        place for place in places if place.port_id != view.port_id or (place.active and not deleted)
    ]


def _is_up(places: Iterable[Located], view: View) -> bool:
    return any(place.port_id == view.port_id for place in places)

"""Who must know of what happened to a port, in which language.

Stock hosts are told upstream's way: differences, and the whole table of a network to a host that
comes into it. They can't ask, so what is cast must be right in the end although several processes
cast at once. Therefore each cast is followed by another look at the database: where that says by
now the opposite of what was cast, the opposite is cast too. Whoever committed last thus also has
the last word, since it looks, or is seen, after its commit.

Hosts of ours are told where the port is now, whatever the step was, with its revision.

Upstream's messages are fanned out only in a cloud where no host is ours: a fanout would reach the
stock half of such a host as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from oslo_log import log as logging

from ovs_l2pop.messages import Segment
from ovs_l2pop.neutron import protocol
from ovs_l2pop.neutron.protocol import PortState, key_of
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
from ovs_l2pop.neutron.server.memory import Memory, Presence
from ovs_l2pop.neutron.server.notifier import Notifier
from ovs_l2pop.neutron.server.queries import Located
from ovs_l2pop.neutron.server.upstream import FLOODING, Pair

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Audience:
    """Hosts to tell."""

    #: By name; None for a fanout.
    stock: tuple[str, ...] | None
    ours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scene:
    """A network in a segment, seen from a host that is a VTEP in it."""

    network_id: str
    segment: Segment
    host: str
    agent: Agent
    #: Whether any host of the cloud is ours.
    mixed: bool


class Publisher:
    """Tells hosts. Safe to use from several threads."""

    def __init__(self, notifier: Notifier, memory: Memory) -> None:
        self._notifier = notifier
        self._memory = memory

    def publish(self, step: Step, segment: Segment, *, deleted: bool = False) -> None:
        """Tell everyone who needs to know of the step.

        :param deleted: the port is not in the database any more.
        """
        scene = self._scene(step.view, segment)
        if scene is None:
            return
        match step:
            case Appear(view):
                self._appear(view, scene)
            case Vanish(view):
                self._vanish(view, scene, deleted)
            case Readdress(view, before, after):
                self._readdress(view, scene, before, after)
            case Reallow(view):
                self._tell_ours(view, scene, self._audience(scene))

    def announce(self, view: View, segment: Segment) -> None:
        """The port is up; tell it unless this process has told so already."""
        scene = self._scene(view, segment)
        if scene is not None:
            self._appear(view, scene, unless_announced=True)

    def withdraw(self, view: View, segment: Segment) -> None:
        """An HA router's interface is down at a host: nobody may have entries of its addresses.

        They can be left from when the router was an ordinary one (Neutron bug 1785582).
        """
        scene = self._scene(view, segment)
        if scene is None:
            return
        pairs: list[Pair] = [(view.mac, ip) for ip in view.ips]
        if not queries.ports_at(view.host, view.network_id):
            pairs.insert(0, FLOODING)
        if pairs:
            self._cast("remove_fdb_entries", scene, pairs, self._audience(scene))

    def refresh(self, view: View, segment: Segment) -> None:
        """The port's host lost its table of the network and asks for it, once for each port."""
        scene = self._scene(view, segment)
        if scene is None or scene.agent.language is not Language.UPSTREAM:
            return
        if not self._memory.take_served(view.host, view.network_id, _key(view)):
            here = queries.ports_at(view.host, view.network_id)
            self._send_table(scene, [_presence(place) for place in here], _key(view))

    def rewiring(self, view: View) -> None:
        """The port's agent looks at it anew; it may be that all of its host is."""
        self._memory.forget(view.host, view.network_id, _key(view))

    # -- what can happen ---------------------------------------------------------------------

    def _appear(self, view: View, scene: _Scene, *, unless_announced: bool = False) -> None:
        key = _key(view)
        here = [_presence(p) for p in queries.ports_at(view.host, view.network_id)]
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
        memory.announced(*at, here if enters else own)
        pairs: list[Pair] = [FLOODING] if enters else []
        pairs += view.pairs
        audience = self._audience(scene, there)
        if pairs:
            self._cast("add_fdb_entries", scene, pairs, audience)
        now = self._tell_ours(view, scene, audience)
        if not any(place.host == view.host and place.present for place in now):
            self._vanish(view, scene, deleted=not now)

    def _vanish(self, view: View, scene: _Scene, deleted: bool) -> None:
        self._memory.forget(view.host, view.network_id, _key(view))
        if view.kind is Kind.HA:
            self._vanish_ha(view, scene)
            return
        here = _others(queries.ports_at(view.host, view.network_id), view, deleted)
        if _is_up(here, view):
            return
        pairs: list[Pair] = [] if here else [FLOODING]
        pairs += view.pairs
        audience = self._audience(scene)
        if pairs:
            self._cast("remove_fdb_entries", scene, pairs, audience)
            here = _others(queries.ports_at(view.host, view.network_id), view, deleted)
            again: list[Pair] = [FLOODING] if here and FLOODING in pairs else []
            again += view.pairs if _is_up(here, view) else ()
            if again:
                self._cast("add_fdb_entries", scene, again, audience)
        if audience.ours:
            self._tell_ours(view, scene, audience, deleted=deleted)

    def _vanish_ha(self, view: View, scene: _Scene) -> None:
        """A port of an HA router was deleted: it was on all of the router's hosts."""
        hosts = {view.host, *queries.ha_hosts(view.router_id)}
        left = {place.host for place in queries.ports_in(view.network_id)}
        vteps = agents.by_host(queries.agents_on(sorted(hosts)))
        gone = {vteps[host].vtep: [FLOODING] for host in sorted(hosts - left) if host in vteps}
        audience = self._audience(scene)
        if gone:
            fdb = upstream.entries(view.network_id, scene.segment, gone)
            self._notifier.upstream("remove_fdb_entries", fdb, audience.stock)
        keys = (key_of(view.port_id, host) for host in sorted(hosts))
        self._send_ours(scene, [PortState(k, protocol.DELETED, None) for k in keys], audience)

    def _readdress(self, view: View, scene: _Scene, before: Pairs, after: Pairs) -> None:
        gone = [pair for pair in before if pair not in after]
        new = [pair for pair in after if pair not in before]
        audience = self._audience(scene)
        # `chg_ip` touches ARP only. Where the MAC's first address comes or its last one goes,
        # its unicast entry does too.
        if len({mac for mac, _ in (*before, *after)}) == 1 and before and after:
            fdb = upstream.changed_ip(view.network_id, scene.agent.vtep, gone, new)
            if audience.stock is None or audience.stock:
                self._notifier.upstream("update_fdb_entries", fdb, audience.stock)
        else:
            if gone:
                self._cast("remove_fdb_entries", scene, gone, audience)
            if new:
                self._cast("add_fdb_entries", scene, new, audience)
        if audience.ours:
            self._tell_ours(view, scene, audience)

    # -- stock hosts -------------------------------------------------------------------------

    def _send_table(
        self, scene: _Scene, present: Sequence[Presence], asked_by: str | None = None
    ) -> dict[str, Agent] | None:
        """Everything of the network to the scene's host, if that can't ask for it.

        :returns: who else has the network, where that turned out on the way.
        """
        vteps: dict[str, Agent] | None = None
        if scene.agent.language is Language.UPSTREAM:
            there = queries.ports_off(scene.host, scene.network_id)
            vteps = agents.by_host(queries.agents_on({place.host for place in there}))
            ports: dict[str, list[Pair]] = {}
            for place in there:
                vtep = vteps.get(place.host)
                if vtep is not None and (place.active or place.kind is Kind.HA):
                    pairs = ports.setdefault(vtep.vtep, [FLOODING])
                    pairs += [(place.mac, ip) for ip in place.ips]
            ports.pop(scene.agent.vtep, None)
            if not ports:
                return vteps
            for fdb in upstream.table(scene.network_id, scene.segment, ports.items()):
                self._notifier.upstream("add_fdb_entries", fdb, [scene.host])
        served = [port for port in present if port.key != asked_by]
        self._memory.sent_table(scene.host, scene.network_id, served)
        return vteps

    def _cast(self, method: str, scene: _Scene, pairs: Sequence[Pair], audience: _Audience) -> None:
        if audience.stock is None or audience.stock:
            ports = {scene.agent.vtep: list(pairs)}
            fdb = upstream.entries(scene.network_id, scene.segment, ports)
            self._notifier.upstream(method, fdb, audience.stock)

    # -- hosts of ours -----------------------------------------------------------------------

    def _tell_ours(
        self, view: View, scene: _Scene, audience: _Audience, *, deleted: bool = False
    ) -> list[Located]:
        """Where the port is, as the database says now, which is also returned."""
        places = queries.port(view.port_id)
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
        vteps = agents.by_host(queries.agents_on(sorted(hosts)))
        vteps[scene.host] = scene.agent
        found = [states.state(place, vteps) for place in places]
        if _key(view) not in {state.key for state in found}:
            # It was of another kind, or distributed and has left this host.
            revision = max((place.revision for place in places), default=protocol.DELETED)
            found.append(PortState(_key(view), revision, None))
        return found

    def _send_ours(self, scene: _Scene, found: Iterable[PortState], audience: _Audience) -> None:
        if audience.ours:
            updates = protocol.updates(scene.network_id, scene.segment, found)
            self._notifier.ours(updates, audience.ours)

    # -- who ---------------------------------------------------------------------------------

    def _scene(self, view: View, segment: Segment) -> _Scene | None:
        rows, mixed = queries.agents_of(view.host)
        agent = agents.by_host(rows).get(view.host)
        if agent is None or segment.network_type not in agent.network_types:
            LOG.debug("port %s: host %s has no VTEP for %s", view.port_id, view.host, segment)
            return None
        return _Scene(view.network_id, segment, view.host, agent, mixed)

    def _audience(self, scene: _Scene, there: Mapping[str, Agent] | None = None) -> _Audience:
        """:param there: other hosts that have the network, if known."""
        if not scene.mixed:
            return _Audience(None, ())
        if there is None:
            there = agents.by_host(queries.agents_in(scene.network_id))
        found = [agent for host, agent in there.items() if host != scene.host]
        return _Audience(
            tuple(agent.host for agent in found if agent.language is Language.UPSTREAM),
            tuple(agent.host for agent in found if agent.language is Language.OURS),
        )


def _key(view: View) -> str:
    return key_of(view.port_id, None if view.kind is Kind.ORDINARY else view.host)


def _presence(place: Located) -> Presence:
    # An HA router's port says nothing of a host that it isn't bound to: it may not be wired yet.
    active = place.active and (place.kind is not Kind.HA or place.bound)
    return Presence(states.key(place), place.revision, active, place.age)


def _others(places: Iterable[Located], view: View, deleted: bool) -> list[Located]:
    """Without the port itself where it is known to be on its way out."""
    return [
        place for place in places if place.port_id != view.port_id or (place.active and not deleted)
    ]


def _is_up(places: Iterable[Located], view: View) -> bool:
    return any(place.port_id == view.port_id for place in places)

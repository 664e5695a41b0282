"""Tunnels and bridges: made, changed in place, replaced, deleted, and read back."""

import errno
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from ovs_l2pop.backends.linuxbridge import entries, links, responder, settings
from ovs_l2pop.backends.linuxbridge.links import Link
from ovs_l2pop.backends.linuxbridge.plan import (
    RefusedError,
    both_at_once,
    by_bridge,
    changes,
    intruders,
    is_deserted,
    is_strangers,
    oversized,
    replaces,
    serves_another,
)
from ovs_l2pop.backends.linuxbridge.responder import Responder
from ovs_l2pop.backends.linuxbridge.rows import (
    ALIAS,
    Bridge,
    Flood,
    LinuxRow,
    Oversized,
    Tunnel,
    Unicast,
    alias,
    bridge_names,
    new_tunnel_name,
)
from ovs_l2pop.netlink.messages import Message
from ovs_l2pop.netlink.socket import Failure, Netlink

LOG = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")

_SILENT = {k: v for k, v in settings.BRIDGE_SYSCTLS.items() if k.startswith("ipv6")}
_IPV6 = {"ipv6/conf/{}/disable_ipv6": "0"}


#: Devices that are deleted together. While the kernel is at it, nobody on the host can change or
#: list a device; a hundred networks take it two seconds, ten thousand longer than we would wait.
_TOGETHER = 200


class Devices:
    """The devices of this host, through a netlink socket of its namespace.

    :param answers: the responder, where it is ours.
    """

    def __init__(self, netlink: Netlink, answers: Responder | None) -> None:
        self._netlink = netlink
        self._answers = answers
        #: Ports by bridge, as far as known. To ask for one bridge's the kernel goes through all
        #: devices, and to do so for each of a thousand bridges takes it seconds.
        self._ports: dict[int, list[Link]] = {}
        #: Bridges of tunnels that are about to be put; empty: another than now.
        self._bound: dict[str, str] = {}
        #: Bridges of ours by their network, as far as they were looked for.
        self._own_bridges: dict[str, Link] | None = None

    def survey(self) -> None:
        """Before many changes: see once which port is in which bridge."""
        known = links.listed(self._netlink).values()
        self._ports = by_bridge(known)
        self._own_bridges = _own_bridges(known)

    # -- what is there -----------------------------------------------------------------------

    def rows(self, known: Mapping[int, Link]) -> Iterator[LinuxRow]:
        """Rows of ours among *known* devices, and ports that don't fit them."""
        inside = by_bridge(known.values())
        for link in known.values():
            if link.owner is None:
                continue
            if link.kind == "bridge" and not inside[link.number]:
                yield Bridge(link.name)
            if link.kind == "vxlan" and link.vxlan is not None:
                bridge = known.get(link.master)
                device = known.get(link.vxlan.device)
                yield self._row(link, bridge, device.name if device else "")
                if bridge is not None:
                    yield from oversized(link, [bridge, *inside[bridge.number]])

    def of_network(self, row: Tunnel) -> Tunnel | None:
        """What is there of a tunnel, if it serves the same network."""
        link = self._find(row.name)
        if link is None or link.vxlan is None or link.owner != row.network_id:
            return None
        return self._current(link, self._master(link))

    def oversized(self, row: Tunnel) -> Iterator[Oversized]:
        """Ports beside a tunnel that take larger packets than it does."""
        link, bridge = self._find(row.name), self._find(row.bridge)
        if link is not None and bridge is not None:
            yield from oversized(link, [bridge, *self._inside(bridge)])

    # -- what should be ----------------------------------------------------------------------

    def expect(self, removed: Iterable[Tunnel], added: Iterable[Tunnel]) -> None:
        """These are about to be put, one after the other: a bridge that one of them leaves is free
        for another, also before it has left."""
        self._bound |= {row.name: "" for row in removed}
        self._bound |= {row.name: row.bridge for row in added}

    def put(self, row: Tunnel) -> None:
        """Make the tunnel what *row* says, from whatever is there under its name.

        :raises RefusedError: it can't be made.
        """
        link = self._find(row.name)
        if link is None:
            self._make(row)
            return
        bridge = self._master(link)
        if is_strangers(link, bridge, row):
            raise RefusedError(
                f"there is a device {row.name} of somebody else's;"
                f" to hand it over: ip link set dev {row.name} alias {ALIAS}"
            )
        current = self._current(link, bridge)
        try:
            if replaces(current, row) or not self._change(link, current, row):
                LOG.debug("replacing %s: not all of its settings can be changed in place", row.name)
                self._replace(link, current, row)
        except RefusedError:
            if bridge is not None and serves_another(current, row):
                self._take_out(link, bridge)  # what comes through it is no longer that network's
            raise
        moved = bridge is not None and bridge.number != self._index(row.bridge)
        if bridge and moved and is_deserted(bridge, self._inside(bridge), {link.number}):
            self._delete([bridge])

    def give_ipv6(self, bridge: str) -> bool:
        """Switch IPv6 on: without, a bridge has no IPv6 neighbours. It gets no address by it.

        :returns: whether it was off, and is on.
        """
        if _get(_IPV6, bridge) != "1":
            return False
        _set({**_SILENT, **_IPV6}, bridge)
        return _get(_IPV6, bridge) != "1"

    def remove(self, gone: Iterable[Tunnel | Bridge], kept: Collection[str]) -> None:
        """Delete these devices where they are ours, and our bridges that are empty then, but those
        with a name in *kept*."""
        doomed: dict[int, Link] = {}
        bridges: dict[int, Link] = {}
        for row in gone:
            link = self._find(row.name)
            if link is None or link.owner is None:
                continue
            if link.kind == "bridge":
                bridges[link.number] = link
                continue
            doomed[link.number] = link
            if isinstance(row, Tunnel) and row.bridge and (own := self._find(row.bridge)):
                bridges[own.number] = own  # also where somebody has taken the tunnel out of it
            if link.master and (bridge := links.by_index(self._netlink, link.master)):
                bridges[bridge.number] = bridge
                # The bridge may stay, and with it its filter.
                self._mute(link.number, bridge.number)
        for bridge in bridges.values():
            if bridge.name not in kept and is_deserted(bridge, self._inside(bridge), doomed):
                doomed[bridge.number] = bridge
        self._delete(doomed.values())

    # -- making and changing -----------------------------------------------------------------

    def _make(self, row: Tunnel) -> None:
        bridge = self._bridge(row)
        try:
            self._place(self._new(row, row.name), bridge, row)
        except RefusedError:
            self.remove([row], kept=())
            self.remove([Bridge(row.bridge)], kept=())
            raise

    def _new(self, row: Tunnel, name: str) -> int:
        """Make a tunnel's device, down and in no bridge; its index."""
        message = links.new_tunnel(row, name, self._index(row.device))
        link = self._create(message, name, row.network_id)
        _set(settings.TUNNEL_SYSCTLS, name)
        return link.number

    def _place(
        self,
        index: int,
        bridge: Link,
        row: Tunnel,
        exchange: Iterable[Message] = (),
        bridged: Iterable[Message] = (),
    ) -> None:
        """Put a device to work in its bridge.

        :param exchange: what comes just before it is set up.
        :param bridged: its entries in the bridge's table.
        """
        others = [port for port in self._inside(bridge) if port.name != row.name]
        self._write([links.enter(index, bridge.number), links.flood(index, row.flood)])
        self._respond(index, bridge.number, row)
        self._write([*exchange, links.set_up(index), *bridged])
        link = links.by_index(self._netlink, index)
        self._ports[bridge.number] = others if link is None else [*others, link]

    def _change(self, link: Link, current: Tunnel, row: Tunnel) -> bool:
        """Change a tunnel in place; False if this kernel can't."""
        messages = []
        index = link.number
        if changes(current, row):
            with_group = current.group != row.group
            device = self._index(row.device)
            messages.append(links.change_tunnel(index, row, device, with_group=with_group))
        if current.mtu != row.mtu:
            messages.append(links.set_mtu(index, row.mtu))
        if current.network_id != row.network_id or not link.marked:
            messages.append(links.finish(index, alias(row.network_id)))
        messages += links.mend(link, "vxlan")
        _set_odd(settings.TUNNEL_SYSCTLS, link)
        bridge = self._bridge(row, link.master)
        for failure in self._netlink.write(messages):
            if failure.code == errno.EOPNOTSUPP:
                return False
            if failure.code == errno.ENOBUFS:
                # Up, it would look as if it had joined its group, and never join.
                self._netlink.write([links.set_down(index)])
            raise RefusedError(_reason(failure))
        if link.master != bridge.number:
            self._ports.pop(link.master, None)
            if link.master:
                self._mute(index, link.master)
            kept = entries.forwarding(self._netlink, {index: link.name})
            self._place(index, bridge, row, bridged=_halves(kept, index))
        else:
            if current.responder != row.responder:
                self._respond(index, bridge.number, row, link.suppress)
            if current.flood != row.flood:
                self._write([links.flood(index, row.flood)])
            if odd := _odd_port(link, bridge):
                self._write([links.open_up(index, odd)])
        if not link.up:
            self._write([links.set_up(index)])
        return True

    def _replace(self, old: Link, current: Tunnel, row: Tunnel) -> None:
        """Put another device in a tunnel's place, with the same entries.

        It is made and filled beside the old one, so that only the exchange itself interrupts. With
        the same VNI and port the kernel has but one of them, so the old one goes first.
        """
        bridge = self._bridge(row, old.master)
        kept = entries.forwarding(self._netlink, {old.number: row.name})
        name = new_tunnel_name(row.vni)
        if left := self._find(name):
            if left.owner is None:
                raise RefusedError(f"there is a device {name} of somebody else's")
            self._write([links.delete(left.number)])  # of an exchange that was interrupted
        both = both_at_once(current, row)
        gone = [links.delete(old.number)]
        self._write([] if both else gone)
        index = self._new(row, name)
        filling: list[Message] = []
        for entry in kept:
            if not isinstance(entry, Unicast):
                # A group is the device's own affair.
                hosts = (to for to in entry.to if not entries.is_group(to.split()[0]))
                filling += (entries.add_flood(vtep, index) for vtep in hosts)
            elif entry.addresses != entry.key:
                plain = entry._replace(bridged=False)
                filling.append(entries.add_unicast(plain, index, replace=True))
        self._netlink.write(filling)  # what is missing of them is found when they are read back
        exchange = [*(gone if both else []), links.rename(index, row.name)]
        self._place(index, bridge, row, exchange, _halves(kept, index))

    def _respond(self, index: int, bridge: int, row: Tunnel, suppress: bool = False) -> None:
        """
        :param suppress: whether the bridge answers itself now.
        """
        failure = None
        if row.responder in responder.WAYS and self._answers is not None:
            failure = self._answers.attach(self._netlink, index, bridge, row.vni, row.responder)
        else:
            self._mute(index, bridge)
        if (itself := row.responder == "answers") != suppress:
            self._write([links.suppress(index, on=itself)])
        if failure is not None:
            raise RefusedError(f"no responder: {failure}")

    def _mute(self, index: int, bridge: int) -> None:
        responder.stop(self._netlink, index, bridge)

    def _bridge(self, row: Tunnel, master: int = 0) -> Link:
        """The bridge that a tunnel belongs in, made if it is the network's own.

        :param master: the bridge that the tunnel is in now.
        """
        bridge = self._find(row.bridge)
        if bridge is None and row.bridge in bridge_names(row.network_id):
            bridge = self._renamed(row, master)
        if bridge is None:
            if row.bridge not in bridge_names(row.network_id):
                raise RefusedError(f"there is no bridge {row.bridge}")
            bridge = self._create(links.new_bridge(row.bridge), row.bridge, row.network_id)
            self._ports[bridge.number] = []
        elif bridge.kind != "bridge":
            raise RefusedError(f"{row.bridge} is not a bridge")
        for port in intruders(row, bridge, self._inside(bridge), self._bound):
            self._take_out(port, bridge)
        if row.responder != "off":
            self.give_ipv6(bridge.name)
        if bridge.owner is not None:
            self._mend_bridge(bridge, row.network_id)
        elif bridge.number != master:
            self._write([links.keep_address(bridge)])
        if not bridge.up:
            self._write([links.set_up(bridge.number)])
        return bridge

    def _mend_bridge(self, bridge: Link, network_id: str) -> None:
        """Have a bridge of ours as a new one is."""
        if not bridge.marked:
            self._write([links.finish(bridge.number, alias(bridge.owner or network_id))])
        self._write(links.mend(bridge, "bridge"))
        _set_odd(settings.BRIDGE_SYSCTLS, bridge)

    def _renamed(self, row: Tunnel, master: int) -> Link | None:
        """The network's own bridge, if it is there under another name, which it has no longer.

        :param master: the bridge that the tunnel is in now.
        """
        bridge = links.by_index(self._netlink, master) if master else None
        if bridge is None or bridge.owner not in (row.network_id, ""):
            if self._own_bridges is None:
                self._own_bridges = _own_bridges(links.listed(self._netlink).values())
            bridge = self._own_bridges.get(row.network_id)
        if bridge is None:
            return None
        rename, index = links.rename(bridge.number, row.bridge), bridge.number
        if self._netlink.write([rename]):
            # Before Linux 6.2 only while it is down.
            self._write([links.set_down(index), rename, links.set_up(index)])
        LOG.info(
            "bridge %s of network %s was renamed from %s", row.bridge, row.network_id, bridge.name
        )
        return links.by_index(self._netlink, index)

    def _take_out(self, link: Link, bridge: Link) -> None:
        self._mute(link.number, bridge.number)
        self._netlink.write([links.enter(link.number, 0)])
        self._ports.pop(bridge.number, None)

    # -- deleting ----------------------------------------------------------------------------

    def _delete(self, doomed: Collection[Link]) -> None:
        self._ports.clear()
        # A bridge beside its tunnel.
        numbers = [
            n for _, n in sorted((link.master or link.number, link.number) for link in doomed)
        ]
        failures = []
        for start in range(0, len(numbers), _TOGETHER):
            some = numbers[start : start + _TOGETHER]
            few = map(links.delete, some)
            failures += self._netlink.write(links.delete_all(some) if len(some) > 2 else few)
        for failure in failures:
            if failure.code != errno.ENODEV:
                raise RefusedError(str(failure))

    # -- small things ------------------------------------------------------------------------

    def _current(self, link: Link, bridge: Link | None) -> Tunnel:
        assert link.vxlan is not None
        device = links.by_index(self._netlink, link.vxlan.device) if link.vxlan.device else None
        return self._row(link, bridge, device.name if device else "")

    def _master(self, link: Link) -> Link | None:
        return links.by_index(self._netlink, link.master) if link.master else None

    def _row(self, link: Link, bridge: Link | None, device: str) -> Tunnel:
        assert link.vxlan is not None
        vxlan = link.vxlan
        return Tunnel(
            name=link.name,
            vni=vxlan.vni,
            network_id=link.owner or "",
            bridge=bridge.name if bridge else "",
            local=vxlan.local,
            group=vxlan.group,
            device=device,
            port=vxlan.port,
            ttl=vxlan.ttl,
            tos=vxlan.tos,
            mtu=link.mtu,
            responder=self._responder(link, bridge),
            flood=link.flood,
            learning=vxlan.learning,
            proxy=vxlan.proxy,
            up=link.up and bridge is not None and bridge.up,
            odd=_odd(link, bridge),
        )

    def _responder(self, link: Link, bridge: Link | None) -> str:
        if bridge is None:
            return "off"
        if self._answers is not None:
            way = self._answers.way(self._netlink, link.number)
        else:
            way = None if responder.running(self._netlink, [link.number]) else ""
        if way == "":
            return "answers" if link.suppress else "off"
        return way if way is not None and not link.suppress else ""

    def _create(self, message: Message, name: str, network_id: str) -> Link:
        self._write([message])
        link = self._find(name)
        if link is None:
            raise RefusedError(f"{name} was taken away while it was made")
        self._write([links.finish(link.number, alias(network_id))])
        return link._replace(alias=alias(network_id), group=links.MADE)

    def _inside(self, bridge: Link) -> list[Link]:
        if bridge.number not in self._ports:
            self._ports[bridge.number] = list(links.ports(self._netlink, bridge.number))
        return self._ports[bridge.number]

    def _find(self, name: str) -> Link | None:
        return links.by_name(self._netlink, name)

    def _index(self, name: str) -> int:
        if not name:
            return 0
        if (link := self._find(name)) is None:
            raise RefusedError(f"there is no device {name}")
        return link.number

    def _write(self, messages: Iterable[Message]) -> None:
        for failure in self._netlink.write(messages):
            raise RefusedError(_reason(failure))


def _odd(link: Link, bridge: Link | None) -> tuple[str, ...]:
    """What is otherwise with a tunnel of ours, in words; of a bridge of somebody else's nothing."""
    found = [*link.odd, *_silent(link)]
    found += [] if link.marked else ["mark"]
    if bridge is not None:
        found += (f"port {name}" for name in _odd_port(link, bridge))
        if bridge.owner is not None:
            found += (f"bridge {name}" for name in (*bridge.odd, *_silent(bridge)))
            found += [] if bridge.marked else ["bridge's mark"]
    return tuple(found)


def _odd_port(link: Link, bridge: Link) -> list[str]:
    # A spanning tree, of somebody else's bridge, decides by itself.
    stopped = link.up and bridge.up and not bridge.spanning and not link.port_forwards
    return [*link.odd_port, *([settings.PORT_STATE.name] if stopped else [])]


def _silent(link: Link) -> list[str]:
    """Odd sysctls that we could change."""
    return [key for key in link.odd_sysctls if os.access(_SYSCTL / key.format(link.name), os.W_OK)]


def _set_odd(values: Mapping[str, str], link: Link) -> None:
    _set({key: values[key] for key in link.odd_sysctls}, link.name)


def _own_bridges(known: Iterable[Link]) -> dict[str, Link]:
    return {link.owner: link for link in known if link.kind == "bridge" and link.owner}


def _halves(kept: Iterable[Flood | Unicast], index: int) -> list[Message]:
    """A tunnel's entries in the table of the bridge that it comes to."""
    there = (entry for entry in kept if isinstance(entry, Unicast) and not entry.here)
    return [message for entry in there for message in entries.add_bridged(entry, index)]


def _reason(failure: Failure) -> str:
    if failure.code == errno.ENOBUFS:  # what a device that is set up gets when it can't join
        return f"{failure}; to listen to more groups, raise sysctl net.ipv4.igmp_max_memberships"
    return str(failure)


def _set(values: Mapping[str, str], device: str) -> None:
    for key, value in values.items():
        path = _SYSCTL / key.format(device)
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except OSError as error:  # no IPv6 in this kernel, or /proc/sys is read-only
            LOG.debug("%s stays as it is: %s", path, error)


def _get(values: Mapping[str, str], device: str) -> str:
    try:
        return (_SYSCTL / next(iter(values)).format(device)).read_text().strip()
    except OSError:
        return ""

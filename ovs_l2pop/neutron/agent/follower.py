"""Keeps an agent's table in line with what the server says.

Updates come when something changes; :meth:`Follower.sync` asks whether that was all: at first use
of a network, when something may have been missed, and every so often. Both go through a
:class:`ovs_l2pop.neutron.replica.Replica`, which orders them, and reach the table as messages of
upstream's form.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from ovs_l2pop.agent.service import Agent, Outcome
from ovs_l2pop.messages import FLOODING_IP, FLOODING_MAC, Attachment, Detach, to_message
from ovs_l2pop.neutron.protocol import Answer, Cursor, Update
from ovs_l2pop.neutron.replica import Claim, Message, Replica

LOG = logging.getLogger(__name__)

#: The call of ``sync`` on the server: digests and cursor to the answer as it came.
Call = Callable[[Mapping[str, str], Cursor | None], object]

#: Seconds until a failed sync is tried again, doubled up to the interval.
_FIRST_RETRY = 2.0
#: Seconds until the next sync after an answer that was too old.
_BEHIND_PAUSE = 1.0


class Follower:
    """One host's side of :mod:`ovs_l2pop.neutron.protocol`. All methods from any thread.

    :param interval: seconds between two syncs when nothing else asks for one; each host waits for
        between half and three halves of it, so that many don't come at once.
    """

    def __init__(self, agent: Agent, call: Call, interval: float = 60.0) -> None:
        self._agent = agent
        self._call = call
        self._interval = interval
        self._replica = Replica(agent.local_ip)
        # What the replica says must reach the table in that order.
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._wanted = threading.Event()
        self._stopped = False
        #: When this host came to its latest network, and whether the last answer was older.
        self._used_at = 0.0
        self._behind = False
        self._thread = threading.Thread(target=self._run, name="ovs-l2pop-sync", daemon=True)

    def start(self) -> None:
        """Take over what the table holds from before a restart, and begin to follow."""
        for attachment, claims in self._agent.call(self._held).result():
            self._replica.adopt(attachment.network_id, attachment.segment, claims)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wanted.set()

    def updated(self, value: object) -> None:
        """An ``update_ports`` came.

        :raises ProtocolError: it can't be read.
        """
        update = Update.from_wire(value)
        with self._lock:
            self._submit(self._replica.updated(update))

    def use(self, attachment: Attachment) -> bool:
        """This host has a port in the network; returns when that is in the dataplane.

        :returns: whether nothing is known of the network yet, so that a :meth:`sync` is due.
        """
        with self._lock:
            new = self._replica.use(attachment.network_id)
            if new:
                self._used_at = time.monotonic()
            # Neutron gives a local VLAN away as soon as the last port is gone; if that happened
            # while we were down, the network that had it is still attached here.
            others = self._agent.call(lambda: self._in_the_way(attachment)).result()
            stale = [message for network_id in others for message in self._leave(network_id)]
            future = self._submit([*stale, to_message(attachment)])
        if future is not None:
            future.result()
        return new

    def leave(self, network_id: str) -> None:
        """This host has no port in the network any more; returns when all of it is gone."""
        with self._lock:
            future = self._submit(self._leave(network_id))
        if future is not None:
            future.result()

    def sync(self) -> bool:
        """Ask the server for all that differs, and take it in.

        :returns: whether it answered.
        """
        done = self._sync()
        if self._behind:
            self._wanted.set()
        return done

    def soon(self) -> None:
        """Something may have been missed."""
        self._wanted.set()

    # -- inside ------------------------------------------------------------------------------

    def _held(self) -> list[tuple[Attachment, set[Claim]]]:
        table = self._agent.table
        held = []
        for attachment in table.attachments():
            network_id = attachment.network_id
            claims: set[Claim] = {state.entry for state in table.entries(network_id)}
            claims |= {
                (FLOODING_MAC, FLOODING_IP, vtep)
                for vtep, flooding, _ in table.vteps(network_id)
                if flooding
            }
            held.append((attachment, claims))
        return held

    def _in_the_way(self, attachment: Attachment) -> list[str]:
        return [
            held.network_id
            for held in self._agent.table.attachments()
            if held.network_id != attachment.network_id
            and (held.local_vlan == attachment.local_vlan or held.segment == attachment.segment)
        ]

    def _leave(self, network_id: str) -> list[Message]:
        gone = self._replica.drop(network_id)
        return [to_message(Detach(network_id)), *gone]

    def _submit(self, messages: list[Message]) -> "Future[Outcome] | None":
        if not messages:
            return None
        return self._agent.submit([json.dumps(message).encode() for message in messages])

    def _sync(self) -> bool:
        with self._syncing:
            try:
                self._ask()
            except Exception as error:  # noqa: BLE001 - whatever RPC raises: it is tried again
                LOG.warning("no sync with the server, will try again: %s", error)
                self._behind = True
                return False
        return True

    def _ask(self) -> None:
        self._behind = False
        cursor: Cursor | None = None
        with self._lock:
            digests = self._replica.digests()
        while digests:
            asked_at = time.monotonic()
            answer = Answer.from_wire(self._call(digests, cursor))
            with self._lock:
                # The server may answer from a picture that is some seconds old. What was cast
                # after that, and before we used the network, is in neither.
                self._behind = self._behind or asked_at - answer.age < self._used_at
                messages, cursor = self._replica.synced(answer, asked_at)
                detached = [to_message(Detach(network_id)) for network_id in answer.gone]
                future = self._submit(messages + detached)
            if future is not None:
                future.result()
            if cursor is None:
                return

    def _run(self) -> None:
        retry = _FIRST_RETRY
        while not self._stopped:
            self._wanted.clear()
            if not self._sync():
                time.sleep(retry * random.uniform(0.5, 1.5))
                retry = min(2 * retry, self._interval)
                continue
            retry = _FIRST_RETRY
            if self._behind:
                time.sleep(_BEHIND_PAUSE)
            else:
                self._wanted.wait(self._interval * random.uniform(0.5, 1.5))

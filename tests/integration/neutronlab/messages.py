"""The RPC messages of the cloud, as RabbitMQ saw them."""

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from l2pop_lab.topology import LabError
from l2pop_lab.topology.place import Place
from neutronlab import broker
from neutronlab.installation import Installation
from neutronlab.waiting import wait_until

UPSTREAM_TOPIC = "q-agent-notifier-l2population-update"
_LISTENER = Path(__file__).with_name("listener.py")


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way into an exchange ("publish") or out of a queue ("deliver")."""

    time: float
    kind: Literal["publish", "deliver"]
    exchange: str
    routing_key: str
    queue: str | None
    """Where it was delivered from; None when published."""
    method: str | None
    """The RPC method; None for replies."""
    args: dict[str, Any]

    @property
    def topic(self) -> str:
        """The topic without the host: what fanouts and casts to hosts have in common."""
        if self.fanout:
            return self.exchange.removesuffix("_fanout")
        return self.routing_key.partition(".")[0]

    @property
    def fanout(self) -> bool:
        """Whether the message went to all who listen to the topic."""
        return self.exchange.endswith("_fanout")

    @property
    def host(self) -> str | None:
        """The host that the message was sent to by name."""
        return None if self.fanout else self.routing_key.partition(".")[2] or None


class Messages:
    """Notes all messages from its start on."""

    def __init__(self, place: Place, installation: Installation, address: str) -> None:
        self._path = place.directory / "messages.jsonl"
        self._place = place
        self._installation = installation
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start listening; RabbitMQ must run."""
        with (self._place.directory / "listener.out").open("ab") as errors:
            self._process = self._place.popen(
                [
                    *(self._installation.program("python"), str(_LISTENER)),
                    *(self._address, str(broker.PORT), str(self._path)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._installation.environment(),
            )
        if self._read() != "ready":
            raise LabError("the listener for messages doesn't start")

    def consumers(self, queue: str) -> int:
        """Return how many listen to a queue, -1 if there is none of this name."""
        with self._lock:
            self._pipe("stdin").write(f"{queue}\n".encode())
            self._pipe("stdin").flush()
            return int(self._read())

    def mark(self) -> int:
        """Return the place in the record where it ends now, for ``since``."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(
        self,
        mark: int = 0,
        *,
        topic: str | None = None,
        kind: Literal["publish", "deliver"] = "publish",
        method: str | None = None,
    ) -> list[Message]:
        """Return the messages after *mark*, oldest first; replies are left out."""
        with self._path.open("rb") as file:
            file.seek(mark)
            data = file.read()
        found = []
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            message = Message(**json.loads(line))
            if (
                message.method is not None
                and message.kind == kind
                and topic in (None, message.topic)
                and method in (None, message.method)
            ):
                found.append(message)
        return found

    def settled(
        self,
        mark: int,
        topic: str,
        quiet: float = 2.0,
        timeout: float = 30.0,
        wanted: Callable[[Sequence[Message]], bool] = bool,
    ) -> list[Message]:
        """Wait for messages of *topic* and then for *quiet* seconds without a further one.

        :param wanted: says whether enough have come for the wait for quiet to begin.
        """
        wait_until(lambda: wanted(self.since(mark, topic=topic)), f"messages of {topic}", timeout)
        messages = self.since(mark, topic=topic)
        while time.time() - messages[-1].time < quiet:
            time.sleep(0.1)
            messages = self.since(mark, topic=topic)
        return messages

    def counts(
        self, mark: int = 0, kind: Literal["publish", "deliver"] = "publish"
    ) -> Counter[str]:
        """Return how many messages there were for each "topic method" after *mark*."""
        return Counter(
            f"{message.topic} {message.method}" for message in self.since(mark, kind=kind)
        )

    def _pipe(self, name: Literal["stdin", "stdout"]) -> IO[bytes]:
        pipe: IO[bytes] | None = getattr(self._process, name, None)
        if pipe is None:
            raise LabError("the listener for messages doesn't run")
        return pipe

    def _read(self) -> str:
        line = self._pipe("stdout").readline()
        if not line:
            output = (self._place.directory / "listener.out").read_text()
            raise LabError(f"the listener for messages ended:\n{output[-2000:]}")
        return line.decode().strip()

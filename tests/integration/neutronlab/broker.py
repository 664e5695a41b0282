"""RabbitMQ without a system: own home, data, logs and node name."""

import socket

from l2pop_lab.topology import namespaces
from l2pop_lab.topology.place import Place
from neutronlab.service import Service
from neutronlab.waiting import wait_until

PORT = 5672
_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The server's own script: ``/usr/sbin/rabbitmq-server`` would change to the user rabbitmq and the
system's directories."""


class Broker:
    """A RabbitMQ server in a place."""

    def __init__(self, place: Place, address: str) -> None:
        self.address = address
        self._place = place
        self._service = Service(place, "rabbitmq")
        self._directory = place.directory / "rabbitmq"

    @property
    def url(self) -> str:
        """The value of ``[DEFAULT] transport_url``."""
        return f"rabbit://guest:guest@{self.address}:{PORT}/"

    def start(self) -> None:
        """Start the server, with what it held if it ran before; don't wait for it (5 s)."""
        directory = self._directory
        directory.mkdir(exist_ok=True)
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {self.address}:{PORT}\n"
            "loopback_users = none\n"
            "num_acceptors.tcp = 4\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        # The firehose (https://www.rabbitmq.com/docs/firehose) from the start: a copy of every
        # message, for Messages. Switching it on later takes a command of several seconds.
        (directory / "advanced.config").write_text('[{rabbit, [{trace_vhosts, [<<"/">>]}]}].\n')
        (directory / "enabled_plugins").write_text("[].\n")
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_BASE": str(directory),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            # Schedulers that don't spin while they wait: the processor has other work.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        self._service.start([_SERVER], environment, cwd=directory)

    def wait_ready(self) -> None:
        """Wait until the server speaks AMQP."""
        wait_until(self._answers, "RabbitMQ answers", timeout=60)

    def stop(self, number: int) -> None:
        """End the server by a signal."""
        self._service.stop(number)

    def kill(self) -> None:
        """Kill the server: what its script has started, and would go on by itself, too."""
        self._service.kill_all()

    def _answers(self) -> bool:
        self._service.must_run()

        def greet() -> bool:
            try:
                with socket.create_connection((self.address, PORT), timeout=2) as client:
                    client.sendall(b"AMQP\0\0\x09\x01")
                    return bool(client.recv(1))
            except OSError:
                return False

        return namespaces.call(self._place.namespace, greet)

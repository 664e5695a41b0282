"""The control plane: database, broker and Neutron's server processes in one namespace."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from l2pop_lab.topology.place import Place
from neutronlab.api import NeutronApi
from neutronlab.broker import Broker
from neutronlab.database import Database, Template
from neutronlab.installation import Installation
from neutronlab.management import ADDRESS
from neutronlab.messages import Messages
from neutronlab.service import Service
from neutronlab.settings import Options, merged, write
from neutronlab.waiting import wait_until

START_TIMEOUT = 90.0
"""Seconds; a start takes 6 on two idle cores."""


class ControlPlane:
    """Everything of the cloud that isn't on a host."""

    def __init__(
        self,
        place: Place,
        installation: Installation,
        template: Template,
        *,
        mechanism_drivers: Sequence[str],
        options: Options,
        rpc_workers: int = 1,
        api_threads: int = 4,
    ) -> None:
        self.place = place
        self.database = Database(place, installation, template)
        self.broker = Broker(place, ADDRESS)
        self.messages = Messages(place, installation, ADDRESS)
        self._socket = place.directory / "api.sock"
        self.api = NeutronApi(self._socket)
        self._installation = installation
        self.mechanism_drivers = tuple(mechanism_drivers)
        self._options = options
        self._rpc_workers = rpc_workers
        self._api_threads = api_threads
        self._api_service = Service(place, "neutron-api")
        self._rpc_service = Service(place, "neutron-rpc-server")
        self._periodic_service = Service(place, "neutron-periodic-workers")

    def start(self) -> None:
        """Start everything and wait until agents can be served."""
        self.broker.start()
        self.database.start()
        self.start_api()
        # The RPC server would try in vain, and then only every few seconds.
        self.broker.wait_ready()
        self.start_rpc_server()
        self.messages.start()
        self.wait_servers()

    def start_servers(self) -> None:
        """Start Neutron's server processes, which were stopped, and wait until they serve."""
        self.start_api()
        self.start_rpc_server()
        self.start_periodic_workers()
        self.wait_servers()

    def stop_servers(self) -> None:
        """Kill Neutron's server processes: what agents know as "the server is gone"."""
        for service in (self._api_service, self._rpc_service, self._periodic_service):
            service.kill_all()

    def kill(self) -> None:
        """Kill everything: nothing is to be kept."""
        self.stop_servers()
        self.database.stop(signal.SIGKILL)
        self.broker.stop(signal.SIGKILL)

    def start_api(self) -> None:
        """Start the API and don't wait for it."""
        settings = {
            "http-socket": self._socket,
            "module": "neutron.wsgi.api:application",
            "master": "true",
            "processes": 1,
            "threads": self._api_threads,
            "enable-threads": "true",
            "lazy-apps": "true",
            "need-app": "true",
            "die-on-term": "true",
            "buffer-size": 65535,
            "add-header": "Connection: close",
            "start-time": "%t",
        }
        ini = write(self.place.directory / "uwsgi.ini", {"uwsgi": settings})
        config = self._write_config("neutron-api")
        self._api_service.start(
            [self._installation.program("uwsgi"), "--ini", str(ini)],
            self._installation.environment(
                OS_NEUTRON_CONFIG_DIR=str(config.parent), OS_NEUTRON_CONFIG_FILES=config.name
            ),
        )

    def start_rpc_server(self) -> None:
        """Start the RPC server and don't wait for it."""
        self._start_neutron(self._rpc_service)

    def start_periodic_workers(self) -> None:
        """Start the periodic workers and don't wait for them: nothing else does either."""
        self._start_neutron(self._periodic_service)

    def wait_servers(self) -> None:
        """Wait until API and RPC server serve."""
        wait_until(self._rpc_ready, "the RPC server listens", START_TIMEOUT)
        wait_until(self._api_ready, "the API answers", START_TIMEOUT)

    def logs(self) -> dict[str, str]:
        """Return the log of every Neutron process, by its name."""
        return {
            path.stem: path.read_text(errors="replace")
            for path in sorted(self.place.directory.glob("neutron-*.log"))
        }

    def _start_neutron(self, service: Service) -> None:
        config = self._write_config(service.name)
        service.start(
            [self._installation.program(service.name), "--config-file", str(config)],
            self._installation.environment(),
        )

    def _rpc_ready(self) -> bool:
        self._rpc_service.must_run()
        queues = ("q-plugin", "q-reports-plugin", "q-server-resource-versions")
        return all(self.messages.consumers(queue) > 0 for queue in queues)

    def _api_ready(self) -> bool:
        self._api_service.must_run()
        return self.api.answers()

    def _write_config(self, program: str) -> Path:
        directory = self.place.directory
        options: Options = {
            "DEFAULT": {
                "core_plugin": "ml2",
                "service_plugins": ("router", "trunk"),
                "auth_strategy": "noauth",
                "transport_url": self.broker.url,
                "state_path": directory / "state",
                "log_file": directory / f"{program}.log",
                "use_stderr": False,
                "rpc_workers": self._rpc_workers,
                "rpc_state_report_workers": 1,
                "notify_nova_on_port_status_changes": False,
                "notify_nova_on_port_data_changes": False,
                # A DHCP agent that isn't there would have to say "done" before a port is active.
                "dhcp_agent_notification": False,
                "max_l3_agents_per_router": 2,
            },
            "database": {"connection": self.database.url, "max_pool_size": 10},
            "oslo_concurrency": {"lock_path": directory / "locks"},
            "oslo_messaging_notifications": {"driver": "noop"},
            "quotas": {
                f"quota_{kind}": -1 for kind in ("network", "subnet", "port", "router", "trunk")
            },
            "ml2": {
                "type_drivers": ("flat", "vlan", "gre", "vxlan", "geneve"),
                # Its name from 2025.2 on, and the one before.
                "project_network_types": "vxlan",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": self.mechanism_drivers,
                "extension_drivers": "port_security",
            },
            # Every start of the server compares the database with this range.
            "ml2_type_vxlan": {"vni_ranges": "1001:1200"},
            "ml2_type_gre": {"tunnel_id_ranges": "2001:2020"},
            "ml2_type_geneve": {"vni_ranges": "3001:3020", "max_header_size": 38},
            "ml2_type_vlan": {"network_vlan_ranges": "physnet1:100:120"},
            # Off, bulk creation of ports fails (neutron 29.0.0, TypeError in _create_port_bulk).
            # The agents have them off.
            "securitygroup": {"enable_security_group": True},
        }
        path = write(directory / "etc" / f"{program}.conf", merged(options, self._options))
        # Neutron looks for it beside its configuration file.
        shutil.copy(self._installation.prefix / "etc/neutron/api-paste.ini", path.parent)
        return path

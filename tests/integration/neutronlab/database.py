"""MariaDB with a data directory of its own, and the schema of Neutron in it."""

import shutil
import signal
from pathlib import Path

from l2pop_lab.topology import LabError
from l2pop_lab.topology.place import Place, run
from neutronlab.installation import Installation
from neutronlab.service import Service
from neutronlab.settings import write
from neutronlab.waiting import wait_until

_SERVER_OPTIONS: dict[str, object] = {
    "skip-networking": 1,
    "skip-name-resolve": 1,
    "user": "root",
    "character-set-server": "utf8mb3",
    "max_connections": 300,
    "performance_schema": 0,
    # Nobody will want this data after a crash: no write has to reach the disk.
    "innodb_flush_log_at_trx_commit": 0,
    "innodb_flush_method": "nosync",
    "innodb_doublewrite": 0,
    # Small files: every cloud of a test run gets a copy of them.
    "innodb_log_file_size": "16M",
    "innodb_buffer_pool_size": "64M",
}


class Template:
    """A data directory with Neutron's schema, made once (5 s) and copied for each cloud (0.1 s)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Where the data directory is, or will be."""

    @property
    def exists(self) -> bool:
        """Whether it has been made."""
        return self.directory.is_dir()


class Database:
    """A MariaDB server in a place, reached by a unix socket."""

    def __init__(self, place: Place, installation: Installation, template: Template) -> None:
        self._place = place
        self._installation = installation
        self._template = template
        self._directory = place.directory / "mariadb"
        self._data = self._directory / "data"
        self._socket = self._directory / "db.sock"
        self._service = Service(place, "mariadb")
        self._config = self._directory / "my.cnf"

    @property
    def url(self) -> str:
        """The value of ``[database] connection``."""
        return f"mysql+pymysql://root@localhost/neutron?unix_socket={self._socket}&charset=utf8mb3"

    def start(self) -> None:
        """Start the server with Neutron's schema and no rows."""
        self._directory.mkdir()
        options = _SERVER_OPTIONS | {
            "datadir": self._data,
            "socket": self._socket,
            "pid-file": self._directory / "db.pid",
            "log-error": self._directory / "db.log",
        }
        write(self._config, {"mariadbd": options})
        if self._template.exists:
            # The files are mostly holes.
            _copy(self._template.directory, self._data)
            self.resume()
            return
        self._place.exec(
            "mariadb-install-db",
            f"--defaults-file={self._config}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self.resume()
        self.query("CREATE DATABASE neutron CHARACTER SET utf8mb3", database="")
        self._make_schema()
        # A clean end of the server leaves files that can be copied.
        self._service.stop()
        _copy(self._data, self._template.directory)
        self.resume()

    def resume(self) -> None:
        """Start the server with what it held."""
        self._service.start(["mariadbd", f"--defaults-file={self._config}"], {"PATH": _PATH})
        wait_until(self._answers, "MariaDB answers")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server by a signal; what it held stays, after SIGTERM at least."""
        self._service.stop(number)

    def query(self, statement: str, database: str = "neutron") -> list[list[str]]:
        """Run an SQL statement and return the rows, every value as text."""
        # A plain client: this process needs no MySQL library. --batch escapes tabs and newlines.
        output = run(
            [
                *("mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root"),
                *("--batch", "--skip-column-names", f"--execute={statement}", database),
            ]
        )
        return [line.split("\t") for line in output.splitlines()]

    def dump(self) -> str:
        """Return all of it, as :meth:`restore` takes it."""
        options = [f"--socket={self._socket}", "--user=root", "--single-transaction"]
        return run(["mariadb-dump", "--no-defaults", *options, "neutron"])

    def restore(self, dump: str) -> None:
        """Make it what it was; nobody else may use it meanwhile."""
        path = self._directory / "dump.sql"
        path.write_text(dump)
        self.query(f"source {path}")

    def _answers(self) -> bool:
        self._service.must_run()
        try:
            self.query("SELECT 1", database="")
        except LabError:
            return False
        return True

    def _make_schema(self) -> None:
        config = write(
            self._directory / "db-manage.conf",
            {
                "DEFAULT": {"core_plugin": "ml2", "state_path": self._directory},
                "database": {"connection": self.url},
            },
        )
        manage = Service(self._place, "neutron-db-manage")
        manage.start(
            [
                self._installation.program("neutron-db-manage"),
                *("--config-file", str(config), "upgrade", "head"),
            ],
            self._installation.environment(),
        )
        wait_until(lambda: not manage.running, "the schema is there", timeout=120)
        if not manage.output().rstrip().endswith("OK"):
            raise LabError(f"neutron-db-manage failed:\n{manage.output()[-4000:]}")


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _copy(source: Path, target: Path) -> None:
    draft = target.with_name(target.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    run(["cp", "-a", "--sparse=always", str(source), str(draft)])
    draft.rename(target)

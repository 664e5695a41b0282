"""The driver's statements on the database that clouds have, which is stricter than SQLite."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_NEEDED = ("mariadbd", "mariadb-install-db", "mariadb-admin")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@contextlib.contextmanager
def mariadb(directory: Path) -> Iterator[str]:
    """A server of our own, reached by a unix socket; its URL."""
    socket, config = directory / "db.sock", directory / "my.cnf"
    options = {
        "datadir": directory / "data",
        "socket": socket,
        "log-error": directory / "db.log",
        "skip-networking": 1,
        "user": "root",
        "character-set-server": "utf8mb3",
        "innodb_flush_log_at_trx_commit": 0,
        "innodb_flush_method": "nosync",
    }
    lines = [f"{name} = {value}" for name, value in options.items()]
    config.write_text("\n".join(["[mariadbd]", *lines, ""]))
    environment = {"PATH": _PATH}
    defaults = f"--defaults-file={config}"
    install = ["mariadb-install-db", defaults, "--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, capture_output=True, env=environment)
    server = subprocess.Popen(["mariadbd", defaults], env=environment)
    admin = ["mariadb-admin", "--no-defaults", f"--socket={socket}", "--user=root"]
    try:
        for _ in range(200):
            ping = subprocess.run([*admin, "ping"], capture_output=True, check=False)
            if ping.returncode == 0:
                break
            time.sleep(0.1)
        subprocess.run([*admin, "create", "neutron"], check=True, capture_output=True)
        yield f"mysql+pymysql://root@localhost/neutron?unix_socket={socket}&charset=utf8mb3"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.skipif(
    not all(shutil.which(program, path=_PATH) for program in _NEEDED), reason="no MariaDB here"
)
def test_statements(tmp_path: Path) -> None:
    program = Path(__file__).with_name("on_mariadb.py")
    with mariadb(tmp_path) as url:
        run = subprocess.run(
            [sys.executable, str(program), url],
            cwd=program.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    print(f"\n{run.stdout}")
    assert run.returncode == 0, run.stderr[-4000:]

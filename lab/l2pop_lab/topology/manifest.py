"""What a laboratory has made, on disk, so that anyone can take it away later.

The file is written before a namespace is made and after each process is started; whatever runs
in one of the namespaces counts as the laboratory's too. So a laboratory whose owner was killed can
be removed just as one that was kept on purpose.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from l2pop_lab.errors import LabError
from l2pop_lab.topology import namespaces
from l2pop_lab.topology.processes import ProcessIdentity, end

FILE_NAME = "lab.json"
DIRECTORY = Path("/tmp")
"""Not ``$TMPDIR``: the path of a unix socket is limited to 107 characters, see unix(7)."""
DIRECTORY_PREFIX = "l2p-"


class Manifest:
    """The namespaces, processes and directory of one laboratory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.owner = ProcessIdentity.of(os.getpid())
        self.kept = False
        self._namespaces: list[str] = []
        self._processes: list[ProcessIdentity] = []
        self._children: list[subprocess.Popen[bytes]] = []
        # Hosts are started by several threads.
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """Where the manifest is stored."""
        return self.directory / FILE_NAME

    def add_namespaces(self, *names: str) -> None:
        """Create network namespaces, noting them first.

        :raises LabError: if one of the names is taken; it belongs to somebody else and stays.
        """
        with self._lock:
            if taken := [name for name in names if namespaces.exists(name)]:
                raise LabError(f"there is a network namespace {', '.join(taken)} already")
            self._namespaces += names
            self._save()
        namespaces.ip_batch(f"netns add {name}" for name in names)

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with the processes in it."""
        end(_identities(namespaces.processes_in([name])))
        namespaces.delete([name])
        with self._lock:
            self._namespaces.remove(name)
            self._save()

    def popen(
        self,
        argv: list[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with the laboratory."""
        # In a session of its own: Ctrl-C is for the owner, who then ends all in good order.
        child = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        identity = ProcessIdentity.of(child.pid)
        with self._lock:
            self._children = [other for other in self._children if other.poll() is None]
            self._children.append(child)
            self._processes = [process for process in self._processes if process.alive()]
            if identity is not None:
                self._processes.append(identity)
            self._save()
        return child

    def keep(self) -> Path:
        """Note that the laboratory is to outlive its owner; return where the manifest is."""
        with self._lock:
            self.kept = True
            self._save()
        return self.path

    def tear_down(self) -> None:
        """End the processes, delete the namespaces, remove the directory; safe to repeat."""
        with self._lock:
            in_namespaces = namespaces.processes_in(self._namespaces)
            end({*self._processes, *_identities(in_namespaces)})
            for child in self._children:
                child.wait()
            namespaces.delete(self._namespaces)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _save(self) -> None:
        owner = self.owner
        content = {
            "owner": [owner.pid, owner.started] if owner else None,
            "kept": self.kept,
            "namespaces": self._namespaces,
            "processes": [[process.pid, process.started] for process in self._processes],
        }
        # Whole or not at all: a reader may come at any moment.
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(content, indent=1))
        draft.replace(self.path)

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest, given its path or its directory's.

        :raises LabError: if there is none or it isn't one.
        """
        path = path / FILE_NAME if path.is_dir() else path
        try:
            content = json.loads(path.read_text())
            manifest = cls(path.resolve().parent)
            manifest.owner = ProcessIdentity(*content["owner"]) if content["owner"] else None
            manifest.kept = bool(content["kept"])
            manifest._namespaces = [str(name) for name in content["namespaces"]]
            manifest._processes = [
                ProcessIdentity(int(pid), int(started)) for pid, started in content["processes"]
            ]
        except FileNotFoundError:
            raise LabError(f"no laboratory at {path}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{path} is not the manifest of a laboratory: {error!r}") from error
        return manifest


def destroy(path: str | os.PathLike[str]) -> None:
    """Take away a laboratory that was kept or whose owner has ended.

    :param path: the manifest that ``Lab.leave`` returned, or its directory.
    :raises LabError: if there is none, or its owner still works with it.
    """
    manifest = Manifest.load(Path(path))
    if not manifest.kept and manifest.owner and manifest.owner.alive():
        raise LabError(f"the laboratory at {path} is in use by process {manifest.owner.pid}")
    manifest.tear_down()


def left_behind() -> Iterator[Path]:
    """Yield the manifests of laboratories that were kept or whose owner was killed."""
    for path in sorted(DIRECTORY.glob(f"{DIRECTORY_PREFIX}*/{FILE_NAME}")):
        try:
            manifest = Manifest.load(path)
        except (LabError, OSError):
            continue
        if manifest.kept or not (manifest.owner and manifest.owner.alive()):
            yield path


def _identities(pids: set[int]) -> set[ProcessIdentity]:
    return {identity for pid in pids if (identity := ProcessIdentity.of(pid))}

"""Notices that other worker processes of the same server run a hub of the same application.

Each such process holds a lock on a file of its own in the directory for temporary files. The name of the file says
which parent, command and channels the process has; the lock ends with the process, however it ends.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import gettempdir
from typing import Final

if sys.platform != "win32":
    import fcntl

WARNING: Final = (
    "process %d, another worker of this server, runs a hub of its own: a client is connected to one of the processes, "
    "and gets only what is published in that one. Run this server with one worker (uvicorn --workers 1, "
    "gunicorn -w 1), and let other processes publish over HTTP, with HubPublisher"
)
_SERVERS: Final = ("gunicorn.arbiter", "uwsgi")
"""Modules that are loaded in the workers of servers that fork by themselves; the others use `multiprocessing`."""


def is_worker() -> bool:
    """Whether a server has started this process, probably among others. Others write no file."""
    if sys.platform == "win32":  # no locks that end with their process
        return False
    return multiprocessing.parent_process() is not None or any(name in sys.modules for name in _SERVERS)


class Siblings:
    """The lock of this process, while it serves."""

    def __init__(self, channels: Iterable[str]) -> None:
        """Raises `OSError` if there is no safe place for the lock."""
        self._locks: list[tuple[Path, int]] = []
        self._folder = _folder()
        family = repr((os.getppid(), sys.argv, str(Path.cwd()), sorted(channels)))
        self._family = hashlib.sha256(family.encode(errors="replace")).hexdigest()[:16]
        self._lock(f"{self._family}-{os.getpid()}")

    def find(self) -> int | None:
        """The process id of another worker that serves, for the one process that is to warn of it."""
        others = [
            other for path in self._folder.glob(f"{self._family}-*") if (other := self._serving(path)) is not None
        ]
        return others[0] if others and self._lock(f"{self._family}.warned") else None

    def _serving(self, path: Path) -> int | None:
        """The process that holds this lock; None for this one, and for one that has ended without removing its file."""
        pid = path.name.rpartition("-")[2]
        if pid == str(os.getpid()) or not pid.isdecimal():
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # it has just left
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return int(pid)
        finally:
            os.close(descriptor)
        return None

    def _lock(self, name: str) -> bool:
        path = self._folder / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._locks.append((path, descriptor))
        return True

    def close(self) -> None:
        """This process serves no longer."""
        for path, descriptor in self._locks:
            path.unlink(missing_ok=True)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked process has the descriptor, too
            os.close(descriptor)
        self._locks.clear()


def _folder() -> Path:
    """A folder that no other user can write to; raises `OSError` if there is none."""
    folder = Path(gettempdir()) / f"analytics-hub-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} belongs to another user")
    return folder

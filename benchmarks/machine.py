"""The machine: cores, resources of processes, and the C compiler."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
NATIVE: Final = HERE / "native"
BUILD: Final = HERE / ".build"
PACKAGES: Final = ("anyio", "msgspec", "trio", "uvloop", "websockets", "wsproto")


class CannotRun(Exception):
    """A row needs something that this machine does not have; the message names it."""


def cores() -> tuple[int, int]:
    """The core of the servers and that of the load; the same on a machine with one core."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def waited_seconds(pid: int) -> float:
    """How long a process was ready to run while another had its core; 0 where the kernel does not report it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def raise_file_limit(wanted: int) -> None:
    """Allow this process and its children `wanted` open files, or raise `CannotRun`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise CannotRun(f"{wanted} open files are needed, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def build(name: str, *libraries: str) -> Path:
    """Compile `native/<name>.c` unless it is up to date.

    With `libraries` (`z`) into a separate program, so that the other rows run where they are missing.
    """
    source, target = NATIVE / f"{name}.c", BUILD / "-".join([name, *libraries])
    newest = max(path.stat().st_mtime for path in NATIVE.iterdir())
    if target.exists() and target.stat().st_mtime > newest:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotRun("no C compiler (cc, gcc or clang) was found")
    BUILD.mkdir(exist_ok=True)
    command = [compiler, "-O2", "-o", str(target), *(f"-DWITH_{library.upper()}" for library in libraries)]
    command += [str(source), "-lm", *(f"-l{library}" for library in libraries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"{source.name} did not compile: {done.stderr.strip().splitlines()[0]}")
    return target


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run from this checkout measures: two at once would disturb each other."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another run to end ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_busy() -> bool:
    return os.getloadavg()[0] > 0.25 * len(os.sched_getaffinity(0))


def describe() -> dict[str, object]:
    """The environment of the figures, without the name of the machine."""
    server, load = cores()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-', maxsplit=1)[0]} {platform.machine()}",
        "processor": _processor(),
        "cores": {"server": server, "load": load},
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def require(package: str) -> None:
    if version(package) is None:
        raise CannotRun(f"{package} is not installed")


def python() -> str:
    return sys.executable

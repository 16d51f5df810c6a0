"""Autobahn's test suite: the Python 2.7 that it needs, the folder that it is installed in, and one run of it.

Needs only the standard library, so that CI can install before there is a virtual environment:
`python3 -m tests.conformance.autobahn.suite`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .report import AGENT, Report

FOLDER: Final = Path(__file__).resolve().parent
ROOT: Final = FOLDER.parents[2]
HOME: Final = FOLDER / ".venv-2.7"
PINS: Final = FOLDER / "pins.txt"
_LAUNCH: Final = """
import site, sys
home = sys.argv.pop(1)
sys.path.insert(0, home)
site.addsitedir(home)  # zope is a namespace, which a .pth file makes
from autobahntestsuite.wstest import run
run()
"""


class Missing(Exception):
    """Something that the suite needs is missing; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A selection of cases."""

    cases: tuple[str, ...] = ("*",)
    excluded: tuple[str, ...] = ()
    count: int
    """The number of these cases."""
    guard: float
    """Seconds after which the suite counts as hanging; nothing is measured with it."""


# 9 is limits, 12 and 13 are compression.
QUICK: Final = Profile(excluded=("9.*", "12.*", "13.*"), count=247, guard=300.0)
PLAIN: Final = Profile(excluded=("12.*", "13.*"), count=301, guard=1800.0)
FULL: Final = Profile(count=517, guard=3 * 3600.0)


# --- installing


def find_python() -> str:
    """A Python 2.7 with pip and TLS; raises `Missing`."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # Before the one on the path, which may be pyenv's shim of a version that is not active.
    found = [str(path) for path in sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True)]
    for python in [*found, *filter(None, [shutil.which("python2.7")])]:
        if subprocess.run([python, "-sE", "-c", "import pip, ssl"], capture_output=True, check=False).returncode == 0:
            return python
    raise Missing("Autobahn's test suite needs Python 2.7 with pip; with pyenv: pyenv install 2.7.18")


def _digest(python: str) -> str:
    return hashlib.sha256(PINS.read_bytes() + python.encode()).hexdigest()


def is_installed(python: str) -> bool:
    stamp = HOME / "stamp"
    return stamp.exists() and stamp.read_text() == _digest(python)


def install(python: str) -> None:
    """Install `PINS` into `HOME`, if it is not there already; raises `Missing`."""
    if is_installed(python):
        return
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".venv-") as folder:
        fresh = Path(folder) / "fresh"
        command = [python, "-sE", "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--no-deps"]
        done = subprocess.run(
            [*command, "--target", fresh, "-r", PINS],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            raise Missing(f"Autobahn's test suite could not be installed:\n{done.stdout[-2000:]}")
        (fresh / "stamp").write_text(_digest(python))
        shutil.rmtree(HOME, ignore_errors=True)
        fresh.rename(HOME)


# --- running


@contextmanager
def echoing(backend: str, *, compresses: bool) -> Iterator[tuple[int, Path]]:
    """The port of the server under test, in a process of its own, and the file with its error output."""
    command = [sys.executable, "-m", "tests.conformance.autobahn.echo", "--backend", backend]
    if not compresses:
        command.append("--no-compression")
    with tempfile.NamedTemporaryFile() as errors:
        log = Path(errors.name)
        # The process ends with its input, which ends with this block.
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise RuntimeError(f"the echo did not start:\n{log.read_text()}")
            yield int(port), log


def run(python: str, profile: Profile, backend: str, folder: Path, *, compresses: bool = True) -> Report:
    """Run the suite against the transport; its reports go into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    with echoing(backend, compresses=compresses) as (port, log):
        spec = {
            "outdir": str(folder),
            "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/"}],
            "cases": profile.cases,
            "exclude-cases": profile.excluded,
            "exclude-agent-cases": {},
        }
        path = folder / "spec.json"
        path.write_text(json.dumps(spec))
        faults = _wait([python, "-sE", "-c", _LAUNCH, str(HOME), "-m", "fuzzingclient", "-s", str(path)], profile.guard)
        if output := log.read_text():
            faults.append(f"the server has written errors:\n{output}")
    return Report.read(folder, profile.count, faults)


def _wait(command: Sequence[str], seconds: float) -> list[str]:
    """The failures of the suite itself."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", check=False, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [f"the suite did not end within {seconds:g} s"]
    return [f"the suite failed:\n{done.stdout[-2000:]}"] if done.returncode else []


def main() -> None:
    try:
        install(find_python())
    except Missing as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()

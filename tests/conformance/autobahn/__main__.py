"""Run Autobahn's test suite against the native WebSocket transport.

The profile `quick` leaves out limits and compression (247 cases, ten seconds). `full` has all: 517 cases with
compression, which take twenty minutes, and 301 without, which take half a minute.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .echo import BACKENDS
from .suite import FULL, PINS, PLAIN, QUICK, Missing, find_python, install, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.autobahn", description=__doc__)
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--no-compression", action="store_true", help="a server without compression")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="keep the reports of the suite, in a new folder")
    options = parser.parse_args()
    try:
        python = find_python()
        install(python)
    except Missing as missing:
        sys.exit(str(missing))
    profile = QUICK if options.profile == "quick" else PLAIN if options.no_compression else FULL
    began = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        reports = options.reports or Path(folder) / "reports"
        report = run(python, profile, options.backend, reports.resolve(), compresses=not options.no_compression)
    took = (datetime.now(UTC) - began).total_seconds()
    compression = "without compression" if options.no_compression else "with compression"
    print(f"{began:%Y-%m-%d}, {options.backend} {compression}, {took:.0f} s", end=", ")
    print(f"Python {platform.python_version()}, wsproto {version('wsproto')}, {pinned('autobahntestsuite')}\n")
    print(report.table())
    sys.exit("\n".join(["", *report.faults]) if report.faults else 0)


def pinned(package: str) -> str:
    """The line of the pins for `package`."""
    return next(line for line in PINS.read_text().splitlines() if line.startswith(f"{package}=="))


main()

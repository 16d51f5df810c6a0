"""The hub under ASGI servers, against the usual ConnectionManager under the same server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from .. import machine
from ..contest import Contestant, Effort, Window, compete, median, median_ratio
from ..processes import Clients, Load, Server
from ..table import Row, not_run
from .contestants import SUBSCRIBE
from .fanout import sizes

RATE: Final = 1000.0
KIB: Final = 1024
FIRST_FEW: Final = 100
SERVERS: Final = {
    "uvicorn": ("uvicorn", 0.4),
    "hypercorn": ("hypercorn", 0.4),
    "hypercorn-trio": ("trio", 0.15),
    "granian": ("granian", 0.4),
}
"""Server -> the package that it needs, and the part of the clients that it serves on one core with room to spare."""
BARS: Final = {"uvicorn": 0.7}


def asgi(effort: Effort) -> list[Row]:
    """One channel, read by all, under each ASGI server: CPU, latency and memory."""
    rows: list[Row] = []
    for server in SERVERS:
        try:
            rows += _one(server, effort)
        except (machine.CannotRun, RuntimeError, OSError) as error:
            rows.append(not_run(f"asgi {server}", "fan-out", str(error)))
    return rows


def _command(which: str, server: str) -> list[str]:
    return [machine.python(), "-m", "benchmarks.servers.asgi_apps", which, server]


def _contestant(which: str, server: str, clients: int) -> Contestant:
    commands = [SUBSCRIBE] if which == "ours" else []
    return Contestant(
        name=which,
        command=lambda: _command(which, server),
        clients=Clients(count=clients, commands=commands, sample=4),
        go=lambda first: f"go {RATE}",
        rate=RATE,
    )


def _one(server: str, effort: Effort) -> list[Row]:
    package, part = SERVERS[server]
    for name in ("starlette", package, server.partition("-")[0]):
        machine.require(name)
    clients = round(effort.clients * part)
    windows = compete([_contestant(which, server, clients) for which in ("ours", "manager")], effort)
    what = f"{server}, {clients} clients x {RATE:g} msg/s"

    def row(name: str, unit: str, value: Callable[[Window], float], bar: float = 1.0, note: str = "") -> Row:
        ratio = median_ratio(windows["ours"], windows["manager"], value)
        return Row(
            name=f"asgi {name} {server}",
            what=what,
            value=median(windows["ours"], value),
            unit=unit,
            against="ConnectionManager",
            against_value=median(windows["manager"], value),
            ratio=ratio,
            bar="ahead (< 1 x)" if bar == 1.0 else f"<= {bar:g} x",
            met=ratio < 1.0 if bar == 1.0 else ratio <= bar,
            note=note,
        )

    bar = BARS.get(server, 1.0)
    each = {name: median(those, _cpu_per_frame) for name, those in windows.items()}
    note = "; ".join(
        f"{name}: {each[name]:.1f} us of CPU for each frame, {sizes(those)}" for name, those in windows.items()
    )
    return [
        row("CPU", "CPU s / M", lambda window: window.cpu_per_million, bar, note),
        row("p50", "ms p50", lambda window: window.mark.p50),
        row("p99", "ms p99", lambda window: window.mark.p99),
        _memory(server, effort),
    ]


def _cpu_per_frame(window: Window) -> float:
    """Microseconds. Comparable even where one side has merged batches."""
    return window.cpu / max(window.mark.frames, 1) * 1e6


def _memory(server: str, effort: Effort) -> Row:
    connections = effort.connections // 10
    machine.raise_file_limit(connections + FIRST_FEW + 200)
    ours = _resident("ours", server, connections)
    theirs = _resident("manager", server, connections)
    return Row(
        name=f"asgi memory {server}",
        what=f"{server}, resident for each of {connections} idle connections",
        value=ours / KIB,
        unit="KB",
        against="ConnectionManager",
        against_value=theirs / KIB,
        ratio=ours / theirs,
        bar="ahead (< 1 x)",
        met=ours < theirs,
        note="most of it is the server's",
    )


def _resident(which: str, server: str, connections: int) -> float:
    """Bytes that each connection adds to the process, after a first few that cause one-time allocations."""
    commands = [SUBSCRIBE] if which == "ours" else []
    with (
        Server(_command(which, server)) as process,
        Load(process, Clients(count=FIRST_FEW, commands=commands)),
    ):
        time.sleep(0.5)
        before = machine.resident_bytes(process.pid)
        with Load(process, Clients(count=connections, commands=commands)):
            time.sleep(0.5)
            return (machine.resident_bytes(process.pid) - before) / connections

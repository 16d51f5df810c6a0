"""The cost of a connection: memory while it is idle, and the handshake."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from typing import Final

from .. import machine
from ..contest import Effort
from ..processes import Clients, Load, Server, handshakes
from ..table import Row
from .contestants import command_of_ours, websockets

CHANNELS: Final = ("routing-metrics", "lp-performance", "exposure-updates", "alerts")
SUBSCRIBE: Final = json.dumps({"action": "subscribe", "channels": CHANNELS})
FIRST_FEW: Final = 100
KIB: Final = 1024


def memory(effort: Effort) -> list[Row]:
    """Resident memory of an idle connection.

    The first connections cause one-time allocations; the memory of the others is divided by their number.
    """
    each = idle_bytes(effort)
    return [
        Row(
            name="memory",
            what=f"resident for each of {effort.connections} idle connections, 4 channels, {effort.loops[0]}",
            value=each / KIB,
            unit="KB",
            bar="<= 6 KB",
            met=each <= 6 * KIB,
            note="of the process, an identity of its own for each session; the kernel's socket buffers not counted",
        )
    ]


def idle_bytes(effort: Effort, *, deflate: bool = False) -> float:
    """Bytes of the server process for each further connection that has subscribed and is idle."""
    machine.raise_file_limit(effort.connections + 200)
    few = Clients(count=FIRST_FEW, commands=[SUBSCRIBE], deflate=deflate)
    many = Clients(count=effort.connections, commands=[SUBSCRIBE], deflate=deflate)
    with Server(command_of_ours("trading", effort.loops[0], {})) as server, Load(server, few):
        time.sleep(0.5)
        before = machine.resident_bytes(server.pid)
        with Load(server, many):
            time.sleep(0.5)
            return (machine.resident_bytes(server.pid) - before) / effort.connections


def handshake_rate(effort: Effort) -> list[Row]:
    """Handshakes a second, one core."""
    mine = _rate(command_of_ours("trading", effort.loops[0], {}), "/ws/analytics", effort)
    theirs: float | None
    try:
        theirs = _rate(websockets(1, 1.0, "batches").command(), "/", effort)
    except machine.CannotRun:
        theirs = None
    return [
        Row(
            name="handshakes",
            what=f"accepted a second, {effort.loops[0]}, wsproto",
            value=mine,
            unit="/ s",
            against="websockets" if theirs else "",
            against_value=theirs,
            ratio=mine / theirs if theirs else None,
            note="64 at a time, each reset after its 101; no token to check",
        )
    ]


def _rate(command: Sequence[str], path: str, effort: Effort) -> float:
    with Server(command) as server:
        rounds = [handshakes(server, effort.seconds, path) for _ in range(effort.rounds)]
    return statistics.median(one["handshakes"] / one["seconds"] for one in rounds)

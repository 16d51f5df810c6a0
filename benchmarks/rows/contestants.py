"""The contestants: the hub, the floor in C that copies its frames, and `websockets.broadcast`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from .. import machine
from ..contest import Contestant, Effort, Window
from ..processes import Clients

SUBSCRIBE: Final = '{"action":"subscribe","channels":["bench"]}'
MAX_BATCH: Final = 50
INTERVAL_S: Final = 0.016


def command_of_ours(scenario: str, loop: str, tuning: Mapping[str, object], profile: str = "") -> list[str]:
    if loop != "asyncio":
        machine.require(loop)
    module = "benchmarks.servers.ours"
    return [machine.python(), "-m", module, scenario, loop, json.dumps(dict(tuning)), *([profile] if profile else [])]


def ours(
    effort: Effort,
    rate: float,
    *,
    name: str = "ours",
    scenario: str = "bench",
    loop: str = "asyncio",
    tuning: Mapping[str, object] | None = None,
    commands: Sequence[str] = (SUBSCRIBE,),
    published: float | None = None,
    clients: int | None = None,
    deaf: int = 0,
    sample: int = 16,
    deflate: bool = False,
    profile: str = "",
) -> Contestant:
    """The hub, publishing `published` items a second (default: `rate`), of which each client is to get `rate`."""
    return Contestant(
        name=name,
        command=lambda: command_of_ours(scenario, loop, tuning or {}, profile),
        clients=Clients(count=clients or effort.clients, commands=commands, deaf=deaf, sample=sample, deflate=deflate),
        go=lambda first: f"go {published or rate}",
        rate=rate,
    )


def floor(
    effort: Effort,
    rate: float,
    mode: str = "joined",
    *,
    name: str = "floor",
    interval: float | None = None,
    sample: int = 16,
) -> Contestant:
    """C that sends frames of the size and number of the first contestant of the round.

    With an `interval` in seconds it uses that pace and `rate` instead, for several frames in one write.
    """
    return Contestant(
        name=name,
        command=lambda: [str(machine.build("floor")), str(effort.clients)],
        clients=Clients(count=effort.clients, sample=sample),
        go=lambda first: copy_frames(first, mode, (rate, interval) if interval else None),
        rate=rate,
    )


def copy_frames(first: Window | None, mode: str, pace: tuple[float, float] | None) -> str:
    """`pace`: items a second for each client, and seconds between two ticks, instead of those of `first`."""
    assert first is not None
    copied = (first.mark.items / first.mark.seconds / first.clients, 1 / max(first.frames_per_second, 0.1))
    rate, interval = pace or copied
    return f"go {rate:.3f} {interval * 1e6:.0f} {first.item_bytes:.0f} {MAX_BATCH} {mode}"


def websockets(clients: int, rate: float, mode: str) -> Contestant:
    """`websockets.broadcast` in its cheapest idiom: on uvloop where there is one."""
    machine.require("websockets")
    loop = "uvloop" if machine.version("uvloop") else "asyncio"
    return Contestant(
        name=f"websockets-{mode}",
        command=lambda: [machine.python(), "-m", "benchmarks.servers.websockets_peer", mode, loop],
        clients=Clients(count=clients, path="/", deflate=mode == "compressed"),
        go=lambda first: f"go {rate}",
        rate=rate,
    )

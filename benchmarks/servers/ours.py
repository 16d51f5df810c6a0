"""The hub behind its native transport, publishing in the same process.

python -m benchmarks.servers.ours SCENARIO LOOP TUNING [PROFILE]

SCENARIO: `bench` (one channel), `varied` (the same with items that differ), `sets` (500 channels, published in turn)
or `trading` (the four of the profile).
TUNING: the fields that differ from the default, as JSON. PROFILE: a file for the profile between go and stop.
"""

from __future__ import annotations

import cProfile
import itertools
import json
import sys
from collections.abc import Callable
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from analytics_hub.channels import Channel
from analytics_hub.contracts import Handshake
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports import websocket
from analytics_hub.tuning import Tuning

from . import control
from .item import stamped, varied

SETS_CHANNELS: Final = 500
SCENARIOS: Final[dict[str, list[Channel]]] = {
    "bench": [Channel("bench", type="order")],
    "varied": [Channel("bench", type="order")],
    "sets": [Channel(f"bench-{number}", type="order") for number in range(SETS_CHANNELS)],
    "trading": [
        Channel("routing-metrics", "events"),
        Channel("lp-performance", "table", key="lpName"),
        Channel("exposure-updates", "latest"),
        Channel("alerts", "durable"),
    ],
}
_serial = itertools.count()


def authenticate(handshake: Handshake) -> Identity:
    """Admits every client, with an identity of its own, as a token would give it."""
    return Identity(id=f"user-{next(_serial)}", roles=frozenset({"admin"}))


def publisher(hub: Hub, scenario: str) -> Callable[[int, int], None]:
    names = [channel.name for channel in SCENARIOS[scenario]]
    item = varied if scenario == "varied" else stamped
    return lambda number, stamp: hub.publish(names[number % len(names)], item(stamp))


async def execute_commands(hub: Hub, work: control.Publisher, profile: cProfile.Profile | None) -> None:
    async for line in control.lines():
        verb, _, rest = line.partition(" ")
        if verb == "go":
            work.go(float(rest))
            if profile:
                profile.enable()
        elif verb == "stop":
            if profile:
                profile.disable()
            control.send({"published": work.stop()})
        elif verb == "statistics":
            control.send(msgspec.to_builtins(hub.statistics()))


async def main(scenario: str, loop: str, tuning: str, *profile_file: str) -> None:
    del loop
    hub = Hub(SCENARIOS[scenario], authenticate=authenticate, tuning=Tuning(**json.loads(tuning)))
    profile = cProfile.Profile() if profile_file else None
    async with hub, anyio.create_task_group() as tasks:
        work = control.Publisher(publisher(hub, scenario))
        port = await start_serving(tasks, hub)
        tasks.start_soon(work.run)
        control.send({"port": port})
        await execute_commands(hub, work, profile)
        tasks.cancel_scope.cancel()
    if profile:
        profile.dump_stats(profile_file[0])


async def start_serving(tasks: TaskGroup, hub: Hub) -> Any:
    async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        await websocket.serve(hub, "127.0.0.1", 0, compression=True, task_status=task_status)

    return await tasks.start(serve)


if __name__ == "__main__":
    control.run(main, sys.argv[2], *sys.argv[1:])

"""What a cancelled operation must not leave in the process and in a hub, and whether the hub still works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from analytics_hub import Hub, Identity
from analytics_hub.transports.memory import subscribe

from ..hub.rig import HANG, is_empty, read

_DESCRIPTORS: Final = Path("/proc/self/fd")
_numbers: Final = count(1)


def descriptors() -> dict[str, str]:
    """Open descriptors, by number; empty on platforms without /proc."""
    if not _DESCRIPTORS.is_dir():
        return {}
    found = {}
    for path in _DESCRIPTORS.iterdir():
        try:
            found[path.name] = str(path.readlink())
        except OSError:  # that of the listing itself
            continue
    return found


def tasks() -> dict[int, str]:
    """The tasks of this event loop, by id."""
    return {task.id: task.name or "" for task in anyio.get_running_tasks()}


@dataclass(frozen=True)
class Process:
    """The tasks and descriptors of one moment."""

    tasks: dict[int, str]
    descriptors: dict[str, str]

    @classmethod
    def now(cls) -> Process:
        return cls(tasks(), descriptors())

    def more_than(self, before: Process) -> list[str]:
        """Tasks and descriptors that did not exist `before`."""
        found = [f"task {name}" for id, name in self.tasks.items() if id not in before.tasks]
        found += [
            f"descriptor {number}: {target}"
            for number, target in self.descriptors.items()
            if before.descriptors.get(number) != target
        ]
        return found


def kept_for_clients(hub: Hub) -> list[str]:
    """Objects that the hub keeps although it has no client."""
    if hub._life.state == "new":
        return []
    found = []
    if not is_empty(hub):
        found.append(f"sessions {hub.statistics().sessions}, subscriptions {hub.statistics().subscriptions}")
    if hub._gateway._handshakes:
        found.append(f"{len(hub._gateway._handshakes)} handshakes")
    if hub._gateway._contexts:
        found.append(f"{len(hub._gateway._contexts)} contexts")
    if hub._journal.pending:
        found.append(f"{len(hub._journal.pending)} receipts that wait for the journal")
    if hub._access.authorization._requests:
        found.append(f"{len(hub._access.authorization._requests)} requests for authorization")
    limits = hub._access.limits
    for name, counts in (
        ("identities", limits._identities),
        ("addresses", limits._addresses),
        ("pending", limits._pending),
    ):
        if counts:
            found.append(f"{name} {counts}")
    return found


class Sweeper:
    """Checks after each cancellation that the process is unchanged, and each of `places` empty."""

    def __init__(self, *places: Callable[[], list[str]]) -> None:
        self._before = Process.now()
        self._places = places

    def found(self) -> list[str]:
        found = Process.now().more_than(self._before)
        for place in self._places:
            found += place()
        return found

    async def sweep(self) -> None:
        """Wait until nothing is left; work in progress in the event loop or the kernel may still end."""
        with anyio.move_on_after(HANG / 2):
            while self.found():
                await checkpoint()
        assert self.found() == []


async def is_served_once(hub: Hub) -> None:
    """A new client receives the items that are published then, once and in order, and leaves."""
    first = next(_numbers)
    async with subscribe(hub, "events", "durable", identity=Identity(id="observer")) as observer:
        for number in (first, next(_numbers)):
            hub.publish("events", number)
        items = await read(observer, lambda item: item.get("data") == number)
        assert [item["data"] for item in items if item.get("channel") == "events"] == [first, number]
        hub.publish("durable", number)
        await read(observer, lambda item: item["type"] == "durable" and item["data"] == number)


def lines(*commands: dict[str, Any]) -> bytes:
    """Commands as the TCP transport reads them."""
    return b"".join(json.dumps(command).encode() + b"\n" for command in commands)

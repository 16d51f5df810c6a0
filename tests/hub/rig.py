"""Hubs for tests, and fake transports and journals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, Handshake, Hub, Identity, Tuning, anonymous
from analytics_hub.contracts import ANONYMOUS, JournalState, Peer
from analytics_hub.core.session import Session
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports.memory import WIRE, Item, MemoryClient

HANG: Final = 30.0
"""Seconds after which a test fails as hanging; no duration is measured with it."""
FAST: Final = Tuning(interval=0.001, rate=None, command_rate=None)

CHANNELS: Final = (
    Channel("events"),
    Channel("table", mode="table", key="id", max_keys=3),
    Channel("latest", mode="latest"),
    Channel("durable", mode="durable"),
    Channel("user:*"),
)


def new_hub(channels: Iterable[Channel] = CHANNELS, **options: Any) -> Hub:
    """A hub that any client may read, with a short interval and a short grace."""
    settings: dict[str, Any] = {"authenticate": anonymous, "tuning": FAST, "grace": 1.0}
    return Hub(channels, **settings | options)


@asynccontextmanager
async def running(channels: Iterable[Channel] = CHANNELS, **options: Any) -> AsyncIterator[Hub]:
    with anyio.fail_after(HANG):
        async with new_hub(channels, **options) as hub:
            yield hub


async def read(client: MemoryClient, is_last: Callable[[Item], bool]) -> list[Item]:
    """All items up to and including the frame with an item for which `is_last` is true."""
    items: list[Item] = []
    async for batch in client:
        items += batch
        if any(map(is_last, batch)):
            return items
    raise AssertionError(f"closed with {client.close_code} before the item came; got {items}")


async def read_data(client: MemoryClient, channel: str, number: int) -> list[Any]:
    """The data of the next `number` items of a channel."""
    data: list[Any] = []
    while len(data) < number:
        items = await read(client, lambda item: item.get("channel") == channel and "seq" in item)
        data += [item["data"] for item in items if item.get("channel") == channel and "seq" in item]
    return data


def is_empty(hub: Hub) -> bool:
    """Whether the hub keeps nothing of any client, and every ledger is closed and balances."""
    statistics = hub.statistics()
    counts = (
        statistics.sessions,
        statistics.subscriptions,
        statistics.subscription_sets,
        statistics.cohorts,
        statistics.stalled,
    )
    return not any(counts) and all(
        channel.ledger.is_balanced and not channel.ledger.pending and not channel.watchers
        for channel in statistics.channels.values()
    )


class FakeTransport:
    """Accepts everything, and records the calls. `on_write` is called within each write."""

    def __init__(self, on_write: Callable[[bytes], bool | None] | None = None) -> None:
        self.writes: list[bytes] = []
        self.ended: tuple[int, str] | None = None
        self.is_paused = False
        self.seen = 0
        self.on_write = on_write
        self.news = anyio.Event()

    def write(self, frame: bytes) -> bool:
        self.writes.append(frame)
        self.news.set()
        return True if self.on_write is None else self.on_write(frame) is not False

    def close(self, code: int, reason: str) -> None:
        self.ended = (code, reason)
        self.news.set()

    def pause_reading(self) -> None:
        self.is_paused = True
        self.news.set()

    def resume_reading(self) -> None:
        self.is_paused = False
        self.news.set()

    def confirmed(self, frames: int) -> None:
        self.seen = frames
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a call after which `condition` is true."""
        while not condition():
            self.news = anyio.Event()
            await self.news.wait()

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()


def plug_in(hub: Hub, transport: FakeTransport, *channels: Any, identity: Identity | None = None) -> Session:
    """Connect a fake transport, and subscribe."""
    peer = Peer(Handshake(transport="fake"), identity or ANONYMOUS)
    session = hub.gateway.connect(transport, WIRE, peer)
    if channels:
        hub.gateway.receive_data(session, json.dumps({"action": "subscribe", "channels": list(channels)}))
    return session


class MoodyJournal(MemoryJournal):
    """Fails while `fault` is set, and waits while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.gate = anyio.Event()
        self.gate.set()
        self.arrived = anyio.Event()
        self.appended: list[int] = []
        """The number of items of each batch that was to be appended."""

    async def _pass(self) -> None:
        self.arrived.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault

    async def open(self, channel: str, epoch: str) -> JournalState:
        await self._pass()
        return await super().open(channel, epoch)

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        self.appended.append(len(items))
        await self._pass()
        return await super().append(channel, first, items)

    async def read(self, channel: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        await self._pass()
        return await super().read(channel, after, limit)


async def cancellation() -> BaseException:
    """A cancellation as a task sees it, caught; on Trio its class cannot be instantiated."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class() as caught:
            return caught
    raise AssertionError("the task was not cancelled")

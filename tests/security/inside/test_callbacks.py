"""C02: callbacks of the hub may call the hub. It takes effect after the running step, in order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Handshake, Hub, Identity, anonymous
from analytics_hub.core.session import Session
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports.memory import subscribe

from ...hub.rig import FakeTransport, is_empty, plug_in, read, running

pytestmark = pytest.mark.anyio

CHANNELS = ("events", "latest", "durable", "table")
READER = anonymous(Handshake())


class ReentrantTransport(FakeTransport):
    """Calls the hub within every call of its own."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def write(self, frame: bytes) -> bool:
        super().write(frame)
        self.world.call_hub()
        return self.world.chance.random() > 0.1

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.world.call_hub()

    def pause_reading(self) -> None:
        self.world.call_hub()

    def resume_reading(self) -> None:
        self.world.call_hub()


class World:
    """A hub with transports, a journal and a hook that call it, up to `calls_left` times."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.calls_left = 300
        self.numbers = count(1)
        self.hub: Hub
        self.verbs: Sequence[Callable[[], None]] = (
            self.publish, self.publish, self.publish, self.confirm, self.delete,
            self.connect, self.disconnect, self.command, self.command, self.resume,
        )  # fmt: skip

    def call_hub(self) -> None:
        if self.calls_left > 0 and self.hub.is_open:
            self.calls_left -= 1
            for _ in range(self.chance.randrange(3)):
                self.chance.choice(self.verbs)()

    def session(self) -> Session | None:
        """One of a reentrant transport, which the observer has not."""
        sessions = [session for session in self.hub.sessions if isinstance(session.transport, ReentrantTransport)]
        return self.chance.choice(sessions) if sessions else None

    def some_channels(self) -> list[str]:
        return self.chance.sample(CHANNELS, self.chance.randint(1, len(CHANNELS)))

    def publish(self) -> None:
        channel = self.chance.choice(CHANNELS)
        self.hub.publish(channel, next(self.numbers), key="k" if channel == "table" else None)

    def confirm(self) -> None:
        self.hub.gateway.submit("durable", next(self.numbers))

    def delete(self) -> None:
        self.hub.delete("table", "k")

    def connect(self) -> None:
        if len(self.hub.sessions) < 12:
            plug_in(self.hub, ReentrantTransport(self), *self.some_channels(), identity=READER)

    def disconnect(self) -> None:
        if (session := self.session()) is not None:
            self.hub.gateway.disconnect(session)

    def command(self) -> None:
        if (session := self.session()) is not None:
            action = self.chance.choice(["subscribe", "unsubscribe", "ping"])
            command: dict[str, Any] = {"action": action}
            if action != "ping":
                command["channels"] = self.some_channels()
            self.hub.gateway.receive_data(session, json.dumps(command))

    def resume(self) -> None:
        if (session := self.session()) is not None:
            self.hub.gateway.resumed(session)

    async def authorize(self, identity: Identity, *question: str) -> bool:
        self.call_hub()
        await checkpoint()
        self.call_hub()
        return True


class ReentrantJournal(MemoryJournal):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        self._world.call_hub()
        oldest = await super().append(channel, first, items)
        self._world.call_hub()
        return oldest

    async def read(self, channel: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        self._world.call_hub()
        return await super().read(channel, after, limit)


@pytest.mark.parametrize("seed", range(12))
async def test_c02_callbacks_may_call_every_method(seed: int) -> None:
    world = World(seed)
    async with running(authorize=world.authorize, journal=ReentrantJournal(world)) as world.hub:
        hub = world.hub
        async with subscribe(hub, *CHANNELS, identity=READER) as observer:
            for _ in range(4):
                world.connect()
            while world.calls_left > 0:
                world.publish()
                if not any(isinstance(session.transport, ReentrantTransport) for session in hub.sessions):
                    world.connect()
                world.resume()
                await checkpoint()
                assert all(ledger.is_balanced for session in hub.sessions for ledger in hub.ledger(session).values())
            hub.publish("events", "the end")
            items = await read(observer, lambda item: item.get("data") == "the end")
            while hub.sessions[1:]:
                world.disconnect()
            assert "transport-failed" not in hub.statistics().counters

        for channel in CHANNELS:
            numbers = [item["seq"] for item in items if item.get("channel") == channel]
            assert numbers == sorted(set(numbers))
        events = [item["seq"] for item in items if item.get("channel") == "events"]
        assert events == list(range(events[0], events[-1] + 1))
        assert is_empty(hub)

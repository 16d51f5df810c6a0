"""The transports under test, and how a test comes to a hub that is served by one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity, PermissionDenied, Tuning
from analytics_hub.telemetry import COUNTERS
from analytics_hub.testing import ManualClock

from .asgi import ASGIDoor
from .client import Client, Connect, Door, Reader
from .memory import MemoryDoor
from .sse import EventDoor
from .tcp import TCPDoor
from .websocket import WebSocketDoor

DOORS: Final[tuple[Door, ...]] = (MemoryDoor(), WebSocketDoor(), TCPDoor(), EventDoor(), ASGIDoor())

HANG: Final = 30.0
"""Seconds after which a test is taken to hang; nothing is measured with it."""
FAST: Final = Tuning(interval=0.001, rate=None, command_rate=None)
"""For tests that run by the real clock."""

CHANNELS: Final = (
    Channel("routing", mode="events"),
    Channel("lps", mode="table", key="lp"),
    Channel("exposure", mode="latest"),
    Channel("alerts", mode="durable"),
    Channel("secret", roles=frozenset({"admin"})),
    Channel("user:*"),
)


class Tokens:
    """An `authenticate` that knows some tokens by heart; a test may add its own."""

    def __init__(self) -> None:
        self.known: dict[str, Identity | Exception] = {
            "alice": Identity(id="alice", roles=frozenset({"trader"})),
            "root": Identity(id="root", roles=frozenset({"admin"})),
            "old": AuthenticationError("expired"),
            "banned": PermissionDenied("not you"),
        }

    def __call__(self, handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        found = self.known.get(handshake.token, AuthenticationError("invalid"))
        if isinstance(found, Exception):
            raise found
        return found

    def add(self, token: str, **changes: Any) -> None:
        """A token of alice's with some of her identity changed."""
        alice = self.known["alice"]
        assert isinstance(alice, Identity)
        self.known[token] = replace(alice, **changes)


@dataclass(frozen=True, slots=True)
class House:
    """A hub that is being served."""

    hub: Hub
    connect: Connect
    clock: ManualClock
    tokens: Tokens

    @asynccontextmanager
    async def reader(self, *channels: Any, token: str | None = "alice") -> AsyncIterator[Reader]:
        """A client that was let in and has subscribed to `channels`."""
        async with self.connect(token) as client:
            reader = Reader(client)
            if token is not None:
                await reader.next("$hello")
            if channels:
                await reader.subscribe(*channels)
            yield reader

    async def gone(self) -> None:
        """Wait until the hub knows of no client any more."""
        while self.hub.statistics().sessions:
            await checkpoint()


@asynccontextmanager
async def serving(
    door: Door, *, channels: Iterable[Channel] = CHANNELS, tuning: Tuning = FAST, manual: bool = False, **options: Any
) -> AsyncIterator[House]:
    """A hub behind `door`; with `manual`, its time moves by `house.clock.advance` alone."""
    clock = ManualClock()
    tokens = Tokens()
    if manual:
        options |= {"clock": clock, "wall_clock": clock.wall}
    hub = clock.attach(Hub(channels, authenticate=tokens, tuning=tuning, grace=2.0, **options))
    try:
        with anyio.fail_after(HANG):
            async with hub, door.open(hub) as connect:
                yield House(hub, connect if door.abilities.takes_commands else _with_token(connect), clock, tokens)
            assert set(hub.statistics().counters) <= set(COUNTERS)
    except* _Unable as reasons:  # wrapped by the task groups that it came through
        unable = reasons
    else:
        return
    pytest.skip(str(unable.exceptions[0]))


class _Unable(Exception):
    """A test asks for what the transport declares that it cannot do."""


def _with_token(connect: Connect) -> Connect:
    """`connect` of a transport that could take a token in a first message only if it took messages."""

    def let_in(token: str | None = None) -> AbstractAsyncContextManager[Client]:
        if token is None:
            raise _Unable("this transport takes no token as a message")
        return connect(token)

    return let_in


__all__ = ["CHANNELS", "DOORS", "FAST", "Client", "Door", "House", "Tokens", "serving"]

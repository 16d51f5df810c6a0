"""The transports under test, and a hub that is served by one of them."""

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

from . import abilities, asgi, memory, sse, sse_asgi, tcp, websocket
from .client import Client, Connect, Reader, TransportUnderTest

TRANSPORTS: Final = (
    TransportUnderTest(abilities.MEMORY, memory.serving),
    TransportUnderTest(abilities.WEBSOCKET, websocket.serving),
    TransportUnderTest(abilities.TCP, tcp.serving),
    TransportUnderTest(abilities.SSE, sse.serving),
    TransportUnderTest(abilities.ASGI, asgi.serving),
    TransportUnderTest(replace(abilities.SSE, transport="sse-asgi"), sse_asgi.serving),
)

HANG: Final = 30.0
"""Seconds after which a test counts as hanging; nothing is measured with it."""
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
    """An `authenticate` with a table of tokens; a test may add its own."""

    def __init__(self) -> None:
        self.known: dict[str, Identity | Exception] = {
            "alice": Identity(id="alice", roles=frozenset({"trader"})),
            "root": Identity(id="root", roles=frozenset({"admin"})),
            "old": AuthenticationError("expired"),
            "banned": PermissionDenied("this identity is banned"),
        }

    def __call__(self, handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        found = self.known.get(handshake.token, AuthenticationError("invalid"))
        if isinstance(found, Exception):
            raise found
        return found

    def add(self, token: str, **changes: Any) -> None:
        """A token for the identity `alice` with some fields changed."""
        alice = self.known["alice"]
        assert isinstance(alice, Identity)
        self.known[token] = replace(alice, **changes)


@dataclass(frozen=True, slots=True)
class ServedHub:
    """A hub that is being served."""

    hub: Hub
    connect: Connect
    clock: ManualClock
    tokens: Tokens

    @asynccontextmanager
    async def reader(self, *channels: Any, token: str | None = "alice") -> AsyncIterator[Reader]:
        """A client that was admitted and has subscribed to `channels`."""
        async with self.connect(token) as client:
            reader = Reader(client)
            if token is not None:
                await reader.next("$hello")
            if channels:
                await reader.subscribe(*channels)
            yield reader

    async def all_disconnected(self) -> None:
        """Wait until the hub has no session."""
        while self.hub.statistics().sessions:
            await checkpoint()


@asynccontextmanager
async def serving(
    transport: TransportUnderTest,
    *,
    channels: Iterable[Channel] = CHANNELS,
    tuning: Tuning = FAST,
    manual: bool = False,
    **options: Any,
) -> AsyncIterator[ServedHub]:
    """A hub that is served by `transport`; with `manual`, its time moves by `served.clock.advance` only."""
    clock = ManualClock()
    tokens = Tokens()
    if manual:
        options |= {"clock": clock, "wall_clock": clock.wall}
    hub = clock.attach(Hub(channels, authenticate=tokens, tuning=tuning, grace=2.0, **options))
    try:
        with anyio.fail_after(HANG):
            async with hub, transport.serve(hub) as connect:
                yield ServedHub(
                    hub, connect if transport.abilities.has_commands else _with_token(connect), clock, tokens
                )
            assert set(hub.statistics().counters) <= set(COUNTERS)
    except* _Unsupported as reasons:  # wrapped by the task groups that it came through
        unsupported = reasons
    else:
        return
    pytest.skip(str(unsupported.exceptions[0]))


class _Unsupported(Exception):
    """The test needs an ability that the transport does not have."""


def _with_token(connect: Connect) -> Connect:
    """`connect` of a transport without commands: no token can come as the first message."""

    def connect_client(token: str | None = None) -> AbstractAsyncContextManager[Client]:
        if token is None:
            raise _Unsupported("this transport accepts no token as a message")
        return connect(token)

    return connect_client


__all__ = ["CHANNELS", "FAST", "TRANSPORTS", "ServedHub", "Tokens", "serving"]

"""The door to `analytics_hub.transports.memory`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from analytics_hub import AuthenticationError, Hub, HubError, PermissionDenied
from analytics_hub.exceptions import TooManyRequests
from analytics_hub.transports.memory import ABILITIES, MemoryClient, connect

from .client import Batch, Client, Closed, Connect, Refused

_STATUS: dict[type[HubError], int] = {AuthenticationError: 401, PermissionDenied: 403, TooManyRequests: 429}


class _Client:
    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            self._client.send(command)
        await checkpoint()

    async def send_raw(self, data: str | bytes) -> None:
        self._client.send(data)
        await checkpoint()

    async def receive(self) -> Batch:
        try:
            return await anext(self._client)
        except StopAsyncIteration:
            raise Closed(self._client.close_code, self._client.close_reason or "") from None

    async def vanish(self) -> None:
        self._client.leave()

    async def close(self) -> None:
        self._client.leave()


class MemoryDoor:
    name = "memory"
    abilities = ABILITIES

    def open(self, hub: Hub) -> AbstractAsyncContextManager[Connect]:
        return _open(hub)


@asynccontextmanager
async def _open(hub: Hub) -> AsyncIterator[Connect]:
    @asynccontextmanager
    async def let_in(token: str | None = None) -> AsyncIterator[Client]:
        async with _connect(hub, token) as client:
            yield _Client(client)

    yield let_in


@asynccontextmanager
async def _connect(hub: Hub, token: str | None) -> AsyncIterator[MemoryClient]:
    connecting = connect(hub, token=token, room=2)
    try:
        client = await connecting.__aenter__()
    except HubError as error:
        raise Refused(next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)) from error
    try:
        yield client
    finally:
        await connecting.__aexit__(None, None, None)

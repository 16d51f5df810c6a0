"""Serves a hub by `analytics_hub.transports.memory`, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from analytics_hub import Hub, HubError
from analytics_hub.transports.memory import MemoryClient, connect

from .client import Batch, Client, Closed, Connect, Refused


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


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    @asynccontextmanager
    async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
        async with _connect(hub, token) as client:
            yield _Client(client)

    yield connect_client


@asynccontextmanager
async def _connect(hub: Hub, token: str | None) -> AsyncIterator[MemoryClient]:
    connecting = connect(hub, token=token, room=2)
    try:
        client = await connecting.__aenter__()
    except HubError as error:
        raise Refused(error.http_status) from error
    try:
        yield client
    finally:
        await connecting.__aexit__(None, None, None)

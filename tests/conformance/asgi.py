"""Serves a hub by `analytics_hub.transports.asgi`, in this process, under the server of `asgi_peer`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from anyio.lowlevel import checkpoint

from analytics_hub import Hub
from analytics_hub.transports.asgi import HubApp
from tests.transports.asgi_peer import Server, running, scope_for

from .client import Batch, Client, Closed, Connect, Refused

ROOM = 2
"""Messages that the server takes for a client that does not read."""


class _Client:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            self._server.send_to_app(command)
        await checkpoint()

    async def send_raw(self, data: str | bytes) -> None:
        self._server.send_to_app(data)
        await checkpoint()

    async def receive(self) -> Batch:
        message = await self._server.read()
        if message["type"] == "websocket.close":
            raise Closed(message["code"], message["reason"])
        return cast("Batch", json.loads(message["text"]))

    async def vanish(self) -> None:
        self._server.disconnect()

    async def close(self) -> None:
        self._server.disconnect(1000)
        await self._server.done()


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    app = HubApp(hub)

    @asynccontextmanager
    async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
        async with running(app, scope_for(token), room=ROOM, accepted=False) as server:
            answer = await server.read()
            if answer["type"] == "websocket.http.response.start":
                raise Refused(answer["status"])
            assert answer["type"] == "websocket.accept"
            yield _Client(server)
            assert server.error is None

    yield connect_client

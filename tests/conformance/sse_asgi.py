"""Serves a hub by server-sent events under ASGI, in this process, under the server of `asgi_peer`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from analytics_hub import Hub
from analytics_hub.transports.asgi import HubApp
from tests.transports.asgi_peer import Server, bearer, http_scope, running

from .asgi import ROOM
from .client import Client, Connect, Refused
from .sse import EventReader


class _Client(EventReader):
    def __init__(self, app: HubApp, server: Server, token: str) -> None:
        super().__init__()
        self._app = app
        self._server = server
        self._token = token

    async def read_bytes(self) -> bytes:
        data: bytes = (await self._server.read())["body"]
        return data

    async def post_commands(self, session: str, body: bytes) -> int:
        scope = http_scope("POST", "/commands", bearer(self._token), query=f"session={session}")
        async with running(self._app, scope) as server:
            server.put({"type": "http.request", "body": body})
            status: int = (await server.read())["status"]
            await server.done()
        return status

    async def vanish(self) -> None:
        self._server.disconnect()

    async def close(self) -> None:
        self._server.disconnect()
        await self._server.done()


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    app = HubApp(hub)

    @asynccontextmanager
    async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
        assert token is not None, "an event stream cannot begin without a token"
        scope: dict[str, Any] = http_scope("GET", "/events", bearer(token))
        async with running(app, scope, room=ROOM) as server:
            server.put({"type": "http.request"})
            status = (await server.read())["status"]
            if status != 200:
                raise Refused(status)
            yield _Client(app, server, token)
            assert server.error is None

    yield connect_client

"""A server that plays a scene for each connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Message, Request, TextMessage

from analytics_hub.client import Disconnected, HubClient
from analytics_hub.client import Event as ClientEvent
from analytics_hub.protocol import SUBPROTOCOL_JSON

# With an hour between heartbeats nothing happens by itself: what is not sent at once is never sent.
HELLO = {"type": "$hello", "node": "stage", "heartbeat": 3600, "reconnect": {"min": 0.5, "max": 30}}


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.request: Request | None = None
        self._ws = WSConnection(ConnectionType.SERVER)
        self._events: list[Event] = []

    async def receive(self) -> Event:
        while not self._events:
            self._ws.receive_data(await self.stream.receive())
            self._events = list(self._ws.events())
        return self._events.pop(0)

    async def send(self, *events: Event) -> None:
        await self.stream.send(b"".join(self._ws.send(event) for event in events))

    async def say(self, *items: dict[str, Any]) -> None:
        await self.send(TextMessage(json.dumps(items)))

    async def accept(self, subprotocol: str = SUBPROTOCOL_JSON) -> Request:
        """Upgrade, let the client in, and return its request."""
        request = await self.receive()
        assert isinstance(request, Request)
        await self.send(AcceptConnection(subprotocol=subprotocol))
        await self.say(HELLO)
        return request

    async def command(self) -> dict[str, Any]:
        message = await self.receive()
        assert isinstance(message, Message), message
        command: dict[str, Any] = json.loads(message.data)
        return command

    async def subscribed(self, seq: int = 0) -> dict[str, Any]:
        """Upgrade, confirm the first command, and return what it selects."""
        await self.accept()
        return await self.confirm(seq)

    async def confirm(self, seq: int = 0) -> dict[str, Any]:
        command = await self.command()
        selection: dict[str, Any] = command["channels"][0]
        answer = {"channel": selection["channel"], "ok": True, "epoch": "e", "seq": seq, "recovered": True}
        await self.say({"type": "$subscribed", "id": command["id"], "channels": [answer]})
        return selection

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye, and wait until the client has answered."""
        await self.send(CloseConnection(code, reason))
        await self.closed()

    async def closed(self) -> None:
        """Wait for the client's goodbye."""
        while not isinstance(await self.receive(), CloseConnection):
            pass


Scene = Callable[[Peer], Awaitable[None]]


class Stage:
    """Where the server is, and what its client has said of itself."""

    def __init__(self, port: int, scenes: list[Scene]) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.scenes = scenes
        self.events: list[ClientEvent] = []

    def client(self, token: Any = "token", **options: Any) -> HubClient:
        """One that comes back at once, wherever the server has not said when."""
        return HubClient(self.url, token, **{"on_event": self.events.append, "jitter": lambda: 0.0} | options)

    @property
    def sentences(self) -> list[str]:
        return [event.sentence for event in self.events if isinstance(event, Disconnected)]


@asynccontextmanager
async def stage(*scenes: Scene) -> AsyncIterator[Stage]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        played = Stage(listener.extra(SocketAttribute.local_port), list(scenes))

        async def serve(stream: SocketStream) -> None:
            async with stream:
                await played.scenes.pop(0)(Peer(stream))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            with anyio.fail_after(30):
                yield played
            tasks.cancel_scope.cancel()
    assert played.scenes == []

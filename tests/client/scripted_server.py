"""A server that runs one script for each connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Message, Request, TextMessage

from analytics_hub.client import Disconnected, HubClient
from analytics_hub.client import Event as ClientEvent
from analytics_hub.protocol import SUBPROTOCOL_JSON

# With an hour between heartbeats, the client sends nothing because of a timer.
HELLO = {"type": "$hello", "node": "scripted", "heartbeat": 3600, "reconnect": {"min": 0.5, "max": 30}}


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._events: list[Event] = []

    async def receive(self) -> Event:
        while not self._events:
            self._ws.receive_data(await self.stream.receive())
            self._events = list(self._ws.events())
        return self._events.pop(0)

    async def receive_request(self) -> Request:
        request = await self.receive()
        assert isinstance(request, Request)
        return request

    async def receive_command(self) -> dict[str, Any]:
        message = await self.receive()
        assert isinstance(message, Message), message
        command: dict[str, Any] = json.loads(message.data)
        return command

    async def send(self, *events: Event) -> None:
        await self.stream.send(b"".join(self._ws.send(event) for event in events))

    async def send_items(self, *items: dict[str, Any]) -> None:
        await self.send(TextMessage(json.dumps(items)))

    async def accept(self, subprotocol: str = SUBPROTOCOL_JSON) -> Request:
        """Upgrade, send `$hello`, and return the request."""
        request = await self.receive_request()
        await self.send(AcceptConnection(subprotocol=subprotocol))
        await self.send_items(HELLO)
        return request

    async def accept_subscription(self, seq: int = 0) -> dict[str, Any]:
        """Upgrade, confirm the first command, and return its selection."""
        await self.accept()
        return await self.confirm_subscription(seq)

    async def confirm_subscription(self, seq: int = 0) -> dict[str, Any]:
        command = await self.receive_command()
        selection: dict[str, Any] = command["channels"][0]
        answer = {"channel": selection["channel"], "ok": True, "epoch": "e", "seq": seq, "recovered": True}
        await self.send_items({"type": "$subscribed", "id": command["id"], "channels": [answer]})
        return selection

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, and wait for the answer."""
        await self.send(CloseConnection(code, reason))
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait for the close frame of the client."""
        while not isinstance(await self.receive(), CloseConnection):
            pass

    async def wait_eof(self) -> None:
        """Wait for the end of the connection below the WebSocket."""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await self.stream.receive()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """The address of the server, and the events that its clients have reported."""

    def __init__(self, port: int, scripts: list[Script]) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.scripts = scripts
        self.events: list[ClientEvent] = []

    def client(self, token: Any = "token", **options: Any) -> HubClient:
        """A client that reconnects without a delay, unless the server asks for one."""
        return HubClient(self.url, token, **{"on_event": self.events.append, "jitter": lambda: 0.0} | options)

    @property
    def disconnects(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Disconnected)]


@asynccontextmanager
async def scripted_server(*scripts: Script) -> AsyncIterator[ScriptedServer]:
    """Each connection runs the next of `scripts`; all of them must have run at the end."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        server = ScriptedServer(listener.extra(SocketAttribute.local_port), list(scripts))

        async def serve(stream: SocketStream) -> None:
            async with stream:
                await server.scripts.pop(0)(Peer(stream))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            with anyio.fail_after(30):
                yield server
            tasks.cancel_scope.cancel()
    assert server.scripts == []

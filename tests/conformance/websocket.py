"""Serves a hub by `analytics_hub.transports.websocket`, with a client on wsproto that never reads ahead."""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from analytics_hub import Hub
from analytics_hub.transports.websocket import Limits, serve

from .client import Batch, Client, Closed, Connect, Refused

PATH = "/ws/analytics"
# As small as kernels allow: the hub must notice a client that does not read after kilobytes, not after megabytes.
RECEIVE_BUFFER = 4096
# No test may fail because the machine stood still for some seconds.
PATIENT = Limits(handshake_timeout=60.0, close_timeout=60.0)


class _Client:
    """One client on its own socket. Bytes are read from the kernel only inside `receive`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        self._closed: Closed | None = None

    async def handshake(self, host: str, target: str, token: str | None, subprotocols: Sequence[str]) -> None:
        headers = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
        request = Request(host=host, target=target, extra_headers=headers, subprotocols=list(subprotocols))
        await self._send_event(request)
        try:
            event = await self._next_event()
        except RemoteProtocolError:
            raise ConnectionResetError("the server closed the connection instead of answering") from None
        if isinstance(event, RejectConnection):
            raise Refused(event.status_code)
        assert isinstance(event, AcceptConnection)

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            await self.send_raw(json.dumps(command, separators=(",", ":")))

    async def send_raw(self, data: str | bytes) -> None:
        message: Message[Any] = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
        await self._send_event(message)

    async def receive(self) -> Batch:
        text = ""
        while True:
            event = await self._next_event()
            if isinstance(event, Ping):
                await self._send_event(event.response())
            elif isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    return cast("Batch", json.loads(text))
            else:
                raise AssertionError(f"the server sent {event}")

    async def vanish(self) -> None:
        # A reset, as from a machine that has forgotten the connection.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def close(self) -> None:
        await self._send_event(CloseConnection(1000, "done"))
        try:
            while True:
                await self.receive()
        except Closed:
            pass

    # --- bytes

    async def _send_event(self, event: Any) -> None:
        data = memoryview(self._protocol.send(event))
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)

    async def _next_event(self) -> Event:
        while not self._events:
            if self._closed is not None:
                raise self._closed
            self._protocol.receive_data(await self._read())
            self._events.extend(self._protocol.events())
        event = self._events.popleft()
        if isinstance(event, CloseConnection):
            self._closed = Closed(event.code, event.reason or "")
            if self._protocol.state.name == "REMOTE_CLOSING":
                await self._send_event(event.response())
            raise self._closed
        return event

    async def _read(self) -> bytes | None:
        while True:
            try:
                return self._sock.recv(65_536) or None
            except BlockingIOError:
                await anyio.wait_readable(self._sock)


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(
            lambda task_status: serve(hub, port=0, path=PATH, limits=PATIENT, task_status=task_status)
        )

        @asynccontextmanager
        async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
            async with dial("127.0.0.1", port, token) as client:
                yield client

        yield connect_client
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def dial(
    host: str, port: int, token: str | None, *, target: str = PATH, subprotocols: Sequence[str] = ()
) -> AsyncIterator[_Client]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        if sock.connect_ex((host, port)):
            await anyio.wait_writable(sock)
        client = _Client(sock)
        await client.handshake(f"{host}:{port}", target, token, subprotocols)
        yield client

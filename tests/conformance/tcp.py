"""Serves a hub by `analytics_hub.transports.tcp`, with a client on a plain socket that never reads ahead."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from analytics_hub import Hub
from analytics_hub.transports.tcp import Limits, serve

from .client import Batch, Client, Closed, Connect, Refused
from .websocket import RECEIVE_BUFFER

# No test may fail because the machine stood still for some seconds.
PATIENT: Final = Limits(handshake_timeout=60.0, close_timeout=60.0)
_STATUS: Final = {4401: 401, 4403: 403, 4429: 429, 1011: 503, 1012: 503, 1013: 503}
_AUTH: Final = "auth"


class _Client:
    """One client on its own socket. Bytes are read from the kernel only inside `receive`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = bytearray()
        self._kept: Batch | None = None
        self._closed: Closed | None = None

    async def authenticate(self, token: str) -> None:
        """Send the token as the first message; its answer is not among the items received afterwards."""
        await self.send({"action": "auth", "id": _AUTH, "token": token})
        kept: Batch = []
        while not any(item["type"] == "$authenticated" for item in kept):
            try:
                kept += await self.receive()
            except Closed as closed:
                raise Refused(_STATUS[closed.code or 1011]) from None
        self._kept = [item for item in kept if item.get("id") != _AUTH]

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            await self.send_raw(json.dumps(command, separators=(",", ":")))

    async def send_raw(self, data: str | bytes) -> None:
        view = memoryview((data.encode() if isinstance(data, str) else data) + b"\n")
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)

    async def receive(self) -> Batch:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        batch: Batch = [] if self._closed else json.loads(await self._read_line())
        if batch and batch[-1]["type"] == "$close":
            last = batch.pop()
            self._closed = Closed(last["code"], last["reason"])
        if self._closed and not batch:
            raise self._closed
        return batch

    async def vanish(self) -> None:
        # A reset, as from a machine that has forgotten the connection.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def close(self) -> None:
        self._sock.close()

    async def _read_line(self) -> bytes:
        while (end := self._rest.find(b"\n")) < 0:
            try:
                data = self._sock.recv(65_536)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            if not data:
                raise Closed(None)
            self._rest += data
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(lambda task_status: serve(hub, port=0, limits=PATIENT, task_status=task_status))

        @asynccontextmanager
        async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
            before = hub.statistics().counters.get("connected")
            async with _connect(port) as client:
                if token is not None:
                    await client.authenticate(token)
                while hub.statistics().counters.get("connected") == before:
                    await checkpoint()  # the kernel accepts before the hub does
                yield client

        yield connect_client
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _connect(port: int) -> AsyncIterator[_Client]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        if sock.connect_ex(("127.0.0.1", port)):
            await anyio.wait_writable(sock)
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "the server does not listen")
        yield _Client(sock)

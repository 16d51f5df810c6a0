"""Serves a hub by server-sent events: a client that never reads ahead, and a request of its own for each command."""

from __future__ import annotations

import json
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import h11

from analytics_hub import Hub
from analytics_hub.transports.websocket import serve

from .client import Batch, Client, Closed, Connect, Refused
from .websocket import PATIENT

# As small as kernels allow: a client that stops reading is to be noticed after kilobytes, not after megabytes.
RECEIVE_BUFFER: Final = 4096


class Exchange:
    """One request on a socket of its own. Bytes are read from the kernel only inside `next_event`."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self.headers: dict[str, str] = {}

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> int:
        """Send the request and read the head of the answer; returns its status."""
        lines = {"Host": self._host, "Content-Length": str(len(body)), **headers}
        head = h11.Request(method=method, target=target, headers=[*lines.items()])
        events = (head, h11.Data(data=body), h11.EndOfMessage())
        view = memoryview(b"".join([self._http.send(event) or b"" for event in events]))
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self.sock)
        response = await self.next_event()
        assert isinstance(response, h11.Response), response
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        return response.status_code

    async def next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                self._http.receive_data(self.sock.recv(65_536))
            except BlockingIOError:
                await anyio.wait_readable(self.sock)
        return event

    async def read_body(self) -> bytes:
        body = b""
        while isinstance(event := await self.next_event(), h11.Data):
            body += event.data
        return body


@asynccontextmanager
async def connect(port: int, *, buffer: int | None = None) -> AsyncIterator[Exchange]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        if sock.connect_ex(("127.0.0.1", port)):
            await anyio.wait_writable(sock)
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionRefusedError(error, "the server is not listening")
        yield Exchange(sock, f"127.0.0.1:{port}")


class EventParser:
    """Splits a stream into batches. `cursor` is what a browser would send as `Last-Event-ID` after the last batch."""

    def __init__(self) -> None:
        self.cursor = ""
        self.retry: int | None = None
        self.session: str | None = None
        self._data = b""
        self._closed: Closed | None = None

    def feed(self, data: bytes) -> None:
        self._data += data

    def next_batch(self) -> Batch | None:
        """The next batch, empty for a heartbeat; None if more data is needed. Raises `Closed` after `$close`."""
        while b"\n\n" in self._data and self._closed is None:
            block, _, self._data = self._data.partition(b"\n\n")
            batch = self._parse(block.decode())
            if batch is not None:
                return batch
        if self._closed is not None:
            raise self._closed
        return None

    def _parse(self, block: str) -> Batch | None:
        """The items of one event; None for a block without any."""
        if block.startswith(":"):
            return []
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "retry" in fields:
            self.retry = int(fields["retry"])
            return None
        assert fields["event"] == "batch"
        self.cursor = fields.get("id", self.cursor)
        batch: Batch = json.loads(fields["data"])
        for item in batch:
            if item["type"] == "$hello":
                self.session = item["session"]
        if batch[-1]["type"] == "$close":
            last = batch.pop()
            self._closed = Closed(last["code"], last["reason"])
        return batch or None


class EventReader(ABC):
    """A client of one stream."""

    def __init__(self) -> None:
        self._parser = EventParser()
        self._kept: deque[Batch] = deque()

    @abstractmethod
    async def read_bytes(self) -> bytes:
        """The next bytes of the stream, or none at its end."""

    @abstractmethod
    async def post_commands(self, session: str, body: bytes) -> int:
        """Send a request with commands; returns its status."""

    @property
    def cursor(self) -> str:
        return self._parser.cursor

    @property
    def retry(self) -> int | None:
        return self._parser.retry

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            await self.send_raw(json.dumps(command, separators=(",", ":")))

    async def send_raw(self, data: str | bytes) -> None:
        while self._parser.session is None:
            self._kept.append(await self._read())
        body = data.encode() if isinstance(data, str) else data
        # 404: the session has ended meanwhile
        assert await self.post_commands(self._parser.session, body) in (202, 404)

    async def receive(self) -> Batch:
        return self._kept.popleft() if self._kept else await self._read()

    async def _read(self) -> Batch:
        while (batch := self._parser.next_batch()) is None:
            data = await self.read_bytes()
            if not data:
                raise Closed(None)
            self._parser.feed(data)
        return batch


class EventClient(EventReader):
    """A client over sockets."""

    def __init__(self, exchange: Exchange, port: int, token: str, prefix: str = "") -> None:
        super().__init__()
        self._exchange = exchange
        self._port = port
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._prefix = prefix

    async def open(self, query: str = "", cursor: str = "") -> None:
        """Request the stream; raises `Refused`."""
        headers = self._authorization | ({"Last-Event-ID": cursor} if cursor else {})
        status = await self._exchange.request("GET", f"{self._prefix}/events?{query}", headers)
        if status != 200:
            raise Refused(status)
        assert self._exchange.headers["content-type"].startswith("text/event-stream")

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer."""
        return self._exchange.headers

    async def read_bytes(self) -> bytes:
        event = await self._exchange.next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def post_commands(self, session: str, body: bytes) -> int:
        async with connect(self._port) as exchange:
            target = f"{self._prefix}/commands?session={session}"
            return await exchange.request("POST", target, self._authorization, body)

    async def vanish(self) -> None:
        # A reset, as from a machine that has forgotten the connection.
        self._exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._exchange.sock.close()

    async def close(self) -> None:
        self._exchange.sock.close()


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[Connect]:
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(lambda task_status: serve(hub, port=0, limits=PATIENT, task_status=task_status))

        @asynccontextmanager
        async def connect_client(token: str | None = None) -> AsyncIterator[Client]:
            assert token is not None, "an event stream cannot begin without a token"
            async with dial(port, token) as client:
                yield client

        yield connect_client
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def dial(
    port: int, token: str, query: str = "", *, cursor: str = "", prefix: str = ""
) -> AsyncIterator[EventClient]:
    async with connect(port, buffer=RECEIVE_BUFFER) as exchange:
        client = EventClient(exchange, port, token, prefix)
        await client.open(query, cursor)
        yield client

"""The door to server-sent events: a client that never reads ahead, and a request of its own for each command."""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import h11

from analytics_hub import Hub
from analytics_hub.transports._http.sse import ABILITIES
from analytics_hub.transports.websocket import serve

from .client import Batch, Client, Closed, Connect, Refused
from .websocket import PATIENT

# As small as kernels allow: a client that stops reading is to be felt after kilobytes, not after megabytes.
RECEIVE_BUFFER: Final = 4096


class Exchange:
    """One request on a socket of its own. Bytes are taken from the kernel only when an event is asked for."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> int:
        """Send the request and read the head of the answer; its status."""
        lines = {"Host": self._host, "Content-Length": str(len(body)), **headers}
        request = h11.Request(method=method, target=target, headers=[*lines.items()])
        events = (request, h11.Data(data=body), h11.EndOfMessage())
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

    async def read_to_the_end(self) -> bytes:
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
                raise ConnectionRefusedError(error, "the server does not listen")
        yield Exchange(sock, f"127.0.0.1:{port}")


class EventClient:
    """One stream. `cursor` is what a browser would send as `Last-Event-ID`."""

    def __init__(self, exchange: Exchange, port: int, token: str, prefix: str = "") -> None:
        self._exchange = exchange
        self._port = port
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._prefix = prefix
        self._rest = b""
        self._events: deque[Batch] = deque()
        self._closed: Closed | None = None
        self._session: str | None = None
        self.cursor = ""
        self.retry: int | None = None

    async def open(self, query: str = "", cursor: str = "") -> None:
        """Ask for the stream; raises `Refused`."""
        headers = self._authorization | ({"Last-Event-ID": cursor} if cursor else {})
        status = await self._exchange.ask("GET", f"{self._prefix}/events?{query}", headers)
        if status != 200:
            raise Refused(status)
        assert self._exchange.headers["content-type"].startswith("text/event-stream")

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the answer."""
        return self._exchange.headers

    async def send(self, *commands: Mapping[str, Any]) -> None:
        for command in commands:
            await self.send_raw(json.dumps(command, separators=(",", ":")))

    async def send_raw(self, data: str | bytes) -> None:
        while self._session is None:
            self._events.append(await self._read())
        body = data.encode() if isinstance(data, str) else data
        async with connect(self._port) as exchange:
            target = f"{self._prefix}/commands?session={self._session}"
            status = await exchange.ask("POST", target, self._authorization, body)
            assert status in (202, 404), await exchange.read_to_the_end()  # 404: the session has ended meanwhile

    async def receive(self) -> Batch:
        return self._events.popleft() if self._events else await self._read()

    async def vanish(self) -> None:
        # A reset, as from a machine that has forgotten the connection.
        self._exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._exchange.sock.close()

    async def close(self) -> None:
        self._exchange.sock.close()

    async def _read(self) -> Batch:
        while True:
            if self._closed is not None:
                raise self._closed
            while b"\n\n" not in self._rest:
                event = await self._exchange.next_event()
                if not isinstance(event, h11.Data):
                    raise Closed(None)
                self._rest += event.data
            block, _, self._rest = self._rest.partition(b"\n\n")
            batch = self._take(block.decode())
            if batch is not None:
                return batch

    def _take(self, block: str) -> Batch | None:
        """The items of one event; an empty batch for a heartbeat, None if there is nothing to see."""
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
                self._session = item["session"]
        if batch[-1]["type"] == "$close":
            last = batch.pop()
            self._closed = Closed(last["code"], last["reason"])
        if self._closed is not None and not batch:
            raise self._closed
        return batch


class EventDoor:
    name = "sse"
    abilities = ABILITIES

    def open(self, hub: Hub) -> AbstractAsyncContextManager[Connect]:
        return _open(hub)


@asynccontextmanager
async def _open(hub: Hub) -> AsyncIterator[Connect]:
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(lambda task_status: serve(hub, port=0, limits=PATIENT, task_status=task_status))

        @asynccontextmanager
        async def let_in(token: str | None = None) -> AsyncIterator[Client]:
            assert token is not None, "an event stream cannot begin without one"
            async with dial(port, token) as client:
                yield client

        yield let_in
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def dial(
    port: int, token: str, query: str = "", *, cursor: str = "", prefix: str = ""
) -> AsyncIterator[EventClient]:
    async with connect(port, buffer=RECEIVE_BUFFER) as exchange:
        client = EventClient(exchange, port, token, prefix)
        await client.open(query, cursor)
        yield client

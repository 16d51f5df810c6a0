"""A server for one ASGI application in this process, and the peers that connect to it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

Message = dict[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]

DENIAL: Message = {"websocket.http.response": {}}


def websocket_scope(**changes: Any) -> dict[str, Any]:
    """As uvicorn makes it."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50_000),
        "root_path": "",
        "path": "/hub",
        "raw_path": b"/hub",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "subprotocols": [],
        "state": {},
        "extensions": DENIAL,
        **changes,
    }


def http_scope(method: str, path: str, *headers: tuple[bytes, bytes], query: str = "") -> dict[str, Any]:
    """The scope of a request to an application that is mounted at `/hub`."""
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": "/hub" + path,
        "root_path": "/hub",
        "query_string": query.encode(),
        "headers": [(b"host", b"hub.example"), *headers],
        "client": ("127.0.0.1", 50_000),
    }


class Server:
    """One connection from the view of the server: `app` is run with `scope`, and the test is the peer.

    `room` is how many messages `send` accepts before it waits for the peer to read; None for no limit.
    """

    def __init__(self, app: Application, scope: dict[str, Any], room: int | None = None) -> None:
        self.app = app
        self.scope = scope
        self.room = room
        self.sent: deque[Message] = deque()
        """The messages of the application that were not read yet."""
        self.is_lost = False
        self.ignores_close = False
        """Whether the peer does not answer our close."""
        self.is_done = False
        self.error: BaseException | None = None
        self.receive_calls = 0
        self._to_app: deque[Message] = deque()
        self._changed = anyio.Event()

    # --- for the application

    async def receive(self) -> Message:
        self.receive_calls += 1
        self.notify()
        while not self._to_app:
            await self._changed.wait()
        message = self._to_app[0]
        if not message["type"].endswith(".disconnect"):  # which is returned by every further call too
            self._to_app.popleft()
        return message

    async def send(self, message: Message) -> None:
        while self.room is not None and len(self.sent) >= self.room and not self.is_lost:
            await self._changed.wait()
        if self.is_lost:
            raise OSError("the peer has left")
        self.sent.append(message)
        if message["type"] == "websocket.close" and not self.ignores_close:
            self.put({"type": "websocket.disconnect", "code": message["code"]})
        self.notify()

    async def run(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - what a server would log
            self.error = error
        finally:
            self.is_done = True
            self.notify()

    # --- for the peer

    def notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def put(self, *messages: Message) -> None:
        self._to_app.extend(messages)
        self.notify()

    def send_to_app(self, command: Mapping[str, Any] | str | bytes) -> None:
        """Send a WebSocket message of the peer."""
        if isinstance(command, bytes):
            self.put({"type": "websocket.receive", "bytes": command, "text": None})
        else:
            text = command if isinstance(command, str) else json.dumps(command)
            self.put({"type": "websocket.receive", "text": text})

    def disconnect(self, code: int = 1006) -> None:
        """The peer has left."""
        self.is_lost = True
        kind = "http" if self.scope["type"] == "http" else "websocket"
        self.put({"type": f"{kind}.disconnect", "code": code})

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    async def read(self) -> Message:
        """The next message of the application."""
        await self.until(lambda: self.sent or self.is_done)
        assert self.sent, f"the application has ended: {self.error!r}"
        message = self.sent.popleft()
        self.notify()
        return message

    async def read_frame(self) -> Any:
        message = await self.read()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def refused(self) -> None:
        """Wait until the application has sent the whole refusal."""
        last = ("websocket.close", "websocket.http.response.body")
        await self.until(lambda: self.is_done or (self.sent and self.sent[-1]["type"] in last))

    async def done(self) -> None:
        """Wait until the application has returned."""
        await self.until(lambda: self.is_done)


@asynccontextmanager
async def running(
    app: Application, scope: dict[str, Any] | None = None, *, room: int | None = None, accepted: bool = True
) -> AsyncIterator[Server]:
    """A connection with a peer that has connected; with `accepted`, its acceptance was read already."""
    server = Server(app, websocket_scope() if scope is None else scope, room)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        if server.scope["type"] == "websocket":
            server.put({"type": "websocket.connect"})
        try:
            if accepted and server.scope["type"] == "websocket":
                assert (await server.read())["type"] == "websocket.accept"
            yield server
        except Exception as error:  # noqa: BLE001 - raised below, outside of the group
            failure = error
        server.disconnect()
        await server.done()
    if failure is not None:
        raise failure


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {token}".encode()


def scope_for(token: str | None = None, *, subprotocols: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), *([] if token is None else [bearer(token)])]
    return websocket_scope(headers=headers, subprotocols=list(subprotocols), **changes)

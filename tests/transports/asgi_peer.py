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


class Server:
    """One connection, seen from the server: an `app` is run with `scope`, and the test is the peer.

    `room` is how many messages `send` takes before it waits for the peer to read; None for no end.
    """

    def __init__(self, app: Application, scope: dict[str, Any], room: int | None = None) -> None:
        self.app = app
        self.scope = scope
        self.room = room
        self.sent: deque[Message] = deque()
        """What the application has sent and nobody has read."""
        self.is_lost = False
        self.is_stubborn = False
        """Whether the peer leaves our close unanswered."""
        self.is_done = False
        self.error: BaseException | None = None
        self.listening = 0
        """How often the application has asked for a message."""
        self._to_app: deque[Message] = deque()
        self._news = anyio.Event()

    # --- for the application

    async def receive(self) -> Message:
        self.listening += 1
        self.tell()
        while not self._to_app:
            await self._news.wait()
        message = self._to_app[0]
        if not message["type"].endswith(".disconnect"):  # that is said again as often as one asks
            self._to_app.popleft()
        return message

    async def send(self, message: Message) -> None:
        while self.room is not None and len(self.sent) >= self.room and not self.is_lost:
            await self._news.wait()
        if self.is_lost:
            raise OSError("the peer has left")
        self.sent.append(message)
        if message["type"] == "websocket.close" and not self.is_stubborn:
            self.put({"type": "websocket.disconnect", "code": message["code"]})
        self.tell()

    async def run(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - what a server would log
            self.error = error
        finally:
            self.is_done = True
            self.tell()

    # --- for the peer

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def put(self, *messages: Message) -> None:
        self._to_app.extend(messages)
        self.tell()

    def say(self, command: Mapping[str, Any] | str | bytes) -> None:
        if isinstance(command, bytes):
            self.put({"type": "websocket.receive", "bytes": command, "text": None})
        else:
            text = command if isinstance(command, str) else json.dumps(command)
            self.put({"type": "websocket.receive", "text": text})

    def lose(self, code: int = 1006) -> None:
        """The peer has left."""
        self.is_lost = True
        kind = "http" if self.scope["type"] == "http" else "websocket"
        self.put({"type": f"{kind}.disconnect", "code": code})

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._news.wait()

    async def read(self) -> Message:
        """The next message of the application."""
        await self.until(lambda: self.sent or self.is_done)
        assert self.sent, f"the application has ended: {self.error!r}"
        message = self.sent.popleft()
        self.tell()
        return message

    async def read_frame(self) -> Any:
        message = await self.read()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def read_until_quiet(self) -> None:
        """Wait until the application has said what it has to say to a refused peer."""
        last = ("websocket.close", "websocket.http.response.body")
        await self.until(lambda: self.is_done or (self.sent and self.sent[-1]["type"] in last))

    async def done(self) -> None:
        await self.until(lambda: self.is_done)


@asynccontextmanager
async def running(
    app: Application, scope: dict[str, Any] | None = None, *, room: int | None = None, accepted: bool = True
) -> AsyncIterator[Server]:
    """A connection with a peer that has connected; with `accepted`, also read that it was."""
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
        except Exception as error:  # noqa: BLE001 - goes on below, outside of the group
            failure = error
        server.lose()
        await server.done()
    if failure is not None:
        raise failure


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {token}".encode()


def scope_for(token: str | None = None, *, subprotocols: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), *([] if token is None else [bearer(token)])]
    return websocket_scope(headers=headers, subprotocols=list(subprotocols), **changes)

"""Clients of the servers: the `websockets` library, as most services use it, and an `EventSource` over httpx."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import httpx
import msgspec
from websockets import Origin, Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from .process import TIMEOUT

Item = dict[str, Any]
MSGPACK: Final = "analytics-hub.v1.msgpack"


class Reader(ABC):
    """Returns the items of frames one by one."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    @abstractmethod
    def receive(self) -> list[Item]:
        """The items of the next frame; raises `EOFError` at the end."""

    def next(self) -> Item:
        while not self._items:
            self._items.extend(self.receive())
        return self._items.popleft()

    def item(self, channel: str) -> Item:
        """The next item of a channel."""
        while True:
            item = self.next()
            if item.get("channel") == channel and "seq" in item:
                return item

    def rest(self) -> list[str]:
        """Read to the end of the connection; the types of the control items before it."""
        types: list[str] = []
        try:
            while True:
                types.append(self.next()["type"])
        except EOFError:
            return [name for name in types if name.startswith("$")]


class Socket(Reader):
    """One WebSocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.connection = connection
        self.closed: tuple[int, str] | None = None

    def subscribe(self, *channels: Any) -> None:
        command = {"action": "subscribe", "channels": channels}
        is_packed = self.connection.subprotocol == MSGPACK
        self.connection.send(msgspec.msgpack.encode(command) if is_packed else json.dumps(command))
        while (answer := self.next())["type"] != "$subscribed":
            pass
        assert [channel["ok"] for channel in answer["channels"]] == [True] * len(channels), answer

    def receive(self) -> list[Item]:
        try:
            frame = self.connection.recv(timeout=TIMEOUT)
        except ConnectionClosed as closed:
            self.closed = (1006, "") if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)
            raise EOFError(f"closed with {self.closed}") from None
        items: list[Item] = json.loads(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)
        return items


@contextmanager
def dial(
    url: str,
    *,
    token: str | None = None,
    cookie: str | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    compression: str | None = None,
) -> Iterator[Socket]:
    """Connect; with an `origin`, like a page in a browser."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if cookie is not None:
        headers["Cookie"] = cookie
    with connect(
        url,
        proxy=None,
        ping_interval=None,
        open_timeout=TIMEOUT,
        close_timeout=TIMEOUT,
        compression=compression,
        origin=None if origin is None else Origin(origin),
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        additional_headers=headers,
    ) as connection:
        yield Socket(connection)


class Stream(Reader):
    """One `EventSource`; its events are read on demand."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self.last_id = ""
        self._lines = response.iter_lines()

    def receive(self) -> list[Item]:
        data = ""
        try:
            for line in self._lines:
                name, _, value = line.partition(":")
                if name == "data":
                    data += value.removeprefix(" ")
                elif name == "id":
                    self.last_id = value.removeprefix(" ")
                elif not line and data:
                    items: list[Item] = json.loads(data)
                    return items
        except (httpx.RemoteProtocolError, httpx.ReadError):
            pass
        raise EOFError("the stream has ended")


@contextmanager
def event_source(url: str, last_id: str = "") -> Iterator[Stream]:
    """Like a browser with `new EventSource(url)`; with `last_id`, like its reconnect."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=TIMEOUT, trust_env=False))
        response = stack.enter_context(client.stream("GET", url, headers=headers))
        assert response.status_code == 200, response.read()
        yield Stream(response)

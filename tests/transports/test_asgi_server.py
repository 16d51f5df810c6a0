"""What is known of the server under ASGI: its sign of a shutdown, and what follows from it for clients."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import anyio
import pytest

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.transports._asgi import server_watch
from analytics_hub.transports._asgi.host_server import HostServer, SignalledServer, find_server
from analytics_hub.transports.asgi import HubApp

from .asgi_peer import Server, http_scope, running

pytestmark = pytest.mark.anyio


class FakeServer(HostServer):
    """A server that stops when the test tells it to."""

    def __init__(self, name: str = "hypercorn") -> None:
        super().__init__(name)
        self.stops = False
        self.has_clients = False

    @property
    def is_stopping(self) -> bool:
        return self.stops

    def clients_connected(self) -> None:
        self.has_clients = True

    def clients_left(self) -> None:
        self.has_clients = False


@asynccontextmanager
async def open_app(monkeypatch: pytest.MonkeyPatch, server: HostServer) -> AsyncIterator[HubApp]:
    monkeypatch.setattr(server_watch, "POLL", 0.001)
    monkeypatch.setattr(server_watch, "find_server", lambda: server)
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=anonymous, grace=0.01) as hub:
            yield HubApp(hub)


@asynccontextmanager
async def streaming(app: HubApp) -> AsyncIterator[Server]:
    async with running(app, http_scope("GET", "/events", query="channels=a")) as server:
        server.put({"type": "http.request"})
        assert (await server.read())["status"] == 200
        yield server


async def read_close(stream: Server) -> dict[str, Any]:
    """The `$close` of an event stream, which is its last item."""
    while (message := await stream.read())["more_body"]:
        pass
    item: dict[str, Any] = json.loads(message["body"].rpartition(b"data: ")[2])[-1]
    return item


async def test_clients_are_closed_when_their_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeServer()
    async with open_app(monkeypatch, host) as app:
        async with streaming(app) as stream, running(app) as socket:
            await socket.read_frame()
            assert host.has_clients
            host.stops = True

            assert (await read_close(stream))["code"] == 1012
            assert await socket.read() == {
                "type": "websocket.close",
                "code": 1012,
                "reason": "the server restarts",
            }
            await stream.done()
        assert not host.has_clients


@pytest.mark.parametrize("ends_process", [True, False])
async def test_a_stream_that_begins_while_its_server_stops_ends_at_once(
    ends_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeServer()
    host.stops, host.ends_process = True, ends_process
    async with open_app(monkeypatch, host) as app, streaming(app) as stream:
        assert (await read_close(stream))["reason"] == "the server restarts"
        await stream.done()


async def test_a_server_closes_its_websockets_by_itself_if_it_is_known_to(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeServer("uvicorn")
    async with open_app(monkeypatch, host) as app, streaming(app) as stream, running(app) as socket:
        await socket.read_frame()
        host.stops = True
        await read_close(stream)
        socket.send_to_app({"action": "ping"})

        assert (await socket.read_frame())[0]["type"] == "$pong"


async def test_streams_of_a_later_server_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One application may have several servers after each other, as in tests."""
    first, second = FakeServer(), FakeServer()
    async with open_app(monkeypatch, first) as app:
        async with streaming(app) as stream:
            first.stops = True
            await read_close(stream)
            async with streaming(app) as late:
                await read_close(late)
        monkeypatch.setattr(server_watch, "find_server", lambda: second)
        async with streaming(app) as stream:
            while b"$subscribed" not in (await stream.read())["body"]:
                pass
            second.stops = True
            await read_close(stream)


async def test_without_a_known_server_nothing_is_closed() -> None:
    assert find_server().name == ""
    assert not find_server().is_stopping


@contextmanager
def handled(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Handlers of a server for these signals, and the signals that they were called with."""
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield seen
        assert [signal.getsignal(number) for number in numbers] == [handle] * len(numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are raised here")
def test_a_signal_reaches_the_hub_and_the_server_that_handles_it() -> None:
    server = SignalledServer("granian")
    with handled(signal.SIGTERM) as seen:
        server.clients_connected()
        server.clients_connected()
        assert not server.is_stopping
        signal.raise_signal(signal.SIGTERM)

        assert server.is_stopping
        assert seen == [signal.SIGTERM]
        server.clients_left()


def test_a_signal_that_no_server_handles_keeps_its_meaning() -> None:
    server = SignalledServer("granian")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        server.clients_connected()

        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A client that has left costs nothing: after 1000 connections that left at every stage, nothing refers to any."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity, Tuning
from analytics_hub.codes import CloseCode
from analytics_hub.testing import ManualClock
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports.asgi import HubApp

from .asgi_peer import Server, http_scope, websocket_scope
from .peer import TEXT, Peer, frame, serving, upgrade

pytestmark = pytest.mark.anyio

CONNECTIONS: Final = 1000
WARM_UP: Final = 2
"""Connections at each stage before the first count, for what is made once."""
COOKIE: Final = "x" * 2000
SUBSCRIBE: Final = {"action": "subscribe", "channels": ["a"]}
ASK: Final = {"action": "subscribe", "channels": ["asked"]}
AUTH_SLOWLY: Final = {"action": "auth", "token": "slow"}
LARGE: Final = "x" * 60_000


class Application:
    """A hub whose clock stands still, so that no timer of it ever runs out. Its slow hooks wait for `answer`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.answered = anyio.Event()
        self.asked = 0
        self.hub = Hub(
            [Channel("a"), Channel("asked")],
            authenticate=self.authenticate,
            authorize=self.authorize,
            clock=self.clock,
            wall_clock=self.clock.wall,
            tuning=Tuning(interval=0.001, rate=None, token_failures=CONNECTIONS, max_per_address=CONNECTIONS),
            grace=0.01,
        )
        self.clock.attach(self.hub)

    async def authenticate(self, handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        if handshake.token == "wrong":
            raise AuthenticationError("invalid")
        if handshake.token == "slow":
            await self.hang()
        return Identity(id=handshake.token)

    async def authorize(self, identity: Identity, action: str, channel: str) -> bool:
        if channel == "asked":
            await self.hang()
        return True

    async def hang(self) -> None:
        self.asked += 1
        await self.answered.wait()

    def answer(self) -> None:
        """Let the hooks return that wait now."""
        self.answered.set()
        self.answered = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await anyio.lowlevel.checkpoint()

    async def fill(self) -> None:
        """Publish until a client that does not read is stalled."""
        session = self.hub.sessions[-1]
        while not session.is_stalled:
            self.hub.publish("a", LARGE)
            self.clock.advance(0.001)
            await anyio.lowlevel.checkpoint()

    def close_clients(self) -> None:
        for session in self.hub.sessions:
            self.hub._engine.end(session, CloseCode.NORMAL, "closed by us", self.clock())
        self.hub.wake()

    async def until_asked(self, act: Awaitable[None]) -> None:
        """Wait until a hook was called."""
        before = self.asked
        await act
        await self.until(lambda: self.asked > before)


Visit = Callable[[], Awaitable[None]]


def counted() -> Counter[str]:
    """The objects of the package and of the servers in this module, by class."""
    gc.collect()
    classes = map(type, gc.get_objects())
    return Counter(c.__name__ for c in classes if str(c.__module__).startswith("analytics_hub") or c is Server)


async def check(application: Application, *visits: Visit) -> None:
    """Make the visits in turn; nothing may be left of them."""
    for visit in visits * WARM_UP:
        await visit()
    before = counted()
    for number in range(CONNECTIONS):
        await visits[number % len(visits)]()
    with anyio.move_on_after(30):
        while counted() - before:  # the server may not have read the end of the last connections
            await anyio.lowlevel.checkpoint()
    assert counted() - before == {}


# --- ASGI


class AsgiVisits:
    """Clients of an application under ASGI."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.hub = application.hub
        self.app = HubApp(application.hub)

    async def visit(
        self, scope: dict[str, Any], *steps: Callable[[Server], Awaitable[None]], is_checked: bool = False
    ) -> None:
        """Carry out the steps, then leave; with `is_checked`, while the token of the request is checked."""
        server = Server(self.app, scope)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(server.run)
                for step in steps:
                    await step(server)
                server.disconnect()
                if is_checked:
                    self.application.answer()
                await server.done()
        assert server.error is None

    async def connect(self, server: Server) -> None:
        server.put({"type": "websocket.connect"})
        await server.read()

    async def begin_request(self, server: Server) -> None:
        server.put({"type": "http.request"})
        await server.read()

    async def connect_slowly(self, server: Server) -> None:
        kind = "http.request" if server.scope["type"] == "http" else "websocket.connect"
        before = self.application.asked
        server.put({"type": kind})
        await self.application.until(lambda: self.application.asked > before)

    async def read(self, server: Server) -> None:
        await server.read()

    def send(self, command: object) -> Callable[[Server], Awaitable[None]]:
        async def send(server: Server) -> None:
            server.send_to_app(json.dumps(command))

        return send

    async def subscribe(self, server: Server) -> None:
        await server.read()
        server.send_to_app(SUBSCRIBE)
        await server.read()

    async def ask(self, server: Server) -> None:
        await server.read()
        await self.application.until_asked(self.send(ASK)(server))

    async def auth_slowly(self, server: Server) -> None:
        await self.application.until_asked(self.send(AUTH_SLOWLY)(server))

    async def stop_reading(self, server: Server) -> None:
        server.room = 0
        await self.application.fill()

    async def be_closed(self, server: Server) -> None:
        self.application.close_clients()


def socket_scope(token: str | None) -> dict[str, Any]:
    auth = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return websocket_scope(headers=[(b"host", b"127.0.0.1"), (b"cookie", COOKIE.encode()), *auth])


def events_scope(token: str, *, channel: str = "a") -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"cookie", COOKIE.encode())]
    return http_scope("GET", "/events", *headers, query=f"channels={channel}")


async def test_nothing_refers_to_a_websocket_that_has_left_under_asgi() -> None:
    application = Application()
    async with application.hub:
        asgi = AsgiVisits(application)
        socket = asgi.visit
        await check(
            application,
            lambda: socket(socket_scope("ann")),
            lambda: socket(socket_scope("slow"), asgi.connect_slowly, is_checked=True),
            lambda: socket(socket_scope("wrong"), asgi.connect),
            lambda: socket(socket_scope(None), asgi.connect),
            lambda: socket(socket_scope(None), asgi.connect, asgi.auth_slowly),
            lambda: socket(socket_scope("ann"), asgi.connect),
            lambda: socket(socket_scope("ann"), asgi.connect, asgi.subscribe),
            lambda: socket(socket_scope("ann"), asgi.connect, asgi.ask),
            lambda: socket(socket_scope("ann"), asgi.connect, asgi.subscribe, asgi.stop_reading),
            lambda: socket(socket_scope("ann"), asgi.connect, asgi.subscribe, asgi.be_closed),
        )


async def test_nothing_refers_to_an_event_stream_that_has_left_under_asgi() -> None:
    application = Application()
    async with application.hub:
        asgi = AsgiVisits(application)
        begun = (asgi.begin_request, asgi.read, asgi.read)
        await check(
            application,
            lambda: asgi.visit(events_scope("ann")),
            lambda: asgi.visit(events_scope("slow"), asgi.connect_slowly, is_checked=True),
            lambda: asgi.visit(events_scope("wrong"), asgi.begin_request),
            lambda: asgi.visit(events_scope("ann"), asgi.begin_request),
            lambda: asgi.visit(events_scope("ann"), *begun),
            lambda: asgi.visit(events_scope("ann", channel="asked"), *begun),
            lambda: asgi.visit(events_scope("ann"), *begun, asgi.stop_reading),
            lambda: asgi.visit(events_scope("ann"), *begun, asgi.be_closed),
        )


# --- the native transports


class NativeVisits:
    """Clients of a port; they leave by closing or by resetting their sockets."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.port = port
        self.resets = False

    async def visit(
        self,
        *steps: bytes | Callable[[Peer], Awaitable[None]],
        room: int | None = None,
        is_checked: bool = False,
    ) -> None:
        """Send bytes, or carry out a step, then leave; with `is_checked`, while the token of the request is checked."""
        with anyio.fail_after(30):
            peer = await Peer.connect(self.port, room=room)
            for step in steps:
                if isinstance(step, bytes):
                    await peer.send(step)
                else:
                    await step(peer)
            self.resets = not self.resets
            peer.reset() if self.resets else peer.close()
            if is_checked:
                self.application.answer()

    def reads(self, text: bytes) -> Callable[[Peer], Awaitable[None]]:
        """Read until `text` came."""

        async def read(peer: Peer) -> None:
            while text not in peer.buffer:
                assert await peer._fill(), bytes(peer.buffer)

        return read

    def asks(self, data: bytes) -> Callable[[Peer], Awaitable[None]]:
        """Send `data`, and wait until a hook was called."""
        return lambda peer: self.application.until_asked(peer.send(data))

    async def be_closed(self, peer: Peer) -> None:
        self.application.close_clients()

    async def stop_reading(self, peer: Peer) -> None:
        await self.application.fill()


def text_frame(command: object) -> bytes:
    return frame(TEXT, json.dumps(command).encode())


def head(token: str | None) -> bytes:
    return upgrade(f"Cookie: {COOKIE}", *([] if token is None else [f"Authorization: Bearer {token}"]))


def get_events(token: str, channel: str = "a") -> bytes:
    headers = f"Host: hub\r\nCookie: {COOKIE}\r\nAuthorization: Bearer {token}\r\n\r\n"
    return f"GET /events?channels={channel} HTTP/1.1\r\n{headers}".encode()


async def test_nothing_refers_to_a_client_that_has_left_the_native_port() -> None:
    application = Application()
    async with application.hub, serving(application.hub, limits=websocket.Limits(handshake_timeout=600)) as port:
        native = NativeVisits(application, port)
        opened = (head("ann"), native.reads(b"$hello"))
        listening = (get_events("ann"), native.reads(b"$subscribed"))
        await check(
            application,
            native.visit,
            lambda: native.visit(head("ann")[:500]),
            lambda: native.visit(head("wrong"), native.reads(b"401")),
            lambda: native.visit(native.asks(head("slow")), is_checked=True),
            lambda: native.visit(head(None), native.reads(b"101"), native.asks(text_frame(AUTH_SLOWLY))),
            lambda: native.visit(*opened),
            lambda: native.visit(*opened, text_frame(SUBSCRIBE)[:-5]),
            lambda: native.visit(*opened, native.asks(text_frame(ASK))),
            lambda: native.visit(
                *opened, text_frame(SUBSCRIBE), native.reads(b"$subscribed"), native.stop_reading, room=4096
            ),
            lambda: native.visit(*opened, native.be_closed),
            lambda: native.visit(*listening),
            lambda: native.visit(*listening, native.be_closed),
            lambda: native.visit(native.asks(get_events("slow")), is_checked=True),
            lambda: native.visit(get_events("ann", "asked"), native.reads(b"$hello")),
            lambda: native.visit(*listening, native.stop_reading, room=4096),
        )


async def test_nothing_refers_to_a_client_that_has_left_the_tcp_port() -> None:
    application = Application()
    limits = tcp.Limits(handshake_timeout=600)

    def line(command: object) -> bytes:
        return json.dumps(command).encode() + b"\n"

    auth = line({"action": "auth", "token": "ann"})
    async with application.hub, serving(application.hub, serve=tcp.serve, limits=limits) as port:
        native = NativeVisits(application, port)
        opened = (auth, native.reads(b"$hello"))
        await check(
            application,
            native.visit,
            lambda: native.visit(auth[:-5]),
            lambda: native.visit(native.asks(line(AUTH_SLOWLY))),
            lambda: native.visit(*opened),
            lambda: native.visit(*opened, native.asks(line(ASK))),
            lambda: native.visit(
                *opened, line(SUBSCRIBE), native.reads(b"$subscribed"), native.stop_reading, room=4096
            ),
        )

"""A call of `HubApp` may be cancelled at every await, as servers do when they stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Identity
from analytics_hub.transports._http.commands import ListeningTransport
from analytics_hub.transports.asgi import HubApp, WithLifespan

from ..hub.rig import HANG
from ..transports.asgi_peer import Message, bearer, http_scope, scope_for
from .leftovers import Sweeper, is_served_once, kept_for_clients
from .rig import patient_hub
from .sweep import cancel_everywhere, cancelled_at, ways

pytestmark = pytest.mark.anyio

Step = Message | str | Callable[[], object]


class Peer:
    """A server and its peer, which has a script: messages, texts to wait for, and calls."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.sent: list[Message] = []
        self._changed = anyio.Event()

    async def receive(self) -> Message:
        await checkpoint()
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, str):
                while not self.has_sent(step):
                    await self._changed.wait()
            elif callable(step):
                step()
            else:
                return step
        await anyio.sleep_forever()
        raise AssertionError("never gets here")

    async def send(self, message: Message) -> None:
        await checkpoint()
        self.sent.append(message)
        await checkpoint()
        self._changed.set()
        self._changed = anyio.Event()

    def has_sent(self, text: str) -> bool:
        return any(text in str(message) for message in self.sent)


def command(**fields: Any) -> Message:
    return {"type": "websocket.receive", "text": json.dumps(fields)}


def request_scope(method: str, path: str, query: str = "") -> dict[str, Any]:
    return http_scope(method, path, bearer("t"), query=query)


async def sweep(scope: dict[str, Any], prepare: Callable[[Any], Peer]) -> int:
    """Cancel a call for `scope` at each await, with the peer that `prepare` makes; returns the number of awaits."""

    async def work() -> Peer:
        peer = prepare(hub)
        await app(dict(scope), peer.receive, peer.send)
        return peer

    async def check() -> None:
        await sweeper.sweep()
        await is_served_once(hub)

    def kept_by_app() -> list[str]:
        state = app._state
        kept = {"clients": state.client_count, "bytes": state.held, "tasks": len(state.borrowed_tasks.spare)}
        return [f"{name} {count}" for name, count in kept.items() if count]

    with anyio.fail_after(2 * HANG):
        async with patient_hub() as hub:
            app = HubApp(hub)
            await is_served_once(hub)
            sweeper = Sweeper(lambda: kept_for_clients(hub), kept_by_app)
            undisturbed = await work()
            assert undisturbed.sent
            assert not undisturbed.script
            return await cancel_everywhere(work, check)


async def test_a_websocket_from_its_connect_to_its_close() -> None:
    def prepare(hub: Any) -> Peer:
        return Peer(
            {"type": "websocket.connect"},
            command(action="subscribe", channels=["events", {"channel": "durable", "last": 3}]),
            "$subscribed",
            lambda: hub.publish("events", "one"),
            "one",
            command(action="unsubscribe", channels=["events"]),
            {"type": "websocket.disconnect", "code": 1000},
        )

    assert await sweep(scope_for("t"), prepare) >= 4


async def test_a_websocket_that_the_hub_closes() -> None:
    """A message is too large: what was written is sent, then the close, then that of the peer is waited for."""

    def prepare(hub: Any) -> Peer:
        return Peer(
            {"type": "websocket.connect"},
            "$hello",
            {"type": "websocket.receive", "text": " " * 70_000},
            "websocket.close",
            {"type": "websocket.disconnect", "code": 1009},
        )

    assert await sweep(scope_for("t"), prepare) >= 4


@pytest.mark.parametrize("headers", [[], [(b"origin", b"http://127.0.0.1")]], ids=["a program", "a page"])
async def test_a_websocket_that_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    def prepare(hub: Any) -> Peer:
        return Peer({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006})

    scope = scope_for("wrong")
    assert await sweep(scope | {"headers": [*scope["headers"], *headers]}, prepare) >= 4


async def test_a_stream_of_events() -> None:
    def prepare(hub: Any) -> Peer:
        return Peer(
            {"type": "http.request"},
            "$subscribed",
            lambda: hub.publish("events", "one"),
            "one",
            {"type": "http.disconnect"},
        )

    assert await sweep(request_scope("GET", "/events", "channels=events"), prepare) >= 4


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/publish", b'[{"channel":"durable","data":1},{"channel":"durable","data":2}]'),
        ("POST", "/commands", b'{"action":"ping"}'),
        ("POST", "/ticket", b""),
        ("GET", "/asyncapi.json", b""),
        ("GET", "/healthz", b""),
        ("GET", "/nowhere", b""),
    ],
)
async def test_a_request(method: str, path: str, body: bytes) -> None:
    def prepare(hub: Any) -> Peer:
        half = len(body) // 2
        return Peer(
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        )

    scope = request_scope(method, path, "session=none")
    assert await sweep(scope, prepare) >= 4


async def test_the_commands_of_a_stream_that_is_paused() -> None:
    """When the request that waits is cancelled, the stream goes on, and another request may wait."""
    opened = anyio.Event()

    async def authorize(identity: Identity, *question: str) -> bool:
        await opened.wait()
        return True

    async def post(body: bytes) -> None:
        (session,) = hub.sessions
        peer = Peer({"type": "http.request", "body": body, "more_body": False})
        await app(request_scope("POST", "/commands", f"session={session.id}"), peer.receive, peer.send)
        answers.append(peer.sent[0]["status"])

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(post, b'{"action":"ping","id":"behind"}')
            for _ in range(10):
                await checkpoint()
            group.cancel_scope.cancel()

    async def check() -> None:
        assert hub.sessions[0].is_paused
        assert not cast("ListeningTransport", hub.sessions[0].transport).gate.is_busy

    answers: list[int] = []
    stream = Peer({"type": "http.request"}, "$subscribed", {"type": "http.disconnect"})
    with anyio.fail_after(HANG):
        async with patient_hub(authorize=authorize) as hub, anyio.create_task_group() as group:
            app = HubApp(hub)
            group.start_soon(app, request_scope("GET", "/events", "channels=events"), stream.receive, stream.send)
            while not hub.sessions:
                await checkpoint()
            await post(b" " * 60_000 + b'{"action":"ping"}')
            await post(b" " * 60_000 + b'{"action":"ping"}')
            assert await cancel_everywhere(work, check) >= 10
            opened.set()
            while hub.sessions:
                await checkpoint()

    assert answers == [202, 202]
    assert not stream.has_sent("behind")


async def test_a_lifespan() -> None:
    """Cancelled at any await, it leaves a hub that has ended or never begun, and no task."""
    sweeper = Sweeper()
    number = 0
    for once in ways():
        number = 0
        was_reached = True
        while was_reached:
            number += 1
            hub = patient_hub()
            peer = Peer({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
            call = HubApp(hub)({"type": "lifespan"}, peer.receive, peer.send)
            with anyio.fail_after(HANG):
                was_reached = await cancelled_at(number, lambda: call, once=once)  # noqa: B023 - called at once
            assert not hub.is_open
            assert kept_for_clients(hub) == []
            await sweeper.sweep()

    assert number > 6


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
@pytest.mark.parametrize("once", [False, True])
async def test_the_first_request_of_a_server_without_a_lifespan(once: bool) -> None:
    """It starts the lifespan for all requests, so that goes on without it."""

    async def ask() -> Peer:
        peer = Peer({"type": "http.request", "body": b""})
        await app(request_scope("GET", "/healthz"), peer.receive, peer.send)
        return peer

    sweeper = Sweeper()
    number = 0
    was_reached = True
    while was_reached:
        number += 1
        hub = patient_hub()
        app = WithLifespan(HubApp(hub))
        was_reached = await cancelled_at(number, ask, once=once)
        with anyio.fail_after(HANG):
            assert (await ask()).has_sent("200")
            assert hub.is_open
            assert app._lifespan is not None
            await app._lifespan._end()
        await sweeper.sweep()

    assert number > 3

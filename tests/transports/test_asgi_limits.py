"""Limits under ASGI: exact whatever the server awaits, and nothing of the handshake is kept after admission."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub.channels import Channel
from analytics_hub.contracts import ANONYMOUS, Handshake
from analytics_hub.exceptions import AuthenticationError, TooManyRequests
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports.asgi import HubApp, Limits
from analytics_hub.tuning import Tuning

from .asgi_peer import Server, http_scope, running, websocket_scope

pytestmark = pytest.mark.anyio

PAGE = (b"origin", b"https://hub.example")
HOST = (b"host", b"hub.example")
CLOSE = "websocket.close"


@asynccontextmanager
async def open_app(
    authenticate: Callable[[Handshake], Any] = lambda handshake: ANONYMOUS,
    limits: Limits | None = None,
    tuning: Tuning | None = None,
    **options: Any,
) -> AsyncIterator[tuple[HubApp, Hub]]:
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=authenticate, tuning=tuning, grace=0.01, proxies=[]) as hub:
            yield HubApp(hub, limits=limits, **options), hub


def scope(*headers: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    return websocket_scope(headers=[HOST, *headers], **changes)


def request(path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> dict[str, Any]:
    return http_scope(method, path, *headers)


def is_http(scope: dict[str, Any]) -> bool:
    return bool(scope["type"] == "http")


async def status_of(app: HubApp, scope: dict[str, Any]) -> tuple[int, dict[bytes, bytes]]:
    """The status and headers of the answer to one request or handshake."""
    async with running(app, scope, accepted=False) as server:
        if is_http(scope):
            server.put({"type": "http.request"})
        answer = await server.read()
        if answer["type"] == "websocket.accept":
            return 101, {}
        return answer["status"], dict(answer["headers"])


class Gate:
    """An `authenticate` that waits, and counts the calls that wait."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.waiting = self.most = 0

    async def __call__(self, handshake: Handshake) -> Identity:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1
        return Identity(id="ann")


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await checkpoint()


# --- exact limits


@pytest.mark.parametrize("kind", ["websocket", "events"])
async def test_max_clients_is_exact_where_the_server_waits_while_it_accepts(kind: str) -> None:
    first = scope() if kind == "websocket" else request("/events")
    async with open_app(limits=Limits(max_clients=2)) as (app, hub), anyio.create_task_group() as tasks:
        servers = [Server(app, dict(first), room=0) for _ in range(5)]
        for server in servers:
            server.put({"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"})
            tasks.start_soon(server.run)
        await anyio.wait_all_tasks_blocked()
        assert hub.sessions == []
        for server in servers:
            server.room = None
            server.notify()
        await until(lambda: all(server.sent for server in servers))

        answers = [server.sent[0].get("status", 101) for server in servers]
        assert sorted(answers) == sorted([101 if kind == "websocket" else 200] * 2 + [503] * 3)
        assert hub.statistics().counters["refused-full"] == 3
        for server in servers:
            server.disconnect()


@pytest.mark.parametrize("limit", ["max_per_identity", "max_per_address"])
async def test_limits_are_exact_for_concurrent_checks(limit: str) -> None:
    gate = Gate()
    async with (
        open_app(gate, tuning=Tuning(**{limit: 2})) as (app, hub),
        anyio.create_task_group() as tasks,
    ):
        servers = [Server(app, scope(client=("203.0.113.7", 1))) for _ in range(5)]
        for server in servers:
            server.put({"type": "websocket.connect"})
            tasks.start_soon(server.run)
        await until(lambda: gate.waiting == 5)
        gate.opened.set()
        await until(lambda: sum(len(server.sent) > 1 for server in servers) == 5)
        await anyio.wait_all_tasks_blocked()

        closes = [message["code"] for server in servers for message in server.sent if message["type"] == CLOSE]
        refused = [server for server in servers if server.sent[0].get("status") == 429]
        assert len(hub.sessions) == 2
        assert len(closes) + len(refused) == 3
        assert set(closes) <= {4429}
        for server in servers:
            server.disconnect()


# --- checks


async def test_concurrent_token_checks_are_limited() -> None:
    gate = Gate()
    async with open_app(gate, limits=Limits(max_checks=3)) as (app, _), anyio.create_task_group() as tasks:
        scopes = [scope(), request("/asyncapi.json")] * 4
        servers = [Server(app, dict(each)) for each in scopes]
        for server in servers:
            server.put({"type": "http.request"} if is_http(server.scope) else {"type": "websocket.connect"})
            tasks.start_soon(server.run)
        await until(lambda: gate.waiting == 3)
        await anyio.wait_all_tasks_blocked()
        assert gate.waiting == 3
        gate.opened.set()
        await until(lambda: all(server.sent for server in servers))

        assert gate.most == 3
        assert {server.sent[0].get("status", 101) for server in servers} == {101, 200}
        for server in servers:
            server.disconnect()


async def test_the_handshake_timeout_includes_the_wait_for_a_check() -> None:
    async with open_app(Gate(), limits=Limits(max_checks=1, handshake_timeout=0.01)) as (app, hub):
        assert (await status_of(app, scope()))[0] == 503

        async with running(app, scope(), accepted=False) as one, running(app, scope(PAGE), accepted=False) as other:
            assert (await one.read())["status"] == 503
            assert (await other.read())["type"] == "websocket.accept"
            assert (await other.read())["code"] == 1011

        assert hub.statistics().counters["check-timeout"] == 3
        assert hub.sessions == []


async def test_authenticate_gets_the_scope_and_may_raise_too_many_requests() -> None:
    seen: list[Any] = []

    def authenticate(handshake: Handshake) -> Identity:
        assert handshake.scope is not None
        seen.append(handshake.scope["session"])
        raise TooManyRequests("too fast", after=7)

    async with open_app(authenticate) as (app, _):
        for each in (scope(session={"user": "ann"}), {**request("/events"), "session": {"user": "ann"}}):
            status, headers = await status_of(app, each)
            assert (status, headers[b"retry-after"]) == (429, b"7")

    assert seen == [{"user": "ann"}] * 2


# --- addresses


async def test_addresses_behind_a_trusted_proxy_are_counted_separately() -> None:
    seen: list[str | None] = []

    def authenticate(handshake: Handshake) -> Identity:
        seen.append(handshake.client)
        raise AuthenticationError("invalid")

    tuning = Tuning(token_failures=2)
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=authenticate, tuning=tuning, grace=0.01) as hub:
            app = HubApp(hub)

            async def send(forwarded: bytes, path: str = "") -> int:
                headers = [(b"authorization", b"Bearer x"), (b"x-forwarded-for", forwarded)]
                return (await status_of(app, request(path, *headers) if path else scope(*headers)))[0]

            assert [await send(b"203.0.113.7") for _ in range(3)] == [401, 401, 429]
            assert [await send(b"203.0.113.7", "/publish") for _ in range(2)] == [405, 405]
            assert await send(b"203.0.113.7", "/events") == 429
            assert await send(b"203.0.113.8", "/events") == 401
            assert await send(b"203.0.113.7, 203.0.113.8") == 401

    assert seen == ["203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.8"]


async def test_an_event_source_over_a_limit_gets_a_stream_that_ends() -> None:
    tuning = Tuning(max_per_identity=1)
    async with open_app(lambda handshake: Identity(id="ann"), tuning=tuning) as (app, _), AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(app, request("/events")))
        first.put({"type": "http.request"})
        assert (await first.read())["status"] == 200
        async with running(app, request("/events", (b"accept", b"text/event-stream"))) as second:
            second.put({"type": "http.request"})
            assert (await second.read())["status"] == 200
            body = (await second.read())["body"]

        assert b"retry: " in body
        assert b'"code":4429,"reason":"more than 1 connections of one identity; try again in 5 s"' in body


# --- memory


async def test_no_token_or_scope_is_kept_after_admission() -> None:
    def held() -> list[Handshake]:
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, Handshake) and (each.scope or each.token)]

    before = len(held())
    async with open_app() as (app, hub), running(app, scope((b"authorization", b"Bearer x"))) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"

        assert len(hub.sessions) == 1
        assert len(held()) == before


async def test_messages_that_wait_for_the_server_count_as_load() -> None:
    async with open_app() as (app, hub), running(app, scope(), room=2) as server:
        await server.read_frame()
        server.send_to_app({"action": "subscribe", "channels": ["a"]})
        await server.read_frame()
        measure_load = hub._access.limits._measure_load  # the sum of all gauges
        assert measure_load() == 0
        for number in range(5):
            hub.publish("a", "x" * 10_000)
            await until(lambda number=number: hub.statistics().channels["a"].ledger.delivered > number)  # type: ignore[misc]

        assert measure_load() > 20_000
        server.room = None
        server.notify()
        await until(lambda: measure_load() == 0)


# --- origins


async def test_a_required_origin_is_checked_before_the_token() -> None:
    calls: list[Handshake] = []

    def authenticate(handshake: Handshake) -> Identity:
        calls.append(handshake)
        return ANONYMOUS

    async with open_app(authenticate, requires_origin=True, origins=["https://friend.example"]) as (app, hub):
        assert (await status_of(app, scope()))[0] == 403
        assert (await status_of(app, request("/events")))[0] == 403
        assert (await status_of(app, request("/publish", method="POST")))[0] == 403
        assert calls == []
        assert hub.statistics().counters["refused-origin"] == 3
        assert (await status_of(app, request("/healthz")))[0] == 200
        assert (await status_of(app, scope((b"origin", b"https://friend.example"))))[0] == 101
        # An `EventSource` of a page of the host itself has no origin, but this header.
        assert (await status_of(app, request("/events", (b"sec-fetch-site", b"same-origin"))))[0] == 200


async def test_invalid_origins_raise_in_the_constructor() -> None:
    async with open_app() as (_, hub):
        with pytest.raises(ValueError, match="origin 'null': every sandboxed page"):
            HubApp(hub, origins=["null"])

"""The hub's own HTTP under ASGI: requests, responses, and event streams where they differ from other transports."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from analytics_hub import Action
from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.channels import Channel
from analytics_hub.http import Request, Response
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports._asgi import http
from analytics_hub.transports.asgi import HubApp, Limits
from analytics_hub.tuning import Tuning

from .asgi_peer import Message, Server, bearer, http_scope, running

pytestmark = pytest.mark.anyio

SECRET = "an hmac key of thirty-two bytes.."
TOKEN = mint(SECRET, subject="alice", roles=["trader"])
AUTH = bearer(TOKEN)


def new_hub(**options: Any) -> Hub:
    channels = [Channel("alerts", publishers=frozenset({"trader"})), Channel("other")]
    return Hub(channels, authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]), grace=0.01, **options)


@asynccontextmanager
async def open_app(hub: Hub | None = None, **options: Any) -> AsyncIterator[tuple[HubApp, Hub]]:
    with anyio.fail_after(30):
        async with hub or new_hub() as entered:
            yield HubApp(entered, **options), entered


async def send(app: HubApp, scope: dict[str, Any], *body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    async with running(app, scope) as server:
        parts = body or (b"",)
        for part in parts[:-1]:
            server.put({"type": "http.request", "body": part, "more_body": True})
        server.put({"type": "http.request", "body": parts[-1]})
        start = await server.read()
        answer = await server.read()
        await server.done()
    assert server.error is None
    return start["status"], dict(start["headers"]), answer["body"]


def respond(request: Request) -> Response | None:
    match request.path:
        case "/echo":
            return Response(200, f"{request.method} {request.query} ".encode() + request.body, headers=[("X-B", "c")])
        case "/raise":
            raise RuntimeError("secret")
        case "/split":
            return Response(200, headers=[("X-B", "c\r\nX-Evil: d")])
    return None


# --- requests


async def test_the_hubs_own_paths_are_below_the_mount() -> None:
    async with open_app() as (app, _):
        status, headers, body = await send(app, http_scope("GET", "/healthz"))
        assert (status, body) == (200, b'{"status":"ok"}\n')
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"content-length"] == b"16"
        item = json.dumps({"channel": "alerts", "data": 1}).encode()
        status, _, receipt = await send(app, http_scope("POST", "/publish", AUTH), item[:5], item[5:])
        assert (status, json.loads(receipt)["seq"]) == (200, 1)
        status, _, _ = await send(app, http_scope("POST", "/publish"), item)
        assert status == 401


async def test_respond_answers_other_paths() -> None:
    async with open_app(respond=respond) as (app, _):
        status, headers, body = await send(app, http_scope("POST", "/echo", query="a=b"), b"h", b"i")
        assert (status, headers[b"x-b"], body) == (200, b"c", b"POST a=b hi")
        status, headers, body = await send(app, http_scope("HEAD", "/echo"))
        assert (status, headers[b"content-length"], body) == (200, b"6", b"")
    async with open_app() as (app, _):
        assert (await send(app, http_scope("GET", "/echo")))[0] == 404


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/raise", 500), ("/split", 500)])
async def test_a_failing_respond_is_an_internal_error(path: str, status: int) -> None:
    async with open_app(respond=respond) as (app, _):
        answered, headers, body = await send(app, http_scope("GET", path))

        assert answered == status
        assert b"secret" not in body
        assert b"x-evil" not in headers


async def test_an_endless_body_is_refused() -> None:
    async with open_app() as (app, _), running(app, http_scope("POST", "/publish", AUTH)) as server:
        for _ in range(1000):
            server.put({"type": "http.request", "body": b"x" * 10_000, "more_body": True})

        assert (await server.read())["status"] == 413
        assert server.receive_calls < 20


async def test_a_body_that_does_not_arrive_is_a_timeout() -> None:
    limits = Limits(request_timeout=0.01)
    async with open_app(limits=limits) as (app, _), running(app, http_scope("POST", "/publish", AUTH)) as server:
        server.put({"type": "http.request", "body": b"x", "more_body": True})

        assert (await server.read())["status"] == 408


async def test_the_bodies_of_all_requests_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_HELD", 100_000)
    part = {"type": "http.request", "body": b"x" * 60_000, "more_body": True}
    post = http_scope("POST", "/publish")
    async with open_app() as (app, _):
        async with running(app, {**post}) as one, running(app, {**post}) as other:
            one.put(part)
            await anyio.wait_all_tasks_blocked()
            other.put(part)
            assert (await other.read())["status"] == 503
            assert (await send(app, http_scope("GET", "/healthz")))[0] == 200
            one.put({"type": "http.request"})
            assert (await one.read())["status"] == 401
        assert (await send(app, {**post}, b"x" * 60_000, b"x" * 60_000))[0] == 503
        assert (await send(app, {**post}, b"x" * 90_000))[0] == 401


async def test_a_check_that_hangs_is_a_timeout() -> None:
    async def hang(handshake: object) -> Identity:
        await anyio.sleep_forever()
        raise AssertionError

    hub = Hub([Channel("alerts")], authenticate=hang, grace=0.01)
    async with open_app(hub, limits=Limits(request_timeout=0.01)) as (app, _):
        status, _, _ = await send(app, http_scope("GET", "/asyncapi.json", AUTH))

        assert status == 503
        assert hub.statistics().counters["request-timeout"] == 1


async def test_a_peer_may_leave_before_its_answer() -> None:
    async with open_app() as (app, _):
        async with running(app, http_scope("POST", "/publish", AUTH)) as server:
            server.disconnect()
            await server.done()
        assert not server.sent
        assert server.error is None
        async with running(app, http_scope("GET", "/healthz")) as server:
            server.is_lost = True
            server.put({"type": "http.request"})
            await server.done()
        assert server.error is None


@pytest.mark.parametrize("error", [RuntimeError("transport"), KeyError("x")])
@pytest.mark.parametrize("fails", ["send", "receive"])
async def test_an_exception_of_the_server_is_counted_and_not_raised(error: Exception, fails: str) -> None:
    async def receive() -> Message:
        if fails == "receive":
            raise error
        return {"type": "http.request"}

    async def send_message(message: Message) -> None:
        raise error

    async with open_app() as (app, hub):
        for scope in (http_scope("GET", "/healthz"), {**EVENTS}):
            await app(scope, receive, send_message)

        # For a peer that has left, `send` of a server raises OSError or RuntimeError; that is no fault.
        is_no_fault = fails == "send" and isinstance(error, RuntimeError)
        assert hub.sessions == []
        assert hub.statistics().counters.get(f"{fails}-fault", 0) == (0 if is_no_fault else 2)


async def test_a_response_without_content_has_no_content_headers() -> None:
    async with open_app() as (app, _):
        status, headers, body = await send(app, http_scope("OPTIONS", "/publish"))

        assert (status, body) == (204, b"")
        assert not {b"content-length", b"content-type"} & set(headers)
        assert headers[b"allow"] == b"POST, OPTIONS"


async def test_a_hub_that_is_not_running_logs_the_missing_line(caplog: pytest.LogCaptureFixture) -> None:
    hub = new_hub()
    with anyio.fail_after(30):
        status, _, _ = await send(HubApp(hub), http_scope("GET", "/healthz"))

    assert status == 503
    assert hub.statistics().counters["refused-closed"] == 1
    assert "add `async with hub:` to the lifespan" in caplog.text


# --- streams; the conformance suite covers what they have in common with other transports

EVENTS = http_scope("GET", "/events", query=f"channels=alerts&token={TOKEN}")


@asynccontextmanager
async def listening(app: HubApp) -> AsyncIterator[Server]:
    async with running(app, {**EVENTS}) as server:
        server.put({"type": "http.request"})
        start = await server.read()
        assert start["status"] == 200
        assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
        assert b"token" not in server.scope["query_string"]
        assert (await server.read())["body"].startswith(b"retry: ")
        yield server
    assert server.error is None


async def read_until(server: Server, type_: str) -> list[dict[str, Any]]:
    """The items up to the frame with the first one of this type."""
    items: list[dict[str, Any]] = []
    while not any(item["type"] == type_ for item in items):
        _, _, data = (await server.read())["body"].rpartition(b"data: ")
        items += json.loads(data) if data.startswith(b"[") else []
    return items


async def test_a_stream_keeps_nothing_of_its_request() -> None:
    async with open_app() as (app, _), running(app, {**EVENTS}) as server:
        server.put({"type": "http.request", "body": b"x" * 100_000})
        assert (await server.read())["status"] == 200
        await read_until(server, "$subscribed")

        assert not [each for each in gc.get_objects() if type(each) is Request and len(each.body) == 100_000]


async def test_a_query_may_have_more_channels_than_a_session() -> None:
    async with open_app(new_hub(tuning=Tuning(max_subscriptions=1))) as (app, _):
        scope = http_scope("GET", "/events", AUTH, query="channels=alerts,other")
        async with running(app, scope) as server:
            server.put({"type": "http.request"})
            assert (await server.read())["status"] == 200
            items = await read_until(server, "$subscribed")
            while len(answers := [item["channels"] for item in items if item["type"] == "$subscribed"]) < 2:
                items += await read_until(server, "$subscribed")

        assert [(each["channel"], each.get("code")) for (each,) in answers] == [
            ("alerts", None),
            ("other", "too-many-subscriptions"),
        ]


async def test_a_stream_that_confirms_has_no_window_because_it_sees_no_heartbeats() -> None:
    async with open_app(limits=Limits(max_unconfirmed=2)) as (app, hub), listening(app) as server:
        await read_until(server, "$subscribed")
        (session,) = hub.sessions
        post = http_scope("POST", "/commands", AUTH, query=f"session={session.id}")
        assert (await send(app, post, b'[{"action":"seen","frames":1},{"action":"ping"}]'))[0] == 202
        await read_until(server, "$pong")
        for _ in range(10):
            assert session.transport.write(b":\n\n")
            await server.read()


async def test_a_stream_is_closed_in_order_when_its_task_is_cancelled() -> None:
    """As uvicorn does with open responses after its shutdown timeout."""
    async with open_app() as (app, hub):
        server = Server(app, {**EVENTS})
        server.put({"type": "http.request"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            assert (await server.read())["status"] == 200
            await read_until(server, "$subscribed")
            tasks.cancel_scope.cancel()

        assert (await read_until(server, "$close"))[-1]["code"] == 1001
        assert server.error is None
        assert hub.sessions == []


async def test_a_stream_over_the_limit_is_told_to_try_again_later() -> None:
    async with open_app(limits=Limits(max_clients=1)) as (app, _), listening(app) as first:
        await read_until(first, "$subscribed")
        status, _, body = await send(app, http_scope("GET", "/events", AUTH, (b"accept", b"text/event-stream")))
        assert status == 200
        assert body.startswith(b"retry: ")
        assert b'"code":1013' in body
        status, headers, _ = await send(app, http_scope("GET", "/events", AUTH))
        assert (status, headers[b"retry-after"]) == (503, b"1")


async def test_commands_that_wait_are_answered_when_their_stream_ends_and_not_only_when_its_peer_has_left() -> None:
    async def authorize(identity: object, action: Action, channel: str) -> bool:
        await anyio.sleep_forever()
        return True

    statuses: list[int] = []
    limits = Limits(close_timeout=100, request_timeout=100)
    async with open_app(new_hub(authorize=authorize), limits=limits) as (app, hub), listening(app) as server:
        await read_until(server, "$hello")
        post = http_scope("POST", "/commands", AUTH, query=f"session={hub.sessions[0].id}")

        async def send_commands(body: bytes) -> None:
            statuses.append((await send(app, {**post}, body))[0])

        await send_commands(b'{"action":"ping"}' + b" " * 60_000)
        await send_commands(b'{"action":"ping"}' + b" " * 60_000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_commands, b'{"action":"ping"}')
            await anyio.wait_all_tasks_blocked()
            await hub.shutdown(0.0)
    assert statuses == [202, 202, 404]

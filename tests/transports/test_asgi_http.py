"""The hub's own HTTP under ASGI: requests, answers, and streams of events."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from analytics_hub import Action
from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.channels import Channel
from analytics_hub.http import Request, Response
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports._asgi import http
from analytics_hub.transports.asgi import HubApp, Limits

from .asgi_peer import Message, Server, bearer, running

pytestmark = pytest.mark.anyio

SECRET = "an hmac key of thirty-two bytes.."
TOKEN = mint(SECRET, subject="alice", roles=["trader"])
AUTH = bearer(TOKEN)


@asynccontextmanager
async def open_app(**options: Any) -> AsyncIterator[tuple[HubApp, Hub]]:
    channels = [Channel("alerts", publishers=frozenset({"trader"}))]
    hub = Hub(channels, authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]), grace=0.01)
    with anyio.fail_after(30):
        async with hub:
            yield HubApp(hub, **options), hub


def scope(method: str, path: str, *headers: tuple[bytes, bytes], query: bytes = b"") -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": "/hub" + path,
        "root_path": "/hub",
        "query_string": query,
        "headers": [(b"host", b"hub.example"), *headers],
        "client": ("127.0.0.1", 50_000),
    }


async def ask(app: HubApp, its: dict[str, Any], *body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    async with running(app, its) as server:
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


# --- requests -------------------------------------------------------------------------------------------------------


async def test_the_hubs_own_endpoints_below_the_mount() -> None:
    async with open_app() as (app, _):
        status, headers, body = await ask(app, scope("GET", "/healthz"))
        assert (status, body) == (200, b'{"status":"ok"}\n')
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"content-length"] == b"16"
        item = json.dumps({"channel": "alerts", "data": 1}).encode()
        status, _, receipt = await ask(app, scope("POST", "/publish", AUTH), item[:5], item[5:])
        assert (status, json.loads(receipt)["seq"]) == (200, 1)
        status, _, _ = await ask(app, scope("POST", "/publish"), item)
        assert status == 401


async def test_other_paths_are_the_applications() -> None:
    async with open_app(respond=respond) as (app, _):
        status, headers, body = await ask(app, scope("POST", "/echo", query=b"a=b"), b"h", b"i")
        assert (status, headers[b"x-b"], body) == (200, b"c", b"POST a=b hi")
        status, headers, body = await ask(app, scope("HEAD", "/echo"))
        assert (status, headers[b"content-length"], body) == (200, b"6", b"")


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/raise", 500), ("/split", 500)])
async def test_requests_that_cannot_be_answered(path: str, status: int) -> None:
    async with open_app(respond=respond) as (app, _):
        its, headers, body = await ask(app, scope("GET", path))

        assert its == status
        assert b"secret" not in body
        assert b"x-evil" not in headers


async def test_without_a_function_there_is_nothing() -> None:
    async with open_app() as (app, _):
        assert (await ask(app, scope("GET", "/echo")))[0] == 404


async def test_a_body_without_end_is_cut() -> None:
    async with open_app() as (app, _), running(app, scope("POST", "/publish", AUTH)) as server:
        for _ in range(1000):
            server.put({"type": "http.request", "body": b"x" * 10_000, "more_body": True})

        assert (await server.read())["status"] == 413
        assert server.listening < 20


async def test_a_body_that_does_not_come_is_given_up() -> None:
    limits = Limits(request_timeout=0.01)
    async with open_app(limits=limits) as (app, _), running(app, scope("POST", "/publish", AUTH)) as server:
        server.put({"type": "http.request", "body": b"x", "more_body": True})

        assert (await server.read())["status"] == 408


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_HELD", 100_000)
    part = {"type": "http.request", "body": b"x" * 60_000, "more_body": True}
    post = scope("POST", "/publish")
    async with open_app() as (app, _):
        async with running(app, {**post}) as one, running(app, {**post}) as other:
            one.put(part)
            await anyio.wait_all_tasks_blocked()
            other.put(part)
            assert (await other.read())["status"] == 503
            assert (await ask(app, scope("GET", "/healthz")))[0] == 200
            one.put({"type": "http.request"})
            assert (await one.read())["status"] == 401
        assert (await ask(app, {**post}, b"x" * 60_000, b"x" * 60_000))[0] == 503
        assert (await ask(app, {**post}, b"x" * 90_000))[0] == 401


async def test_a_stream_keeps_nothing_of_its_request() -> None:
    async with open_app() as (app, _), running(app, {**EVENTS}) as server:
        server.put({"type": "http.request", "body": b"x" * 100_000})
        assert (await server.read())["status"] == 200
        await event(server, "$subscribed")

        assert not [one for one in gc.get_objects() if isinstance(one, Request) and len(one.body) == 100_000]


async def test_a_check_that_hangs_is_given_up() -> None:
    async def hang(handshake: object) -> Identity:
        await anyio.sleep_forever()
        raise AssertionError

    hub = Hub([Channel("alerts")], authenticate=hang, grace=0.01)
    with anyio.fail_after(30):
        async with hub:
            app = HubApp(hub, limits=Limits(request_timeout=0.01))
            status, _, _ = await ask(app, scope("GET", "/asyncapi.json", AUTH))

    assert status == 503


async def test_a_peer_that_leaves_in_its_body_gets_no_answer() -> None:
    async with open_app() as (app, _), running(app, scope("POST", "/publish", AUTH)) as server:
        server.lose()
        await server.done()

        assert not server.sent
        assert server.error is None


async def test_a_peer_that_leaves_before_the_answer() -> None:
    async with open_app() as (app, _), running(app, scope("GET", "/healthz")) as server:
        server.is_lost = True
        server.put({"type": "http.request"})
        await server.done()

        assert server.error is None


@pytest.mark.parametrize("error", [RuntimeError("transport"), KeyError("x")])
@pytest.mark.parametrize("breaks", ["send", "receive"])
async def test_a_server_that_breaks_has_nothing_to_log(error: Exception, breaks: str) -> None:
    async def receive() -> Message:
        if breaks == "receive":
            raise error
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        raise error

    async with open_app() as (app, hub):
        for its in (scope("GET", "/healthz"), {**EVENTS}):
            await app(its, receive, send)

        # Of a peer that has left servers tell by an OSError or a RuntimeError of `send`; that is no fault.
        is_quiet = breaks == "send" and isinstance(error, RuntimeError)
        assert hub.sessions == []
        assert hub.statistics().counters.get(f"{breaks}-fault", 0) == (0 if is_quiet else 2)


async def test_an_answer_without_content_does_not_speak_of_it() -> None:
    async with open_app() as (app, _):
        status, headers, body = await ask(app, scope("OPTIONS", "/publish"))

        assert (status, body) == (204, b"")
        assert not {b"content-length", b"content-type"} & set(headers)
        assert headers[b"allow"] == b"POST, OPTIONS"


async def test_a_hub_that_is_not_running_says_which_line_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub([Channel("alerts")], authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]))
    with anyio.fail_after(30):
        status, _, _ = await ask(HubApp(hub), scope("GET", "/healthz"))

    assert status == 503
    assert "add `async with hub:` to the lifespan" in caplog.text


# --- streams --------------------------------------------------------------------------------------------------------

EVENTS = scope("GET", "/events", query=f"channels=alerts&token={TOKEN}".encode())


@asynccontextmanager
async def listening(app: HubApp, room: int | None = None) -> AsyncIterator[Server]:
    async with running(app, {**EVENTS}, room=room) as server:
        server.put({"type": "http.request"})
        start = await server.read()
        assert start["status"] == 200
        assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
        assert b"token" not in server.scope["query_string"]
        yield server
    assert server.error is None


async def event(server: Server, type_: str) -> dict[str, Any]:
    """The next item of this type; what came before it is dropped, what stands behind it in its frame is not."""
    while True:
        body: bytes = (await server.read())["body"]
        head, _, data = body.rpartition(b"data: ")
        items = json.loads(data) if data.startswith(b"[") else []
        for place, item in enumerate(items):
            if item["type"] == type_:
                if rest := items[place + 1 :]:
                    server.sent.appendleft({"body": head + b"data: " + json.dumps(rest).encode()})
                return dict(item)


async def test_a_stream_of_events_has_everything_that_a_socket_has() -> None:
    async with open_app() as (app, hub), listening(app) as server:
        assert (await server.read())["body"].startswith(b"retry: ")
        session = (await event(server, "$hello"))["session"]
        assert (await event(server, "$subscribed"))["channels"][0]["ok"]
        hub.publish("alerts", {"x": 1})
        assert (await event(server, "alerts"))["data"] == {"x": 1}

        ping = scope("POST", "/commands", AUTH, query=f"session={session}".encode())
        assert (await ask(app, ping, b'{"action":"ping","id":7}'))[0] == 202
        assert (await event(server, "$pong"))["id"] == 7
        server.lose()
        await server.done()
        assert hub.sessions == []


async def test_a_stream_that_confirms_is_not_held_back_for_heartbeats_that_it_cannot_see() -> None:
    async with open_app(limits=Limits(max_unconfirmed=2)) as (app, hub), listening(app) as server:
        session = hub.session((await event(server, "$hello"))["session"])
        assert session is not None
        await event(server, "$subscribed")
        post = scope("POST", "/commands", AUTH, query=f"session={session.id}".encode())
        assert (await ask(app, post, b'[{"action":"seen","frames":1},{"action":"ping"}]'))[0] == 202
        await event(server, "$pong")
        for _ in range(10):
            assert session.peer.write(b":\n\n")
            await server.read()


async def test_a_stream_ends_with_why() -> None:
    async with open_app() as (app, hub), listening(app) as server:
        await event(server, "$subscribed")
        await hub.shutdown()

        assert (await event(server, "$close"))["code"] == 1012
        server.lose()
        await server.done()


async def test_a_stream_whose_task_is_cancelled_ends_in_order() -> None:
    """As uvicorn does when its patience with open responses is over."""
    async with open_app() as (app, hub):
        server = Server(app, {**EVENTS})
        server.put({"type": "http.request"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            assert (await server.read())["status"] == 200
            await event(server, "$subscribed")
            tasks.cancel_scope.cancel()

        assert (await event(server, "$close"))["code"] == 1001
        assert server.error is None
        assert hub.sessions == []


async def test_a_stream_too_many_is_told_to_come_again() -> None:
    async with open_app(limits=Limits(max_clients=1)) as (app, _), listening(app) as one:
        await event(one, "$subscribed")
        browser = scope("GET", "/events", AUTH, (b"accept", b"text/event-stream"))
        status, _, body = await ask(app, browser)
        assert status == 200
        assert body.startswith(b"retry: ")
        assert b'"code":1013' in body
        status, headers, _ = await ask(app, scope("GET", "/events", AUTH))
        assert (status, headers[b"retry-after"]) == (503, b"1")


async def test_commands_of_a_stream_wait_while_the_session_does() -> None:
    gate = anyio.Event()

    async def authorize(identity: object, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    statuses: list[int] = []
    hub = Hub(
        [Channel("alerts"), Channel("other")],
        authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]),
        authorize=authorize,
        grace=0.01,
    )
    with anyio.fail_after(30):
        async with hub:
            app = HubApp(hub)
            async with listening(app) as server, anyio.create_task_group() as tasks:
                session = (await event(server, "$hello"))["session"]
                post = scope("POST", "/commands", AUTH, query=f"session={session}".encode())

                async def send(body: bytes) -> None:
                    statuses.append((await ask(app, {**post}, body))[0])

                await send(b'{"action":"ping"}' + b" " * 60_000)
                await send(b'{"action":"ping"}' + b" " * 60_000)
                tasks.start_soon(send, b'{"action":"ping","id":"last"}')
                await anyio.wait_all_tasks_blocked()
                assert statuses == [202, 202]
                gate.set()
                await event(server, "$subscribed")
                while (await event(server, "$pong"))["id"] != "last":
                    pass
            assert statuses == [202, 202, 202]


async def test_commands_that_wait_for_a_stream_that_ends_are_answered_before_its_peer_has_left() -> None:
    async def authorize(identity: object, action: Action, channel: str) -> bool:
        await anyio.sleep_forever()
        return True

    statuses: list[int] = []
    key = JWTAuthenticator(SECRET, algorithms=["HS256"])
    hub = Hub([Channel("alerts")], authenticate=key, authorize=authorize, grace=0.0)
    with anyio.fail_after(30):
        async with hub:
            app = HubApp(hub, limits=Limits(close_timeout=100, request_timeout=100))
            async with listening(app) as server:
                session = (await event(server, "$hello"))["session"]
                post = scope("POST", "/commands", AUTH, query=f"session={session}".encode())

                async def send(body: bytes) -> None:
                    statuses.append((await ask(app, {**post}, body))[0])

                await send(b'{"action":"ping"}' + b" " * 60_000)
                await send(b'{"action":"ping"}' + b" " * 60_000)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send, b'{"action":"ping"}')
                    await anyio.wait_all_tasks_blocked()
                    await hub.shutdown()
    assert statuses == [202, 202, 404]


async def test_a_stream_that_does_not_read_is_held_back() -> None:
    async with open_app(limits=Limits(max_unsent=1)) as (app, hub), listening(app, room=1) as server:
        await event(server, "$subscribed")
        for number in range(20):
            hub.publish("alerts", number)
            await anyio.wait_all_tasks_blocked()
        received: list[Message] = []
        while (item := await event(server, "alerts"))["data"] != 19:
            received.append(item)

        (session,) = hub.sessions
        assert hub.ledger(session)["alerts"].pending == 0

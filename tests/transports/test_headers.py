"""The headers of every answer of the hub's own, as far as proxies and caches act on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity
from analytics_hub.transports import websocket
from analytics_hub.transports.asgi import HubApp, Limits

from .asgi_peer import http_scope, running, websocket_scope
from .peer import Peer, serving, upgrade

pytestmark = pytest.mark.anyio

AUTH: Final = (b"authorization", b"Bearer ann")
EVENTS: Final = (b"accept", b"text/event-stream")
FOREIGN: Final = (b"origin", b"https://evil.example")
BY_HOP: Final = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
"""RFC 9110 §7.6.1 and RFC 9113 §8.2.2: the server's own, and invalid in HTTP/2."""

CASES: Final[list[tuple[str, dict[str, Any], int]]] = [
    ("health", http_scope("GET", "/healthz"), 200),
    ("a stream", http_scope("GET", "/events", AUTH, query="channels=a"), 200),
    ("a stream without a token", http_scope("GET", "/events"), 401),
    ("a stream with a wrong token", http_scope("GET", "/events", (b"authorization", b"Bearer wrong"), EVENTS), 401),
    ("a stream with a wrong query", http_scope("GET", "/events", AUTH, query="x=1"), 400),
    ("a stream of another site", http_scope("GET", "/events", AUTH, FOREIGN), 403),
    ("a stream by POST", http_scope("POST", "/events", AUTH), 405),
    ("a preflight", http_scope("OPTIONS", "/events", (b"origin", b"https://friend.example")), 204),
    ("publishing", http_scope("POST", "/publish"), 401),
    ("commands of no session", http_scope("POST", "/commands", AUTH, query="session=x"), 404),
    ("a ticket", http_scope("POST", "/ticket", AUTH), 201),
    ("the document", http_scope("GET", "/asyncapi.json", AUTH), 200),
    ("another path", http_scope("GET", "/nothing"), 404),
    ("a WebSocket at another path", websocket_scope(path="/hub/elsewhere"), 404),
    ("a WebSocket with a wrong token", websocket_scope(headers=[(b"authorization", b"Bearer wrong")]), 401),
    ("a WebSocket with an unknown subprotocol", websocket_scope(subprotocols=["mqtt"]), 400),
]


def authenticate(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "wrong":
        raise AuthenticationError("invalid")
    return Identity(id=handshake.token)


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=authenticate, grace=0.01, proxies=[]) as hub:
            yield hub


def new_app(hub: Hub) -> HubApp:
    return HubApp(hub, path="/hub", origins=["https://friend.example"])


async def head(app: HubApp, scope: dict[str, Any]) -> tuple[int, dict[bytes, bytes]]:
    """The status and the headers of an answer; no header may come twice."""
    async with running(app, dict(scope), accepted=False) as server:
        if scope["type"] == "http":
            server.put({"type": "http.request"})
        start = await server.read()
        headers = dict(start["headers"])
        assert len(headers) == len(start["headers"])
        return start["status"], headers


def check(status: int, headers: dict[bytes, bytes]) -> None:
    is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
    assert headers[b"cache-control"] == (b"no-store, no-transform" if is_stream else b"no-store")
    assert headers.get(b"x-accel-buffering") == (b"no" if is_stream else None)
    assert status == 204 or headers[b"x-content-type-options"] == b"nosniff"
    assert (b"www-authenticate" in headers) == (status == 401)
    assert b"allow" in headers or status not in (204, 405)


@pytest.mark.parametrize(("scope", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_no_answer_may_be_kept_and_no_stream_changed(scope: dict[str, Any], status: int) -> None:
    async with open_hub() as hub:
        answered, headers = await head(new_app(hub), scope)

    assert answered == status
    check(status, headers)
    assert not BY_HOP & set(headers)


async def test_answers_name_the_headers_that_they_depend_on() -> None:
    async with open_hub() as hub:
        app = new_app(hub)
        vary = {name: (await head(app, scope))[1].get(b"vary") for name, scope, _ in CASES}

    assert vary["health"] == b"Origin"
    assert vary["publishing"] == vary["a ticket"] == b"Origin, Sec-Fetch-Site, Authorization, Cookie"
    streams = {vary[name] for name in vary if name.startswith("a stream")}
    assert streams == {b"Origin, Sec-Fetch-Site, Authorization, Cookie, Accept, Last-Event-ID"}


async def test_answers_of_a_hub_that_is_not_running_or_late_are_not_kept() -> None:
    hub = Hub([Channel("a")], authenticate=authenticate)
    for scope in (http_scope("GET", "/healthz"), websocket_scope()):
        status, headers = await head(HubApp(hub), scope)
        assert status == 503
        check(status, headers)
    async with open_hub() as entered:
        app = HubApp(entered, limits=Limits(request_timeout=0.01))
        async with running(app, http_scope("POST", "/elsewhere")) as server:
            start = await server.read()

    assert start["status"] == 408
    check(408, dict(start["headers"]))


async def test_a_failing_respond_is_not_kept() -> None:
    def respond(request: object) -> None:
        raise KeyError

    async with open_hub() as hub:
        status, headers = await head(HubApp(hub, respond=respond), http_scope("GET", "/other"))

    assert status == 500
    check(status, headers)


NATIVE: Final[list[tuple[str, bytes, int]]] = [
    ("health", b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", 200),
    ("a stream", b"GET /events?channels=a HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer ann\r\n\r\n", 200),
    ("another path", b"GET /other HTTP/1.1\r\nHost: hub\r\n\r\n", 404),
    ("another method", b"DELETE /other HTTP/1.1\r\nHost: hub\r\n\r\n", 405),
    ("no upgrade", b"GET /ws/analytics HTTP/1.1\r\nHost: hub\r\n\r\n", 426),
    ("a wrong token", upgrade("Authorization: Bearer wrong"), 401),
    ("no HTTP", b"HELLO\r\n\r\n", 400),
]


async def test_the_same_is_true_of_the_native_port() -> None:
    async with open_hub() as hub, serving(hub, serve=websocket.serve) as port:
        for name, request, status in NATIVE:
            async with await Peer.connect(port) as peer:
                await peer.send(request)
                answer = await peer.read_head()
            assert answer.status == status, name
            check(status, {key.encode(): value.encode() for key, value in answer.headers.items()})
            assert answer.headers["connection"] == "close"

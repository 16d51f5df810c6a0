"""`origins="every-site"`: public data is open to all pages, and no page sees more through the session of its user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from analytics_hub import Channel, Handshake, Hub, Identity
from analytics_hub.contracts import ANONYMOUS
from analytics_hub.transports.asgi import HubApp

from .asgi_peer import http_scope, running, websocket_scope
from .peer import Peer, serving

pytestmark = pytest.mark.anyio

ELSEWHERE = "https://elsewhere.example"


def authenticate(handshake: Handshake) -> Identity:
    """By the session of the host, or by its cookie; otherwise anonymous."""
    scope = handshake.scope or {}
    if "session" in scope or "cookie" in handshake.headers:
        return Identity(id="ann")
    return ANONYMOUS


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    with anyio.fail_after(30):
        async with Hub([Channel("a")], authenticate=authenticate, grace=0.01) as hub:
            yield hub


def identities(hub: Hub) -> list[str]:
    return [session.identity.id for session in hub.sessions if session.identity is not None]


@pytest.mark.parametrize(("origin", "expected"), [(ELSEWHERE, "anonymous"), ("null", "anonymous"), (None, "ann")])
async def test_a_websocket_of_another_site_has_no_session(origin: str | None, expected: str) -> None:
    async with open_hub() as hub:
        headers = [(b"host", b"hub.example"), (b"cookie", b"session=1")]
        headers.append((b"origin", (origin or "http://hub.example").encode()))
        scope = websocket_scope(headers=headers, session={"user": "ann"})
        async with running(HubApp(hub, origins="every-site"), scope) as server:
            assert (await server.read_frame())[0]["type"] == "$hello"
            assert identities(hub) == [expected]


async def test_a_websocket_of_another_site_has_no_cookie() -> None:
    async with open_hub() as hub, serving(hub, origins="every-site") as port:
        for origin, expected in ((ELSEWHERE, "anonymous"), ("http://127.0.0.1", "ann")):
            async with await Peer.open(port, f"Origin: {origin}", "Cookie: session=1"):
                while not hub.sessions:
                    await anyio.lowlevel.checkpoint()
                assert identities(hub) == [expected]
            while hub.sessions:
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(("origin", "expected"), [(ELSEWHERE, "anonymous"), ("http://hub.example", "ann")])
async def test_a_request_of_another_site_has_no_session_and_may_read_the_answer(origin: str, expected: str) -> None:
    async with open_hub() as hub:
        headers = ((b"origin", origin.encode()), (b"cookie", b"session=1"))
        scope = http_scope("GET", "/events", *headers, query="channels=a") | {"session": {"user": "ann"}}
        async with running(HubApp(hub, origins="every-site"), scope) as server:
            server.put({"type": "http.request"})
            start = await server.read()
            await server.read()
            while not hub.sessions:
                await anyio.lowlevel.checkpoint()

            assert identities(hub) == [expected]
            shared = {name: value for name, value in start["headers"] if name.startswith(b"access-control")}
            assert shared == {b"access-control-allow-origin": b"*"}


async def test_a_ticket_for_another_site_is_anonymous() -> None:
    async with open_hub() as hub:
        headers = ((b"origin", ELSEWHERE.encode()), (b"cookie", b"session=1"))
        scope = http_scope("POST", "/ticket", *headers) | {"session": {"user": "ann"}}
        async with running(HubApp(hub, origins="every-site"), scope) as server:
            server.put({"type": "http.request"})
            assert (await server.read())["status"] == 201
            ticket = json.loads((await server.read())["body"])["ticket"]

        assert (await hub.gateway.admit(Handshake(token=ticket))).identity is ANONYMOUS

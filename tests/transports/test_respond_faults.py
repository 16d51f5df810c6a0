"""A `respond` of the application that fails is logged with its own place, and without what is confidential."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.http import Request, Response
from analytics_hub.transports.asgi import HubApp

from .asgi_peer import http_scope, running
from .peer import Peer, serving

pytestmark = pytest.mark.anyio

SECRET = "a-secret-of-0123456789"


def respond(request: Request) -> Response:
    if request.path == "/raise":
        raise LookupError(f"no user for {request.headers['authorization']}, {request.headers['cookie']}")
    return Response(200, headers=[("Set-Cookie", f"session={SECRET}\r\nX-Evil: d")])


PLACE = f"{__file__}:{respond.__code__.co_firstlineno + 2} in respond"


async def ask_native(hub: Hub, path: str) -> int:
    head = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {SECRET}\r\nCookie: s={SECRET}\r\n\r\n"
    async with serving(hub, respond=respond) as port, await Peer.connect(port) as peer:
        await peer.send(head.encode())
        return (await peer.read_answer()).status


async def ask_asgi(hub: Hub, path: str) -> int:
    headers = ((b"authorization", f"Basic {SECRET}".encode()), (b"cookie", f"s={SECRET}".encode()))
    async with running(HubApp(hub, respond=respond), http_scope("GET", path, *headers)) as server:
        server.put({"type": "http.request"})
        status: int = (await server.read())["status"]
        return status


@pytest.mark.parametrize("ask", [ask_native, ask_asgi])
async def test_a_respond_that_fails_is_logged_with_its_place(
    ask: Callable[[Hub, str], Awaitable[int]], caplog: pytest.LogCaptureFixture
) -> None:
    messages = []
    for path in ("/raise", "/split"):
        async with Hub([Channel("a")], authenticate=anonymous, grace=0.01) as hub:
            assert [await ask(hub, path) for _ in range(2)] == [500, 500]
            assert hub.statistics().counters["respond-fault"] == 2
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        messages.append(record.getMessage())
        caplog.clear()

    raised, invalid = messages
    assert raised == f"respond failed: LookupError: no user for Basic [redacted], s=[redacted] at {PLACE}"
    assert invalid.startswith("respond failed: ")
    assert invalid.endswith(f"at {__file__}:{respond.__code__.co_firstlineno} in respond")
    assert SECRET not in invalid

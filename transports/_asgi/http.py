"""The hub's own HTTP under ASGI: one request read whole, one answer, or a stream of events."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import anyio

from ...http import Request, Response
from .._entry import FULL
from .._http.commands import Gate
from .._http.endpoints import Endpoints
from .._http.events import EventStream
from .._http.sse import greet, say_goodbye
from .client import Client
from .desk import Desk
from .scope import (
    Message,
    Receive,
    Scope,
    Send,
    encode_headers,
    find_client,
    find_path,
    is_secure,
    read_headers,
    take_query,
)

_CRASHED: Final = Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"this went wrong\n")
_NOTHING: Final = Response(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
_CLOSED: Final = Response(HTTPStatus.SERVICE_UNAVAILABLE, b"the hub is not running\n")
_LATE: Final = Response(HTTPStatus.REQUEST_TIMEOUT, b"the request took too long\n")


class EventClient(Client):
    """A stream of server-sent events. Its commands come by requests of their own, which wait at the `gate`."""

    __slots__ = ("gate",)

    def __init__(self, desk: Desk, receive: Receive, send: Send) -> None:
        super().__init__(desk, desk.events, receive, send)
        self.gate = Gate()

    def pause_reading(self) -> None:
        pass  # `Gate` looks at the session

    def resume_reading(self) -> None:
        self.gate.open()

    def take(self, message: Message) -> bool:
        return bool(message["type"] != "http.disconnect")

    def goodbye(self, code: int, reason: str) -> Message:
        words = say_goodbye(self._desk.hub, code, reason)
        return {"type": "http.response.body", "body": words, "more_body": False}


async def serve_http(desk: Desk, endpoints: Endpoints, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request. Raises nothing because of the peer or the server."""
    query = take_query(scope)
    request: Request | None = None
    outcome: Response | EventStream | None = _LATE
    with anyio.move_on_after(desk.limits.request_timeout) as time:
        body = await _read_body(receive, endpoints.max_body)
        if body is None:
            return
        request = Request(str(scope["method"]), find_path(scope), query, read_headers(scope), body)
        outcome = await _answer(desk, endpoints, request, scope)
    if time.cancelled_caught and request is not None and endpoints.handles(request.path):
        outcome = endpoints.give_up(request)
    try:
        if isinstance(outcome, EventStream):
            await _serve_events(desk, outcome, receive, send)
        else:
            await _respond(desk, outcome or _NOTHING, send, has_body=scope["method"] != "HEAD")
    except OSError:
        pass  # it left first


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The body, or a little more than `limit` bytes of it; None if the peer has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False) or len(body) > limit:
            return bytes(body)


async def _answer(desk: Desk, endpoints: Endpoints, request: Request, scope: Scope) -> Response | EventStream | None:
    if not desk.hub.is_open and not desk.hub.is_draining:
        desk.complain()
        return _CLOSED
    try:
        return await endpoints.answer(request, client=find_client(scope), transport="asgi", is_secure=is_secure(scope))
    except Exception as error:  # noqa: BLE001 - the boundary: the application's `respond`, or a bug
        desk.fault("respond-fault", error)
        return _CRASHED


async def _respond(desk: Desk, response: Response, send: Send, *, has_body: bool) -> None:
    try:
        headers = _head(response)
    except ValueError as error:  # the application's
        desk.fault("respond-fault", error)
        response = _CRASHED
        headers = _head(response)
    await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body else b""})


def _head(response: Response) -> list[tuple[bytes, bytes]]:
    length = ("content-length", str(len(response.body)))
    return encode_headers([("content-type", response.content_type), length, *response.headers])


async def _serve_events(desk: Desk, stream: EventStream, receive: Receive, send: Send) -> None:
    headers = encode_headers([("content-type", stream.content_type), *stream.headers])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if desk.clients >= desk.limits.max_clients:
        await send({"type": "http.response.body", "body": say_goodbye(desk.hub, FULL.code, FULL.sentence)})
        return
    await send({"type": "http.response.body", "body": greet(desk.hub), "more_body": True})
    client = EventClient(desk, receive, send)
    try:
        await client.serve(lambda transport: stream.connect(desk.hub, transport))
    except asyncio.CancelledError:
        # uvicorn, when its patience with open responses ends. This one has been ended in order, and to raise would only
        # have it log a traceback for each stream. (Trio's own `Cancelled` goes on, as it must.)
        pass
    finally:
        client.gate.open()

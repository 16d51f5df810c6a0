"""The hub's own HTTP under ASGI: one request read whole, one answer, or a stream of events."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import anyio

from ...http import RETRY_SOON, Request, Response, error_response
from .._http.commands import Gate
from .._http.endpoints import Endpoints
from .._http.events import EventStream
from .._http.sse import greet, say_goodbye
from .app_state import AppState
from .client import Client
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

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of the bodies of all requests that are not answered yet."""
SMALL: Final = 16 * 1024
"""A body that is read also when there are too many."""
_CRASHED: Final = Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"this went wrong\n")
_NOTHING: Final = Response(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
_CLOSED: Final = error_response(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the hub is not running", [RETRY_SOON])
_CROWDED: Final = Response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many requests are under way\n", headers=[RETRY_SOON])
_LATE: Final = Response(HTTPStatus.REQUEST_TIMEOUT, b"the request took too long\n")


class EventClient(Client):
    """A stream of server-sent events. Its commands come by requests of their own, which wait at the `gate`."""

    __slots__ = ("gate",)

    def __init__(self, desk: AppState, receive: Receive, send: Send) -> None:
        super().__init__(desk, desk.events, receive, send)
        self.gate = Gate()

    def pause_reading(self) -> None:
        pass  # `Gate` looks at the session

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass  # page code sees no heartbeats, so it cannot count

    def take(self, message: Message) -> bool:
        return bool(message["type"] != "http.disconnect")

    def _finish(self) -> None:
        super()._finish()
        self.gate.open()

    def goodbye(self, code: int, reason: str) -> Message:
        words = say_goodbye(self._desk.hub, code, reason)
        return {"type": "http.response.body", "body": words, "more_body": False}


async def serve_http(desk: AppState, endpoints: Endpoints, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request. Raises nothing because of the peer or the server."""
    outcome = await _take(desk, endpoints, scope, receive)
    if isinstance(outcome, EventStream):
        desk.joined()  # before anybody else can take the place
    try:
        if isinstance(outcome, EventStream):
            await _serve_events(desk, outcome, receive, send)
        elif outcome is not None:
            await _respond(desk, outcome, send, has_body=scope["method"] != "HEAD")
    except (OSError, RuntimeError):
        pass  # it left first
    except Exception as error:  # noqa: BLE001 - the server's, and whatever is around it
        desk.fault("send-fault", error)
    finally:
        if isinstance(outcome, EventStream):
            desk.left()


async def _take(desk: AppState, endpoints: Endpoints, scope: Scope, receive: Receive) -> Response | EventStream | None:
    """Read the request and find its answer; None if the peer has gone. Nothing of the body is kept for longer."""
    query = take_query(scope)
    request: Request | None = None
    outcome: Response | EventStream = _LATE
    body = bytearray()
    try:
        with anyio.move_on_after(desk.limits.request_timeout) as time:
            if not await _read_body(desk, receive, body, endpoints.max_body):
                return None
            if _is_crowded(desk, body):
                desk.hub.note("refused-crowded", "a request was refused: more than %d bytes are under way", MAX_HELD)
                return _CROWDED
            request = Request(str(scope["method"]), find_path(scope), query, read_headers(scope), bytes(body))
            outcome = await _answer(desk, endpoints, request, scope) or _NOTHING
    finally:
        desk.held -= len(body)
    if time.cancelled_caught:
        timeout = desk.limits.request_timeout
        desk.hub.note("request-timeout", "a request was not answered within %g s", timeout)
    if request is not None:
        if time.cancelled_caught and endpoints.handles(request.path):
            return endpoints.give_up(request)
        if isinstance(outcome, EventStream) and (refusal := desk.turn_away()) is not None:
            return endpoints.refuse(request, refusal)
    return outcome


async def _read_body(desk: AppState, receive: Receive, body: bytearray, limit: int) -> bool:
    """Read into `body`, at most a little more than `limit` bytes; False if the peer has gone."""
    while True:
        try:
            message = await receive()
        except Exception as error:  # noqa: BLE001 - the server's, and whatever is around it
            desk.fault("receive-fault", error)
            return False
        if message["type"] != "http.request":
            return False
        part = message.get("body", b"")
        body += part
        desk.held += len(part)
        if not message.get("more_body", False) or len(body) > limit or _is_crowded(desk, body):
            return True


def _is_crowded(desk: AppState, body: bytearray) -> bool:
    return desk.held > MAX_HELD and len(body) > SMALL


async def _answer(
    desk: AppState, endpoints: Endpoints, request: Request, scope: Scope
) -> Response | EventStream | None:
    if not desk.hub.is_open and not desk.hub.is_draining:
        desk.complain()
        desk.hub.count("refused-closed")
        return _CLOSED
    try:
        return await endpoints.answer(
            request, client=find_client(scope), transport="asgi", is_secure=is_secure(scope), scope=scope
        )
    except Exception as error:  # noqa: BLE001 - the boundary: the application's `respond`, or a bug
        desk.fault("respond-fault", error)
        return _CRASHED


async def _respond(desk: AppState, response: Response, send: Send, *, has_body: bool) -> None:
    try:
        headers = _head(response)
    except ValueError as error:  # the application's
        desk.fault("respond-fault", error)
        response = _CRASHED
        headers = _head(response)
    await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body else b""})


def _head(response: Response) -> list[tuple[bytes, bytes]]:
    headers = [*response.headers]
    if response.status != HTTPStatus.NO_CONTENT:  # which may not speak of content (RFC 9110 §8.6)
        headers += [("content-type", response.content_type), ("content-length", str(len(response.body)))]
    return encode_headers(headers)


async def _serve_events(desk: AppState, stream: EventStream, receive: Receive, send: Send) -> None:
    headers = encode_headers([("content-type", stream.content_type), *stream.headers])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": greet(desk.hub), "more_body": True})
    client = EventClient(desk, receive, send)
    client.open(lambda transport: stream.connect(desk.hub, transport))
    try:
        await client.serve()
    except asyncio.CancelledError:
        # uvicorn, when its patience with open responses ends. This one has been ended in order, and to raise would only
        # have it log a traceback for each stream. (Trio's own `Cancelled` goes on, as it must.)
        pass
    finally:
        client.gate.open()

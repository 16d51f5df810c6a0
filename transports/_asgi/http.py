"""The hub's own HTTP under ASGI: one request read whole, one answer, or a stream of events."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import anyio

from ...exceptions import HubError, HubNotRunning
from ...http import RETRY_SOON, Request, Response, text_response
from .._faults import note_respond_fault
from .._http.commands import Gate
from .._http.endpoints import Endpoints
from .._http.events import EventStream
from .._http.sse import greet, say_goodbye
from .._refusal import note_refusal, refusal_response
from .app_state import AppState
from .client import Client
from .scope import (
    Message,
    Receive,
    Scope,
    Send,
    encode_head,
    encode_headers,
    find_client,
    find_path,
    is_secure,
    pop_query,
    read_headers,
)

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of the bodies of all requests that are not answered yet."""
SMALL_BODY: Final = 16 * 1024
"""Bytes of a body that is read even when that limit is reached."""
_CRASHED: Final = text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
_NOT_FOUND: Final = text_response(HTTPStatus.NOT_FOUND, "nothing is served at this path")
_CROWDED: Final = text_response(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are in progress", [RETRY_SOON])
_TIMEOUT: Final = text_response(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")


class EventClient(Client):
    """A stream of server-sent events. Its commands come by requests of their own, which wait at the `gate`."""

    __slots__ = ("gate",)

    is_response = True

    def __init__(self, app: AppState, receive: Receive, send: Send) -> None:
        super().__init__(app, app.body_cache, receive, send)
        self.gate = Gate()

    def pause_reading(self) -> None:
        pass  # `Gate` checks the session

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass  # page code sees no heartbeats, so it cannot count

    def handle_message(self, message: Message) -> bool:
        return bool(message["type"] != "http.disconnect")

    def _stop_listening(self) -> None:
        super()._stop_listening()
        self.gate.open()

    def close_message(self, code: int, reason: str) -> Message:
        body = say_goodbye(self._app.gateway, code, reason)
        return {"type": "http.response.body", "body": body, "more_body": False}


async def serve_http(app: AppState, endpoints: Endpoints, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request. Raises nothing because of the peer or the server."""
    answer = await _handle_request(app, endpoints, scope, receive)
    if isinstance(answer, EventStream):
        app.client_admitted()  # before another client can take the place
    try:
        if isinstance(answer, EventStream):
            await _serve_events(app, answer, receive, send)
        elif answer is not None:
            await _respond(app, endpoints, answer, send, has_body=scope["method"] != "HEAD")
    except (OSError, RuntimeError):
        pass  # the peer has left
    except Exception as error:  # noqa: BLE001 - of the server or a middleware
        app.report_fault("send-fault", error)
    finally:
        if isinstance(answer, EventStream):
            app.client_left()


async def _handle_request(
    app: AppState, endpoints: Endpoints, scope: Scope, receive: Receive
) -> Response | EventStream | None:
    """Read the request and find its answer; None if the peer has gone. No part of the body is kept for longer."""
    query = pop_query(scope)
    request: Request | None = None
    answer: Response | EventStream = _TIMEOUT
    body = bytearray()
    try:
        with anyio.move_on_after(app.limits.request_timeout) as timeout:
            if not await _read_body(app, receive, body, endpoints.max_body):
                return None
            if _is_over_limit(app, body):
                app.gateway.note(
                    "refused-crowded", "a request was refused: more than %d bytes are in progress", MAX_HELD
                )
                return _CROWDED
            request = Request(str(scope["method"]), find_path(scope), query, read_headers(scope), bytes(body))
            answer = await _answer(app, endpoints, request, scope) or _NOT_FOUND
    finally:
        app.held -= len(body)
    if timeout.cancelled_caught:
        app.gateway.note("request-timeout", "a request was not answered within %g s", app.limits.request_timeout)
        if request is not None and endpoints.handles(request.path):
            return endpoints.give_up(request)
    elif request is not None and isinstance(answer, EventStream):
        try:
            app.check_open()
        except HubError as error:
            return endpoints.refuse(request, error)
    return answer


async def _read_body(app: AppState, receive: Receive, body: bytearray, limit: int) -> bool:
    """Read into `body`, at most a little more than `limit` bytes; False if the peer has gone."""
    while True:
        try:
            message = await receive()
        except Exception as error:  # noqa: BLE001 - of the server or a middleware
            app.report_fault("receive-fault", error)
            return False
        if message["type"] != "http.request":
            return False
        part = message.get("body", b"")
        body += part
        app.held += len(part)
        if not message.get("more_body", False) or len(body) > limit or _is_over_limit(app, body):
            return True


def _is_over_limit(app: AppState, body: bytearray) -> bool:
    return app.held > MAX_HELD and len(body) > SMALL_BODY


async def _answer(app: AppState, endpoints: Endpoints, request: Request, scope: Scope) -> Response | EventStream | None:
    if not app.gateway.is_open and not app.gateway.is_draining:
        app.explain_not_running()
        error = HubNotRunning()
        note_refusal(app.gateway, error)
        return refusal_response(error)
    try:
        return await endpoints.answer(
            request, client=find_client(scope), transport="asgi", is_secure=is_secure(scope), scope=scope
        )
    except Exception as error:  # noqa: BLE001 - the boundary: the application's `respond`, or a bug
        if endpoints.handles(request.path):
            app.report_fault("respond-fault", error)
        else:
            note_respond_fault(app.gateway, error, endpoints.respond, request)
        return _CRASHED


async def _respond(app: AppState, endpoints: Endpoints, response: Response, send: Send, *, has_body: bool) -> None:
    try:
        headers = encode_head(response)
    except ValueError as error:  # a header of the application
        note_respond_fault(app.gateway, error, endpoints.respond)
        response = _CRASHED
        headers = encode_head(response)
    await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body else b""})


async def _serve_events(app: AppState, stream: EventStream, receive: Receive, send: Send) -> None:
    headers = encode_headers([("content-type", stream.content_type), *stream.headers])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": greet(app.gateway), "more_body": True})
    client = EventClient(app, receive, send)
    client.connect(lambda transport: stream.connect(app.gateway, transport))
    try:
        await client.serve()
    except asyncio.CancelledError:
        # uvicorn cancels open responses when its shutdown timeout ends. This one has been closed in order, and to raise
        # would only make it log a traceback for each stream. (Trio's own `Cancelled` goes on, as it must.)
        pass
    finally:
        client.gate.open()

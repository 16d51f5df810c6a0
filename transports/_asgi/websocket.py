"""A WebSocket from its scope to the client that it becomes, or to the refusal that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ...auth import find_token, strip_headers
from ...contracts import Handshake
from ...identity import Identity
from ...protocol import CloseCode
from ...protocol.formats import SUBPROTOCOLS, Format, choose_format
from .._refusal import FOREIGN_ORIGIN, UNCHECKED, Refusal, admit, note
from .app_state import AppState
from .client import WebSocketClient
from .messages import WIRES
from .scope import Receive, Scope, Send, encode_headers, find_client, is_secure, read_headers, take_query

_UNKNOWN: Final = Refusal(
    HTTPStatus.BAD_REQUEST,
    CloseCode.PROTOCOL_ERROR,
    f"unknown subprotocols; this server speaks {', '.join(SUBPROTOCOLS)}, or offer none",
    counter="refused-request",
)
_NOWHERE: Final = Refusal(
    HTTPStatus.NOT_FOUND, CloseCode.PROTOCOL_ERROR, "there is nothing here", counter="refused-request"
)


async def serve_websocket(desk: AppState, scope: Scope, receive: Receive, send: Send, *, is_here: bool) -> None:
    """Let the peer of a `websocket` scope in and serve it, or refuse it. `is_here`: the path is that of the socket."""
    client = await _let_in(desk, scope, receive, send, is_here=is_here)
    if client is None:
        return
    del scope  # with all its headers, for the memory of idle clients
    try:
        await client.serve()
    finally:
        desk.left()


async def _let_in(
    desk: AppState, scope: Scope, receive: Receive, send: Send, *, is_here: bool
) -> WebSocketClient | None:
    """The client, which has taken a place at the desk; None if it was refused, or has left."""
    query = take_query(scope)
    headers = read_headers(scope)
    offered: Sequence[str] = list(scope.get("subprotocols") or ())
    found = find_token(headers, query, offered)
    handshake = Handshake(
        token=found and found.token,
        transport="asgi",
        path=str(scope.get("path", "")),
        headers=strip_headers(headers),
        origin=headers.get("origin"),
        client=find_client(scope),
        scope=scope,
    )
    format = choose_format(offered)  # noqa: A001 - what it is
    subprotocol = format.subprotocol if format is not None and format.subprotocol in offered else None
    if (await receive())["type"] != "websocket.connect":
        return None
    outcome: Identity | Refusal | None = _NOWHERE
    if is_here:
        outcome = await _judge(desk, headers, handshake, format, is_secure=is_secure(scope))
    if isinstance(outcome, Refusal):
        await _send_away(desk, outcome, handshake, subprotocol, scope, receive, send)
        return None
    if not await _accept(desk, subprotocol, send):
        return None
    assert format is not None
    client = WebSocketClient(desk, desk.envelopes(format), receive, send)
    wire, identity, limit = WIRES[format.name], outcome, desk.limits.max_message
    client.open(lambda transport: desk.hub.connect(transport, wire, identity, handshake, max_message=limit))
    return client


async def _accept(desk: AppState, subprotocol: str | None, send: Send) -> bool:
    """Take a place, before anybody else can take it, and tell the server; False if the peer left first."""
    desk.joined()
    is_accepted = False
    try:
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        is_accepted = True
    except Exception as error:  # noqa: BLE001 - it left first, or the server is at its end
        desk.fault("accept-fault", error)
    finally:
        if not is_accepted:
            desk.left()
    return is_accepted


async def _judge(
    desk: AppState,
    headers: Mapping[str, str],
    handshake: Handshake,
    format: Format | None,  # noqa: A002 - what it is
    *,
    is_secure: bool,
) -> Identity | Refusal | None:
    if not desk.origins.admits(headers, is_secure=is_secure):
        return FOREIGN_ORIGIN
    if format is None:
        return _UNKNOWN
    if (refusal := desk.turn_away()) is not None:
        return refusal
    outcome: Identity | Refusal | None = UNCHECKED
    timeout = desk.limits.handshake_timeout
    try:
        with anyio.move_on_after(timeout) as time:
            async with desk.checks:
                outcome = await admit(desk.hub, handshake)
    except Exception as error:  # noqa: BLE001 - the boundary: a bug, and not the server's to log
        desk.fault("check-fault", error)
        return UNCHECKED
    if time.cancelled_caught:
        desk.hub.note("check-timeout", "a token was not checked within %g s", timeout)
        return UNCHECKED
    return desk.turn_away() or outcome  # since the check began


async def _send_away(
    desk: AppState,
    refusal: Refusal,
    handshake: Handshake,
    subprotocol: str | None,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    note(desk.hub, refusal)
    try:
        await _refuse(refusal, handshake, subprotocol, scope, send)
        await _linger(desk, receive)
    except Exception as error:  # noqa: BLE001 - as above
        desk.fault("accept-fault", error)


async def _refuse(refusal: Refusal, handshake: Handshake, subprotocol: str | None, scope: Scope, send: Send) -> None:
    close = {"type": "websocket.close", "code": int(refusal.code), "reason": refusal.sentence}
    if handshake.origin is not None:
        # A browser hides the status of a failed handshake from the page, but not a close code.
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        await send(close)
    elif "websocket.http.response" in (scope.get("extensions") or ()):
        body = f"{refusal.sentence}\n".encode()
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            *refusal.headers,
        ]
        start = {"type": "websocket.http.response.start", "status": int(refusal.status)}
        await send({**start, "headers": encode_headers(headers)})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send(close)  # the server makes a 403 of it


async def _linger(desk: AppState, receive: Receive) -> None:
    """Listen until the peer has left: some servers cut it off when we return, before it has read why."""
    with anyio.move_on_after(desk.limits.close_timeout):
        while (await receive())["type"] != "websocket.disconnect":
            pass
        # uvicorn tells of the end before it is there, and logs an error for each client if we return before that.
        await checkpoint()

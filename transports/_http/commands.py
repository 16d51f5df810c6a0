"""Commands of clients that can only listen: an HTTP request each, which names the session that it belongs to."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Protocol, cast
from urllib.parse import parse_qsl

import anyio

from ...contracts import Gateway, Transport
from ...core.session import Session
from ...exceptions import PermissionDenied, TooManyRequests
from ...http import Request, Response, error_response, json_response
from ...identity import Identity
from .._refusal import refusal_response
from .sse import WIRE

MAX_COMMANDS: Final = 64 * 1024
"""Bytes in the body of one request: the same as in a message of a WebSocket client."""
_UNKNOWN: Final = error_response(HTTPStatus.NOT_FOUND, "unknown-session", "no stream has this session")


class Gate:
    """Makes commands wait while reading from their session is paused: the `pause_reading` of an event stream.

    One request may wait. More would occupy places for the token checks of other clients, and lose their order.
    """

    __slots__ = ("_opened",)

    def __init__(self) -> None:
        self._opened: anyio.Event | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request is waiting."""
        return self._opened is not None

    async def wait_until_resumed(self, session: Session) -> None:
        """Wait until the session takes commands again, or has ended."""
        while session.is_paused and not session.is_closed:
            self._opened = anyio.Event()
            try:
                await self._opened.wait()
            finally:
                self._opened = None

    def open(self) -> None:
        """The session was resumed or has ended: wake the request that waits."""
        if self._opened is not None:
            self._opened.set()


class ListeningTransport(Transport, Protocol):
    """The transport of a client that can only listen."""

    gate: Gate


async def receive_commands(gateway: Gateway, request: Request, identity: Identity) -> Response:
    """Pass the commands in the body to the session; their answers are written to its stream."""
    ids = [value for name, value in parse_qsl(request.query) if name == "session"]
    if len(ids) != 1:
        return _bad_request(f"the query has {len(ids)} parameters `session`; it must have one, the session of $hello")
    session = gateway.find_session(ids[0])
    if session is None or session.wire is not WIRE:
        return _UNKNOWN
    if session.identity is None or session.identity.id != identity.id:
        return refusal_response(PermissionDenied("this session belongs to another identity"))
    if len(request.body) > MAX_COMMANDS:
        message = f"the body has {len(request.body)} bytes; at most {MAX_COMMANDS} are allowed"
        gateway.note("refused-size", "commands were refused: %s", message)
        return error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", message)
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return _bad_request("the body is not valid UTF-8")
    gate = cast("ListeningTransport", session.transport).gate
    if gate.is_busy:
        message = "earlier commands of this session are still waiting"
        gateway.note("refused-busy", "commands were refused: %s", message)
        return refusal_response(TooManyRequests(message, after=1.0))
    await gate.wait_until_resumed(session)
    if session.is_closed:
        return _UNKNOWN
    gateway.receive_data(session, text)
    return json_response(HTTPStatus.ACCEPTED, {})


def _bad_request(message: str) -> Response:
    return error_response(HTTPStatus.BAD_REQUEST, "bad-request", message)

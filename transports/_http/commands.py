"""Commands of clients that can only listen: one request each, which names the session it is for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qsl

import anyio

from ...contracts import Transport
from ...core.session import Session
from ...http import RETRY_SOON, Request, Response, error_response, json_response
from ...hub import Hub
from ...identity import Identity
from .sse import WIRE

MAX_COMMANDS: Final = 64 * 1024
"""Bytes: what a message of a WebSocket client may have."""
_UNKNOWN: Final = error_response(HTTPStatus.NOT_FOUND, "unknown-session", "there is no stream with this session")


class Gate:
    """Where commands wait while the session has too many that wait; the `pause_reading` of a stream that is not read.

    One request may wait. More would hold places in which tokens of others are checked, and their order would be lost.
    """

    __slots__ = ("_opened",)

    def __init__(self) -> None:
        self._opened: anyio.Event | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request waits already."""
        return self._opened is not None

    async def passed(self, session: Session) -> None:
        """Wait until the session takes commands again, or has ended."""
        while session.is_paused and not session.is_closed:
            self._opened = anyio.Event()
            try:
                await self._opened.wait()
            finally:
                self._opened = None

    def open(self) -> None:
        """Let who waits look again: the session goes on, or has ended."""
        if self._opened is not None:
            self._opened.set()


class Listening(Transport, Protocol):
    """The transport of a client that only listens."""

    gate: Gate


async def take_commands(hub: Hub, request: Request, identity: Identity) -> Response:
    """Hand the commands in the body to the session; what they come to is told in its stream."""
    ids = [value for name, value in parse_qsl(request.query) if name == "session"]
    if len(ids) != 1:
        sentence = "commands are for one session: ?session= and the one in $hello"
        return error_response(HTTPStatus.BAD_REQUEST, "bad-request", sentence)
    session = hub.session(ids[0])
    if session is None or session.wire is not WIRE:
        return _UNKNOWN
    if session.identity is None or session.identity.id != identity.id:
        return error_response(HTTPStatus.FORBIDDEN, "forbidden", "this session is somebody else's")
    if len(request.body) > MAX_COMMANDS:
        sentence = f"the body has {len(request.body)} bytes; at most {MAX_COMMANDS} are right"
        hub.note("refused-size", "commands were refused: %s", sentence)
        return error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", sentence)
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return error_response(HTTPStatus.BAD_REQUEST, "bad-request", "the body is not valid UTF-8")
    peer: Listening = session.peer
    gate = peer.gate
    if gate.is_busy:
        sentence = "the commands before are not carried out yet"
        hub.note("refused-busy", "commands were refused: %s", sentence)
        return error_response(HTTPStatus.TOO_MANY_REQUESTS, "rate-limited", sentence, [RETRY_SOON])
    await gate.passed(session)
    if session.is_closed:
        return _UNKNOWN
    hub.receive_data(session, text)
    return json_response(HTTPStatus.ACCEPTED, {})

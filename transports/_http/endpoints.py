"""The hub's own HTTP, the same on every transport that has HTTP: streams of events, commands, publishing, health.

A transport reads a request whole, asks `answer`, and writes what it says; for an `EventStream` it goes on writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeVar

from ...access.tickets import is_ticket
from ...asyncapi import describe
from ...auth import find_token, strip_headers
from ...contracts import Handshake
from ...exceptions import Overloaded
from ...http import (
    MAX_BODY,
    RETRY_SOON,
    Request,
    Respond,
    Response,
    error_response,
    json_response,
    respond_health,
)
from ...hub import Hub
from ...identity import Identity
from ...protocol import CloseCode
from .._origins import Origins, preflight
from .._refusal import DRAINING, FOREIGN_ORIGIN, UNCHECKED, Refusal, admit, identify, note, overloaded
from .commands import take_commands
from .events import EventStream, open_stream, turn_away
from .publishing import Publishing

AnswerT = TypeVar("AnswerT", bound=Response | EventStream)

_HEALTH: Final = "/healthz"
_METHODS: Final = {
    "/events": ("GET",),
    "/commands": ("POST",),
    "/publish": ("POST",),
    "/ticket": ("POST",),
    "/asyncapi.json": ("GET", "HEAD"),
    _HEALTH: ("GET", "HEAD"),
}
_NEW_WORK: Final = frozenset({"/publish", "/ticket"})
"""Besides streams: what an overloaded hub refuses."""
_NO_TOKEN: Final = Refusal(
    HTTPStatus.UNAUTHORIZED,
    CloseCode.UNAUTHENTICATED,
    "missing token",
    (("WWW-Authenticate", "Bearer"),),
    "token-missing",
)
_NO_TICKET: Final = Refusal(
    HTTPStatus.FORBIDDEN, CloseCode.FORBIDDEN, "a ticket buys no ticket", counter="refused-ticket"
)
_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: "unauthenticated",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.TOO_MANY_REQUESTS: "rate-limited",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
_OUT_OF_TIME: Final = error_response(
    HTTPStatus.GATEWAY_TIMEOUT,  # unlike 503, after which nothing has happened
    "timed-out",
    "this could not be finished in time; what was to be published may have been accepted",
    [RETRY_SOON],
)


class Endpoints:
    """What the hub answers itself. `respond` answers for other paths.

    `origins` says which pages may ask, as for WebSockets. A request whose body is over `max_body` bytes is refused; a
    transport does well to notice that while it reads. A token is checked within `turn`, which may have it wait.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        respond: Respond | None = None,
        origins: Origins | None = None,
        max_body: int = MAX_BODY,
        turn: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> None:
        self._hub = hub
        self._respond = respond
        self._origins = origins if origins is not None else Origins()
        self.max_body: Final = max_body
        self._turn = turn
        self._publishing = Publishing(hub)
        self._health = respond_health(hub)
        self._document: Response | None = None

    def handles(self, request_path: str) -> bool:
        """Whether the path is one of the hub's own."""
        return request_path in _METHODS

    async def answer(
        self,
        request: Request,
        *,
        client: str | None = None,
        transport: str = "http",
        is_secure: bool = False,
        scope: Mapping[str, Any] | None = None,
    ) -> Response | EventStream | None:
        """The answer; None where there is nothing. Raises nothing because of a peer, but what `respond` raises.

        `client` is the peer's address, `transport` what the application's `authenticate` is told, and `is_secure`
        whether the connection is TLS up to here; `scope` is that of ASGI.
        """
        if not self.handles(request.path):
            return None if self._respond is None else self._respond(request)
        if (response := self.answer_at_once(request, is_secure=is_secure)) is not None:
            return response
        handshake = _handshake(request, client, transport, scope)
        if request.path == "/ticket" and handshake.token is not None and is_ticket(handshake.token):
            return self.refuse(request, _NO_TICKET)
        async with self._turn():
            outcome = await self._identify(handshake, request)
        if isinstance(outcome, Refusal):
            return self.refuse(request, outcome)
        return self._share(request, await self._serve(request, outcome, handshake))

    def answer_at_once(self, request: Request, *, is_secure: bool) -> Response | None:
        """The answer to a request for one of the hub's own paths, if it depends on nobody's token."""
        is_probe = request.path == _HEALTH and "origin" not in request.headers
        if not is_probe and not self._origins.admits(request.headers, is_secure=is_secure):
            return self.refuse(request, FOREIGN_ORIGIN)
        if request.method == "OPTIONS":
            return self._share(request, self._answer_preflight(request))
        if request.method not in _METHODS[request.path]:
            return self._share(request, self._refuse_method(request))
        if len(request.body) > self.max_body:
            return self.refuse_body(request)
        response = self._health(request)
        return None if response is None else self._share(request, response)

    async def _identify(self, handshake: Handshake, request: Request) -> Identity | Refusal:
        if self._hub.is_draining and request.path != "/commands":  # those of clients that are still there
            return DRAINING
        if request.path == "/events":
            return await admit(self._hub, handshake) or _NO_TOKEN
        if request.path in _NEW_WORK:
            try:
                self._hub.doorkeeper.check_load()
            except Overloaded as error:
                return overloaded(error)
        return await identify(self._hub, handshake)

    async def _serve(self, request: Request, identity: Identity, handshake: Handshake) -> Response | EventStream:
        match request.path:
            case "/events":
                return open_stream(self._hub, request, identity, handshake)
            case "/commands":
                return await take_commands(self._hub, request, identity)
            case "/publish":
                return await self._publishing.publish(request, identity, handshake)
            case "/ticket":
                return self._issue_ticket(request, identity)
            case _:
                if self._document is None:
                    self._document = json_response(HTTPStatus.OK, describe(self._hub.channels))
                return self._document

    def _issue_ticket(self, request: Request, identity: Identity) -> Response:
        try:
            ticket = self._hub.issue_ticket(identity)
        except Overloaded as error:
            return self.refuse(request, replace(overloaded(error), counter="overloaded"))
        return json_response(HTTPStatus.CREATED, {"ticket": ticket, "expires_in": self._hub.tuning.ticket_ttl})

    # --- refusals ---

    def refuse(self, request: Request, refusal: Refusal) -> Response:
        """The answer to a request for one of the hub's own paths that is not let in."""
        note(self._hub, refusal)
        response = turn_away(self._hub, request, refusal) if request.path == "/events" else None
        if response is None:
            code = _CODES[HTTPStatus(refusal.status)]
            response = error_response(refusal.status, code, refusal.sentence, refusal.headers)
        return self._share(request, response)

    def give_up(self, request: Request) -> Response:
        """The answer of a transport that gives a request only so much time, when it has passed."""
        return self._share(request, _OUT_OF_TIME) if request.path == "/publish" else self.refuse(request, UNCHECKED)

    @staticmethod
    def _refuse_method(request: Request) -> Response:
        allowed = ", ".join((*_METHODS[request.path], "OPTIONS"))
        sentence = f"{request.path} takes {allowed}"
        return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", sentence, [("Allow", allowed)])

    def refuse_body(self, request: Request) -> Response:
        """The answer to a request whose body is over `max_body` bytes; counts it."""
        sentence = f"a body may have {self.max_body} bytes"
        self._hub.note("refused-size", "a request was refused: %s", sentence)
        return self._share(request, error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", sentence))

    # --- pages of other origins ---

    @staticmethod
    def _answer_preflight(request: Request) -> Response:
        return Response(HTTPStatus.NO_CONTENT, headers=preflight(request.headers, _METHODS[request.path]))

    def _share(self, request: Request, answer: AnswerT) -> AnswerT:
        """Let the page that asks read the answer, if it is of an allowed origin."""
        return replace(answer, headers=[*answer.headers, *self._origins.share(request.headers)])


def _handshake(request: Request, client: str | None, transport: str, scope: Mapping[str, Any] | None) -> Handshake:
    found = find_token(request.headers, request.query, ())
    return Handshake(
        token=found and found.token,
        transport=transport,
        path=request.path,
        headers=strip_headers(request.headers),
        origin=request.headers.get("origin"),
        client=client,
        scope=scope,
    )

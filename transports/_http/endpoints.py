"""The hub's own HTTP, the same on every transport that has HTTP: streams of events, commands, publishing, health.

A transport reads a request whole, calls `answer`, and writes the result; for an `EventStream` it goes on writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeVar

from ...access.tickets import is_ticket
from ...asyncapi import describe
from ...contracts import Gateway, Handshake, Peer
from ...exceptions import (
    AuthenticationError,
    AuthenticationUnavailable,
    HubDraining,
    HubError,
    OriginNotAllowed,
    Overloaded,
    TicketNotExchangeable,
)
from ...http import MAX_BODY, RETRY_SOON, Request, Respond, Response, error_response, json_response, respond_health
from ...identity import Identity
from .._origins import Origins, preflight
from .._refusal import note_refusal, refusal_response
from .commands import receive_commands
from .events import EventStream, open_stream, refuse_stream
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
_VARIES: Final = "Origin, Sec-Fetch-Site, Authorization, Cookie"
_VARY: Final = {_HEALTH: "Origin", "/events": f"{_VARIES}, Accept, Last-Event-ID"}
"""The headers that an answer depends on, for caches that a rule of their operator makes ignore `no-store`."""
_NEW_WORK: Final = frozenset({"/publish", "/ticket"})
"""Besides streams: what an overloaded hub refuses."""
_PUBLISH_TIMEOUT: Final = error_response(
    HTTPStatus.GATEWAY_TIMEOUT,  # unlike 503, after which nothing has happened
    "timed-out",
    "the request could not be finished in time; its items may have been accepted",
    [RETRY_SOON],
)


class Endpoints:
    """The paths that the hub answers itself. `respond` answers for other paths.

    `origins` are the pages that may send requests, as for WebSockets. A request with a body over `max_body` bytes is
    refused; a transport should check that while it reads. A token is checked within `limiter`, which may have it wait.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        respond: Respond | None = None,
        origins: Origins | None = None,
        max_body: int = MAX_BODY,
        limiter: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> None:
        self._gateway = gateway
        self.respond: Final = respond
        self._origins = origins if origins is not None else Origins()
        self.max_body: Final = max_body
        self._limiter = limiter
        self._publishing = Publishing(gateway)
        self._health = respond_health(gateway)
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
        """The answer; None if nothing is served at this path. Raises only what `respond` raises.

        `client` is the peer's address, `transport` the name in the `Handshake`, and `is_secure` whether the connection
        is TLS up to here; `scope` is that of ASGI.
        """
        if not self.handles(request.path):
            return None if self.respond is None else self.respond(request)
        if (response := self.answer_at_once(request, is_secure=is_secure)) is not None:
            return response
        handshake = Handshake.from_headers(
            request.headers, transport=transport, path=request.path, query=request.query, client=client, scope=scope
        )
        handshake = self._origins.without_session(handshake, is_secure=is_secure)
        try:
            if request.path == "/ticket" and handshake.token is not None and is_ticket(handshake.token):
                raise TicketNotExchangeable
            async with self._limiter():
                peer = await self._authenticate(request, handshake)
        except HubError as error:
            return self.refuse(request, error.with_traceback(None))  # which would keep the headers, in a cycle
        return self._share(request, await self._serve(request, peer))

    def answer_at_once(self, request: Request, *, is_secure: bool) -> Response | None:
        """The answer to a request for one of the hub's own paths, if no token has to be checked for it."""
        is_probe = request.path == _HEALTH and "origin" not in request.headers
        if not is_probe:
            try:
                self._origins.check(request.headers, is_secure=is_secure)
            except OriginNotAllowed as error:
                return self.refuse(request, error)
        if request.method == "OPTIONS":
            return self._share(request, self._answer_preflight(request))
        if request.method not in _METHODS[request.path]:
            return self._share(request, self._refuse_method(request))
        if len(request.body) > self.max_body:
            return self.refuse_body(request)
        response = self._health(request)
        return None if response is None else self._share(request, response)

    async def _authenticate(self, request: Request, handshake: Handshake) -> Peer:
        """The peer, with an identity. Raises `HubError`."""
        gateway = self._gateway
        if gateway.is_draining and request.path != "/commands":  # those of clients that are still connected
            raise HubDraining
        if request.path == "/events":
            peer = await gateway.admit(handshake)
            if peer.identity is None:  # no token can follow as a first message
                error = AuthenticationError("missing")
                gateway.note("token-missing", "a client was refused: %s", error)
                raise error
            return peer
        if request.path in _NEW_WORK:
            gateway.check_load()
        return await gateway.authenticate(handshake)

    async def _serve(self, request: Request, peer: Peer) -> Response | EventStream:
        assert peer.identity is not None
        match request.path:
            case "/events":
                return open_stream(request, peer)
            case "/commands":
                return await receive_commands(self._gateway, request, peer.identity)
            case "/publish":
                return await self._publishing.publish(request, peer)
            case "/ticket":
                return self._issue_ticket(peer.identity)
            case _:
                if self._document is None:
                    self._document = json_response(HTTPStatus.OK, describe(self._gateway.channels))
                return self._document

    def _issue_ticket(self, identity: Identity) -> Response:
        try:
            ticket = self._gateway.issue_ticket(identity)
        except Overloaded as error:
            self._gateway.note("overloaded", "a client was refused: %s", error)
            return refusal_response(error)
        return json_response(HTTPStatus.CREATED, {"ticket": ticket, "expires_in": self._gateway.tuning.ticket_ttl})

    # --- refusals

    def refuse(self, request: Request, error: HubError) -> Response:
        """The answer to a request for one of the hub's own paths that is refused with `error`."""
        note_refusal(self._gateway, error)
        response = refuse_stream(self._gateway, request, error) if request.path == "/events" else None
        return self._share(request, response or refusal_response(error))

    def give_up(self, request: Request) -> Response:
        """The answer to a request that was not finished within the timeout of its transport."""
        if request.path == "/publish":
            return self._share(request, _PUBLISH_TIMEOUT)
        return self.refuse(request, AuthenticationUnavailable())

    @staticmethod
    def _refuse_method(request: Request) -> Response:
        allowed = ", ".join((*_METHODS[request.path], "OPTIONS"))
        message = f"the method is {request.method}; {request.path} allows {allowed}"
        return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", message, [("Allow", allowed)])

    def refuse_body(self, request: Request) -> Response:
        """The answer to a request with a body over `max_body` bytes; counts it."""
        message = f"the body is too large; at most {self.max_body} bytes are allowed"
        self._gateway.note("refused-size", "a request was refused: %s", message)
        return self._share(request, error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", message))

    # --- pages of other origins

    @staticmethod
    def _answer_preflight(request: Request) -> Response:
        return Response(HTTPStatus.NO_CONTENT, headers=preflight(request.headers, _METHODS[request.path]))

    def _share(self, request: Request, answer: AnswerT) -> AnswerT:
        """Name what the answer depends on, and let a page of an allowed origin that sent the request read it."""
        vary = ("Vary", _VARY.get(request.path, _VARIES))
        return replace(answer, headers=[*answer.headers, vary, *self._origins.share(request.headers)])

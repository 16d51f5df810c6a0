"""A connection to the WebSocket server from accept to its first answer: the HTTP request, and what becomes of it."""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ...contracts import Handshake, Peer
from ...exceptions import AuthenticationUnavailable, HubDraining, HubError, OriginNotAllowed
from ...http import RETRY_SOON, Request, Response
from .._http.endpoints import Endpoints
from .._http.events import EventStream
from .._refusal import note_refusal, refusal_headers
from .._sockets.pending import PendingConnection
from .._sockets.writer import LINGERING, OPEN
from .connection import WebSocketClient
from .event_stream import EventClient
from .handshake import Upgrade, accept, check_upgrade
from .http11 import MAX_HEAD, Exchange, RequestError

if TYPE_CHECKING:
    from .server import Server

LINGER: Final = 1.0
"""Seconds that the peer has to hang up once it has the answer; to take it, it has the `close_timeout`."""
MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of all requests that are not answered yet: as many as may be pending could hold ten times as much in bodies."""
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST")
_TOO_LARGE: Final = frozenset(
    {
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.REQUEST_URI_TOO_LONG,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    }
)


class HTTPConnection(PendingConnection["Server"]):
    """Serves one request. If it becomes a WebSocket, the socket goes on to a `WebSocketClient`."""

    __slots__ = ("_asked", "_exchange", "_held", "_upgrade")

    def __init__(self, server: Server, sock: socket.socket, address: object) -> None:
        super().__init__(server, sock, address)
        self._exchange = Exchange()
        self._held = 0
        self._upgrade: Upgrade | None = None
        """Set once the request has turned out to be a handshake in order."""
        self._asked: Request | None = None
        """Set once the request has turned out to be one for the hub itself, in order so far."""

    # --- from the loop ---

    def received(self, data: bytes) -> None:
        self._held += len(data)
        self._server.held += len(data)
        try:
            if self._server.held > MAX_HELD and self._held > MAX_HEAD:
                raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are under way", [RETRY_SOON])
            request = self._exchange.receive(data)
            if request is not None:
                self._serve(request)
            elif invitation := self._exchange.invite():
                self.write(invitation)
        except RequestError as refused:
            request = self._exchange.request
            is_too_large = refused.response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            if is_too_large and request is not None and self._is_for_hub(request):
                self._answer(self._endpoints.refuse_body(request))
            else:
                self._server.gateway.note(_kind(refused), "a request was refused: %s", refused)
                self._answer(refused.response)

    def _leave_server(self) -> None:
        super()._leave_server()
        self._server.held -= self._held
        self._held = 0

    @property
    def buffered(self) -> int:
        return super().buffered + self._held

    def late(self) -> None:
        if self._upgrade is not None:  # the turn of its check has not come
            self.refuse(AuthenticationUnavailable())
        elif self._asked is not None:  # as above
            self._answer(self._endpoints.give_up(self._asked))
        elif self._is_shaking or self._exchange.is_silent:
            self.hang_up(reset=True)
        else:
            self._answer(Response(HTTPStatus.REQUEST_TIMEOUT, b"the request took too long\n"))

    def unencrypted(self) -> None:
        self._answer(Response(HTTPStatus.BAD_REQUEST, b"this port speaks TLS: the URL begins with https or wss\n"))

    # --- requests ---

    def _serve(self, request: Request) -> None:
        self.pause_reading()  # one request; what follows waits in the kernel until it is known what it is
        if request.path == self._server.path:
            self._begin_upgrade(request)
        elif self._is_for_hub(request):
            self._ask(request)
        elif request.method not in _METHODS:
            allowed = ", ".join(_METHODS)
            raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, f"this port takes {allowed}", [("Allow", allowed)])
        else:
            self._respond(request)

    def _respond(self, request: Request) -> None:
        try:
            response = self._server.respond(request)
            if response is None:
                response = Response(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
            answer = self._exchange.answer(response)
        except Exception as error:  # noqa: BLE001  # the application's function, or a header of its that HTTP has not
            self._server.fault("respond-fault", error)
            answer = Exchange().answer(Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"this went wrong\n"))
        self._send_last(answer)

    def _answer(self, response: Response) -> None:
        self._send_last(self._exchange.answer(response))

    def _send_last(self, answer: bytes) -> None:
        self._server.pending.discard(self)
        self.seal(answer)
        self.finish(self._server.limits.close_timeout)

    def _linger(self) -> None:
        super()._linger()
        if self._phase == LINGERING:
            self.set_deadline(LINGER)

    # --- the hub's own HTTP ---

    @property
    def _endpoints(self) -> Endpoints:
        assert self._server.endpoints is not None
        return self._server.endpoints

    def _is_for_hub(self, request: Request) -> bool:
        endpoints = self._server.endpoints
        return endpoints is not None and request.path != self._server.path and endpoints.handles(request.path)

    def _ask(self, request: Request) -> None:
        response = self._endpoints.answer_at_once(request, is_secure=self._server.ssl_context is not None)
        if response is not None:
            self._answer(response)
            return
        self._asked = request
        self._server.pending.discard(self)  # it waits for us
        self._server.check(self)

    async def check(self) -> None:
        """Find out the answer, until the deadline. Never raises."""
        request = self._asked
        if request is None:
            await super().check()
            return
        if self._phase != OPEN:  # gone while it waited its turn
            return
        endpoints, is_secure = self._endpoints, self._server.ssl_context is not None
        answer = await self.in_time(lambda: endpoints.answer(request, client=self.client, is_secure=is_secure), None)
        if self._phase != OPEN:
            return
        try:
            if isinstance(answer, EventStream):
                self._begin_events(request, answer)
            else:
                self._answer(answer or endpoints.give_up(request))
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            self.fail(error)

    def _begin_events(self, request: Request, stream: EventStream) -> None:
        server = self._server
        if server.gateway.is_draining or server.is_full:  # since the check began
            self._answer(self._endpoints.refuse(request, HubDraining() if server.gateway.is_draining else server.full))
        else:
            head = self._exchange.begin(stream.content_type, stream.headers)
            EventClient(server, self.hand_over(), head).begin(stream)

    # --- upgrades ---

    def _begin_upgrade(self, request: Request) -> None:
        server = self._server
        headers = request.headers
        self._upgrade = check_upgrade(request, self._exchange.http_version, compresses=server.compression is not None)
        self._handshake = Handshake.from_headers(
            headers,
            transport="websocket",
            path=request.path,
            query=request.query,
            subprotocols=self._upgrade.offered,
            client=self.client,
        )
        if server.origins.admits(headers, is_secure=server.ssl_context is not None):
            self.knock()
        else:
            self.refuse(OriginNotAllowed())

    def refuse(self, error: HubError) -> None:
        note_refusal(self._server.gateway, error)
        if self._handshake.origin is not None:
            # A browser hides the status of a failed handshake from the page, but not a close code.
            self._become_client().end(error.close_code, error.public_message)
        else:
            body = f"{error.public_message}\n".encode()
            self._answer(Response(error.http_status, body, headers=refusal_headers(error)))

    def admit(self, peer: Peer) -> None:
        self._become_client().open(peer, self._exchange.trailing)

    def _become_client(self) -> WebSocketClient:
        """Hand the socket over, and the answer with it; this object is of no use afterwards."""
        assert self._upgrade is not None
        answer = accept(self._exchange, self._upgrade)
        wire = self._server.find_wire(self._upgrade)
        return WebSocketClient(self._server, self.hand_over(), wire, answer)


def _kind(refused: RequestError) -> str:
    """What a request that will not be served is counted as."""
    if refused.response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "refused-crowded"
    return "refused-size" if refused.response.status in _TOO_LARGE else "refused-request"

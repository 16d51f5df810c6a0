"""The first request on a connection to the WebSocket server, and what it becomes: an answer, a WebSocket, a stream."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from ...contracts import Handshake, Peer
from ...exceptions import AuthenticationUnavailable, HubError, OriginNotAllowed
from ...http import RETRY_SOON, Request, Response, text_response
from .._faults import note_respond_fault
from .._http.endpoints import Endpoints
from .._http.events import EventStream
from .._refusal import note_refusal, refusal_text
from .._sockets.connection import OPEN, Connection
from .._sockets.pending import PendingProtocol
from .event_stream import EventStreamProtocol
from .handshake import Upgrade, accept, check_upgrade
from .http11 import Exchange, RequestError
from .protocol import WebSocketProtocol
from .server import WebSocketServer

LINGER: Final = 1.0
"""Seconds that the peer has to close its side once it has the answer; to read it, it has the `close_timeout`."""
MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of all requests that are not answered yet: as many as may be pending could hold ten times as much in bodies."""
ALWAYS_HELD: Final = 16 * 1024
"""Bytes that a request may hold even then: with nothing but ordinary headers it is never refused because of others."""
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST")


class HTTPProtocol(PendingProtocol[WebSocketServer]):
    """Serves one request. If that becomes a WebSocket or a stream of events, another protocol replaces it."""

    __slots__ = ("_awaited", "_early", "_exchange", "_held", "_upgrade")

    def __init__(self, server: WebSocketServer, connection: Connection, client: str | None) -> None:
        super().__init__(server, connection, client)
        self._exchange = Exchange(server.limits.max_head)
        self._held = 0
        self._early = b""
        """What came after the request while the hub is asked about it."""
        self._upgrade: Upgrade | None = None
        """Set once the request is known to be a valid handshake."""
        self._awaited: Request | None = None
        """Set once the request is known to be one that the hub itself answers, and valid so far."""

    # --- events

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        self._server.held += len(data)
        if self._upgrade is not None or self._awaited is not None:
            # Read only to learn of a peer that leaves; the rest waits in the kernel until its protocol is known.
            self._early += data
            self._connection.pause_reading()
            return
        try:
            if self._server.held > MAX_HELD and self._held > ALWAYS_HELD:
                raise RequestError("too many requests are in progress", HTTPStatus.SERVICE_UNAVAILABLE, [RETRY_SOON])
            request = self._exchange.receive(data)
            if request is not None:
                self._request_received(request)
            elif answer := self._exchange.encode_continue():
                self._connection.write(answer)
        except RequestError as error:
            request = self._exchange.request
            is_too_large = error.response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            if is_too_large and request is not None and self._is_for_hub(request):
                self._answer(self._endpoints.refuse_body(request))
            else:
                self._server.gateway.note(_counter(error), "a request was refused: %s", error)
                self._answer(error.response)

    @property
    def buffered(self) -> int:
        return self._held

    def handshake_timed_out(self) -> None:
        if self._upgrade is not None:  # its check has not begun
            self.reject(AuthenticationUnavailable())
        elif self._awaited is not None:  # as above
            self._answer(self._endpoints.give_up(self._awaited))
        elif self._exchange.is_empty:
            self._connection.abort(reset=True)
        else:
            self._answer(text_response(HTTPStatus.REQUEST_TIMEOUT, "the request took too long"))

    def plain_text_received(self) -> None:
        self._answer(text_response(HTTPStatus.BAD_REQUEST, "this port requires TLS: the URL begins with https or wss"))

    def connection_lost(self) -> None:
        super().connection_lost()
        self._server.cancel_check(self._answer_from_hub)

    def end_sent(self) -> None:
        self._connection.set_deadline(LINGER)

    def _release(self) -> None:
        super()._release()
        self._server.held -= self._held
        self._held = 0

    # --- requests

    def _request_received(self, request: Request) -> None:
        if request.path == self._server.path:
            self._begin_upgrade(request)
        elif self._is_for_hub(request):
            self._ask_hub(request)
        elif request.method not in _METHODS:
            allowed = ", ".join(_METHODS)
            message = f"the method is {request.method}; this port allows {allowed}"
            raise RequestError(message, HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", allowed)])
        else:
            self._respond(request)

    def _respond(self, request: Request) -> None:
        respond = self._server.respond
        response = None
        try:
            if respond is None or (response := respond(request)) is None:
                response = text_response(HTTPStatus.NOT_FOUND, "nothing is served at this path")
            answer = self._exchange.answer(response)
        except Exception as error:  # noqa: BLE001  # the application's function, or an invalid header of its answer
            note_respond_fault(self._server.gateway, error, respond, request, response)
            answer = Exchange().answer(text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"))
        self._send_last(answer)

    def _answer(self, response: Response) -> None:
        self._send_last(self._exchange.answer(response))

    def _send_last(self, answer: bytes) -> None:
        self._server.pending.exempt(self._connection)
        self._connection.write_last(answer)
        self._connection.finish(self._server.limits.close_timeout)

    # --- requests that the hub itself answers

    @property
    def _endpoints(self) -> Endpoints:
        assert self._server.endpoints is not None
        return self._server.endpoints

    def _is_for_hub(self, request: Request) -> bool:
        endpoints = self._server.endpoints
        return endpoints is not None and request.path != self._server.path and endpoints.handles(request.path)

    def _ask_hub(self, request: Request) -> None:
        response = self._endpoints.answer_at_once(request, is_secure=self._server.is_secure)
        if response is not None:
            self._answer(response)
            return
        self._awaited = request
        self._server.pending.exempt(self._connection)
        self._server.start_check(self._answer_from_hub)

    async def _answer_from_hub(self) -> None:
        request, connection, server = self._awaited, self._connection, self._server
        assert request is not None
        if connection.phase != OPEN:  # closed while it waited its turn
            return
        answer = await self.within_deadline(
            lambda: self._endpoints.answer(request, client=self.client, is_secure=server.is_secure), None
        )
        if connection.phase != OPEN:
            return
        try:
            if isinstance(answer, EventStream):
                self._begin_events(request, answer)
            else:
                self._answer(answer or self._endpoints.give_up(request))
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            connection.fail(error)

    def _begin_events(self, request: Request, stream: EventStream) -> None:
        if error := self._server.find_refusal():  # since the check began
            self._answer(self._endpoints.refuse(request, error))
            return
        head = self._exchange.begin_stream(stream.content_type, stream.headers)
        protocol = EventStreamProtocol(self._server, self._connection)
        self.hand_over(protocol)
        protocol.start(head, stream)

    # --- upgrades

    def _begin_upgrade(self, request: Request) -> None:
        server, headers = self._server, request.headers
        self._upgrade = check_upgrade(request, self._exchange.http_version, compresses=server.compression is not None)
        self._handshake = Handshake.from_headers(
            headers,
            transport="websocket",
            path=request.path,
            query=request.query,
            subprotocols=self._upgrade.offered,
            client=self.client,
        )
        try:
            server.origins.check(headers, is_secure=server.is_secure)
        except OriginNotAllowed as error:
            self.reject(error)
            return
        self._handshake = server.origins.without_session(self._handshake, is_secure=server.is_secure)
        self.request_admission()

    def reject(self, error: HubError) -> None:
        note_refusal(self._server.gateway, error)
        if self._handshake.origin is not None:
            # A browser hides the status of a failed handshake from the page, but not a close code.
            self._accept_upgrade().terminate(error.close_code, error.public_message)
        else:
            self._answer(refusal_text(error))

    def peer_admitted(self, peer: Peer) -> None:
        size = self._held
        protocol = self._accept_upgrade()
        protocol.start_session(protocol.wire, peer, self._exchange.trailing + self._early)
        if peer.identity is None:
            protocol.keep_headers(size)

    def _accept_upgrade(self) -> WebSocketProtocol:
        """Send the answer after which frames follow, and hand over to their protocol."""
        assert self._upgrade is not None
        answer = accept(self._exchange, self._upgrade)
        protocol = WebSocketProtocol(self._server, self._connection, self._server.find_wire(self._upgrade))
        self.hand_over(protocol)
        protocol.accept(answer)
        return protocol


def _counter(error: RequestError) -> str:
    """The counter of a request that is refused."""
    match error.response.status:
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return "refused-crowded"
        case 413 | 414 | 431:
            return "refused-size"
        case _:
            return "refused-request"

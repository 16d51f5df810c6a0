"""A connection from accept to its first answer: TLS, the HTTP request, the check of a token.

One deadline, set at accept, covers all of it.
"""

from __future__ import annotations

import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import anyio

from ..auth import find_token, strip_headers
from ..contracts import Handshake
from ..http import Request, Response
from ..identity import Identity
from ._connection import WebSocketClient
from ._entry import DRAINING, FOREIGN_ORIGIN, FULL, UNCHECKED, Refusal, admit, is_origin_allowed
from ._exchange import Exchange, Refused
from ._handshake import Upgrade, accept, check_upgrade
from ._poller import READ, WRITE
from ._stream import CLOSED, OPEN, Stream

if TYPE_CHECKING:
    from ._server import Server

LINGER: Final = 1.0
"""Seconds that the peer has to take an answer and hang up."""
_METHODS: Final = ("GET", "HEAD", "POST")


class Incoming(Stream):
    """Serves one request. If it becomes a WebSocket, the socket goes on to a `WebSocketClient`."""

    __slots__ = ("_address", "_exchange", "_handshake", "_is_shaking", "_scope", "_server", "_upgrade")

    def __init__(self, server: Server, sock: socket.socket, address: object) -> None:
        self._is_shaking = server.ssl_context is not None
        if server.ssl_context is not None:
            sock = server.ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        super().__init__(server.loop, sock)
        self._server = server
        self._address = address
        self._exchange = Exchange()
        self._handshake = Handshake()
        self._upgrade: Upgrade | None = None
        """Set once the request has turned out to be a handshake in order."""
        self._scope: anyio.CancelScope | None = None
        server.streams.add(self)
        server.pending[self] = None
        self.set_deadline(server.limits.handshake_timeout)

    # --- from the loop ---

    def ready(self, events: int) -> None:
        if self._is_shaking and self._phase == OPEN:
            self._shake_hands()
        else:
            super().ready(events)

    def _shake_hands(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.loop.watch(self.sock, READ, self)
        except ssl.SSLWantWriteError:
            self.loop.watch(self.sock, WRITE, self)
        except (OSError, ValueError):
            self._server.hub.count("tls-refused")
            self.hang_up()
        else:
            self._is_shaking = False
            self.loop.watch(self.sock, READ, self)
            self.loop.call_soon(self)

    def received(self, data: bytes) -> None:
        try:
            request = self._exchange.receive(data)
            if request is not None:
                self._serve(request)
            elif invitation := self._exchange.invite():
                self.write(invitation)
        except Refused as refused:
            self._server.hub.count("handshake-refused")
            self._answer(refused.response)

    def expired(self) -> None:
        if self._phase > OPEN:  # answered, and the peer stays
            self.hang_up(reset=True)
        elif self._scope is not None:  # the check of the token; what ends it answers
            self._scope.cancel()
        else:
            self._server.hub.count("handshake-timeout")
            if self._upgrade is not None:  # the turn of its check has not come
                self._refuse(UNCHECKED)
            elif self._is_shaking or self._exchange.is_silent:
                self.hang_up(reset=True)
            else:
                self._answer(Response(HTTPStatus.REQUEST_TIMEOUT, b"the request took too long\n"))

    def closed(self) -> None:
        self._leave_server()
        if self._scope is not None:
            self._scope.cancel()

    def _leave_server(self) -> None:
        self._server.pending.pop(self, None)
        self._server.streams.discard(self)

    def fail(self, error: Exception) -> None:
        self._server.fault("handshake-fault", error)
        super().fail(error)

    # --- requests ---

    def _serve(self, request: Request) -> None:
        self.pause_reading()  # one request; what follows waits in the kernel until it is known what it is
        if request.path == self._server.path:
            self._begin_upgrade(request)
        elif request.method not in _METHODS:
            allowed = ", ".join(_METHODS)
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"this port takes {allowed}", [("Allow", allowed)])
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
        self._server.pending.pop(self, None)
        self.seal(answer)
        self.finish(LINGER)

    # --- upgrades ---

    def _begin_upgrade(self, request: Request) -> None:
        server = self._server
        headers = request.headers
        self._upgrade = check_upgrade(request, self._exchange.http_version)
        found = find_token(headers, request.query, self._upgrade.offered)
        self._handshake = Handshake(
            token=found and found.token,
            transport="websocket",
            path=request.path,
            headers=strip_headers(headers),
            origin=headers.get("origin"),
            client=str(self._address[0]) if isinstance(self._address, tuple) else None,
        )
        if not is_origin_allowed(headers, server.origins, is_secure=server.ssl_context is not None):
            self._refuse(FOREIGN_ORIGIN)
        elif server.hub.is_draining:
            self._refuse(DRAINING)
        elif server.is_full:
            self._refuse(FULL)
        else:
            server.pending.pop(self, None)  # its part is done: it waits for us
            server.check(self)

    async def check(self) -> None:
        """Ask the hub who this is, until the deadline of the handshake, and answer. Never raises."""
        if self._phase != OPEN:  # gone while it waited its turn
            return
        outcome: Identity | Refusal | None = UNCHECKED
        with anyio.CancelScope() as self._scope:
            try:
                outcome = await admit(self._server.hub, self._handshake)
            except Exception as error:  # noqa: BLE001  # the boundary: this is a task of the server's group
                self._server.fault("check-fault", error)
        was_cancelled, self._scope = self._scope.cancelled_caught, None
        if self._phase != OPEN:
            return
        if was_cancelled:
            self._server.hub.count("check-timeout")
        try:
            if isinstance(outcome, Refusal):
                self._refuse(outcome)
            else:
                self._admit(outcome)
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            self.fail(error)

    def _refuse(self, refusal: Refusal) -> None:
        self._server.hub.count("handshake-refused")
        if self._handshake.origin is not None:
            # A browser hides the status of a failed handshake from the page, but not a close code.
            self._become_client().end(refusal.code, refusal.sentence)
        else:
            self._answer(Response(refusal.status, f"{refusal.sentence}\n".encode(), headers=refusal.headers))

    def _admit(self, identity: Identity | None) -> None:
        if self._server.hub.is_draining:  # since the check began
            self._refuse(DRAINING)
            return
        self._become_client().open(identity, self._handshake, self._exchange.trailing)

    def _become_client(self) -> WebSocketClient:
        """Hand the socket over, and the answer with it; this object is of no use afterwards."""
        assert self._upgrade is not None
        answer = accept(self._exchange, self._upgrade)
        self.detach()
        self._phase = CLOSED
        self._leave_server()
        return WebSocketClient(self._server, self.sock, answer)

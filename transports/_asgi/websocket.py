"""A WebSocket from its scope to the client that it becomes, or to its refusal."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.lowlevel import checkpoint

from ...contracts import Handshake, Peer
from ...exceptions import AuthenticationUnavailable, HubError, InvalidHandshake, PathNotFound
from ...protocol.formats import SUBPROTOCOLS, Format, choose_format
from .._refusal import note_refusal, refusal_text
from .app_state import AppState
from .client import WebSocketClient
from .messages import WIRES
from .scope import Receive, Scope, Send, encode_head, find_client, is_secure, pop_query, read_headers


async def serve_websocket(app: AppState, scope: Scope, receive: Receive, send: Send, *, is_found: bool) -> None:
    """Admit the peer of a `websocket` scope and serve it, or refuse it. `is_found`: the path is that of the socket."""
    client = await _Opening(app, scope, receive, send).open(is_found=is_found)
    if client is None:
        return
    try:
        await client.serve()
    finally:
        app.client_left()


class _Opening:
    """A WebSocket that is not admitted yet."""

    def __init__(self, app: AppState, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = read_headers(scope)
        self._offered: Sequence[str] = list(scope.get("subprotocols") or ())
        self._handshake = Handshake.from_headers(
            self._headers,
            transport="asgi",
            path=str(scope.get("path", "")),
            query=pop_query(scope),
            subprotocols=self._offered,
            client=find_client(scope),
            scope=scope,
        )
        self._format = choose_format(self._offered)

    async def open(self, *, is_found: bool) -> WebSocketClient | None:
        """The client, which counts as admitted; None if it was refused or has left."""
        if (await self._receive())["type"] != "websocket.connect":
            return None
        try:
            if not is_found:
                raise PathNotFound
            format = self._check()  # noqa: A001 - the name of the thing
            peer = await self._admit()
        except HubError as error:
            # Its traceback would keep the headers, in a cycle that only the collector would free.
            await self._refuse(error.with_traceback(None))
            return None
        return await self._accept(format, peer)

    def _check(self) -> Format:
        """The format of the messages. Raises `OriginNotAllowed` or `InvalidHandshake`."""
        origins, has_tls = self._app.origins, is_secure(self._scope)
        origins.check(self._headers, is_secure=has_tls)
        self._handshake = origins.without_session(self._handshake, is_secure=has_tls)
        if self._format is None:
            raise InvalidHandshake(f"unknown subprotocols; this server supports {', '.join(SUBPROTOCOLS)}, or none")
        return self._format

    async def _admit(self) -> Peer:
        """The peer. Raises `HubError`, whatever happens."""
        app = self._app
        app.check_open()
        peer: Peer | None = None
        try:
            with anyio.move_on_after(app.limits.handshake_timeout):
                async with app.checks:
                    peer = await app.gateway.admit(self._handshake)
        except HubError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: a bug, and not for the server's log
            app.report_fault("check-fault", error)
            raise AuthenticationUnavailable from None
        if peer is None:
            app.gateway.note("check-timeout", "a token was not checked within %g s", app.limits.handshake_timeout)
            raise AuthenticationUnavailable
        app.check_open()  # it may have changed during the check
        return peer

    async def _accept(self, format: Format, peer: Peer) -> WebSocketClient | None:  # noqa: A002 - as above
        """Accept the connection, which counts from here on; None if the peer has left."""
        app, gateway, wire, max_message = self._app, self._app.gateway, WIRES[format.name], self._app.limits.max_message
        app.explain_costs()
        app.client_admitted()
        is_accepted = False
        try:
            await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
            is_accepted = True
        except Exception as error:  # noqa: BLE001 - the peer has left, or the server is shutting down
            app.report_fault("accept-fault", error)
            return None
        finally:
            if not is_accepted:
                app.client_left()
        client = WebSocketClient(app, app.message_cache(format), self._receive, self._send)
        client.connect(lambda transport: gateway.connect(transport, wire, peer, max_message=max_message))
        return client

    @property
    def _subprotocol(self) -> str | None:
        """The subprotocol of the format, if the peer has offered it."""
        subprotocol = None if self._format is None else self._format.subprotocol
        return subprotocol if subprotocol in self._offered else None

    async def _refuse(self, error: HubError) -> None:
        note_refusal(self._app.gateway, error)
        try:
            await self._send_refusal(error)
            await self._wait_for_disconnect()
        except Exception as fault:  # noqa: BLE001 - as above
            self._app.report_fault("accept-fault", fault)

    async def _send_refusal(self, error: HubError) -> None:
        send = self._send
        close = {"type": "websocket.close", "code": int(error.close_code), "reason": error.public_message}
        if self._handshake.origin is not None:
            # A browser hides the status of a failed handshake from the page, but not a close code.
            await send({"type": "websocket.accept", "subprotocol": self._subprotocol})
            await send(close)
        elif "websocket.http.response" in (self._scope.get("extensions") or ()):
            answer = refusal_text(error)
            start = {"type": "websocket.http.response.start", "status": int(answer.status)}
            await send({**start, "headers": encode_head(answer)})
            await send({"type": "websocket.http.response.body", "body": answer.body})
        else:
            await send(close)  # the server turns it into a 403

    async def _wait_for_disconnect(self) -> None:
        """Wait until the peer has left: some servers disconnect it when we return, before it has read the refusal."""
        with anyio.move_on_after(self._app.limits.close_timeout):
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
            # uvicorn reports the end before it has happened, and logs an error for each client if we return before it.
            await checkpoint()

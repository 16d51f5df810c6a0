"""A connection from accept until it is admitted: TLS, what the peer must send first, authentication.

One deadline, set at accept, covers all of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from ...contracts import Handshake, Peer
from ...exceptions import AuthenticationUnavailable, HubDraining, HubError
from ..tls import Certificate
from .connection import LINGER, OPEN, Connection
from .protocol import ConnectionProtocol
from .server import Server, ServerT
from .tls import TLS, NotTLS, is_hello_complete

T = TypeVar("T")


class PendingProtocol(ConnectionProtocol, Generic[ServerT]):
    """Base of the protocols of peers that are not admitted yet."""

    __slots__ = ("_connection", "_handshake", "_scope", "_server", "client")

    def __init__(self, server: ServerT, connection: Connection, client: str | None) -> None:
        self._server = server
        self._connection = connection
        self._handshake = Handshake()
        self._scope: anyio.CancelScope | None = None
        """Set while a call is awaited."""
        self.client = client
        """The peer's address as text."""

    def connection_made(self) -> None:
        if self._server.ssl_context is None:
            self.tls_established()
        else:
            self._connection.set_protocol(TLSHandshake(self._server, self._connection, self))

    # --- for subclasses

    def tls_established(self) -> None:
        """The peer may begin: TLS is established, or there is none."""

    def plain_text_received(self) -> None:
        """The peer sends plain text where TLS is expected: answer in plain text."""
        raise NotImplementedError

    def handshake_timed_out(self) -> None:
        """The deadline has passed, and no call is awaited. TLS may not be established yet."""
        raise NotImplementedError

    def reject(self, error: HubError) -> None:
        """Answer with `error`, and close the connection."""
        raise NotImplementedError

    def peer_admitted(self, peer: Peer) -> None:
        """Start the session of `peer`; without an identity it must send a token."""
        raise NotImplementedError

    # --- events

    def deadline_passed(self) -> None:
        if self._connection.phase > OPEN:  # answered, and the peer does not close its side
            self._server.gateway.count("close-timeout")
            self._connection.abort(reset=True)
        elif self._scope is not None:  # the peer is answered once the call has ended
            self._scope.cancel()
        else:
            timeout = self._server.limits.handshake_timeout
            self._server.gateway.note("handshake-timeout", "a connection was not admitted within %g s", timeout)
            self.handshake_timed_out()

    def connection_lost(self) -> None:
        self._release()
        self._server.connections.discard(self._connection)
        self._server.cancel_check(self._admit)
        if self._scope is not None:
            self._scope.cancel()

    def shutdown(self) -> None:
        self._connection.abort()

    def fail(self, error: Exception) -> None:
        self._server.fault("handshake-fault", error)
        self._connection.abort(reset=True)

    def _release(self) -> None:
        """This protocol ends: another one follows, or the connection was lost."""
        self._server.pending.remove(self._connection)

    # --- admission

    def request_admission(self) -> None:
        """The handshake is complete: ask the hub, if there is room for one more client."""
        if error := self._server.find_refusal():
            self.reject(error)
        else:
            self._server.pending.exempt(self._connection)
            self._server.start_check(self._admit)

    async def _admit(self) -> None:
        if self._connection.phase != OPEN:  # closed while it waited its turn
            return
        unavailable: Peer | HubError = AuthenticationUnavailable()
        outcome = await self.within_deadline(self._ask_gateway, unavailable)
        if self._connection.phase != OPEN:
            return
        try:
            if isinstance(outcome, HubError):
                self.reject(outcome)
            elif self._server.gateway.is_draining:  # since the check began
                self.reject(HubDraining())
            else:
                self.peer_admitted(outcome)
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            self._connection.fail(error)

    async def _ask_gateway(self) -> Peer | HubError:
        try:
            return await self._server.gateway.admit(self._handshake)
        except HubError as error:
            return error

    async def within_deadline(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What `call` returns; `otherwise` if it raises, or the deadline passes first. Raises nothing."""
        outcome = otherwise
        with anyio.CancelScope() as self._scope:
            try:
                outcome = await call()
            except Exception as error:  # noqa: BLE001  # the boundary: this is a task of the server's group
                self._server.fault("check-fault", error)
        was_cancelled, self._scope = self._scope.cancelled_caught, None
        if was_cancelled and self._connection.phase == OPEN:
            timeout = self._server.limits.handshake_timeout
            self._server.gateway.note("check-timeout", "a token was not checked within %g s of the accept", timeout)
        return outcome

    def hand_over(self, protocol: ConnectionProtocol) -> None:
        """Replace this protocol."""
        self._release()
        self._connection.cancel_deadline()
        self._connection.set_protocol(protocol)
        self._connection.resume_reading()


class TLSHandshake(ConnectionProtocol):
    """The TLS handshake; the protocol `following` replaces it."""

    __slots__ = ("_connection", "_following", "_hello", "_server", "_tls")

    def __init__(self, server: Server, connection: Connection, following: PendingProtocol[ServerT]) -> None:
        self._server = server
        self._connection = connection
        self._following = following
        self._hello = b""
        self._tls: TLS | None = None

    @property
    def buffered(self) -> int:
        return len(self._hello)

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._hello += data
            try:
                if not is_hello_complete(self._hello):
                    return
            except NotTLS:
                self._decline(self._hello)
                return
            source = self._server.ssl_context
            assert source is not None
            self._tls = TLS(source.context if isinstance(source, Certificate) else source)
            data, self._hello = self._hello, b""
        self._continue(self._tls, data)

    def _continue(self, tls: TLS, data: bytes) -> None:
        try:
            is_done = tls.do_handshake(data)
        except ssl.SSLError as error:
            reason = error.reason or type(error).__name__
            self._server.gateway.note("tls-refused", "a TLS handshake failed: %s", reason)
            self._server.pending.exempt(self._connection)
            self._connection.write_last(tls.take_answers())  # the alert, which tells the peer why
            self._connection.finish(LINGER)
            return
        if answers := tls.take_answers():
            self._connection.write(answers)
        if is_done and self._connection.phase == OPEN:
            self._connection.start_tls(tls)
            self._connection.set_protocol(self._following)
            self._following.tls_established()

    def _decline(self, data: bytes) -> None:
        self._server.gateway.note("tls-refused", "a peer sent something other than TLS to a port with TLS")
        if 0x20 <= data[0] < 0x7F:
            self._connection.set_protocol(self._following)
            self._following.plain_text_received()
        else:
            self._connection.abort()

    def deadline_passed(self) -> None:
        self._following.deadline_passed()

    def connection_lost(self) -> None:
        self._following.connection_lost()

    def shutdown(self) -> None:
        self._following.shutdown()

    def fail(self, error: Exception) -> None:
        self._following.fail(error)

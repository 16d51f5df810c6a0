"""A connection from accept until it is let in: TLS, what the peer must say first, the check of who it is.

One deadline, set at accept, covers all of it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from ...contracts import Handshake, Peer
from ...exceptions import AuthenticationUnavailable, HubDraining, HubError
from ..tls import Certificate
from .connection import LINGER, READ_SIZE, Stream
from .server import Registry, find_host
from .tls import TLS, NoTLS, is_hello_whole
from .writer import CLOSED, OPEN, WOULD_BLOCK, Link

T = TypeVar("T")
ServerT = TypeVar("ServerT", bound=Registry)


class PendingConnection(Stream, Generic[ServerT]):
    """Base of those who are not let in yet. Once one is, its socket goes on to somebody else."""

    __slots__ = ("_address", "_handshake", "_hello", "_is_shaking", "_scope", "_server", "place")

    def __init__(self, server: ServerT, sock: socket.socket, address: object) -> None:
        self._is_shaking = server.ssl_context is not None
        self._hello = b""
        super().__init__(server.loop, Link(sock))
        self._server = server
        self._address = address
        self._handshake = Handshake()
        self._scope: anyio.CancelScope | None = None
        self.place = server.gateway.connection_pending(self.client)
        server.streams.add(self)
        server.pending.add(self)
        self.set_deadline(server.limits.handshake_timeout)

    # --- for subclasses to say what it means ---

    def shaken(self) -> None:
        """TLS is done."""
        self.loop.call_soon(self)  # what came with its end is in no socket that could become readable

    def unencrypted(self) -> None:
        """The peer speaks plain text where it should speak TLS: tell it in plain text."""
        raise NotImplementedError

    def late(self) -> None:
        """The deadline has passed, and no check is under way."""
        raise NotImplementedError

    def refuse(self, error: HubError) -> None:
        """Tell the peer why it is not let in."""
        raise NotImplementedError

    def admit(self, peer: Peer) -> None:
        """Let the peer in; without an identity it is to send a token."""
        raise NotImplementedError

    # --- from the loop ---

    @property
    def client(self) -> str | None:
        """The peer's address as text."""
        return find_host(self._address)

    @property
    def buffered(self) -> int:
        return super().buffered + len(self._hello)

    def _read(self) -> None:
        if not self._is_shaking or self._phase != OPEN:
            super()._read()
            return
        try:
            data = self.sock.recv(READ_SIZE)
            if not data:
                self.hang_up()
            elif self._tls is None:
                self._listen(data)
            else:
                self._shake_hands(self._tls, data)
        except WOULD_BLOCK:
            pass
        except ssl.SSLError as error:
            self._is_shaking = False
            self._server.gateway.note("tls-refused", "a TLS handshake failed: %s", error.reason or type(error).__name__)
            self._server.pending.discard(self)
            self.finish(LINGER)  # behind the alert, which tells the peer why
        except OSError:
            self.hang_up()

    def _listen(self, data: bytes) -> None:
        """The peer begins: go on once its hello is whole."""
        self._hello += data
        try:
            if not is_hello_whole(self._hello):
                return
        except NoTLS:
            is_text, self._hello, self._is_shaking = _is_text(self._hello), b"", False
            self._server.gateway.note("tls-refused", "a peer speaks no TLS where it should")
            self.unencrypted() if is_text else self.hang_up()
            return
        source = self._server.ssl_context
        assert source is not None
        self._tls = TLS(source.context if isinstance(source, Certificate) else source)
        hello, self._hello = self._hello, b""
        self._shake_hands(self._tls, hello)

    def _shake_hands(self, tls: TLS, data: bytes) -> None:
        is_done = tls.shake_hands(data)
        self._push(tls)
        if is_done and self._phase == OPEN:
            self._is_shaking = False
            self.shaken()

    def expired(self) -> None:
        if self._phase > OPEN:  # answered, and the peer stays
            self._server.gateway.count("close-timeout")
            self.hang_up(reset=True)
        elif self._scope is not None:  # the check of the token; what ends it answers
            self._scope.cancel()
        else:
            timeout = self._server.limits.handshake_timeout
            self._server.gateway.note("handshake-timeout", "a connection was not let in within %g s", timeout)
            self.late()

    def closed(self) -> None:
        self._leave_server()
        if self._scope is not None:
            self._scope.cancel()

    def _leave_server(self) -> None:
        self._server.pending.discard(self)
        self._server.streams.discard(self)
        self._server.gateway.pending_ended(self.place)

    def fail(self, error: Exception) -> None:
        self._server.fault("handshake-fault", error)
        super().fail(error)

    # --- the check ---

    def knock(self) -> None:
        """The peer has done its part: ask the hub, if there is room for one more."""
        server = self._server
        if server.gateway.is_draining:
            self.refuse(HubDraining())
        elif server.is_full:
            self.refuse(server.full)
        else:
            server.pending.discard(self)  # it waits for us
            server.check(self)

    async def check(self) -> None:
        """Ask the hub who this is, until the deadline of the handshake, and answer. Never raises."""
        if self._phase != OPEN:  # gone while it waited its turn
            return
        otherwise: Peer | HubError = AuthenticationUnavailable()
        outcome = await self.in_time(self._admit_peer, otherwise)
        if self._phase != OPEN:
            return
        try:
            if isinstance(outcome, HubError):
                self.refuse(outcome)
            elif self._server.gateway.is_draining:  # since the check began
                self.refuse(HubDraining())
            else:
                self.admit(outcome)
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            self.fail(error)

    async def _admit_peer(self) -> Peer | HubError:
        try:
            return await self._server.gateway.admit(self._handshake)
        except HubError as error:
            return error

    async def in_time(self, ask: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What `ask` comes to; `otherwise` if it fails, or the deadline passes first. Raises nothing."""
        outcome = otherwise
        with anyio.CancelScope() as self._scope:
            try:
                outcome = await ask()
            except Exception as error:  # noqa: BLE001  # the boundary: this is a task of the server's group
                self._server.fault("check-fault", error)
        was_cancelled, self._scope = self._scope.cancelled_caught, None
        if was_cancelled and self._phase == OPEN:
            timeout = self._server.limits.handshake_timeout
            self._server.gateway.note("check-timeout", "a token was not checked within %g s of the accept", timeout)
        return outcome

    def hand_over(self) -> Link:
        """The socket and its TLS, for whoever serves the client; this object is of no use afterwards."""
        self.detach()
        self._phase = CLOSED
        self._leave_server()
        link, self._tls = Link(self.sock, self._tls, self._tail or None), None
        return link


def _is_text(data: bytes) -> bool:
    return 0x20 <= data[0] < 0x7F


AnyPending: TypeAlias = PendingConnection[Any]

"""A connection from accept until it is let in: TLS, what the peer must say first, the check of who it is.

One deadline, set at accept, covers all of it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from ...contracts import Handshake
from ...identity import Identity
from .._entry import DRAINING, FULL, UNCHECKED, Refusal, admit
from .poller import READ, WRITE
from .registry import Registry
from .stream import CLOSED, OPEN, Stream

T = TypeVar("T")
ServerT = TypeVar("ServerT", bound=Registry)


class Newcomer(Stream, Generic[ServerT]):
    """Base of those who are not let in yet. Once one is, its socket goes on to somebody else."""

    __slots__ = ("_address", "_handshake", "_is_shaking", "_scope", "_server")

    def __init__(self, server: ServerT, sock: socket.socket, address: object) -> None:
        self._is_shaking = server.ssl_context is not None
        if server.ssl_context is not None:
            sock = server.ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        super().__init__(server.loop, sock)
        self._server = server
        self._address = address
        self._handshake = Handshake()
        self._scope: anyio.CancelScope | None = None
        server.streams.add(self)
        server.pending[self] = None
        self.set_deadline(server.limits.handshake_timeout)

    # --- for subclasses to say what it means ---

    def shaken(self) -> None:
        """TLS is done."""
        self.loop.watch(self.sock, READ, self)
        self.loop.call_soon(self)

    def late(self) -> None:
        """The deadline has passed, and no check is under way."""
        raise NotImplementedError

    def refuse(self, refusal: Refusal) -> None:
        """Tell the peer why it is not let in."""
        raise NotImplementedError

    def admit(self, identity: Identity | None) -> None:
        """Let the peer in; without an identity it is to send a token."""
        raise NotImplementedError

    # --- from the loop ---

    @property
    def client(self) -> str | None:
        """The peer's address as text."""
        return str(self._address[0]) if isinstance(self._address, tuple) else None

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
            self.shaken()

    def expired(self) -> None:
        if self._phase > OPEN:  # answered, and the peer stays
            self.hang_up(reset=True)
        elif self._scope is not None:  # the check of the token; what ends it answers
            self._scope.cancel()
        else:
            self._server.hub.count("handshake-timeout")
            self.late()

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

    # --- the check ---

    def knock(self) -> None:
        """The peer has done its part: ask the hub, if there is room for one more."""
        server = self._server
        if server.hub.is_draining:
            self.refuse(DRAINING)
        elif server.is_full:
            self.refuse(FULL)
        else:
            server.pending.pop(self, None)  # it waits for us
            server.check(self)

    async def check(self) -> None:
        """Ask the hub who this is, until the deadline of the handshake, and answer. Never raises."""
        if self._phase != OPEN:  # gone while it waited its turn
            return
        otherwise: Identity | Refusal | None = UNCHECKED
        outcome = await self.in_time(lambda: admit(self._server.hub, self._handshake), otherwise)
        if self._phase != OPEN:
            return
        try:
            if isinstance(outcome, Refusal):
                self.refuse(outcome)
            elif self._server.hub.is_draining:  # since the check began
                self.refuse(DRAINING)
            else:
                self.admit(outcome)
        except Exception as error:  # noqa: BLE001  # the boundary; this is not a call of the loop
            self.fail(error)

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
            self._server.hub.count("check-timeout")
        return outcome

    def hand_over(self) -> socket.socket:
        """The socket, for whoever serves the client; this object is of no use afterwards."""
        self.detach()
        self._phase = CLOSED
        self._leave_server()
        return self.sock


AnyNewcomer: TypeAlias = Newcomer[Any]

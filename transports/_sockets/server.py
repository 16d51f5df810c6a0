"""What all connections of one `serve` share: the gateway, the limits, the connections, and the checks in progress."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio.abc
import anyio.lowlevel

from ...contracts import Gateway
from ...exceptions import HubDraining, HubError, TooManyRequests, TransportFull
from ...telemetry import ThrottledLogger
from ..tls import Security
from .connection import Connection
from .limits import StreamLimits
from .loop import SelectorLoop
from .protocol import ConnectionProtocol

DISCARDED: Final = 16 * 1024
"""Bytes read of a peer that is refused at once: unread bytes in a closed socket destroy what was sent."""

LOCAL_PEER: Final = "127.0.0.1"
"""The address of the peer of a Unix socket, which is on this machine: by default it is a trusted proxy, as nginx is."""

Check = Callable[[], Awaitable[None]]


ProtocolFactory = Callable[[Any, Connection, str | None], ConnectionProtocol]
"""Returns the first protocol of a connection; called with the server, the connection and the peer's address."""


class PendingConnections:
    """The connections that are not admitted yet. Its length is the number of those that may be evicted."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._keys: dict[Connection, str | None] = {}
        """The keys under which the gateway counts them."""
        self._evictable: dict[Connection, None] = {}
        self._by_address: dict[str | None, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._evictable)

    def add(self, connection: Connection, client: str | None) -> None:
        key = self._keys[connection] = self._gateway.connection_pending(client)
        self._evictable[connection] = None
        self._by_address.setdefault(key, {})[connection] = None

    def exempt(self, connection: Connection) -> None:
        """The peer waits for the server, or was answered: it is not evicted any more."""
        if connection in self._evictable:
            del self._evictable[connection]
            key = self._keys[connection]
            del self._by_address[key][connection]
            if not self._by_address[key]:
                del self._by_address[key]

    def remove(self, connection: Connection) -> None:
        """It was admitted or has ended. Harmless if it was removed before."""
        self.exempt(connection)
        if connection in self._keys:
            self._gateway.pending_ended(self._keys.pop(connection))

    def find_oldest(self, client: str | None) -> Connection:
        """The oldest from the address of `client`, so that a flood from one address evicts no others; else of all.

        An honest client finishes within milliseconds, so the oldest is one that stalls.
        """
        return next(iter(self._by_address.get(self._gateway.address_key(client), self._evictable)))


class Server:
    """The rules and the connections of one `serve`, for any protocol."""

    def __init__(
        self,
        gateway: Gateway,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        protocol_factory: ProtocolFactory,
        *,
        ssl_context: Security | None,
        limits: StreamLimits,
    ) -> None:
        self.gateway = gateway
        self.loop = loop
        self.ssl_context = ssl_context
        self.limits = limits
        self.connections: set[Connection] = set()
        self.clients = 0
        self.pending = PendingConnections(gateway)
        self._group = group
        self._protocol_factory = protocol_factory
        self._throttled = ThrottledLogger(loop.clock)
        self._running_checks = 0
        self._waiting_checks: dict[Check, None] = {}

    # --- for subclasses

    def encode_refusal(self, error: HubError) -> bytes:
        """The answer to a peer that is refused before it has sent anything."""
        raise NotImplementedError

    def configure(self, sock: socket.socket) -> None:
        """Set options of an accepted socket, besides those of every connection."""

    # --- connections

    @property
    def is_secure(self) -> bool:
        """Whether connections have TLS here."""
        return self.ssl_context is not None

    def find_refusal(self) -> HubError | None:
        """Why no further client can be admitted now, if so."""
        if self.gateway.is_draining:
            return HubDraining()
        return TransportFull(self.limits.max_clients) if self.clients >= self.limits.max_clients else None

    def connection_accepted(self, sock: socket.socket, address: object) -> None:
        client = str(address[0]) if isinstance(address, tuple) else LOCAL_PEER
        try:
            self.gateway.check_address(client)
        except TooManyRequests as error:
            self._reject(sock, error)
            return
        if len(self.pending) >= self.limits.max_pending:
            self.pending.find_oldest(client).abort(reset=True)
            limit = self.limits.max_pending
            self.gateway.note("handshake-evicted", "more than %d pending connections; the oldest was closed", limit)
        self.configure(sock)
        connection = Connection(self.loop, sock)
        self.connections.add(connection)
        self.pending.add(connection, client)
        connection.set_deadline(self.limits.handshake_timeout)
        connection.set_protocol(self._protocol_factory(self, connection, client))
        connection.protocol.connection_made()

    def _reject(self, sock: socket.socket, error: HubError) -> None:
        """Close a connection for which nothing may be kept; the reason is sent where that needs no TLS."""
        if self.ssl_context is None:
            with suppress(OSError):
                sock.send(self.encode_refusal(error))
                sock.shutdown(socket.SHUT_WR)
                sock.recv(DISCARDED)
        sock.close()

    def buffered(self) -> int:
        """Bytes that wait in the memory of this process, on their way to or from clients."""
        return sum(connection.buffered for connection in self.connections)

    def fault(self, kind: str, error: Exception) -> None:
        """Count and log an exception that ended one connection."""
        self.gateway.count(kind)
        self._throttled.exception(kind, error)

    # --- checks

    def start_check(self, check: Check) -> None:
        """Call `check` in a task, because the application's `authenticate` may wait. It must not raise."""
        if self._running_checks < self.limits.max_checks:
            self._running_checks += 1
            self._group.start_soon(self._run_checks, check)
        else:
            self._waiting_checks[check] = None

    def cancel_check(self, check: Check) -> None:
        """Forget `check` if it still waits its turn: its connection was lost."""
        self._waiting_checks.pop(check, None)

    async def _run_checks(self, check: Check) -> None:
        try:
            await check()
            while self._waiting_checks:
                check = next(iter(self._waiting_checks))
                del self._waiting_checks[check]
                await anyio.lowlevel.checkpoint()  # a check that never waits must not starve the others
                await check()
        finally:
            self._running_checks -= 1

    # --- the end

    def close(self) -> None:
        """End every connection now."""
        for connection in [*self.connections]:
            try:
                connection.protocol.shutdown()
            except Exception as error:  # noqa: BLE001  # the boundary: a failing close must not block the others
                self.fault("connection-fault", error)
                connection.sock.close()


ServerT = TypeVar("ServerT", bound=Server)

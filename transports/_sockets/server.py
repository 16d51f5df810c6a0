"""What all connections of one `serve` share: the hub, the limits, who is connected, and the checks of their tokens."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio.abc
import anyio.lowlevel

from ...contracts import Gateway
from ...exceptions import HubError, TooManyRequests, TransportFull
from ...telemetry import ThrottledLogger
from ..tls import Security
from .limits import StreamLimits
from .loop import SelectorLoop

if TYPE_CHECKING:
    from .connection import Stream
    from .pending import AnyPending


READ_AWAY: Final = 16 * 1024


class Pending:
    """Who still owes us something before it can be let in."""

    def __init__(self) -> None:
        self._all: dict[AnyPending, None] = {}
        self._at: dict[str | None, dict[AnyPending, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, newcomer: AnyPending) -> None:
        self._all[newcomer] = None
        self._at.setdefault(newcomer.place, {})[newcomer] = None

    def discard(self, newcomer: AnyPending) -> None:
        if newcomer in self._all:
            del self._all[newcomer]
            del self._at[newcomer.place][newcomer]
            if not self._at[newcomer.place]:
                del self._at[newcomer.place]

    def choose(self, place: str | None) -> AnyPending:
        """Who makes room for one more from `place`: the oldest from there, so that nobody drives out others' clients.

        If there is none, the oldest of all. Who is honest finishes within milliseconds, so it is one that dawdles.
        """
        return next(iter(self._at.get(place, self._all)))


class Registry:
    """The rules and the members of one `serve`, whatever it speaks."""

    def __init__(
        self,
        gateway: Gateway,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        *,
        ssl_context: Security | None,
        limits: StreamLimits,
    ) -> None:
        self.gateway = gateway
        self.loop = loop
        self.ssl_context = ssl_context
        self.limits = limits
        self.streams: set[Stream] = set()
        self.clients = 0
        self.pending = Pending()
        self._group = group
        self._muffler = ThrottledLogger(loop.clock)
        self._checks = 0
        self._unchecked: deque[AnyPending] = deque()

    @property
    def is_full(self) -> bool:
        return self.clients >= self.limits.max_clients

    @property
    def full(self) -> TransportFull:
        """What is told to who finds this `is_full`."""
        return TransportFull(self.limits.max_clients)

    def accepted(self, sock: socket.socket, address: object) -> None:
        """A client has connected: the listener's part ends here."""
        client = find_host(address)
        try:
            self.gateway.check_address(client)
        except TooManyRequests as error:
            self._turn_away(sock, error)
            return
        if len(self.pending) >= self.limits.max_pending:
            self.pending.choose(self.gateway.address_key(client)).hang_up(reset=True)
            limit = self.limits.max_pending
            self.gateway.note("handshake-evicted", "more than %d pending connections; the oldest was closed", limit)
        self.welcome(sock, address)

    def _turn_away(self, sock: socket.socket, error: HubError) -> None:
        """Hang up on a connection for which nothing may be kept; where that needs no TLS, it is told why."""
        if self.ssl_context is None:
            with suppress(OSError):
                sock.send(self.rebuff(error))
                sock.shutdown(socket.SHUT_WR)
                sock.recv(READ_AWAY)  # what is unread when a socket is closed destroys what was sent
        sock.close()

    def rebuff(self, error: HubError) -> bytes:
        """What tells a peer that has said nothing yet why it is not let in."""
        raise NotImplementedError

    def welcome(self, sock: socket.socket, address: object) -> None:
        """Make the newcomer that owns this socket."""
        raise NotImplementedError

    def buffered(self) -> int:
        """Bytes that wait in the memory of this process, on their way to or from clients."""
        return sum(stream.buffered for stream in self.streams)

    def fault(self, kind: str, error: Exception) -> None:
        """Count and log an exception that ended one connection."""
        self.gateway.count(kind)
        self._muffler.exception(kind, error)

    # --- checks ---

    def check(self, newcomer: AnyPending) -> None:
        """Have the hub check who this is, in a task, because the application's `authenticate` may wait."""
        if self._checks < self.limits.max_checks:
            self._checks += 1
            self._group.start_soon(self._check_in_turn, newcomer)
        else:
            self._unchecked.append(newcomer)

    async def _check_in_turn(self, newcomer: AnyPending) -> None:
        try:
            await newcomer.check()
            while self._unchecked:
                newcomer = self._unchecked.popleft()
                await anyio.lowlevel.checkpoint()  # a check that never waits must not starve the others
                await newcomer.check()
        finally:
            self._checks -= 1

    # --- the end ---

    def close(self) -> None:
        """End every connection now; who can still be told is told."""
        for stream in [*self.streams]:
            try:
                stream.leave()
            except Exception as error:  # noqa: BLE001  # the boundary: one that cannot leave keeps nobody
                self.fault("connection-fault", error)
                stream.sock.close()


def find_host(address: object) -> str | None:
    """The peer's address as text, of what `accept` returned."""
    return str(address[0]) if isinstance(address, tuple) else None

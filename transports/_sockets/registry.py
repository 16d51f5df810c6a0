"""What all connections of one `serve` share: the hub, the limits, who is connected, and the checks of their tokens."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING

import anyio.abc
import anyio.lowlevel

from ...hub import Hub
from ...observability import Muffler
from .limits import StreamLimits
from .selector import SelectorLoop

if TYPE_CHECKING:
    from .newcomer import AnyNewcomer
    from .stream import Stream


class Registry:
    """The rules and the members of one `serve`, whatever it speaks."""

    def __init__(
        self,
        hub: Hub,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        *,
        ssl_context: ssl.SSLContext | None,
        limits: StreamLimits,
    ) -> None:
        self.hub = hub
        self.loop = loop
        self.ssl_context = ssl_context
        self.limits = limits
        self.streams: set[Stream] = set()
        self.clients = 0
        self.pending: dict[AnyNewcomer, None] = {}
        """Who still owes us something before it can be let in; oldest first."""
        self._group = group
        self._muffler = Muffler(loop.clock)
        self._checks = 0
        self._unchecked: deque[AnyNewcomer] = deque()

    @property
    def is_full(self) -> bool:
        return self.clients >= self.limits.max_clients

    def accepted(self, sock: socket.socket, address: object) -> None:
        """A client has connected: the listener's part ends here."""
        if len(self.pending) >= self.limits.max_pending:
            # Who is honest finishes within milliseconds, so the oldest is the one that dawdles on purpose.
            next(iter(self.pending)).hang_up(reset=True)
            self.hub.count("handshake-evicted")
        self.welcome(sock, address)

    def welcome(self, sock: socket.socket, address: object) -> None:
        """Make the newcomer that owns this socket."""
        raise NotImplementedError

    def fault(self, kind: str, error: Exception) -> None:
        """Count and log an exception that ended one connection."""
        self.hub.count(kind)
        self._muffler.fault(kind, error)

    # --- checks ---

    def check(self, newcomer: AnyNewcomer) -> None:
        """Have the hub check who this is, in a task, because the application's `authenticate` may wait."""
        if self._checks < self.limits.max_checks:
            self._checks += 1
            self._group.start_soon(self._check_in_turn, newcomer)
        else:
            self._unchecked.append(newcomer)

    async def _check_in_turn(self, newcomer: AnyNewcomer) -> None:
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
            stream.leave()

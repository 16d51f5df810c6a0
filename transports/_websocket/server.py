"""What all connections of one `serve` share: the hub, the limits, who is connected, and the checks of their tokens."""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.lowlevel

from ..http import Request, Respond, Response
from ..hub import Hub
from ..observability import Muffler
from ._frames import Decoder, JSONWire
from ._incoming import Incoming
from ._selector import SelectorLoop

if TYPE_CHECKING:
    from ._stream import Stream

SPARE_DECODERS: Final = 64
"""Decoders kept for the next message of whoever sends one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may do, and how many there may be. Seconds and bytes."""

    handshake_timeout: float = 5.0
    """From accept to the end of the request, TLS and the check of the token included, whatever trickles in."""
    close_timeout: float = 5.0
    ping_interval: float = 20.0
    silence_timeout: float = 60.0
    """Without a byte from the peer, pongs included, the connection is closed with 4408."""
    message_timeout: float = 30.0
    """For a message that was begun; looked at with each ping."""
    max_message: int = 64 * 1024
    max_fragments: int = 1024
    max_clients: int = 100_000
    """WebSockets; a further one is told to try again later (503, or 1013)."""
    max_pending: int = 4096
    """Connections whose request is not complete; a further one ends the oldest."""
    max_checks: int = 64
    """Tokens checked at a time; further handshakes wait their turn, within their timeout."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not (value := getattr(self, name)) > 0:  # also refuses NaN
                raise ValueError(f"{name} is {value!r}; it must be above 0")


class Server:
    """The registry and the rules of one `serve`."""

    def __init__(
        self,
        hub: Hub,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        *,
        path: str,
        respond: Respond | None,
        ssl_context: ssl.SSLContext | None,
        origins: Collection[str],
        limits: Limits,
    ) -> None:
        self.hub = hub
        self.loop = loop
        self.path = path
        self.ssl_context = ssl_context
        self.origins = frozenset(origins)
        self.limits = limits
        self.wire = JSONWire()
        self.streams: set[Stream] = set()
        self.clients = 0
        self.pending: dict[Incoming, None] = {}
        """Whose request is not complete; oldest first."""
        self._group = group
        self._respond = respond
        self._muffler = Muffler(loop.clock)
        self._decoders: list[Decoder] = []
        self._checks = 0
        self._unchecked: deque[Incoming] = deque()

    @property
    def is_full(self) -> bool:
        return self.clients >= self.limits.max_clients

    def accepted(self, sock: socket.socket, address: object) -> None:
        """A client has connected: the listener's part ends here."""
        if len(self.pending) >= self.limits.max_pending:
            # Who is honest finishes within milliseconds, so the oldest is the one that dawdles on purpose.
            next(iter(self.pending)).hang_up(reset=True)
            self.hub.count("handshake-evicted")
        Incoming(self, sock, address)

    def respond(self, request: Request) -> Response | None:
        return None if self._respond is None else self._respond(request)

    def fault(self, kind: str, error: Exception) -> None:
        """Count an exception that ended one connection; its message is not logged, as it may quote the peer."""
        self.hub.count(kind)
        frames = "".join(traceback.format_tb(error.__traceback__))
        self._muffler.log(logging.DEBUG, kind, "%s: %s\n%s", kind, type(error).__name__, frames)

    # --- decoders ---

    def lend_decoder(self) -> Decoder:
        """A decoder for one client until it is idle; reused, as each is a cycle that only the collector frees."""
        if self._decoders:
            return self._decoders.pop()
        return Decoder(self.limits.max_message, self.limits.max_fragments)

    def return_decoder(self, decoder: Decoder) -> None:
        if len(self._decoders) < SPARE_DECODERS:
            self._decoders.append(decoder)

    # --- checks ---

    def check(self, incoming: Incoming) -> None:
        """Have the hub check `incoming`'s token, in a task, because the application's `authenticate` may wait."""
        if self._checks < self.limits.max_checks:
            self._checks += 1
            self._group.start_soon(self._check_in_turn, incoming)
        else:
            self._unchecked.append(incoming)

    async def _check_in_turn(self, incoming: Incoming) -> None:
        try:
            await incoming.check()
            while self._unchecked:
                incoming = self._unchecked.popleft()
                await anyio.lowlevel.checkpoint()  # a check that never waits must not starve the others
                await incoming.check()
        finally:
            self._checks -= 1

    # --- the end ---

    def close(self) -> None:
        """End every connection now; who can still be told is told."""
        for stream in [*self.streams]:
            stream.leave()

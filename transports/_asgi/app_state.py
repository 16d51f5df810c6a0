"""What all connections of one application share: the hub, the limits, the count of clients, what is logged."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import anyio

from ...http import RETRY_SOON
from ...hub import Hub
from ...protocol.formats import Format
from ...telemetry import ThrottledLogger, log_or_stderr
from .._origins import Origins
from .._refusal import DRAINING, Refusal, full
from .borrowed_task import BorrowedTasks
from .messages import MessageCache, unpack_binary, unpack_body, unpack_text

if TYPE_CHECKING:
    from .client import Client

NOT_RUNNING: Final = "the hub is not running: add `async with hub:` to the lifespan of the application that mounts it"
_CLOSED: Final = Refusal(503, 1013, "the hub is not running", (RETRY_SOON,), "refused-closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may do, and how many there may be. Seconds and bytes.

    What a message may hold at all, how long a silent connection lives, and how much a socket buffers is the server's.
    """

    handshake_timeout: float = 5.0
    """Until a WebSocket is let in, the check of its token included."""
    close_timeout: float = 5.0
    """For what is still to be sent when a connection is closed, and for the peer's answer to that."""
    request_timeout: float = 10.0
    """For a request of HTTP, its body and its answer."""
    max_message: int = 64 * 1024
    max_clients: int = 100_000
    """WebSockets and event streams; a further one is told to try again later (503, or 1013)."""
    max_checks: int = 64
    """Tokens checked at a time; further handshakes and requests wait their turn, within their timeout."""
    max_unsent: int = 64 * 1024
    """What may wait for the server to take it before the hub is told to hold back; or one write, if that is more."""
    max_unconfirmed: int = 64
    """Frames a client that confirms (`seen`) may be behind."""
    max_unconfirmed_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:  # also refuses NaN
                raise ValueError(f"{field.name} is {value!r}; it must be above 0")


class AppState:
    """The registry and the rules of one application."""

    def __init__(self, hub: Hub, origins: Origins, limits: Limits) -> None:
        self.hub = hub
        self.origins = origins
        self.limits = limits
        self.clients = 0
        """Places that are taken: from the moment on when somebody is let in, before the server has been told."""
        self.members: set[Client] = set()
        self.held = 0
        """Bytes of the requests that are not answered yet."""
        self.couriers = BorrowedTasks()
        self.events = MessageCache(unpack_body)
        self._text = MessageCache(unpack_text)
        self._binary = MessageCache(unpack_binary)
        self._muffler = ThrottledLogger(time.monotonic)
        self._has_complained = False
        self._checks: anyio.Semaphore | None = None
        hub.doorkeeper.gauges.append(self.buffered)

    @property
    def checks(self) -> anyio.Semaphore:
        """Has a place for each token that may be checked now."""
        if self._checks is None:  # which belongs to an event loop, and applications are made before there is one
            self._checks = anyio.Semaphore(self.limits.max_checks)
        return self._checks

    def buffered(self) -> int:
        """Bytes that wait in the memory of this process, on their way to or from clients."""
        return self.held + sum(client.buffered for client in self.members)

    def envelopes(self, format: Format) -> MessageCache:  # noqa: A002 - what it is
        return self._binary if format.is_binary else self._text

    def joined(self) -> None:
        """A place is taken; `left` follows."""
        self.clients += 1

    def left(self) -> None:
        self.clients -= 1
        self.couriers.dismiss(self.clients)

    def turn_away(self) -> Refusal | None:
        """Why nobody can be let in now, if so."""
        if self.hub.is_draining:
            return DRAINING
        if not self.hub.is_open:
            self.complain()
            return _CLOSED
        return full(self.limits.max_clients) if self.clients >= self.limits.max_clients else None

    def complain(self) -> None:
        """Tell the operator what is missing, once."""
        if not self._has_complained:
            self._has_complained = True
            log_or_stderr(NOT_RUNNING)

    def fault(self, kind: str, error: BaseException) -> None:
        """Count and log an exception that ended one connection."""
        self.hub.count(kind)
        self._muffler.fault(kind, error)

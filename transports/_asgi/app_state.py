"""The state that all connections of one application share: the gateway, the limits, the number of clients, the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Final

import anyio

from ...contracts import Gateway
from ...exceptions import HubDraining, HubNotRunning, TransportFull
from ...protocol.formats import Format
from ...telemetry import ThrottledLogger, logger
from .._origins import Origins
from .borrowed_task import BorrowedTasks
from .messages import MessageCache, unpack_binary, unpack_body, unpack_text
from .server_watch import ServerWatch

NOT_RUNNING: Final = "the hub is not running: add `async with hub:` to the lifespan of the application that mounts it"
NO_LIFESPAN: Final = (
    "the hub is not running: {} starts no lifespan here; write `application = WithLifespan(application)` "
    "(from analytics_hub.transports.asgi), or run the application under another server"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one client, and of all together. Seconds and bytes.

    The maximum size of a message, the timeout of a silent connection and the socket's buffer are the server's.
    """

    handshake_timeout: float = 5.0
    """Until a WebSocket is admitted, the check of its token included."""
    close_timeout: float = 5.0
    """For what is still to be sent when a connection is closed, and for the peer's answer to that."""
    request_timeout: float = 10.0
    """For an HTTP request, its body and its answer."""
    max_message: int = 64 * 1024
    max_clients: int = 100_000
    """WebSockets and event streams; a further one is told to try again later (503, or 1013)."""
    max_checks: int = 64
    """Tokens checked at a time; further handshakes and requests wait their turn, within their timeout."""
    max_unsent: int = 64 * 1024
    """Bytes that may wait for the server before the client counts as congested; or one write, if that is more."""
    max_unconfirmed: int = 64
    """Frames a client that confirms (`seen`) may be behind."""
    max_unconfirmed_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:  # also refuses NaN
                raise ValueError(f"{field.name} is {value!r}; it must be greater than 0")


class AppState:
    """The state of one application."""

    def __init__(self, gateway: Gateway, origins: Origins, limits: Limits) -> None:
        self.gateway = gateway
        self.origins = origins
        self.limits = limits
        self.client_count = 0
        """Admitted clients: each counts from its admission on, before the server is told to accept it."""
        self.watch = ServerWatch()
        self.held = 0
        """Bytes of the requests that are not answered yet."""
        self.borrowed_tasks = BorrowedTasks()
        self.body_cache = MessageCache(unpack_body)
        self._text_cache = MessageCache(unpack_text)
        self._binary_cache = MessageCache(unpack_binary)
        self._faults = ThrottledLogger(time.monotonic)
        self._has_explained = False
        self._has_looked_at_costs = False
        self._checks: anyio.Semaphore | None = None
        gateway.add_gauge(self.measure_buffered)

    @property
    def checks(self) -> anyio.Semaphore:
        """Limits the token checks in progress."""
        if self._checks is None:  # it belongs to an event loop, and applications are made before there is one
            self._checks = anyio.Semaphore(self.limits.max_checks)
        return self._checks

    def measure_buffered(self) -> int:
        """Bytes that wait in the memory of this process, on their way to or from clients."""
        return self.held + sum(client.buffered for client in self.watch.clients)

    def message_cache(self, format: Format) -> MessageCache:  # noqa: A002 - the name of the thing
        return self._binary_cache if format.is_binary else self._text_cache

    def client_admitted(self) -> None:
        """A client takes a place; `client_left` follows."""
        self.client_count += 1

    def client_left(self) -> None:
        self.client_count -= 1
        self.borrowed_tasks.shrink(self.client_count)

    def check_open(self) -> None:
        """Raise `HubDraining`, `HubNotRunning` or `TransportFull` if no client can be admitted now."""
        if self.gateway.is_draining:
            raise HubDraining
        if not self.gateway.is_open:
            self.explain_not_running()
            raise HubNotRunning
        if self.client_count >= self.limits.max_clients:
            raise TransportFull(self.limits.max_clients)

    def explain_not_running(self) -> None:
        """Log once how the application enters its hub, under the server that runs it."""
        if not self._has_explained:
            self._has_explained = True
            server = self.watch.server
            logger.error(NOT_RUNNING if server.has_lifespan else NO_LIFESPAN.format(server.name))

    def explain_costs(self) -> None:
        """Log once if WebSockets cost more than they would have to."""
        if not self._has_looked_at_costs:
            self._has_looked_at_costs = True
            if message := self.watch.server.costly_websockets:
                logger.warning("%s", message)

    def report_fault(self, kind: str, error: BaseException) -> None:
        """Count and log an exception that ended one connection."""
        self.gateway.count(kind)
        self._faults.exception(kind, error)

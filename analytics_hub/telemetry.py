"""What is counted and logged: every counter by name, and a log that a flood of peers' mistakes cannot flood."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final, get_args

from .codes import CloseCode, ErrorCode

logger: Final = logging.getLogger("analytics_hub")


class StderrHandler(logging.Handler):
    """Writes warnings to stderr as long as logging is not set up.

    As the last resort of `logging` does, of which servers with loggers of their own (uvicorn) make no use.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if not _is_set_up() and sys.stderr is not None:
            sys.stderr.write(f"{record.levelname}: {record.name}: {record.getMessage()}\n")


def _is_set_up() -> bool:
    """Whether any handler but ours receives the records of this package."""
    place: logging.Logger | None = logger
    while place is not None:
        if any(not isinstance(handler, logging.NullHandler | StderrHandler) for handler in place.handlers):
            return True
        place = place.parent if place.propagate else None
    return False


logger.addHandler(StderrHandler())


COUNTERS: Final[dict[str, str]] = {
    "connected": "a client has become a session",
    "disconnected": "a client has left; sessions closed by the hub are in `closed-...` instead",
    "stalled": "a client accepted no more data for now",
    "paused": "reading from a client was paused because too many of its commands were waiting",
    **{f"error-{code}": f"a client was answered `{code}`" for code in get_args(ErrorCode)},
    **{f"closed-{int(code)}": f"a session was closed with {int(code)}" for code in CloseCode},
    "closed-silent": "no sign of life for `silence_timeout` of the transport",
    "closed-unfinished": "a message was begun and not finished within `message_timeout`",
    "connection-fault": "a bug, or a fault of the application, ended one connection",
    "protocol-fault": "a client broke the protocol, or sent a message that is too large",
    "odd-message": "an ASGI server delivered an empty message",
    "token-missing": "a request that needs a token had none",
    "token-invalid": "a token was refused",
    **{
        f"invalid-{detail}": f"of the invalid tokens: {why}"
        for detail, why in {
            "too-long": "longer than any valid token",
            "malformed": "not a JSON Web Token",
            "algorithm": "signed by an algorithm that is not allowed",
            "unknown-key": "signed with an unknown key",
            "signature": "signed with another key, or altered",
            "claims": "a claim is missing or has the wrong form",
            "issuer": "of another issuer",
            "audience": "for another audience",
            "not-yet-valid": "not valid yet",
            "issued-in-future": "issued in the future",
            "revoked": "revoked",
            "ticket": "a ticket that is used, expired or unknown",
            "no-session": "a token where only sessions of the host count",
            "other": "for a reason of the application's own",
        }.items()
    },
    "token-expired": "a token had expired",
    "token-forbidden": "a valid token of an identity that is not allowed to connect",
    "authenticate-limited": "`authenticate` raised `TooManyRequests` or `Overloaded`",
    "authenticate-failed": "`authenticate` raised, took too long, or returned no identity",
    "authenticate-run-failed": "the background task of `authenticate` has failed",
    "authorize-failed": "`authorize` raised, took too long, or returned no bool",
    "revocation-forgotten": "more was revoked than is remembered; the oldest revocation is void",
    "limited-failures": "too many invalid tokens of one address were checked; the next was not",
    "limited-address": "an address has reached its limit of connections",
    "limited-identity": "an identity has reached its limit of connections",
    "overloaded": "more bytes wait in memory than allowed; a new client or request was refused",
    "refused-origin": "the origin is not allowed, or is missing where one is required",
    "refused-ticket": "a ticket was offered in exchange for another ticket",
    "refused-full": "the transport has reached its limit of clients",
    "refused-crowded": "too many bytes of requests are in progress",
    "refused-draining": "the hub is shutting down",
    "refused-closed": "the hub is not running",
    "refused-request": "an invalid request or handshake",
    "refused-size": "the head or body of a request is too large",
    "refused-busy": "commands over HTTP while others of the same stream were waiting",
    "close-timeout": "a peer did not read the close frame or did not close its side in time",
    "handshake-timeout": "a connection was not admitted within `handshake_timeout`",
    "handshake-evicted": "the oldest of too many connections that were not admitted yet",
    "handshake-fault": "a bug ended one connection that was not admitted yet",
    "request-timeout": "a request was not answered within `request_timeout`",
    "check-timeout": "a token was not checked in time",
    "check-fault": "a bug prevented the check of one token",
    "tls-refused": "a TLS handshake failed",
    "certificate-reloaded": "the files of a `Certificate` were read again",
    "certificate-failed": "the files of a `Certificate` were invalid; the certificate before stays in use",
    "accept-failed": "a connection was lost before it was accepted",
    "accept-fault": "an ASGI server could not accept a WebSocket",
    **{
        f"accept-{name}": f"connections could not be accepted: {name.upper()}"
        for name in ("emfile", "enfile", "enobufs", "enomem")
    },
    "send-fault": "an ASGI server's `send` raised",
    "receive-fault": "an ASGI server's `receive` raised",
    "respond-fault": "the application's `respond` raised, or returned an invalid answer",
    "transport-failed": "a transport raised where it must not",
    "publish-refused": "an item from another thread could not be published",
    "published-early": "an item was published before the hub started; `Hub(before_start=...)` dropped it or kept it",
    "journal-rejected": "a journal did not accept an item",
    "journal-read-failed": "a journal could not be read",
}
"""Every counter, and what it counts."""

# What an operator should look at; the rest happens all day.
_WARNINGS: Final = frozenset(
    {"limited-failures", "limited-address", "limited-identity", "overloaded", "refused-full", "refused-crowded"}
    | {"refused-origin"}
    | {"handshake-evicted", "check-timeout", "closed-1011", "closed-4429", "closed-4503"}
    | {name for name in COUNTERS if name.startswith(("accept-", "token-"))}
)


_ERRORS: Final = frozenset({"respond-fault"})
"""Faults of the application that transports report."""


def level_of(kind: str) -> int:
    """The log level of a counter's line."""
    if kind in _ERRORS:
        return logging.ERROR
    return logging.WARNING if kind in _WARNINGS else logging.INFO


class ThrottledLogger:
    """Logs at most one line in `every` seconds for each kind; the next one has the number of those left out."""

    def __init__(self, clock: Callable[[], float], every: float = 1.0) -> None:
        self._clock = clock
        self._every = every
        self._kinds: dict[str, tuple[float, int]] = {}

    def log(self, level: int, kind: str, message: str, *args: object) -> None:
        """Log `message`. `kind` is one of few, and never contains what a peer sent."""
        now = self._clock()
        last, left_out = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < self._every:
            self._kinds[kind] = (last, left_out + 1)
            return
        self._kinds[kind] = (now, 0)
        if left_out:
            message += " (and %d more like it)"
            args = (*args, left_out)
        logger.log(level, message, *args)

    def exception(self, kind: str, error: BaseException) -> None:
        """Log an exception that ended one connection, without its message, which may quote the peer."""
        frames = "".join(traceback.format_tb(error.__traceback__))
        self.log(logging.DEBUG, kind, "%s: %s\n%s", kind, type(error).__name__, frames)


class Telemetry:
    """The counters of one hub and its throttled log. Counter names are those of `COUNTERS`."""

    __slots__ = ("_logger", "counters", "log")

    def __init__(self, counters: Counter[str], clock: Callable[[], float]) -> None:
        self.counters = counters
        self._logger = ThrottledLogger(clock)
        self.log: Final = self._logger.log

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += number

    def note(self, kind: str, message: str, *args: object) -> None:
        """Count it, and log it at the level of its kind."""
        self.counters[kind] += 1
        self._logger.log(level_of(kind), kind, message, *args)

    def fault(self, kind: str, message: str, *args: object) -> None:
        """Count and log an error of the application or of a bug."""
        self.counters[kind] += 1
        self._logger.log(logging.ERROR, kind, message, *args)

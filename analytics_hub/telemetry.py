"""Logging that a flood of peers' mistakes cannot flood."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Final, get_args

from .protocol import CloseCode, ErrorCode

logger: Final = logging.getLogger("analytics_hub")
logger.addHandler(logging.NullHandler())


COUNTERS: Final[dict[str, str]] = {
    "connected": "a client has become a session",
    "disconnected": "a client has left; who was closed by the hub is in `closed-...` instead",
    "stalled": "a client took no more for now",
    "paused": "commands of a client waited behind another until it was read no more for now",
    **{f"error-{code}": f"a client was answered `{code}`" for code in get_args(ErrorCode)},
    **{f"closed-{int(code)}": f"a session was ended with {int(code)}" for code in CloseCode},
    "closed-silent": "no sign of life for `silence_timeout` of the transport",
    "closed-unfinished": "a message was begun and not finished within `message_timeout`",
    "connection-fault": "a bug, or the application's; it ended one connection",
    "protocol-fault": "a client broke the protocol, or sent a message that is too big",
    "odd-message": "an ASGI server delivered a message with nothing in it",
    "token-missing": "who asked had no token, and needed one",
    "token-invalid": "a token was refused",
    **{
        f"invalid-{detail}": f"of the invalid tokens: {why}"
        for detail, why in {
            "too-long": "longer than any of ours",
            "malformed": "no JSON Web Token",
            "algorithm": "signed by an algorithm that is not allowed",
            "unknown-key": "signed with a key that nobody knows",
            "signature": "signed with another key, or altered",
            "claims": "a claim is missing or has another form",
            "issuer": "of another issuer",
            "audience": "for another audience",
            "not-yet-valid": "not valid yet",
            "issued-in-future": "issued in the future",
            "revoked": "revoked",
            "ticket": "a ticket that is used, old or none of ours",
            "no-session": "a token where only sessions of the host count",
            "other": "for a reason of the application's own",
        }.items()
    },
    "token-expired": "a token had expired",
    "token-forbidden": "a good token of somebody who may not come in",
    "authenticate-limited": "`authenticate` raised `TooManyRequests` or `Overloaded`",
    "authenticate-failed": "`authenticate` raised, took too long, or returned no identity",
    "authenticate-run-failed": "what `authenticate` does in the background has ended",
    "authorize-failed": "`authorize` raised, took too long, or returned no bool",
    "revocation-forgotten": "more was revoked than is remembered; the oldest counts no more",
    "limited-failures": "too many tokens of one address were refused; the next was not looked at",
    "limited-address": "an address has as many connections as it may",
    "limited-identity": "an identity has as many connections as it may",
    "overloaded": "more waits in memory than may, so that somebody new was sent away",
    "refused-origin": "a page of a site that may not ask, or no page where only pages may",
    "refused-ticket": "a ticket was to buy another",
    "refused-full": "the transport has as many clients as it may",
    "refused-crowded": "too many bytes of requests are under way",
    "refused-draining": "the hub is shutting down",
    "refused-closed": "the hub is not running",
    "refused-request": "a request or handshake that is none",
    "refused-size": "a request whose head or body is too large",
    "refused-busy": "commands over HTTP while others of the same stream wait",
    "close-timeout": "a peer that did not take the last words, or did not hang up, in time",
    "handshake-timeout": "a connection that was not let in within `handshake_timeout`",
    "handshake-evicted": "the oldest of too many connections that were not let in yet",
    "handshake-fault": "a bug; it ended one connection that was not let in yet",
    "request-timeout": "a request that was not answered within `request_timeout`",
    "check-timeout": "a token was not checked in time",
    "check-fault": "a bug; one token could not be checked",
    "tls-refused": "a TLS handshake failed",
    "certificate-reloaded": "the files of a `Certificate` were read again",
    "certificate-failed": "they could not be used; the certificate before stays",
    "accept-failed": "a connection had gone before it was accepted",
    "accept-fault": "an ASGI server could not accept a WebSocket",
    **{
        f"accept-{name}": f"nothing could be accepted: {name.upper()}"
        for name in ("emfile", "enfile", "enobufs", "enomem")
    },
    "send-fault": "an ASGI server's `send` raised",
    "receive-fault": "an ASGI server's `receive` raised",
    "respond-fault": "the application's `respond` raised, or its answer was none",
    "transport-failed": "a transport raised where it must not",
    "publish-refused": "an item from another thread could not be published",
    "journal-rejected": "an item that its journal did not take",
    "journal-read-failed": "a journal could not be read",
}
"""Everything that is ever counted, and what it means."""

# What somebody should look at; the rest is what peers of every kind do all day.
_WARNINGS: Final = frozenset(
    {"limited-failures", "limited-address", "limited-identity", "overloaded", "refused-full", "refused-crowded"}
    | {"handshake-evicted", "check-timeout", "closed-1011", "closed-4429", "closed-4503"}
    | {name for name in COUNTERS if name.startswith(("accept-", "token-"))}
)


def level_of(kind: str) -> int:
    """How loud the log is about it."""
    return logging.WARNING if kind in _WARNINGS else logging.INFO


def log_or_stderr(message: str) -> None:
    """Log a mistake of whoever wrote the application; on stderr if nobody has set up logging.

    Servers set up their own loggers and not the root, and our `NullHandler` switches off the last resort of `logging`.
    """
    logger.error(message)
    place: logging.Logger | None = logger
    while place is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in place.handlers):
            return
        place = place.parent if place.propagate else None
    sys.stderr.write(f"analytics_hub: {message}\n")


class ThrottledLogger:
    """At most one line a second for each kind of message; the next one says how many were left out."""

    def __init__(self, clock: Callable[[], float], every: float = 1.0) -> None:
        self._clock = clock
        self._every = every
        self._kinds: dict[str, tuple[float, int]] = {}

    def log(self, level: int, kind: str, message: str, *args: object) -> None:
        """Log `message`; `kind` is one of few, never made of what a peer sent."""
        now = self._clock()
        last, muffled = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < self._every:
            self._kinds[kind] = (last, muffled + 1)
            return
        self._kinds[kind] = (now, 0)
        if muffled:
            message += " (and %d more like it)"
            args = (*args, muffled)
        logger.log(level, message, *args)

    def fault(self, kind: str, error: BaseException) -> None:
        """Log an exception that ended one connection, without its message, which may quote the peer."""
        frames = "".join(traceback.format_tb(error.__traceback__))
        self.log(logging.DEBUG, kind, "%s: %s\n%s", kind, type(error).__name__, frames)

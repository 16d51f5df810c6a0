"""Whether to reconnect after a connection, and when (`docs/protocol.md` §9)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..exceptions import HubError, PermissionDenied, TokenFault
from ..protocol import CloseCode
from .exceptions import ConnectFailed, ConnectionClosed, HandshakeRefused, TokenRefused
from .text import printable

STABLE_AFTER: Final = 10.0
"""Seconds. A connection that lasted this long resets the back-off."""
MAX_DELAY: Final = 30.0
"""Seconds. The upper bound of the back-off, whatever the server announces. An explicit `after` is honoured in full."""

# Close codes after which the same attempt would end the same way.
_FINAL: Final[dict[int, str]] = {
    CloseCode.NORMAL: "the server has ended the connection",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.INVALID_DATA: "invalid data",
    CloseCode.TOO_BIG: "a message is too big",
    CloseCode.MALFORMED: "the server did not understand the commands",
    CloseCode.FORBIDDEN: "the server does not allow this token or origin",
}
_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FAULTS: Final[tuple[TokenFault, ...]] = ("missing", "expired")


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What to do after a connection: try again after `delay` seconds, or raise `error`.

    If both are set: try again, but only with a token other than the one just used; without one, raise `error`.
    """

    message: str
    delay: float | None = None
    error: HubError | None = None

    @property
    def needs_new_token(self) -> bool:
        return self.error is not None and self.delay is not None


class Backoff:
    """Exponential back-off with full jitter: a random delay from 0 to a bound that doubles, to spread the clients.

    `jitter` returns random numbers from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._min = 0.5
        self._max = MAX_DELAY
        self._attempts = 0

    def set_bounds(self, min_delay: float, max_delay: float) -> None:
        """The server has announced the bounds for its clients (`reconnect` of `$hello`)."""
        self._min, self._max = min_delay, min(max_delay, MAX_DELAY)

    def connection_ended(self, lifetime: float) -> None:
        """A connection has ended after `lifetime` seconds."""
        if lifetime >= STABLE_AFTER:
            self._attempts = 0

    def next_delay(self, at_least: float = 0.0) -> float:
        bound = min(self._max, self._min * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return max(at_least, bound * self._jitter())

    # --- decisions, by how a connection ended

    def after_close(self, code: int, reason: str, *, slot: float | None, at_least: float) -> RetryDecision:
        """A close code, 1006 if there was none. `slot` is the delay that a `$drain` has assigned."""
        details = printable(f"{code}{f', {reason}' if reason else ''}")
        if code == CloseCode.UNAUTHENTICATED:
            return self._token_rejected(details, reason)
        if code in _FINAL:
            message = f"{_FINAL[code]} ({details})"
            error = PermissionDenied(message) if code == CloseCode.FORBIDDEN else ConnectionClosed(code, message)
            return RetryDecision(message, error=error)
        message = f"disconnected ({details})"
        return RetryDecision(message, self.next_delay(at_least) if slot is None else slot)

    def after_refusal(self, status: int, body: str, retry_after: float | None) -> RetryDecision:
        """The handshake was answered with an HTTP status other than 101."""
        details = printable(f"HTTP {status}{f', {body}' if body else ''}")
        if status == 401:
            return self._token_rejected(details, body)
        if status in _TRANSIENT_STATUSES:
            return RetryDecision(f"temporarily refused ({details})", self.next_delay(retry_after or 0.0))
        message = f"refused ({details})"
        error = PermissionDenied(message) if status == 403 else HandshakeRefused(status, message)
        return RetryDecision(message, error=error)

    def after_loss(self, reason: str) -> RetryDecision:
        """The connection could not be established, or ended without a close code."""
        return RetryDecision(printable(reason), self.next_delay())

    def _token_rejected(self, details: str, reason: str) -> RetryDecision:
        message = f"the server rejected the token ({details})"
        return RetryDecision(message, self.next_delay(), TokenRefused(message, token_fault(reason)))


def token_fault(reason: str) -> TokenFault:
    """The fault of a token, from the text in which the server names it."""
    for fault in _FAULTS:
        if fault in reason:
            return fault
    return "invalid"


def permanent_failure(message: str) -> RetryDecision:
    """The connection cannot be established, and another attempt would fail the same way."""
    message = printable(message)
    return RetryDecision(message, error=ConnectFailed(message))

"""When to come back after a connection, and whether at all (`docs/protocol.md` §9)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..exceptions import HubError, PermissionDenied, TokenFault
from ..protocol import CloseCode
from .exceptions import ConnectFailed, ConnectionClosed, HandshakeRefused, TokenRefused

STEADY: Final = 10.0
"""A connection that lived this long, in seconds, was a success: the next back-off starts from the beginning."""
LONGEST: Final = 30.0
"""What a back-off never exceeds, in seconds, whatever the server announces; what it asks for in `after` counts."""

# Codes after which the same again would end the same, with what is wrong.
_FINAL: Final[dict[int, str]] = {
    CloseCode.NORMAL: "the server has ended the connection",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.INVALID_DATA: "invalid data",
    CloseCode.TOO_BIG: "a message is too big",
    CloseCode.MALFORMED: "the server did not understand the commands",
    CloseCode.FORBIDDEN: "the server does not let this token or origin in",
}
_BUSY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FAULTS: Final[tuple[TokenFault, ...]] = ("missing", "expired")


@dataclass(frozen=True, slots=True)
class Ending:
    """What to do after a connection: try again after `delay` seconds, or raise `error` if there is one.

    With both: try again, but only with another token than the one just used.
    """

    sentence: str
    delay: float | None = None
    error: HubError | None = None

    @property
    def needs_token(self) -> bool:
        return self.error is not None and self.delay is not None


class Backoff:
    """Exponential with full jitter: anything from 0 up to a bound that doubles, so that a crowd does not come at once.

    `jitter` gives random numbers from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._min = 0.5
        self._max = LONGEST
        self._attempts = 0

    def announced(self, least: float, most: float) -> None:
        """The server has said between what bounds it wants its clients back."""
        self._min, self._max = least, min(most, LONGEST)

    def lived(self, seconds: float) -> None:
        """A connection has ended after so many seconds."""
        if seconds >= STEADY:
            self._attempts = 0

    def next(self, at_least: float = 0.0) -> float:
        bound = min(self._max, self._min * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return max(at_least, bound * self._jitter())

    # --- how a connection ended

    def closed(self, code: int, reason: str, *, slot: float | None, at_least: float) -> Ending:
        """With a close code; 1006 where none came. `slot` is what a drain has given, in seconds from now."""
        said = printable(f"{code}{f', {reason}' if reason else ''}")
        if code == CloseCode.UNAUTHENTICATED:
            return self._wants_token(said, reason)
        if code == CloseCode.FORBIDDEN:
            return Ending(f"{_FINAL[code]} ({said})", error=PermissionDenied(f"{_FINAL[code]} ({said})"))
        if code in _FINAL:
            return Ending(f"{_FINAL[code]} ({said})", error=ConnectionClosed(f"{_FINAL[code]} ({said})", code))
        sentence = f"disconnected ({said})"
        return Ending(sentence, self.next(at_least)) if slot is None else Ending(sentence, slot)

    def refused(self, status: int, sentence: str, retry_after: float | None) -> Ending:
        """The handshake was answered with an HTTP status other than 101."""
        said = printable(f"HTTP {status}{f', {sentence}' if sentence else ''}")
        if status == 401:
            return self._wants_token(said, sentence)
        if status in _BUSY_STATUSES:
            return Ending(f"refused for now ({said})", self.next(retry_after or 0.0))
        if status == 403:
            return Ending(f"refused ({said})", error=PermissionDenied(f"refused ({said})"))
        return Ending(f"refused ({said})", error=HandshakeRefused(f"refused ({said})", status))

    def failed(self, reason: str) -> Ending:
        """No connection came about, or it fell silent."""
        return Ending(printable(reason), self.next())

    def _wants_token(self, said: str, reason: str) -> Ending:
        sentence = f"the server wants another token ({said})"
        return Ending(sentence, self.next(), TokenRefused(sentence, find_fault(reason)))


def find_fault(reason: str) -> TokenFault:
    """What was wrong with a token, read from the server's words."""
    for fault in _FAULTS:
        if fault in reason:
            return fault
    return "invalid"


def gave_up(sentence: str) -> Ending:
    """There is no point in trying again."""
    return Ending(printable(sentence), error=ConnectFailed(printable(sentence)))


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal could take for a command, and on one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

"""Which tokens are checked: an address may have a number of invalid tokens checked in a minute, and no more.

Only a check shows whether a token is valid, and it is the check that costs. So invalid tokens are counted and valid
ones are not, and what an address has left is divided: an invalid token that comes again and again leaves half of it to
others, and tokens that come for the first time leave a tenth to those that were refused unchecked and come back. A
token that was accepted before is always checked. One with a good signature that is refused all the same, because it has
expired for instance, is no guess: it is not counted, and between two checks it is refused with the same answer.
"""

from __future__ import annotations

from enum import Enum, auto
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

from ..clock import Clock
from ..contracts import Handshake
from ..exceptions import AuthenticationError, HubError, PermissionDenied, TokenFault, TooManyRequests
from ..telemetry import Telemetry
from ..tuning import Tuning
from .proxies import TrustedProxies, name_address
from .tickets import is_ticket

T = TypeVar("T")

MAX_ADDRESSES: Final = 10_000
"""Addresses of which refused tokens are remembered; beyond it the oldest are dropped."""
MAX_ACCEPTED: Final = 100_000
"""Accepted tokens that are remembered; beyond it those that were not used for the longest time are dropped."""
MAX_REFUSED: Final = 10_000
"""Refused tokens that are remembered; the same."""
RETRY_UNCHECKED: Final = 1.0
"""Seconds after which a token that was refused unchecked may come back, if it will be checked then."""
_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-6
_DIGEST_BYTES: Final = 16


class _Refused(Enum):
    """Why a token that counts was refused."""

    UNCHECKED = auto()
    INVALID = auto()


class _Genuine(NamedTuple):
    """A token that is no guess, and how it was refused."""

    fault: TokenFault | None
    """None where the identity may not connect."""
    checked_at: float

    def to_error(self) -> AuthenticationError | PermissionDenied:
        if self.fault is None:
            return PermissionDenied("this identity is not allowed to connect")
        return AuthenticationError(self.fault)


class TokenBudget:
    """What each address has left of `Tuning.token_failures`, and the tokens that are remembered, as digests.

    Concurrent checks may exceed it, by their number at most. Tickets are redeemed without a check and do not count.
    """

    def __init__(self, tuning: Tuning, clock: Clock, telemetry: Telemetry, proxies: TrustedProxies) -> None:
        self._limit = tuning.token_failures
        self._every = _MINUTE / (self._limit or 1)
        self._now = clock.monotonic
        self._telemetry = telemetry
        self._proxies = proxies
        self._full_again: dict[str, float] = {}
        """When an address with invalid tokens will have all of its budget again; the latest is last."""
        self._accepted: dict[bytes, None] = {}
        self._refused: dict[bytes, _Refused | _Genuine] = {}

    def find_refusal(self, handshake: Handshake) -> HubError | None:
        """None if the token is to be checked; otherwise how to refuse it unchecked."""
        key = self._key(handshake)
        if key is None or self._limit is None:
            return None
        digest = _digest(handshake)
        if digest in self._accepted:
            return None
        now = self._now()
        known = self._refused.get(digest)
        if isinstance(known, _Genuine):
            return None if now - known.checked_at >= self._every else known.to_error()
        after = self._seconds_until(key, now, leaving=self._leaves(known))
        if after <= _ROUNDING:
            return None
        name = name_address(key, handshake.headers)
        self._telemetry.note("limited-failures", "%s had more than %d tokens refused in a minute", name, self._limit)
        if known is None:
            _remember(self._refused, digest, _Refused.UNCHECKED, MAX_REFUSED)
        if known is not _Refused.INVALID:
            after = max(RETRY_UNCHECKED, self._seconds_until(key, now, leaving=0))
        return TooManyRequests(f"more than {self._limit} refused tokens a minute from this address", after)

    def token_accepted(self, handshake: Handshake) -> None:
        """Remember a token that was found to be valid."""
        if self._key(handshake) is not None:
            digest = _digest(handshake)
            self._refused.pop(digest, None)
            _remember(self._accepted, digest, None, MAX_ACCEPTED)

    def token_refused(self, handshake: Handshake, error: AuthenticationError | PermissionDenied) -> None:
        """Remember a token that was checked and refused; count it against its address unless it is genuine."""
        key = self._key(handshake)
        if key is None:
            return
        digest, now = _digest(handshake), self._now()
        self._accepted.pop(digest, None)
        if isinstance(error, PermissionDenied):
            found: _Refused | _Genuine = _Genuine(None, now)
        elif error.is_genuine:
            found = _Genuine(error.fault, now)
        else:
            found = _Refused.INVALID
            self._charge(key, now)
        _remember(self._refused, digest, found, MAX_REFUSED)

    def _key(self, handshake: Handshake) -> str | None:
        """The address that a token counts for; None if it does not count."""
        if self._limit is None or handshake.token is None or is_ticket(handshake.token):
            return None
        return self._proxies.address_key(handshake.client)

    def _leaves(self, known: _Refused | None) -> int:
        """How much of the budget a token of this kind leaves to others."""
        assert self._limit is not None
        match known:
            case _Refused.INVALID:
                return (self._limit - 1) // 2
            case _Refused.UNCHECKED:
                return 0
            case None:
                return self._limit // 10

    def _seconds_until(self, key: str, now: float, *, leaving: int) -> float:
        """Seconds until one more invalid token leaves that much."""
        assert self._limit is not None
        return self._full_again.get(key, now) - now - (self._limit - 1 - leaving) * self._every

    def _charge(self, key: str, now: float) -> None:
        # Concurrent checks may exceed the budget, but no client waits longer than it takes to fill.
        full_again = max(self._full_again.pop(key, now), now) + self._every
        self._full_again[key] = min(full_again, now + _MINUTE)
        oldest = next(iter(self._full_again))
        if self._full_again[oldest] <= now or len(self._full_again) > MAX_ADDRESSES:
            del self._full_again[oldest]


def _digest(handshake: Handshake) -> bytes:
    assert handshake.token is not None
    return blake2b(handshake.token.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _remember(memory: dict[bytes, T], digest: bytes, value: T, limit: int) -> None:
    """Keep `value`; the entries that were not renewed for the longest time are dropped."""
    memory.pop(digest, None)
    memory[digest] = value
    if len(memory) > limit:
        del memory[next(iter(memory))]

"""The token bucket: limits a rate."""

from __future__ import annotations

from math import inf
from typing import Final

_ROUNDING: Final = 1e-9
"""Sums of floats may miss a whole token by this much."""


class TokenBucket:
    """Refills continuously at `rate` tokens a second, up to `capacity` (default: one second's worth).

    `spend` may go into debt, which the next refills pay off first. With `rate` None nothing is limited.
    """

    __slots__ = ("_at", "_tokens", "capacity", "rate")

    def __init__(self, rate: float | None, now: float, capacity: float | None = None) -> None:
        self.rate = rate
        self.capacity = max(1.0, capacity if capacity is not None else rate or 1.0)
        self._tokens = self.capacity
        self._at = now

    def available(self, now: float) -> float:
        """The number of tokens at `now`, negative for a debt. If time goes backwards, nothing is refilled."""
        if self.rate is None:
            return inf
        if now > self._at:
            self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
            self._at = now
        return self._tokens

    def spend(self, n: float) -> None:
        """Remove `n` tokens, even if there are fewer."""
        if self.rate is not None:
            self._tokens -= n

    def take(self, now: float, n: float = 1) -> bool:
        """Remove `n` tokens if there are that many; returns whether there were."""
        if self.rate is None:
            return True
        if self.available(now) + _ROUNDING < n:
            return False
        self._tokens -= n
        return True

    def when(self, now: float, n: float = 1) -> float:
        """The time at which there will be `n` tokens; `now` if there are that many already."""
        missing = n - self.available(now)
        if self.rate is None or missing <= _ROUNDING:
            return now
        return now + missing / self.rate

    def copy(self) -> TokenBucket:
        """An equal bucket, for a session that leaves its cohort."""
        twin = TokenBucket(self.rate, self._at, self.capacity)
        twin._tokens = self._tokens
        return twin

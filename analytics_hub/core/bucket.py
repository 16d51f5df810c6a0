"""The token bucket: how much may pass now."""

from __future__ import annotations

from math import inf
from typing import Final

_ROUNDING: Final = 1e-9  # sums of floats: a bucket that is full but for this is full


class TokenBucket:
    """Refills continuously at `rate` tokens a second up to `capacity` (default: one second of it).

    `spend` may go into debt, which the next refills pay first. `rate` None never limits.
    """

    __slots__ = ("_at", "_tokens", "capacity", "rate")

    def __init__(self, rate: float | None, now: float, capacity: float | None = None) -> None:
        self.rate = rate
        self.capacity = max(1.0, capacity if capacity is not None else rate or 1.0)
        self._tokens = self.capacity
        self._at = now

    def available(self, now: float) -> float:
        """The tokens there are at `now`, which may be a debt. Time that goes backwards refills nothing."""
        if self.rate is None:
            return inf
        if now > self._at:
            self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
            self._at = now
        return self._tokens

    def spend(self, n: float) -> None:
        """Take `n` tokens, whether there are as many or not."""
        if self.rate is not None:
            self._tokens -= n

    def take(self, now: float, n: float = 1) -> bool:
        """Take `n` tokens if there are as many."""
        if self.rate is None:
            return True
        if self.available(now) + _ROUNDING < n:
            return False
        self._tokens -= n
        return True

    def when(self, now: float, n: float = 1) -> float:
        """The time at which there will be `n` tokens, or `now`."""
        missing = n - self.available(now)
        if self.rate is None or missing <= _ROUNDING:
            return now
        return now + missing / self.rate

    def copy(self) -> TokenBucket:
        """An equal bucket, for a session that leaves its cohort."""
        twin = TokenBucket(self.rate, self._at, self.capacity)
        twin._tokens = self._tokens
        return twin

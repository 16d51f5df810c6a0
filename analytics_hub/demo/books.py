"""What the house has kept and what it has passed on, in whole dollars, so that every sum is exact."""

from __future__ import annotations

from ..trading import ExposureUpdate
from .liquidity import LPS
from .market import SYMBOLS


class Books:
    """Buys are positive, sells negative. For each symbol: what was kept less what was hedged. For each LP: what it got.

    `total` is the sum of the absolute amounts of the symbols, kept up to date rather than summed again.
    """

    def __init__(self, *, exposure_limit: int, symbol_limit: int) -> None:
        for name, limit in (("exposure_limit", exposure_limit), ("symbol_limit", symbol_limit)):
            if limit < 1:
                raise ValueError(f"{name} is {limit!r}; it must be at least 1 dollar")
        self.exposure_limit = exposure_limit
        self.symbol_limit = symbol_limit
        self.by_symbol = {symbol.name: 0 for symbol in SYMBOLS}
        self.by_lp = dict.fromkeys(LPS, 0)
        self.total = 0

    def keep(self, symbol: str, amount: int) -> None:
        before = self.by_symbol[symbol]
        self.by_symbol[symbol] = before + amount
        self.total += abs(before + amount) - abs(before)

    def pass_on(self, lp: str, amount: int) -> None:
        self.by_lp[lp] += amount

    def added_by(self, symbol: str, amount: int) -> int:
        """By how much keeping `amount` would raise the total; below zero where it offsets what was kept before."""
        before = self.by_symbol[symbol]
        return abs(before + amount) - abs(before)

    def largest(self) -> tuple[str, int]:
        """The symbol of which most is kept, the first in the list among equals."""
        return max(self.by_symbol.items(), key=lambda item: abs(item[1]))

    def exposure(self) -> ExposureUpdate:
        return ExposureUpdate(
            total_exposure=self.total,
            net_exposure=sum(self.by_symbol.values()),
            exposure_limit=self.exposure_limit,
            by_symbol=self.by_symbol,
            by_lp=self.by_lp,
        )

"""The positions that the broker keeps and those that it has passed on, in whole dollars, so that every sum is exact."""

from __future__ import annotations

from ..trading import ExposureUpdate
from .liquidity import LPS
from .market import SYMBOLS


class Books:
    """Amounts by symbol (kept less hedged) and by LP (passed on). Buys are positive, sells negative.

    `total` is the sum of the absolute amounts by symbol, updated incrementally.
    """

    def __init__(self, *, exposure_limit: int, symbol_limit: int) -> None:
        self.exposure_limit = exposure_limit
        self.symbol_limit = symbol_limit
        self.by_symbol = {symbol.name: 0 for symbol in SYMBOLS}
        self.by_lp = dict.fromkeys(LPS, 0)
        self.total = 0

    def keep(self, symbol: str, amount: int) -> None:
        self.total += self.added_by(symbol, amount)
        self.by_symbol[symbol] += amount

    def pass_on(self, lp: str, amount: int) -> None:
        self.by_lp[lp] += amount

    def added_by(self, symbol: str, amount: int) -> int:
        """By how much keeping `amount` would raise the total; negative if it offsets the position."""
        before = self.by_symbol[symbol]
        return abs(before + amount) - abs(before)

    def largest(self) -> tuple[str, int]:
        """The symbol with the largest position, the first of several."""
        return max(self.by_symbol.items(), key=lambda item: abs(item[1]))

    def exposure(self) -> ExposureUpdate:
        return ExposureUpdate(
            total_exposure=self.total,
            net_exposure=sum(self.by_symbol.values()),
            exposure_limit=self.exposure_limit,
            by_symbol=self.by_symbol,
            by_lp=self.by_lp,
        )

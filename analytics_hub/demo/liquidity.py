"""The simulated liquidity providers: they slow down, drop out and come back, and their figures follow."""

from __future__ import annotations

from typing import Final, Literal

from ..trading import LPMetrics, LPStatus
from .market import SYMBOLS, Random, Symbol

Change = Literal["lost", "recovered"]

LPS: Final[tuple[str, ...]] = ("LMAX", "OANDA", "CURRENEX", "INTEGRAL", "SAXO")

# Chances for each review.
DEGRADES: Final = 1 / 200
DEGRADES_IN_STRESS: Final = 1 / 20
HEALS: Final = 1 / 4
DROPS_OUT: Final = 1 / 8
COMES_BACK: Final = 1 / 6
# Chances for each order.
REJECTS: Final = 0.02
REJECTS_DEGRADED: Final = 0.2

_REJECTS_OF: Final[dict[LPStatus, float]] = {"connected": REJECTS, "degraded": REJECTS_DEGRADED, "disconnected": 1.0}
_WINDOW: Final = 256


class LiquidityProvider:
    """One LP: reviewed from time to time (`review`), asked to fill orders in between (`fills`)."""

    def __init__(self, index: int, random: Random) -> None:
        self.name = LPS[index]
        self.status: LPStatus = "connected"
        self.is_down = False
        """From the loss of the connection until it is whole again: what lies between is neither lost nor recovered."""
        self._index = index
        self._random = random
        self._usual_latency = 12 + 2 * index
        self.latency_ms = self._usual_latency
        self._quotes_per_second = 500 - 40 * index
        self._asked = self._rejected = 0
        self._reviews = self._present = 1

    def review(self, is_stressed: bool) -> Change | None:
        """Move on by one review; returns what a person should be told of."""
        change = self._change_status(is_stressed)
        self._reviews += 1
        if self.status != "disconnected":
            self._present += 1
        jitter = int(self._random() * 7) - 3
        if self.status == "connected":
            self.latency_ms = max(1, self._usual_latency + jitter)
            self._quotes_per_second = 500 - 40 * self._index + 5 * jitter
        elif self.status == "degraded":
            self.latency_ms = self._usual_latency * 5 + 10 * jitter
            self._quotes_per_second = 120 + 10 * jitter
        else:
            self.latency_ms = 0
            self._quotes_per_second = 0
        if self._asked >= _WINDOW:  # so that the reject rate tells of today and not of all times
            self._asked //= 2
            self._rejected //= 2
        return change

    def _change_status(self, is_stressed: bool) -> Change | None:
        chance = self._random()
        if self.status == "connected":
            if chance < (DEGRADES_IN_STRESS if is_stressed else DEGRADES):
                self.status = "degraded"
        elif self.status == "degraded":
            if chance < HEALS:
                self.status = "connected"
                was_down, self.is_down = self.is_down, False
                return "recovered" if was_down else None
            if chance < HEALS + DROPS_OUT:
                self.status = "disconnected"
                was_down, self.is_down = self.is_down, True
                return None if was_down else "lost"
        elif chance < COMES_BACK:
            self.status = "degraded"
        return None

    def fills(self) -> bool:
        """Whether the LP takes the order that it is now asked to take."""
        self._asked += 1
        if self._random() < _REJECTS_OF[self.status]:
            self._rejected += 1
            return False
        return True

    def cost(self, symbol: Symbol) -> int:
        """What makes an LP the worse choice for an order in `symbol`: its mark-up, its latency, its state."""
        return 12 * self._mark_up(symbol) + self.latency_ms + (0 if self.status == "connected" else 1000)

    def _mark_up(self, symbol: Symbol) -> int:
        return (self._index * 3 + symbol.index * 2) % 5  # in points: each LP is cheap in some symbols

    def metrics(self, spread: int) -> LPMetrics:
        """Its figures, where the market's spread in the first symbol is `spread` points."""
        reject_rate = round(self._rejected / self._asked, 4) if self._asked else 0.0
        quality = 0.0
        if self.status != "disconnected":
            quality = round(max(0.0, 1 - reject_rate - self.latency_ms / 1000), 4)
        return LPMetrics(
            lp_name=self.name,
            status=self.status,
            avg_spread=(spread + self._mark_up(SYMBOLS[0])) / SYMBOLS[0].scale,
            execution_quality=quality,
            latency_ms=self.latency_ms,
            quotes_per_second=self._quotes_per_second,
            reject_rate=reject_rate,
            uptime=round(100 * self._present / self._reviews, 2),
        )


class LiquidityPool:
    """All LPs, and which of them is the best for a symbol."""

    def __init__(self, random: Random) -> None:
        self.lps = tuple(LiquidityProvider(index, random) for index in range(len(LPS)))
        self._rankings: dict[str, list[LiquidityProvider]] = {}
        self._reviews = 0

    def review_next(self, is_stressed: bool) -> tuple[LiquidityProvider, Change | None]:
        """Review the LP whose turn it is."""
        lp = self.lps[self._reviews % len(self.lps)]
        self._reviews += 1
        self._rankings.clear()
        return lp, lp.review(is_stressed)

    def place(self, symbol: Symbol) -> tuple[str | None, int]:
        """Ask the best LP, then the next best, whether it takes an order: its name, and the milliseconds spent.

        None if neither took it: the price does not wait for a third. The ranking is good until the next review, so
        that most orders sort nothing.
        """
        ranking = self._rankings.get(symbol.name)
        if ranking is None:
            connected = [lp for lp in self.lps if lp.status != "disconnected"]
            ranking = self._rankings[symbol.name] = sorted(connected, key=lambda lp: lp.cost(symbol))[:2]
        waited = 1
        for lp in ranking:
            waited += lp.latency_ms
            if lp.fills():
                return lp.name, waited
        return None, waited

"""The simulated liquidity providers: they degrade, disconnect and recover, and their metrics follow."""

from __future__ import annotations

from typing import Final, Literal

from ..trading import LPMetrics, LPStatus
from .market import SYMBOLS, Random, Symbol

LPChange = Literal["lost", "recovered"]

LPS: Final[tuple[str, ...]] = ("LMAX", "OANDA", "CURRENEX", "INTEGRAL", "SAXO")

# Probabilities for each review: to degrade, to recover from that, to disconnect, and to connect again.
DEGRADE: Final = 1 / 200
DEGRADE_UNDER_STRESS: Final = 1 / 20
RECOVER: Final = 1 / 4
DISCONNECT: Final = 1 / 8
RECONNECT: Final = 1 / 6

_REJECT_RATES: Final[dict[LPStatus, float]] = {"connected": 0.02, "degraded": 0.2, "disconnected": 1.0}
_WINDOW: Final = 256
"""Orders. Older ones count half as much, so that the reject rate follows the present."""


class LiquidityProvider:
    """One LP: its state changes with each `review`, and it accepts or rejects orders in between."""

    def __init__(self, index: int, random: Random) -> None:
        self.name = LPS[index]
        self.status: LPStatus = "connected"
        self.is_down = False
        """From the loss of the connection until the LP has recovered, including degraded phases in between."""
        self._index = index
        self._random = random
        self._usual_latency = 12 + 2 * index
        self.latency_ms = self._usual_latency
        self._quotes_per_second = 500 - 40 * index
        self._orders = self._rejected = 0
        self._reviews = self._reviews_up = 1

    def review(self, is_stressed: bool) -> LPChange | None:
        """Advance by one review; returns a change that deserves an alert."""
        change = self._change_status(is_stressed)
        self._reviews += 1
        if self.status != "disconnected":
            self._reviews_up += 1
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
        if self._orders >= _WINDOW:
            self._orders //= 2
            self._rejected //= 2
        return change

    def _change_status(self, is_stressed: bool) -> LPChange | None:
        chance = self._random()
        if self.status == "connected":
            if chance < (DEGRADE_UNDER_STRESS if is_stressed else DEGRADE):
                self.status = "degraded"
        elif self.status == "degraded":
            if chance < RECOVER:
                self.status = "connected"
                was_down, self.is_down = self.is_down, False
                return "recovered" if was_down else None
            if chance < RECOVER + DISCONNECT:
                self.status = "disconnected"
                was_down, self.is_down = self.is_down, True
                return None if was_down else "lost"
        elif chance < RECONNECT:
            self.status = "degraded"
        return None

    def accepts_order(self) -> bool:
        """Offer the LP an order; returns whether it accepts."""
        self._orders += 1
        if self._random() < _REJECT_RATES[self.status]:
            self._rejected += 1
            return False
        return True

    def cost(self, symbol: Symbol) -> int:
        """The cost of an order in `symbol` at this LP, from its mark-up, latency and state."""
        return 12 * self._mark_up(symbol) + self.latency_ms + (0 if self.status == "connected" else 1000)

    def _mark_up(self, symbol: Symbol) -> int:
        return (self._index * 3 + symbol.index * 2) % 5  # in points; each LP is cheap for some symbols

    def metrics(self, spread: int) -> LPMetrics:
        """The metrics of the LP, given the spread of the market in the first symbol in points."""
        reject_rate = round(self._rejected / self._orders, 4) if self._orders else 0.0
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
            uptime=round(100 * self._reviews_up / self._reviews, 2),
        )


class LiquidityPool:
    """All LPs, and their ranking for each symbol."""

    def __init__(self, random: Random) -> None:
        self.lps = tuple(LiquidityProvider(index, random) for index in range(len(LPS)))
        self._rankings: dict[str, list[LiquidityProvider]] = {}
        self._reviews = 0

    def review_next(self, is_stressed: bool) -> tuple[LiquidityProvider, LPChange | None]:
        """Review the next LP, in turn."""
        lp = self.lps[self._reviews % len(self.lps)]
        self._reviews += 1
        self._rankings.clear()
        return lp, lp.review(is_stressed)

    def place(self, symbol: Symbol) -> tuple[str | None, int]:
        """Offer an order to the best LP, then to the next best: the name of the LP, and the milliseconds spent.

        None if both reject it. The ranking is cached until the next review, so that most orders need no sorting.
        """
        ranking = self._rankings.get(symbol.name)
        if ranking is None:
            connected = [lp for lp in self.lps if lp.status != "disconnected"]
            ranking = self._rankings[symbol.name] = sorted(connected, key=lambda lp: lp.cost(symbol))[:2]
        waited = 1
        for lp in ranking:
            waited += lp.latency_ms
            if lp.accepts_order():
                return lp.name, waited
        return None, waited

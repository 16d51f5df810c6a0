"""A simulated back office: a seed gives the same events, to the byte, in any process.

It has no clock and does no I/O: `next(office)` is the next event, and `pacing` determines how fast they come. After
every event, the exposure equals the sum of the routing decisions so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

import msgspec

from ..trading import (
    ALERTS,
    EXPOSURE_UPDATES,
    LP_PERFORMANCE,
    ROUTING_METRICS,
    Alert,
    Decision,
    ExposureUpdate,
    LPMetrics,
    RoutingDecision,
)
from .alarms import ExposureMonitor, lp_alert
from .books import Books
from .liquidity import LiquidityPool, LiquidityProvider
from .market import SYMBOLS, TOXIC, Market, Order, Symbol

LARGE: Final = 500_000
"""Dollars. An order of this size or more is kept only if no LP accepts it."""

# Exposure is published once a round if it has changed. With a review every other round, 4 of 5 events are decisions.
ORDERS_PER_ROUND: Final = 6
ROUNDS_PER_REVIEW: Final = 2
ROUNDS_PER_HEDGE: Final = 8


class Event(msgspec.Struct, frozen=True, gc=False):
    """The arguments of `Hub.publish`."""

    channel: str
    data: RoutingDecision | LPMetrics | ExposureUpdate | Alert
    key: str | None = None


class BackOffice:
    """An endless iterator of events, and the books behind them. All amounts are whole dollars.

    An order is passed on (ABOOK) to the best connected LP if it is large, if its client is toxic, or if keeping it
    would exceed the limit of its symbol; otherwise the broker keeps it (BBOOK). If no LP accepts it, it is kept as long
    as the limits of the symbol and of the broker allow, otherwise refused (REJECT). From time to time the broker passes
    on most of its largest position (HEDGE).

    With buys positive and sells negative, the exposure in a symbol is the sum of its BBOOK less that of its HEDGE, and
    the exposure at an LP is the sum of its ABOOK and its HEDGE.
    """

    def __init__(self, seed: int, *, exposure_limit: int = 14_000_000, symbol_limit: int = 3_000_000) -> None:
        self._random = Random(seed).random
        self._market = Market(self._random)
        self._pool = LiquidityPool(self._random)
        self._books = Books(exposure_limit=exposure_limit, symbol_limit=symbol_limit)
        self._monitor = ExposureMonitor()
        self._events = self._run()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def exposure(self) -> ExposureUpdate:
        """The books after the newest event."""
        return self._books.exposure()

    # The generator is suspended at each event, so the books are never ahead of the events.

    def _run(self) -> Iterator[Event]:
        for lp in self._pool.lps:
            yield self._metrics(lp)
        yield Event(EXPOSURE_UPDATES, self.exposure())
        number = 0
        while True:
            number += 1
            before = dict(self._books.by_symbol)
            for _ in range(ORDERS_PER_ROUND):
                yield from self._order(self._market.next_order())
            if number % ROUNDS_PER_HEDGE == 0:
                yield from self._hedge()
            if self._books.by_symbol != before:
                yield Event(EXPOSURE_UPDATES, self.exposure())
            if number % ROUNDS_PER_REVIEW == 0:
                yield from self._review()

    def _order(self, order: Order) -> Iterator[Event]:
        symbol, client, sign, volume = order
        amount = sign * volume
        added = self._books.added_by(symbol.name, amount)
        is_over = added > 0 and abs(self._books.by_symbol[symbol.name] + amount) > self._books.symbol_limit
        lp, waited = None, 1 + int(self._random() * 4)
        decision: Decision = "BBOOK"
        if is_over or volume >= LARGE or client.toxicity >= TOXIC:
            lp, waited = self._pool.place(symbol)
            if lp is not None:
                decision = "ABOOK"
            elif is_over or self._books.total + added > self._books.exposure_limit:
                decision = "REJECT"
        if lp is not None:
            self._books.pass_on(lp, amount)
        elif decision == "BBOOK":
            self._books.keep(symbol.name, amount)
        yield self._decision(symbol, amount, decision, lp, waited)
        if decision == "BBOOK":
            yield from self._exposure_alerts(symbol.name)

    def _hedge(self) -> Iterator[Event]:
        books = self._books
        name, kept = books.largest()
        is_needed = 10 * abs(kept) >= 8 * books.symbol_limit or 100 * books.total >= 92 * books.exposure_limit
        thousands = abs(kept) * 7 // 10_000
        if not is_needed or not thousands:
            return
        symbol = next(symbol for symbol in SYMBOLS if symbol.name == name)
        lp, waited = self._pool.place(symbol)
        if lp is None:
            return
        amount = thousands * 1000 if kept > 0 else -thousands * 1000
        books.keep(name, -amount)
        books.pass_on(lp, amount)
        yield self._decision(symbol, amount, "HEDGE", lp, waited)
        yield from self._exposure_alerts(name)

    def _review(self) -> Iterator[Event]:
        lp, change = self._pool.review_next(self._market.is_stressed)
        yield self._metrics(lp)
        if change is not None:
            yield Event(ALERTS, lp_alert(lp.name, change))

    def _decision(self, symbol: Symbol, amount: int, decision: Decision, lp: str | None, waited: int) -> Event:
        slippage = 0
        if lp is not None:
            moved = self._market.move(symbol, waited // 10)  # the longer it took, the further the price has moved
            slippage = moved if amount > 0 else -moved
        item = RoutingDecision(
            symbol=symbol.name,
            side="BUY" if amount > 0 else "SELL",
            volume=abs(amount),
            routing_decision=decision,
            lp_name=lp,
            execution_time_ms=waited,
            spread=self._market.spread(symbol) / symbol.scale,
            slippage=slippage / symbol.scale,
        )
        return Event(ROUTING_METRICS, item)

    def _metrics(self, lp: LiquidityProvider) -> Event:
        return Event(LP_PERFORMANCE, lp.metrics(self._market.spread(SYMBOLS[0])), lp.name)

    def _exposure_alerts(self, symbol: str) -> Iterator[Event]:
        for alert in self._monitor.update(self._books, symbol):
            yield Event(ALERTS, alert)

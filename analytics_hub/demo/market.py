"""The simulated market: prices that walk, clients that place orders, calm and stress.

Whole numbers only (prices in points, volumes in dollars) and one source of randomness, so that a seed gives the same
market on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

Random = Callable[[], float]
"""From 0 up to, not including, 1. Nothing else of `random.Random` is used: its other methods may change with Python."""

STRESS_BEGINS: Final = 1 / 4000
STRESS_ENDS: Final = 1 / 600
INSTITUTION: Final = 100_000
"""The smallest order of an institution, in dollars."""
TOXIC: Final = 75
"""Clients of this toxicity or more know better than the crowd."""
_MOST_BIAS: Final = 40
"""At most 90 of 100 orders of the crowd go the same way."""


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    index: int
    scale: int
    """Points in one unit of the price."""
    price: int
    """In points, where the walk begins."""
    spread: int
    """In points, while the market is calm."""


@dataclass(frozen=True, slots=True)
class Client:
    number: int
    toxicity: int
    """From 0 to 100: how often this client turns out right at the expense of whoever took the other side."""
    least: int
    """The smallest order, in dollars; the largest is twenty times that."""

    @property
    def is_crowd(self) -> bool:
        return self.least < INSTITUTION and self.toxicity < TOXIC


class Order(NamedTuple):
    symbol: Symbol
    client: Client
    sign: int
    """1 buys, -1 sells."""
    volume: int
    """In dollars."""


SYMBOLS: Final = tuple(
    Symbol(name, index, scale, price, spread)
    for index, (name, scale, price, spread) in enumerate(
        (
            ("EURUSD", 100_000, 108_500, 8),
            ("GBPUSD", 100_000, 127_200, 11),
            ("USDJPY", 1_000, 148_350, 9),
            ("USDCHF", 100_000, 88_400, 12),
            ("AUDUSD", 100_000, 65_900, 10),
            ("USDCAD", 100_000, 135_100, 13),
            ("NZDUSD", 100_000, 60_800, 14),
            ("XAUUSD", 100, 203_150, 18),
        )
    )
)
# What people trade: half of it is EURUSD, GBPUSD and gold.
_POPULAR: Final = tuple(SYMBOLS[index] for index in (0, 0, 0, 0, 1, 1, 1, 7, 7, 7, 2, 2, 3, 4, 5, 6))


class Market:
    """Prices, moods and clients. Each order comes with a move of the price, and the mood follows the price."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._prices = [symbol.price for symbol in SYMBOLS]
        self._biases = [0] * len(SYMBOLS)
        self._clients = tuple(self._new_client(number) for number in range(40))
        self._open: dict[tuple[int, int], int] = {}
        """What clients apart from the crowd have open, by client and symbol."""
        self.is_stressed = False

    def _new_client(self, number: int) -> Client:
        least = INSTITUTION if number % 20 == 0 else 10_000 if number % 4 == 0 else 1_000
        return Client(number, toxicity=int(self._random() * 101), least=least)

    def price(self, symbol: Symbol) -> float:
        return self._prices[symbol.index] / symbol.scale

    def spread(self, symbol: Symbol) -> int:
        """In points; three times as wide while the market is stressed."""
        return symbol.spread * 3 if self.is_stressed else symbol.spread

    def move(self, symbol: Symbol, most: int) -> int:
        """Move a price by at most `most` points, four times that under stress; returns by how many."""
        if self.is_stressed:
            most *= 4
        before = self._prices[symbol.index]
        after = before + int(self._random() * (2 * most + 1)) - most
        # A demo may run for weeks, and a price must not reach zero.
        after = self._prices[symbol.index] = max(after, symbol.price // 2)
        return after - before

    def next_order(self) -> Order:
        random = self._random
        if random() < (STRESS_ENDS if self.is_stressed else STRESS_BEGINS):
            self.is_stressed = not self.is_stressed
        symbol = _POPULAR[int(random() * len(_POPULAR))]
        moved = self.move(symbol, 3)
        bias = self._biases[symbol.index] + max(-3, min(3, moved))
        bias = self._biases[symbol.index] = max(-_MOST_BIAS, min(_MOST_BIAS, bias))
        client = self._clients[int(random() * len(self._clients))]
        volume = client.least * (1 + int(random() * 20))
        if client.is_crowd:
            # The crowd chases the price: a rise makes buyers. Else every position would average out to nothing.
            return Order(symbol, client, 1 if random() * 100 < 50 + bias else -1, volume)
        # The others get in and out again; what goes to the LPs does average out.
        place = (client.number, symbol.index)
        opened = self._open.pop(place, 0)
        if opened:
            return Order(symbol, client, -1 if opened > 0 else 1, abs(opened))
        sign = 1 if random() < 0.5 else -1
        self._open[place] = sign * volume
        return Order(symbol, client, sign, volume)

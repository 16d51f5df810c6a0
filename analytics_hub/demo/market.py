"""The simulated market: prices as random walks, clients that place orders, and phases of stress.

Only integers (prices in points, volumes in dollars) and one source of randomness, so that a seed gives the same market
on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

Random = Callable[[], float]
"""Numbers in [0, 1). No other method of `random.Random` is used, because their results may change with Python."""

# Probabilities for each order.
STRESS_BEGINS: Final = 1 / 4000
STRESS_ENDS: Final = 1 / 600
INSTITUTION: Final = 100_000
"""The smallest order of an institution, in dollars."""
TOXIC: Final = 75
"""The toxicity from which clients are counted as informed traders."""
_MAX_BIAS: Final = 40
"""Per cent. At most 90 of 100 orders of the crowd are on the same side."""


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    index: int
    scale: int
    """Points in one unit of the price."""
    price: int
    """The initial price, in points."""
    spread: int
    """In points, without stress."""


@dataclass(frozen=True, slots=True)
class Client:
    number: int
    toxicity: int
    """From 0 to 100: how often the price moves in favour of this client after an order."""
    min_order: int
    """In dollars; the largest order is twenty times as large."""

    @property
    def is_crowd(self) -> bool:
        return self.min_order < INSTITUTION and self.toxicity < TOXIC


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
# Orders by symbol: more than half of them are in EURUSD, GBPUSD and gold.
_POPULAR: Final = tuple(SYMBOLS[index] for index in (0, 0, 0, 0, 1, 1, 1, 7, 7, 7, 2, 2, 3, 4, 5, 6))


class Market:
    """Prices and clients. Each order moves its price, and the orders of the crowd follow the price."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._prices = [symbol.price for symbol in SYMBOLS]
        self._biases = [0] * len(SYMBOLS)
        self._clients = tuple(self._new_client(number) for number in range(40))
        self._open: dict[tuple[int, int], int] = {}
        """The open positions of clients outside the crowd, by client and symbol."""
        self.is_stressed = False

    def _new_client(self, number: int) -> Client:
        min_order = INSTITUTION if number % 20 == 0 else 10_000 if number % 4 == 0 else 1_000
        return Client(number, toxicity=int(self._random() * 101), min_order=min_order)

    def spread(self, symbol: Symbol) -> int:
        """In points; three times as wide under stress."""
        return symbol.spread * 3 if self.is_stressed else symbol.spread

    def move(self, symbol: Symbol, max_move: int) -> int:
        """Move a price by at most `max_move` points, four times that under stress; returns by how many."""
        if self.is_stressed:
            max_move *= 4
        before = self._prices[symbol.index]
        after = before + int(self._random() * (2 * max_move + 1)) - max_move
        # A demo may run for weeks, and a price must stay above zero.
        after = self._prices[symbol.index] = max(after, symbol.price // 2)
        return after - before

    def next_order(self) -> Order:
        random = self._random
        if random() < (STRESS_ENDS if self.is_stressed else STRESS_BEGINS):
            self.is_stressed = not self.is_stressed
        symbol = _POPULAR[int(random() * len(_POPULAR))]
        moved = self.move(symbol, 3)
        bias = self._biases[symbol.index] + max(-3, min(3, moved))
        bias = self._biases[symbol.index] = max(-_MAX_BIAS, min(_MAX_BIAS, bias))
        client = self._clients[int(random() * len(self._clients))]
        volume = client.min_order * (1 + int(random() * 20))
        if client.is_crowd:
            # The crowd buys when prices rise. Otherwise the positions would average out to zero.
            return Order(symbol, client, 1 if random() * 100 < 50 + bias else -1, volume)
        # The others close what they have opened, so the positions at the LPs average out.
        position = (client.number, symbol.index)
        opened = self._open.pop(position, 0)
        if opened:
            return Order(symbol, client, -1 if opened > 0 else 1, abs(opened))
        sign = 1 if random() < 0.5 else -1
        self._open[position] = sign * volume
        return Order(symbol, client, sign, volume)

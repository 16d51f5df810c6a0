"""The item of every server: a routing decision of 200 bytes of JSON, with the stamp that the load finds."""

from __future__ import annotations

import itertools
import random
import time
from typing import Final

import msgspec

DATA_BYTES: Final = 200


class Decision(msgspec.Struct):
    """`t` comes first: the load generator finds an item by `"data":{"t":`."""

    t: int
    symbol: str = "EURUSD"
    side: str = "buy"
    volume: float = 2.5
    decision: str = "B-book"
    lp: str = "LMAX"
    spread: float = 0.0001
    note: str = ""


_PAD: Final = "x" * (DATA_BYTES - len(msgspec.json.encode(Decision(t=time.monotonic_ns()))))


def stamped(at: int) -> Decision:
    """An item of `at`, in nanoseconds of CLOCK_MONOTONIC, the clock that the load generator reads too."""
    return Decision(t=at, note=_PAD)


def _draw(chance: random.Random) -> dict[str, object]:
    """Fields of a decision with realistic variation, and a random note."""
    return {
        "symbol": chance.choice(("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "BTCUSD", "US30")),
        "side": chance.choice(("buy", "sell")),
        "volume": chance.randrange(1, 1000) / 100,
        "decision": chance.choice(("A-book", "B-book", "hedge")),
        "lp": chance.choice(("LMAX", "CMC", "IG", "Saxo", "XTX")),
        "spread": chance.randrange(1, 99) / 1e5,
        "note": f"order {chance.getrandbits(32)} of account {chance.getrandbits(24)}, {chance.getrandbits(112):028x}",
    }


_DRAWN: Final = [_draw(chance) for chance in [random.Random(1)] for _ in range(5000)]
_turns: Final = itertools.cycle(_DRAWN)


def varied(at: int) -> Decision:
    """An item of `at` that differs from the ones before it, for realistic compression."""
    return Decision(t=at, **next(_turns))  # type: ignore[arg-type]

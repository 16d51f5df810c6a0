"""What every server publishes: a routing decision whose JSON is 200 bytes, with the stamp that the load looks for."""

from __future__ import annotations

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


def stamped() -> Decision:
    """An item of now; CLOCK_MONOTONIC, the clock that the load generator reads too."""
    return Decision(t=time.monotonic_ns(), note=_PAD)

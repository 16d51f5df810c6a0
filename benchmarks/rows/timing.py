"""Timing of single calls in this process, in CPU time of the thread, so that other processes do not count."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def per_call_us(call: Callable[[], object], calls: int) -> float:
    """Microseconds for each of `calls` calls in a row, the loop around them subtracted."""
    turns = range(calls)
    started = time.thread_time_ns()
    for _ in turns:
        pass
    empty = time.thread_time_ns()
    for _ in turns:
        call()
    return (time.thread_time_ns() - empty - (empty - started)) / calls / 1000


def median_us(call: Callable[[], object], calls: int, rounds: int) -> float:
    with quiet():
        return statistics.median(per_call_us(call, calls) for _ in range(rounds))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the garbage collector: its runs would be charged to unrelated calls."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def median_of_ratios(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(mine, theirs, strict=True))

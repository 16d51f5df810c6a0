"""Publishes events at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Final, Protocol

import anyio

from ..exceptions import HubClosed
from .office import Event

LEAST_RATE: Final = 1
MOST_RATE: Final = 20_000

TICK: Final = 0.01
"""Seconds. High rates go out in portions; a timer for each event would cost more than the events."""
MOST_BEHIND: Final = 0.1
"""Seconds. What was missed while the loop stood still for longer is left out: a stall is not followed by a flood."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class Publisher(Protocol):
    """What the demo needs of a hub."""

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None: ...


def check_rate(rate: object) -> float:
    """Return `rate` if events can be published at it, else raise `ValueError`."""
    if isinstance(rate, (int, float)) and not isinstance(rate, bool) and LEAST_RATE <= rate <= MOST_RATE:
        return rate
    raise ValueError(f"rate is {rate!r}; it must be a number from {LEAST_RATE} to {MOST_RATE:,} events a second")


class Pace:
    """How many events are due: the first at once, and then counted from the start, so that no drift adds up."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = check_rate(rate)
        self._start = now
        self._taken = 0

    def due(self, now: float) -> int:
        """How many events may go now."""
        due = 1 + int((now - self._start) * self._rate) - self._taken
        missed = due - max(1, int(self._rate * MOST_BEHIND))
        if missed > 0:
            self._start += missed / self._rate
            due -= missed
        return max(0, due)

    def take(self, count: int) -> None:
        self._taken += count

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking again."""
        return max(TICK, self._start + self._taken / self._rate - now)


async def run(
    hub: Publisher,
    office: Iterator[Event],
    rate: float,
    *,
    count: int | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = anyio.sleep,
) -> int:
    """Publish what `office` tells, `rate` events a second, until the hub has shut down or `count` events are out.

    Returns how many were published. A `rate` outside its range raises `ValueError` before anything is.
    """
    pace = Pace(rate, clock())
    published = 0
    try:
        while count is None or published < count:
            due = pace.due(clock())
            pace.take(due)
            for event in islice(office, due if count is None else min(due, count - published)):
                hub.publish(event.channel, event.data, key=event.key)
                published += 1
            await sleep(pace.wait(clock()))
    except HubClosed:
        if not published:  # it was never open: that is a mistake of the caller's and no end
            raise
    return published

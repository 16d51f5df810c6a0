"""Publishing at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Final, Protocol

import anyio

from ..exceptions import HubClosed
from .office import Event

MIN_RATE: Final = 1
MAX_RATE: Final = 20_000

TICK: Final = 0.01
"""Seconds. High rates are published in portions, because a timer for each event would cost more than the events."""
MAX_LAG: Final = 0.1
"""Seconds. Events that were missed while the event loop was blocked for longer are skipped, to avoid a burst."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class Publisher(Protocol):
    """The part of a hub that the demo uses."""

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None: ...


def validate_rate(rate: object) -> float:
    """Return `rate` if it is a valid number of events a second, else raise `ValueError`."""
    if isinstance(rate, (int, float)) and not isinstance(rate, bool) and MIN_RATE <= rate <= MAX_RATE:
        return rate
    raise ValueError(f"rate is {rate!r}; it must be a number from {MIN_RATE} to {MAX_RATE:,} events a second")


class Pace:
    """Counts the events that are due: the first at once, the others from the start time, so that no error adds up."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = validate_rate(rate)
        self._start = now
        self._published = 0

    def due(self, now: float) -> int:
        """How many events may be published now."""
        due = 1 + int((now - self._start) * self._rate) - self._published
        missed = due - max(1, int(self._rate * MAX_LAG))
        if missed > 0:
            self._start += missed / self._rate
            due -= missed
        return max(0, due)

    def published(self, count: int) -> None:
        """`count` events were published."""
        self._published += count

    def delay(self, now: float) -> float:
        """Seconds until the next call of `due`."""
        return max(TICK, self._start + self._published / self._rate - now)


async def publish_events(
    hub: Publisher,
    events: Iterator[Event],
    rate: float,
    *,
    count: int | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = anyio.sleep,
) -> int:
    """Publish `rate` events a second, until the hub has shut down or `count` events were published.

    Returns how many were published. A `rate` outside its range raises `ValueError` before the first one.
    """
    pace = Pace(rate, clock())
    published = 0
    try:
        while count is None or published < count:
            due = pace.due(clock())
            pace.published(due)
            for event in islice(events, due if count is None else min(due, count - published)):
                hub.publish(event.channel, event.data, key=event.key)
                published += 1
            await sleep(pace.delay(clock()))
    except HubClosed:
        if not published:  # the hub was never open: a mistake of the caller
            raise
    return published

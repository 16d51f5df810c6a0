"""A queue ordered by time: for the turns of cohorts, the deadlines of sessions and the expiry of channels alike."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class Scheduled(Protocol):
    """An object with the time at which it is next due, or None."""

    wake_at: float | None


T = TypeVar("T", bound=Scheduled)


class Schedule(Generic[T]):
    """Items by the time at which they are due. An item has one time: scheduling it again moves it.

    Items that are due at the same moment share one place in the heap, because all cohorts that were flushed in one
    turn are due together. Nothing refers to an item that was moved, cancelled or due: a session that has ended would
    otherwise keep its connection in memory until its next heartbeat.
    """

    __slots__ = ("_items", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._items: dict[float, dict[T, None]] = {}
        """The items of each time in the heap; empty where all of them were moved or cancelled."""

    def at(self, item: T, when: float) -> None:
        """Schedule an item, or move it. O(1), and O(log n) for a time that no item has yet."""
        before = item.wake_at
        if before == when:
            return
        if before is not None:
            del self._items[before][item]
        item.wake_at = when
        items = self._items.get(when)
        if items is None:
            self._items[when] = {item: None}
            heappush(self._times, when)
        else:
            items[item] = None

    def cancel(self, item: T) -> None:
        """Remove an item; harmless if it is not scheduled. O(1)."""
        if item.wake_at is not None:
            del self._items[item.wake_at][item]
            item.wake_at = None

    def next(self) -> float | None:
        """The earliest time at which something may be due; O(1)."""
        return self._times[0] if self._times else None

    def due(self, now: float) -> list[T]:
        """Remove and return the items that are due."""
        found: list[T] = []
        while self._times and self._times[0] <= now:
            items = self._items.pop(heappop(self._times))
            for item in items:
                item.wake_at = None
            found += items
        return found

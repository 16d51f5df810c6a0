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
    turn are due together. Moved and cancelled items are skipped when their old time comes.
    """

    __slots__ = ("_items", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._items: dict[float, list[T]] = {}

    def at(self, item: T, when: float) -> None:
        """Schedule an item, or move it."""
        if item.wake_at == when:
            return
        item.wake_at = when
        items = self._items.get(when)
        if items is None:
            self._items[when] = [item]
            heappush(self._times, when)
        else:
            items.append(item)

    def cancel(self, item: T) -> None:
        """Remove an item at once. O(items of the same time)."""
        if item.wake_at is not None:
            self._items[item.wake_at].remove(item)
            item.wake_at = None

    def next(self) -> float | None:
        """The earliest time at which something may be due; O(1)."""
        return self._times[0] if self._times else None

    def due(self, now: float) -> list[T]:
        """Remove and return the items that are due."""
        found: list[T] = []
        while self._times and self._times[0] <= now:
            when = heappop(self._times)
            for item in self._items.pop(when):
                if item.wake_at == when:
                    item.wake_at = None
                    found.append(item)
        return found

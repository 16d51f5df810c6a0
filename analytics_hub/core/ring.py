"""Entries, a ring buffer of them with absolute positions, and the merge of several runs in publish order."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import Final

import msgspec


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One accepted item, encoded. `order` counts all items of the hub, `seq` those of the channel.

    `gc=False`: an entry refers to nothing that could refer back, and tens of thousands of them would only prolong
    every garbage collection.
    """

    order: int
    seq: int
    data: bytes
    channel: str
    key: str | None = None
    deleted: bool = False


by_order: Final = attrgetter("order")
by_channel: Final = attrgetter("channel")

_SLACK: Final = 8
"""Overwritten entries are released in portions of an eighth of what is kept: O(1) amortised."""


class RingBuffer:
    """Keeps the newest entries within `max_items` and `max_bytes`; at least the newest one.

    A position names an entry for ever: the first is 1, `head` is the newest, `floor` the last one that was overwritten.
    A reader at position p has read everything up to p; it was overtaken if p < `floor`.
    """

    __slots__ = ("_base", "_entries", "floor", "head", "largest", "max_bytes", "max_items", "nbytes")

    def __init__(self, max_items: int, max_bytes: int, head: int = 0) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.head = head
        self.floor = head
        self.nbytes = 0
        self.largest = 0  # bytes of the largest entry ever appended
        self._base = head
        self._entries: list[Entry] = []

    def append(self, entry: Entry) -> None:
        """Store an entry at position `head + 1`. O(1) amortised."""
        size = len(entry.data)
        self._entries.append(entry)
        self.head += 1
        self.nbytes += size
        self.largest = max(self.largest, size)
        if self.head - self.floor > self.max_items or self.nbytes > self.max_bytes:
            self._overwrite()

    def _overwrite(self) -> None:
        while self.head - self.floor > self.max_items or (self.nbytes > self.max_bytes and self.head - self.floor > 1):
            self.nbytes -= len(self._entries[self.floor - self._base].data)
            self.floor += 1
        self._compact()

    def _compact(self) -> None:
        gone = self.floor - self._base
        if gone * _SLACK >= self.head - self.floor:
            del self._entries[:gone]
            self._base = self.floor

    def release(self, floor: int) -> None:
        """Overwrite everything up to `floor` now."""
        while self.floor < min(floor, self.head):
            self.nbytes -= len(self._entries[self.floor - self._base].data)
            self.floor += 1
        self._compact()

    def after(self, position: int) -> list[Entry]:
        """The entries above `position`, which must not be below `floor`."""
        return self._entries[position - self._base :]

    def some_after(self, position: int, limit: int) -> list[Entry]:
        """At most `limit` entries above `position`, which must not be below `floor`."""
        start = position - self._base
        return self._entries[start : start + limit]


_SORT_IS_CHEAPER: Final = 3
"""Merging costs about three times as much for an entry that is wanted as sorting costs for an entry that is there."""


def merge_oldest(runs: Sequence[Sequence[Entry]], limit: int) -> list[Entry]:
    """The first `limit` entries of `runs` in publish order; each run is in publish order itself, and not empty.

    The rest is not looked at, except where sorting everything is cheaper.
    """
    if _SORT_IS_CHEAPER * limit >= sum(map(len, runs)):
        entries = [entry for run in runs for entry in run]
        entries.sort(key=by_order)
        return entries[:limit]
    found: list[Entry] = []
    heads = [(run[0].order, index) for index, run in enumerate(runs)]
    heapify(heads)
    nexts = [1] * len(runs)
    while heads and len(found) < limit:
        index = heads[0][1]
        run = runs[index]
        at = nexts[index]
        found.append(run[at - 1])
        if at < len(run):
            nexts[index] = at + 1
            heapreplace(heads, (run[at].order, index))
        else:
            heappop(heads)
    return found

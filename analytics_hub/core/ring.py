"""A ring buffer with absolute positions that overwrites its oldest entries."""

from __future__ import annotations

from typing import Final

import msgspec


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One accepted item, encoded. `order` counts all items of the hub, `seq` those of the channel.

    `gc=False`: an entry refers to nothing that could refer back, and tens of thousands of them would only make every
    garbage collection longer.
    """

    order: int
    seq: int
    data: bytes
    channel: str
    key: str | None = None
    deleted: bool = False


_SLACK: Final = 8  # overwritten entries are let go in portions of an eighth of what is kept: O(1) amortised


class RingBuffer:
    """Keeps the newest entries within `max_items` and `max_bytes`; at least the newest one.

    A position names an entry for ever: the first is 1, `head` is the newest, `floor` the last one that is gone.
    A reader at position p has seen everything up to p; it was overtaken when p < `floor`.
    """

    __slots__ = ("_base", "_entries", "floor", "head", "largest", "max_bytes", "max_items", "nbytes")

    def __init__(self, max_items: int, max_bytes: int, head: int = 0) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.head = head
        self.floor = head
        self.nbytes = 0
        self.largest = 0  # bytes of the largest entry there ever was
        self._base = head
        self._entries: list[Entry] = []

    def append(self, entry: Entry) -> None:
        """Take position `head + 1`. O(1) amortised."""
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
        gone = self.floor - self._base
        if gone * _SLACK >= self.head - self.floor:
            del self._entries[:gone]
            self._base = self.floor

    def after(self, position: int) -> list[Entry]:
        """The entries above `position`, which must not be below `floor`."""
        return self._entries[position - self._base :]

    def some_after(self, position: int, limit: int) -> list[Entry]:
        """At most `limit` entries above `position`, which must not be below `floor`."""
        start = position - self._base
        return self._entries[start : start + limit]

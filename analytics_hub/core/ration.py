"""One write for a cohort that something holds back: by the rate, a gap to report, a large table, the journal."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from typing import Final

from ..protocol import MAX_FRAME_BYTES
from .cohort import Cohort, Reader
from .ring import Entry

_NOTICE_BYTES: Final = 512  # room for a `$gap`, whose channel's name has at most 255 bytes
_A_TOKEN: Final = 1 - 1e-9  # but for rounding


class _Source:
    """What one reader may still give, in order. `is_paid`: its tokens were spent when all of it was taken."""

    __slots__ = ("entries", "index", "is_paid", "reader")

    def __init__(self, reader: Reader, entries: Sequence[Entry], *, is_paid: bool = False) -> None:
        self.reader = reader
        self.entries = entries
        self.index = 0
        self.is_paid = is_paid


class Ration:
    """Fills one write from several readers, oldest item first, until the tokens, the bytes or the frames run out.

    Of a log that conflates everything live goes or nothing, because taking a part each time would starve keys: with
    its first item the whole is taken and paid, into debt if need be, and what does not fit this write is carried.
    """

    def __init__(self, cohort: Cohort, now: float, max_items: int | None, timestamp: str) -> None:
        self.items: list[bytes] = []
        self.taken: dict[Reader, int] = {}
        self.behind: list[Reader] = []
        self.spent = 0
        self.is_short_of_tokens = False
        self._held_by = cohort.held_by
        self._tokens = cohort.bucket.available(now)
        self._max_items = max_items
        self._count = 0
        self._room = MAX_FRAME_BYTES
        self._timestamp = timestamp

    def fill(self, readers: Sequence[Reader]) -> None:
        """Take what may go from `readers`; cost in proportion to them and to the items taken."""
        heap = []
        for place, reader in enumerate(readers):
            source = self._open(reader)
            if source is not None:
                heap.append((source.entries[0].order, place, source))
        heapify(heap)
        while heap:
            _, place, source = heap[0]
            if not self._afford(source):
                self._close(heappop(heap)[2])
            elif not self._admit(source):
                break
            elif source.index < len(source.entries):
                heapreplace(heap, (source.entries[source.index].order, place, source))
            else:
                self._close(heappop(heap)[2])
        for _, _, source in heap:
            self._close(source)

    def _open(self, reader: Reader) -> _Source | None:
        log = reader.log
        if reader.carry:
            return _Source(reader, reader.carry, is_paid=log.conflates)
        if log.conflates:
            entries = log.after(reader.position)
            if reader.is_fresh:
                entries = [entry for entry in entries if not entry.deleted]
        else:
            reader.settle()
            if reader.position < log.floor:
                self.behind.append(reader)
                return None
            entries = log.after(reader.position)
        if entries:
            return _Source(reader, entries)
        if log.conflates:  # nothing but deletions of what a fresh reader never saw
            reader.take_live()
        return None

    def _afford(self, source: _Source) -> bool:
        """Pay for the next entry, or with the first of a log that conflates for all of them."""
        if source.is_paid:
            return True
        if self._tokens - self.spent < _A_TOKEN:
            self.is_short_of_tokens = True
            return False
        reader = source.reader
        if reader.log.conflates:
            source.entries = reader.carry = reader.take_live()
            source.is_paid = True
            self.spent += len(source.entries)
        return True

    def _admit(self, source: _Source) -> bool:
        """Put the next entry into this write, after the notice of a gap before it; False if there is no room."""
        reader = source.reader
        entry = source.entries[source.index]
        need = len(entry.data) + (_NOTICE_BYTES if reader.gap else 4)
        if need > self._room or self._count == self._max_items:
            return False
        if reader.gap:
            self.items.append(reader.notice(self._held_by, self._timestamp))
        self.items.append(entry.data)
        self.taken[reader] = self.taken.get(reader, 0) + 1
        self._count += 1
        self._room -= need
        if not source.is_paid:
            self.spent += 1
        source.index += 1
        return True

    def _close(self, source: _Source) -> None:
        """Advance the reader past what was taken of it."""
        reader = source.reader
        if reader.carry:
            reader.carry = reader.carry[source.index :]
        elif source.index:
            reader.position = source.entries[source.index - 1].seq

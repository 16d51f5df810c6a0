"""What a cohort gets in one flush, when it may have the next, and what it has to lose.

The short way serves cohorts that nothing holds back: every dirty reader gives all it has. The long way (`ration.py`)
knows gaps, paced subscriptions, the rate, large tables in several writes, the journal, and wires with a cursor.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from ..protocol import MAX_FRAME_BYTES
from ..tuning import Tuning
from .cohort import Cohort, Reader
from .current_time import CurrentTime
from .cursor import cursor_bytes, frames_at
from .fanout import unfollow
from .limited_batch import LimitedBatch
from .merging import oldest
from .ring import Entry
from .wire import Wire, is_cursor_wire

_by_order: Final = attrgetter("order")
_by_channel: Final = attrgetter("channel")


class Batch(NamedTuple):
    """One write of `size` items: `frame` for every member, and for several slices what it holds of which reader."""

    frame: bytes
    size: int
    taken: dict[Reader, int]


class Batcher:
    """Takes from a cohort's readers what may go now.

    `behind` collects the readers that need the journal; the engine asks it and empties the list.
    """

    def __init__(self, tuning: Tuning, moment: CurrentTime) -> None:
        self.behind: list[Reader] = []
        self._max_batch = tuning.max_batch
        # No limit is the most that could fit: an item is longer than a byte.
        self._max_items = tuning.max_batch * tuning.max_frames if tuning.max_frames else MAX_FRAME_BYTES
        self._buffer_items = tuning.buffer_items
        self._buffer_bytes = tuning.buffer_bytes
        self._interval = tuning.interval
        self._moment = moment

    def take(self, cohort: Cohort, wire: Wire) -> Batch | None:
        """Everything that is due, framed; positions and `not_before` are advanced. None if nothing may go."""
        now = self._moment.now
        inbox = cohort.inbox
        if inbox is not None:
            batch = self._take_inbox(cohort, inbox, wire, now)
            if batch is not None:
                return batch
            unfollow(cohort)
        if wire.has_cursor:  # it is told where its readers are once they have moved, which is the long way
            return self._ration(cohort, wire, now)
        items: list[Entry] = []
        dirty = cohort.dirty
        for reader in dirty:
            log = reader.log
            if not reader.is_plain or reader.position < log.floor:
                return self._ration(cohort, wire, now)
            items += log.after(reader.position)
        count = len(items)
        bucket = cohort.bucket
        if not count or count > self._max_items or bucket.available(now) < count:
            return self._ration(cohort, wire, now)
        if len(dirty) > 1:
            items.sort(key=_by_order)
        frame = self._frame(wire, [entry.data for entry in items])
        if len(frame) > MAX_FRAME_BYTES:
            return self._ration(cohort, wire, now)

        bucket.spend(count)
        taken: dict[Reader, int] = {}
        needs_counts = len(cohort.slices) > 1
        for reader in dirty:
            log = reader.log
            log.idle[reader] = None
            if needs_counts:
                taken[reader] = log.pending(reader.position, False)
            if log.conflates:
                reader.take_live()
            else:
                reader.position = log.head
        cohort.dirty = []
        cohort.held_by = "rate"
        cohort.not_before = now + self._interval
        return Batch(frame, count, taken)

    def _take_inbox(self, cohort: Cohort, inbox: list[Entry], wire: Wire, now: float) -> Batch | None:
        """All that a follower was handed; None if it must not go at once."""
        count = len(inbox)
        if count > self._max_items or cohort.bucket.available(now) < count:
            return None
        frame = self._frame(wire, [entry.data for entry in inbox])
        if len(frame) > MAX_FRAME_BYTES:
            return None
        cohort.bucket.spend(count)
        cohort.held_by = "rate"
        cohort.not_before = now + self._interval
        taken = Counter([cohort.readers[entry.channel] for entry in inbox]) if len(cohort.slices) > 1 else {}
        inbox.clear()
        return Batch(frame, count, taken)

    def _ration(self, cohort: Cohort, wire: Wire, now: float) -> Batch | None:
        due = [reader for reader in cohort.dirty if reader.next_at <= now]
        reserve = cursor_bytes(cohort.readers) if wire.has_cursor else 0
        share = reserve // self._max_batch
        ration = LimitedBatch(cohort, now, self._max_items, self._moment.stamp(), reserve=reserve, share=share)
        ration.fill(due)
        bucket = cohort.bucket
        bucket.spend(ration.spent)
        cohort.held_by = "rate"
        if ration.items:
            cohort.not_before = now + self._interval
        if ration.is_short_of_tokens:
            self.trim(due)
            if not any(reader.carry and reader.log.conflates for reader in due):  # that is paid and may go on
                cohort.not_before = max(cohort.not_before, bucket.when(now))
        for reader in due:
            if reader.every and reader in ration.taken:
                reader.next_at = now + reader.every
            reader.update_plain()
        self.behind += ration.behind
        self._sort_out(cohort, ration.behind)
        if not ration.items:
            return None
        if is_cursor_wire(wire):
            frame = frames_at(wire, ration.items, self._max_batch, cohort.readers)
        else:
            frame = self._frame(wire, [entry.data for entry in ration.items])
        return Batch(frame, len(ration.items), ration.taken)

    @staticmethod
    def _sort_out(cohort: Cohort, behind: Sequence[Reader]) -> None:
        """Keep as dirty what has more to give; what waits for the journal is neither dirty nor idle."""
        still = []
        for reader in cohort.dirty:
            if reader in behind:
                continue
            if reader.has_more:
                still.append(reader)
            else:
                reader.log.idle[reader] = None
        cohort.dirty = still

    def _frame(self, wire: Wire, items: list[bytes]) -> bytes:
        size = self._max_batch
        if len(items) <= size:
            return wire.frame(items)
        return b"".join([wire.frame(items[at : at + size]) for at in range(0, len(items), size)])

    @staticmethod
    def next_turn(cohort: Cohort) -> float:
        """When the dirty readers of `cohort` may be flushed."""
        return max(cohort.not_before, min([reader.next_at for reader in cohort.dirty], default=0.0))

    def trim(self, readers: Sequence[Reader]) -> None:
        """Drop what a session that is held back may not wait for: `events` beyond the newest `buffer`, oldest first.

        The room is the session's, over all its channels; the other modes have theirs and lose nothing here. Costs
        O(readers) unless there is something to drop.
        """
        waiting = []
        count = 0
        for reader in readers:
            log = reader.log
            if log.channel.mode == "events":
                reader.put_back()
                if reader.position < log.floor:
                    reader.settle()
                if log.head > reader.position:
                    waiting.append(reader)
                    count += log.head - reader.position
        if not waiting:
            return
        largest = max([reader.log.largest for reader in waiting])
        if count <= self._buffer_items and count * largest <= self._buffer_bytes:
            return
        excess = count - self._buffer_items
        if self._buffer_items * largest <= self._buffer_bytes and excess <= self._buffer_items * len(waiting):
            self._drop_oldest(waiting, excess)  # else what stays is less than what goes, and is looked at instead
            return
        first = self._first_to_stay(waiting)
        for reader in waiting:
            log = reader.log
            entries = log.after(max(reader.position, log.head - self._buffer_items))
            excess = log.head - reader.position - len(entries) + bisect_left(entries, first, key=_by_order)
            if excess:
                reader.drop(excess)

    @staticmethod
    def _drop_oldest(readers: Sequence[Reader], excess: int) -> None:
        runs = [reader.log.some_after(reader.position, excess) for reader in readers]
        names = Counter(map(_by_channel, oldest(runs, excess)))
        for reader in readers:
            if number := names[reader.log.name]:
                reader.drop(number)

    def _first_to_stay(self, readers: Sequence[Reader]) -> int:
        """The `order` of the oldest item that fits the buffer, counted from the newest."""
        newest: list[Entry] = []
        for reader in readers:
            newest += reader.log.after(max(reader.position, reader.log.head - self._buffer_items))
        newest.sort(key=_by_order)
        del newest[: -self._buffer_items]
        room = self._buffer_bytes
        first = newest[-1].order + 1
        for entry in reversed(newest):
            room -= len(entry.data)
            if room < 0:
                break
            first = entry.order
        return first

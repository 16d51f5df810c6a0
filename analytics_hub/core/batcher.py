"""What a cohort gets in one flush, when it may have the next, and what it must lose.

The fast path serves cohorts that nothing holds back: every dirty reader gives everything it has. The slow path
(`limited_batch.py`) handles gaps, paced subscriptions, the rate, large tables in several writes, the journal, and wires
with a cursor.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..protocol import MAX_FRAME_BYTES
from .cohort import Cohort
from .context import Context
from .cursor import cursor_bytes, frames_at
from .fanout import unfollow
from .journal import JournalQueue
from .limited_batch import LimitedBatch
from .reader import Reader
from .ring import Entry, by_channel, by_order, merge_oldest
from .wire import Wire, is_cursor_wire


class Batch(NamedTuple):
    """One write of `size` items: `frame` for every member, and for several slices how many it took of each reader."""

    frame: bytes
    size: int
    taken: dict[Reader, int]


class Batcher:
    """Takes from the readers of a cohort what may go now."""

    def __init__(self, context: Context, journal: JournalQueue) -> None:
        tuning = context.tuning
        self._max_batch = tuning.max_batch
        # Without a limit, as many as could ever fit: an item is longer than a byte.
        self._max_items = tuning.max_batch * tuning.max_frames if tuning.max_frames else MAX_FRAME_BYTES
        self._buffer_items = tuning.buffer_items
        self._buffer_bytes = tuning.buffer_bytes
        self._interval = tuning.interval
        self._current_time = context.current_time
        self._journal = journal

    def next_batch(self, cohort: Cohort, wire: Wire) -> Batch | None:
        """Everything that is due, framed; positions and `not_before` are advanced. None if nothing may go."""
        now = self._current_time.now
        queue = cohort.queue
        if queue is not None:
            batch = self._queued_batch(cohort, queue, wire, now)
            if batch is not None:
                return batch
            unfollow(cohort)
        if wire.has_cursor:  # it needs the positions of the readers after the frame, which only the slow path has
            return self._limited_batch(cohort, wire, now)
        items: list[Entry] = []
        dirty = cohort.dirty
        for reader in dirty:
            log = reader.log
            if not reader.is_plain or reader.position < log.floor:
                return self._limited_batch(cohort, wire, now)
            items += log.after(reader.position)
        count = len(items)
        bucket = cohort.bucket
        if not count or count > self._max_items or bucket.available(now) < count:
            return self._limited_batch(cohort, wire, now)
        if len(dirty) > 1:
            items.sort(key=by_order)
        frame = self._frame(wire, [entry.data for entry in items])
        if len(frame) > MAX_FRAME_BYTES:
            return self._limited_batch(cohort, wire, now)

        bucket.spend(count)
        taken: dict[Reader, int] = {}
        needs_counts = len(cohort.slices) > 1
        for reader in dirty:
            log = reader.log
            log.idle[reader] = None
            if needs_counts:
                taken[reader] = log.count_pending(reader.position, False)
            if log.conflates:
                reader.read_live()
            else:
                reader.position = log.head
        cohort.dirty = []
        cohort.held_by = "rate"
        cohort.not_before = now + self._interval
        return Batch(frame, count, taken)

    def _queued_batch(self, cohort: Cohort, queue: list[Entry], wire: Wire, now: float) -> Batch | None:
        """Everything that a follower was handed; None if not all of it may go now."""
        count = len(queue)
        if count > self._max_items or cohort.bucket.available(now) < count:
            return None
        frame = self._frame(wire, [entry.data for entry in queue])
        if len(frame) > MAX_FRAME_BYTES:
            return None
        cohort.bucket.spend(count)
        cohort.held_by = "rate"
        cohort.not_before = now + self._interval
        taken = Counter([cohort.readers[entry.channel] for entry in queue]) if len(cohort.slices) > 1 else {}
        queue.clear()
        return Batch(frame, count, taken)

    def _limited_batch(self, cohort: Cohort, wire: Wire, now: float) -> Batch | None:
        due = [reader for reader in cohort.dirty if reader.next_at <= now]
        reserve = cursor_bytes(cohort.readers) if wire.has_cursor else 0
        share = reserve // self._max_batch
        limited = LimitedBatch(cohort, now, self._max_items, self._current_time.stamp(), reserve=reserve, share=share)
        limited.fill(due)
        bucket = cohort.bucket
        bucket.spend(limited.spent)
        cohort.held_by = "rate"
        if limited.items:
            cohort.not_before = now + self._interval
        if limited.is_short_of_tokens:
            self.trim(due)
            if not any(reader.carry and reader.log.conflates for reader in due):  # that is paid for and may continue
                cohort.not_before = max(cohort.not_before, bucket.when(now))
        for reader in due:
            if reader.period and reader in limited.taken:
                reader.next_at = now + reader.period
            reader.update_plain()
        self._update_dirty(cohort, limited.behind)
        self._journal.read(limited.behind)
        if not limited.items:
            return None
        if is_cursor_wire(wire):
            frame = frames_at(wire, limited.items, self._max_batch, cohort.readers)
        else:
            frame = self._frame(wire, [entry.data for entry in limited.items])
        return Batch(frame, len(limited.items), limited.taken)

    @staticmethod
    def _update_dirty(cohort: Cohort, behind: Sequence[Reader]) -> None:
        """Readers that have more stay dirty; those that wait for the journal are neither dirty nor idle."""
        still_dirty = []
        for reader in cohort.dirty:
            if reader in behind:
                continue
            if reader.has_more:
                still_dirty.append(reader)
            else:
                reader.log.idle[reader] = None
        cohort.dirty = still_dirty

    def _frame(self, wire: Wire, items: list[bytes]) -> bytes:
        size = self._max_batch
        if len(items) <= size:
            return wire.frame(items)
        return b"".join([wire.frame(items[at : at + size]) for at in range(0, len(items), size)])

    # --- what waits longer than the buffer allows

    def trim(self, readers: Sequence[Reader]) -> None:
        """Drop the `events` that exceed the buffer of a session that is held back, oldest first.

        The buffer is that of the session, over all its channels; the other modes have bounds of their own and lose
        nothing here. Costs O(readers) unless there is something to drop.
        """
        waiting = []
        count = 0
        for reader in readers:
            log = reader.log
            if log.channel.mode == "events":
                reader.skip_overwritten()
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
            self._drop_oldest(waiting, excess)
            return
        # Fewer items stay than go, or bytes decide: what stays is cheaper to look at.
        first = self._first_to_keep(waiting)
        for reader in waiting:
            log = reader.log
            entries = log.after(max(reader.position, log.head - self._buffer_items))
            excess = log.head - reader.position - len(entries) + bisect_left(entries, first, key=by_order)
            if excess:
                reader.drop(excess)

    @staticmethod
    def _drop_oldest(readers: Sequence[Reader], excess: int) -> None:
        runs = [reader.log.some_after(reader.position, excess) for reader in readers]
        counts = Counter(map(by_channel, merge_oldest(runs, excess)))
        for reader in readers:
            if count := counts[reader.log.name]:
                reader.drop(count)

    def _first_to_keep(self, readers: Sequence[Reader]) -> int:
        """The `order` of the oldest item that fits the buffer, counted from the newest."""
        newest: list[Entry] = []
        for reader in readers:
            newest += reader.log.after(max(reader.position, reader.log.head - self._buffer_items))
        newest.sort(key=by_order)
        del newest[: -self._buffer_items]
        room = self._buffer_bytes
        first = newest[-1].order + 1
        for entry in reversed(newest):
            room -= len(entry.data)
            if room < 0:
                break
            first = entry.order
        return first

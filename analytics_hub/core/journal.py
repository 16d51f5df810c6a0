"""Between durable channels and their journal: nothing reaches a client before the journal has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .cohort import Cohort
from .context import Context
from .events import Append, Read
from .log import Draft, DurableLog
from .reader import Reader
from .ring import Entry
from .schedule import Schedule
from .scheduler import Scheduler

RETRY: Final = 1.0
"""Seconds until a read that failed is tried again."""


class _PendingRead:
    """Readers that wait for the journal's items above one position."""

    __slots__ = ("after", "log", "readers", "wake_at")

    def __init__(self, log: DurableLog, after: int) -> None:
        self.log = log
        self.after = after
        self.readers: list[Reader] = []
        self.wake_at: float | None = None


class JournalQueue:
    """Hands out batches and reads, and receives the answers. Each channel has at most one batch with the journal."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._registry = context.registry
        self._chunk = context.tuning.journal_chunk
        self._emit = context.emit
        self._scheduler = scheduler
        self._ready: dict[DurableLog, None] = {}
        self._writing: dict[DurableLog, list[bytes]] = {}
        self._reads: dict[tuple[str, int], _PendingRead] = {}
        self.retries: Schedule[_PendingRead] = Schedule()

    @property
    def is_due(self) -> bool:
        """Whether a batch can be handed out."""
        return any(log not in self._writing for log in self._ready)

    @property
    def is_busy(self) -> bool:
        """Whether items wait for the journal or are with it, or readers wait for its items."""
        return bool(self._ready or self._writing or self._reads)

    def _log(self, name: str) -> DurableLog:
        log = self._registry.logs[name]
        assert isinstance(log, DurableLog)
        return log

    # --- writing

    def add(self, log: DurableLog, draft: Draft) -> None:
        log.drafts.append(draft)
        self._ready[log] = None

    def hand_out(self) -> None:
        """Ask the driver to append the drafts, those of one channel as one batch (group commit)."""
        for log in [log for log in self._ready if log not in self._writing]:
            del self._ready[log]
            items = self._writing[log] = log.encode_batch()
            self._emit(Append(log.name, log.head + 1, items, log.batch))

    def committed(self, name: str, journal_floor: int, order: int, now: float) -> int:
        """The batch gets its numbers and its readers; returns the last `order` used."""
        log = self._log(name)
        for item in self._writing.pop(log):
            order += 1
            log.append(Entry(order, log.head + 1, item, name))
        log.batch = []
        log.journal_floor = journal_floor
        log.published_at = now
        self._scheduler.mark(log)
        return order

    def rejected(self, name: str) -> int:
        """Discard the batch; returns how many items it had."""
        log = self._log(name)
        log.batch = []
        return len(self._writing.pop(log))

    # --- reading

    def read(self, readers: Sequence[Reader]) -> None:
        """Read from the journal for readers that are behind memory. Those at one position share an answer."""
        for reader in readers:
            log = reader.log
            assert isinstance(log, DurableLog)
            key = log.name, reader.position
            pending = self._reads.get(key)
            if pending is None:
                pending = self._reads[key] = _PendingRead(log, reader.position)
                self._emit(Read(log.name, reader.position, self._chunk))
            pending.readers.append(reader)

    def items_read(self, name: str, after: int, items: Sequence[tuple[int, bytes]] | None, now: float) -> None:
        """Give a chunk to the readers that wait for it. What the journal no longer has is a loss to be reported."""
        pending = self._reads.pop((name, after), None) or _PendingRead(self._log(name), after)
        log = pending.log
        if items is None:
            self._reads[name, after] = pending
            self.retries.at(pending, now + RETRY)
            return
        self.retries.cancel(pending)
        # Older than anything in memory, so `order` 0 sorts them first.
        entries = [Entry(0, seq, data, name) for seq, data in items]
        first = entries[0].seq if entries else log.floor + 1
        for reader in pending.readers:
            cohort: Cohort | None = reader.cohort
            if cohort is None or reader.position != after or reader.carry:
                continue  # its session has left, or an earlier answer was as good
            if first > after + 1:
                reader.drop(first - 1 - after)
            reader.carry = entries
            reader.position = entries[-1].seq if entries else log.floor
            reader.update_plain()
            log.idle.pop(reader, None)
            if reader not in cohort.dirty:
                cohort.dirty.append(reader)
            self._scheduler.request_turn(cohort, now)

    def handle_timer(self, now: float) -> None:
        for pending in self.retries.due(now):
            if any(reader.cohort is not None for reader in pending.readers):
                self._emit(Read(pending.log.name, pending.after, self._chunk))
            else:
                del self._reads[pending.log.name, pending.after]

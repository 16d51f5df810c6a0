"""Between durable channels and their journal: nothing reaches a client before the journal has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .cohort import Reader
from .events import Append, Event, Read
from .log import Draft, DurableLog, entries_of
from .membership import Membership
from .registry import ChannelRegistry
from .ring import Entry
from .schedule import Schedule

RETRY: Final = 1.0
"""Seconds until a read that failed is tried again."""


class _Retry:
    """A read that failed, waiting."""

    __slots__ = ("after", "log", "wake_at")

    def __init__(self, log: DurableLog, after: int) -> None:
        self.log = log
        self.after = after
        self.wake_at: float | None = None


class JournalQueue:
    """Hands out batches and reads, and takes the answers. At most one batch for each channel is with the journal."""

    def __init__(
        self, registry: ChannelRegistry, placement: Membership, chunk: int, ask: Callable[[Event], None]
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._chunk = chunk
        self._ask = ask
        self._ready: dict[DurableLog, list[bytes] | None] = {}
        self._writing: dict[DurableLog, list[bytes]] = {}
        self.retries: Schedule[_Retry] = Schedule()

    @property
    def is_due(self) -> bool:
        """Whether a batch is waiting to be handed out."""
        return any(log not in self._writing for log in self._ready)

    @property
    def is_busy(self) -> bool:
        """Whether items are waiting for the journal, or with it."""
        return bool(self._ready or self._writing)

    def _log(self, name: str) -> DurableLog:
        log = self._registry.logs[name]
        assert isinstance(log, DurableLog)
        return log

    # --- writing

    def draft(self, log: DurableLog, draft: Draft) -> None:
        log.drafts.append(draft)
        self._ready[log] = None

    def hand_out(self) -> None:
        """Ask for what was drafted to be kept, everything of a channel as one batch (group commit)."""
        for log in [log for log in self._ready if log not in self._writing]:
            del self._ready[log]
            items = self._writing[log] = log.encode_batch()
            self._ask(Append(log.name, log.head + 1, items, log.batch))

    def committed(self, name: str, kept: int, order: int, now: float) -> int:
        """Give the batch its numbers and its readers; returns the last `order` used."""
        log = self._log(name)
        for item in self._writing.pop(log):
            order += 1
            log.append(Entry(order, log.head + 1, item, name))
        log.batch = []
        log.kept = kept
        log.published_at = now
        self._placement.mark(log)
        return order

    def rejected(self, name: str) -> int:
        """Forget the batch; returns how many items it had."""
        log = self._log(name)
        log.batch = []
        return len(self._writing.pop(log))

    # --- reading

    def ask(self, readers: Sequence[Reader]) -> None:
        """Ask the journal on behalf of readers that are behind memory. Those at one position share an answer."""
        for reader in readers:
            log = reader.log
            assert isinstance(log, DurableLog)
            waiting = log.reading.get(reader.position)
            if waiting is None:
                log.reading[reader.position] = [reader]
                self._ask(Read(log.name, reader.position, self._chunk))
            else:
                waiting.append(reader)

    def answer(self, name: str, after: int, items: Sequence[tuple[int, bytes]] | None, now: float) -> None:
        """Give a chunk to those who wait for it. What the journal no longer has is a loss they will be told of."""
        log = self._log(name)
        readers = log.reading.pop(after, [])
        if items is None:
            log.reading[after] = readers
            self.retries.at(_Retry(log, after), now + RETRY)
            return
        entries = entries_of(name, items)
        first = entries[0].seq if entries else log.floor + 1
        for reader in readers:
            cohort = reader.cohort
            if cohort is None or reader.position != after or reader.carry:
                continue  # its session left, or an earlier answer was as good
            if first > after + 1:
                reader.drop(first - 1 - after)
            reader.carry = entries
            reader.position = entries[-1].seq if entries else log.floor
            reader.update_plain()
            reader.log.idle.pop(reader, None)
            if reader not in cohort.dirty:
                cohort.dirty.append(reader)
            self._placement.wants(cohort, now)

    def handle_timer(self, now: float) -> None:
        for retry in self.retries.due(now):
            if any(reader.cohort is not None for reader in retry.log.reading.get(retry.after, ())):
                self._ask(Read(retry.log.name, retry.after, self._chunk))
            else:
                retry.log.reading.pop(retry.after, None)

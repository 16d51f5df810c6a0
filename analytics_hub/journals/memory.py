"""A journal in memory. It fulfils the contract of a journal, except that it does not outlive the process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic

from anyio.lowlevel import checkpoint

from ..contracts import JournalState


class _ChannelItems:
    """The items of one channel."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.head = 0
        self.nbytes = 0
        self.items: deque[tuple[float, bytes]] = deque()  # time, item

    @property
    def oldest(self) -> int:
        return self.head - len(self.items) + 1


class MemoryJournal:
    """Keeps at most `max_items` items, `max_bytes` bytes and `max_age` seconds of each durable channel.

    A forked process begins anew: two processes that continued one numbering would give a number to two items.
    """

    def __init__(
        self,
        *,
        max_items: int = 100_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_age: float = 7 * 86_400.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._channels: dict[str, _ChannelItems] = {}
        self._process = os.getpid()

    async def open(self, channel: str, epoch: str) -> JournalState:
        await checkpoint()
        if self._process != os.getpid():
            self._channels.clear()
            self._process = os.getpid()
        log = self._channels.setdefault(channel, _ChannelItems(epoch))
        return JournalState(log.epoch, log.oldest, log.head)

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        await checkpoint()
        log = self._channels[channel]
        assert first == log.head + 1, f"item {first} after {log.head}"
        now = self._clock()
        for item in items:
            log.items.append((now, item))
            log.nbytes += len(item)
        log.head += len(items)
        while log.items and (
            len(log.items) > self._max_items or log.nbytes > self._max_bytes or now - log.items[0][0] > self._max_age
        ):
            log.nbytes -= len(log.items.popleft()[1])
        return log.oldest

    async def read(self, channel: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        await checkpoint()
        log = self._channels[channel]
        start = max(after + 1, log.oldest)
        skipped = start - log.oldest
        return [(start + i, item) for i, (_, item) in enumerate(islice(log.items, skipped, skipped + limit))]

"""A journal in memory: the whole contract of a journal but that it outlives the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic

from anyio.lowlevel import checkpoint

from ..contracts import JournalState


class _Shelf:
    """What is kept of one channel."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.head = 0
        self.nbytes = 0
        self.items: deque[tuple[float, bytes]] = deque()  # when it came, the item

    @property
    def oldest(self) -> int:
        return self.head - len(self.items) + 1


class MemoryJournal:
    """Keeps at most `max_items` items, `max_bytes` bytes and `max_age` seconds of each durable channel."""

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
        self._shelves: dict[str, _Shelf] = {}

    async def open(self, channel: str, epoch: str) -> JournalState:
        await checkpoint()
        shelf = self._shelves.setdefault(channel, _Shelf(epoch))
        return JournalState(shelf.epoch, shelf.oldest, shelf.head)

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        await checkpoint()
        shelf = self._shelves[channel]
        assert first == shelf.head + 1, f"item {first} after {shelf.head}"
        now = self._clock()
        for item in items:
            shelf.items.append((now, item))
            shelf.nbytes += len(item)
        shelf.head += len(items)
        while shelf.items and (
            len(shelf.items) > self._max_items
            or shelf.nbytes > self._max_bytes
            or now - shelf.items[0][0] > self._max_age
        ):
            shelf.nbytes -= len(shelf.items.popleft()[1])
        return shelf.oldest

    async def read(self, channel: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        await checkpoint()
        shelf = self._shelves[channel]
        start = max(after + 1, shelf.oldest)
        skipped = start - shelf.oldest
        return [(start + i, item) for i, (_, item) in enumerate(islice(shelf.items, skipped, skipped + limit))]

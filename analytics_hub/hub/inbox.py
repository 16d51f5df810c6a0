"""The queue of what other threads publish, until the event loop of the hub takes it over."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Final, NamedTuple

from ..exceptions import HubOverloaded

MAX_ITEMS: Final = 65_536
MAX_BYTES: Final = 64 * 1024 * 1024


class QueuedItem(NamedTuple):
    """A publication from another thread: encoded data, and when it was published (RFC 3339)."""

    channel: str
    data: bytes
    type: str | None
    key: str | None
    stamp: str
    deleted: bool


class Inbox:
    """Bounded by items and bytes. `wake` is called, on the other thread, when the queue is no longer empty."""

    def __init__(
        self, wake: Callable[[], None] = lambda: None, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.wake = wake
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._lock = RLock()  # a signal handler may publish in the middle of what its own thread publishes
        self._items: list[QueuedItem] = []
        self._nbytes = 0

    def put(self, item: QueuedItem) -> None:
        """Queue an item; raises `HubOverloaded` if there is no room. Never waits for the event loop."""
        with self._lock:
            if len(self._items) >= self._max_items or self._nbytes + len(item.data) > self._max_bytes:
                raise HubOverloaded(
                    f"{len(self._items)} items of {self._nbytes} bytes from other threads wait for the hub; the limits "
                    f"are {self._max_items} items and {self._max_bytes} bytes"
                )
            is_first = not self._items
            self._items.append(item)
            self._nbytes += len(item.data)
        if is_first:
            self.wake()

    def drain(self) -> list[QueuedItem]:
        """Everything that is queued, in order."""
        if not self._items:
            return []
        with self._lock:
            items, self._items = self._items, []
            self._nbytes = 0
        return items

"""The queue of what other threads publish, until the event loop of the hub takes it over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import RLock
from typing import Any, Final, NamedTuple

import anyio.lowlevel

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


def threadsafe() -> Callable[[Callable[[], None]], None]:
    """A function that makes the running event loop call another one soon, and may itself be called from any thread.

    anyio's own `from_thread.run_sync` waits for the result, but a publisher must never wait.
    """
    loop = _native_loop()
    schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def call_soon(call: Callable[[], None]) -> None:
        try:
            schedule(call)
        except RuntimeError:  # the event loop has ended, and with it the hub: asyncio and Trio both raise this
            return

    return call_soon


def task_finder() -> Callable[[], bool]:
    """A function that returns whether a task of this event loop is running at the moment.

    If none is, a signal handler may have interrupted the event loop itself: its sleep, or its queue of callbacks.
    """
    if hasattr(_native_loop(), "call_soon_threadsafe"):
        current_task: Callable[[], object] = asyncio.current_task
    else:
        from trio.lowlevel import current_task  # Trio need not be installed where it does not run

    def is_in_task() -> bool:
        try:
            return current_task() is not None
        except RuntimeError:
            return False

    return is_in_task


def _native_loop() -> Any:
    """asyncio's loop or Trio's token."""
    return anyio.lowlevel.current_token().native_token

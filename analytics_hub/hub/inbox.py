"""Where other threads leave what they publish, until the hub's event loop takes it."""

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
    """One publication on its way: encoded data, and when it was published (RFC 3339)."""

    channel: str
    data: bytes
    type: str | None
    key: str | None
    stamp: str
    deleted: bool


class Inbox:
    """Bounded by items and bytes. `wake` is called, from the other thread, when the first parcel comes."""

    def __init__(self, wake: Callable[[], None], max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> None:
        self._wake = wake
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._lock = RLock()  # a signal handler may publish in the middle of what its own thread publishes
        self._parcels: list[QueuedItem] = []
        self._nbytes = 0

    def put(self, parcel: QueuedItem) -> None:
        """Leave a parcel; raises `HubOverloaded` if there is no room. Never waits for the event loop."""
        with self._lock:
            if len(self._parcels) >= self._max_items or self._nbytes + len(parcel.data) > self._max_bytes:
                raise HubOverloaded(
                    f"{len(self._parcels)} items of {self._nbytes} bytes from other threads wait for the hub; at most "
                    f"{self._max_items} items and {self._max_bytes} bytes may"
                )
            is_first = not self._parcels
            self._parcels.append(parcel)
            self._nbytes += len(parcel.data)
        if is_first:
            self._wake()

    def take(self) -> list[QueuedItem]:
        """Everything there is, in the order it came."""
        if not self._parcels:
            return []
        with self._lock:
            parcels, self._parcels = self._parcels, []
            self._nbytes = 0
        return parcels


def threadsafe(call: Callable[[], None]) -> Callable[[], None]:
    """A function that makes the running event loop call `call` soon, and may itself be called from any thread.

    anyio's own `from_thread.run_sync` waits for the result, and a publisher must never wait.
    """
    loop = _native_loop()
    schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def wake() -> None:
        try:
            schedule(call)
        except RuntimeError:  # the event loop has ended, and with it the hub: asyncio and Trio both say so like this
            return

    return wake


def task_finder() -> Callable[[], bool]:
    """A function that says whether a task of this event loop runs at the moment.

    If none does, a signal handler may have cut into the event loop itself: into its sleep, or its lists of who is next.
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

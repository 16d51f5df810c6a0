"""The loop of the native transports: readiness, timers and an error boundary around every connection.

A connection is a `Handler` to it. One task runs it, in slices, so that the event loop around it stays fair to the
application however many sockets are ready.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from ...telemetry import logger
from .poller import READ, WRITE, Handler, Poller

SLICE: Final = 0.002
"""Seconds of work after which the event loop gets a turn. A task that slept needs up to three turns of asyncio's loop
to continue, so clients that flood delay a flush by three of these."""
TICK: Final = 0.05
"""Seconds to which timers are rounded up. Thousands of them then cost at most twenty wake-ups a second."""
MAX_SLEEP: Final = 0.25
"""Seconds that the loop sleeps without a timer, so that it soon sees that a hub drains, or a clock was moved."""


class Timers:
    """A wheel of coarse ticks. A handler is called once, at its time or up to a tick later."""

    def __init__(self) -> None:
        self._ticks: dict[int, set[Handler]] = {}

    def add(self, when: float, handler: Handler) -> None:
        self._ticks.setdefault(math.ceil(when / TICK), set()).add(handler)

    def discard(self, when: float, handler: Handler) -> None:
        """Undo `add`, in O(1). Harmless if the handler was called already."""
        if handlers := self._ticks.get(tick := math.ceil(when / TICK)):
            handlers.discard(handler)
            if not handlers:
                del self._ticks[tick]

    def pop_due(self, now: float) -> Iterator[Handler]:
        # Sorted, so that the same run gives the same order; there are some hundred ticks at most.
        for tick in sorted(tick for tick in self._ticks if tick * TICK <= now):
            yield from self._ticks.pop(tick, ())

    def next_time(self) -> float:
        return min(self._ticks, default=math.inf) * TICK


class SelectorLoop:
    """Calls handlers when their sockets are ready or their timers expire. For one task and its thread."""

    def __init__(self, poller: Poller, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.now = clock()
        """The time at the start of the current slice: one float object, shared by all handlers that keep a time."""
        self.timers = Timers()
        self._poller = poller
        self._soon: list[Handler] = []
        self._is_waiting = False

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._poller.watch(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        self._poller.forget(sock)

    def call_soon(self, handler: Handler) -> None:
        """Treat `handler` as ready in the next turn, for work of which the kernel does not know."""
        self._soon.append(handler)
        if self._is_waiting:
            self._is_waiting = False
            self._poller.wake()

    async def run(self, is_finished: Callable[[], bool]) -> None:
        while not is_finished():
            if self._soon:
                await anyio.lowlevel.checkpoint()
            else:
                await self._wait()
            await self._turn()

    async def _wait(self) -> None:
        self._is_waiting = True
        with anyio.move_on_after(max(0.0, min(MAX_SLEEP, self.timers.next_time() - self.clock()))):
            await self._poller.wait()
        self._is_waiting = False

    async def _turn(self) -> None:
        """Call every handler that is ready now, once, with pauses for the event loop in between."""
        ends = self._begin_slice()
        soon, self._soon = self._soon, []
        work = self._poller.poll()
        work.extend((handler, READ | WRITE) for handler in soon)
        work.extend((handler, 0) for handler in self.timers.pop_due(self.now))
        for handler, events in work:
            # A handler may have closed since; it ignores late calls.
            self._call(handler, events)
            if time.perf_counter() > ends:
                await anyio.lowlevel.checkpoint()
                ends = self._begin_slice()

    def _begin_slice(self) -> float:
        self.now = self.clock()
        return time.perf_counter() + SLICE

    def _call(self, handler: Handler, events: int) -> None:
        """The boundary: an exception of one connection ends that connection and no other."""
        try:
            handler.socket_ready(events) if events else handler.timer_expired()
        except Exception as error:  # noqa: BLE001
            try:
                handler.fail(error)
            except Exception:  # noqa: BLE001  # a handler that cannot even end
                logger.exception("a connection could not be ended")

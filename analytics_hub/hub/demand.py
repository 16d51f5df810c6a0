"""Which parts of a channel or pattern have subscribers, so that a data source can run only while it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self
from weakref import WeakSet

import anyio
from anyio.lowlevel import checkpoint

from ..core.registry import ChannelRegistry
from ..core.statistics import Demand


class DemandChanges:
    """An async iterator: the demand for a channel now, and then whenever it has changed; the newest one if it changed
    several times meanwhile. Ends with the hub. `current` is the demand at this moment."""

    def __init__(self, channel: str, measure: Callable[[], Demand]) -> None:
        self.channel = channel
        self._measure = measure
        self._last: Demand | None = None
        self._has_news = anyio.Event()
        self._is_over = False

    @property
    def current(self) -> Demand:
        return self._measure()

    def notify(self) -> None:
        """The demand may have changed."""
        self._has_news.set()

    def end(self) -> None:
        """The hub shuts down."""
        self._is_over = True
        self._has_news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Demand:
        await checkpoint()
        while not self._is_over:
            self._has_news = anyio.Event()
            demand = self._measure()
            if demand != self._last:
                self._last = demand
                return demand
            await self._has_news.wait()
        raise StopAsyncIteration


class DemandObservers:
    """The iterators of one life. Only weak references are kept: one that is used no longer costs nothing."""

    def __init__(self, registry: ChannelRegistry) -> None:
        self._registry = registry
        self._observers: dict[str, WeakSet[DemandChanges]] = {}

    def observe(self, declared: str) -> DemandChanges:
        changes = DemandChanges(declared, lambda: self._registry.demand(declared))
        self._observers.setdefault(declared, WeakSet()).add(changes)
        self._registry.observed.add(declared)
        return changes

    def notify(self, declared: str) -> None:
        observers = self._observers.get(declared)
        if not observers:
            self._observers.pop(declared, None)
            self._registry.observed.discard(declared)
            return
        for changes in observers:
            changes.notify()

    def end(self) -> None:
        for observers in self._observers.values():
            for changes in observers:
                changes.end()

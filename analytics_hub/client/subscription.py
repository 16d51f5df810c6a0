"""What a user iterates: the items of one channel, and the gaps between them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..protocol import Position
from .feed import Feed
from .protocol import ClientProtocol
from .values import Gap, Item

T = TypeVar("T")


class Subscription(Generic[T]):
    """One channel as an async context manager and iterator, made by `HubClient.subscribe`.

    Entering it waits for the server's answer and raises `UnknownChannel`, `PermissionDenied` or `InvalidChannel` if
    that is a refusal. Iterating raises `InvalidItem` for an item that does not fit `type`, after which it goes on; and,
    once what came before was handed out, why the subscription or the client has ended. Leaving it unsubscribes without
    waiting.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        begin: Callable[[], Feed],
        clock: Callable[[], float],
        nudge: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._begin = begin
        self._clock = clock
        self._nudge = nudge
        self._feed: Feed | None = None
        self._news = anyio.Event()

    async def __aenter__(self) -> Self:
        await checkpoint()
        feed = self._feed = self._begin()
        feed.notify = self._notify
        self._nudge()
        try:
            while not feed.has_begun and feed.error is None:
                await self._wait()
            if not feed.has_begun and feed.error is not None:
                raise feed.error.with_traceback(None)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._feed is not None:
            self._protocol.unsubscribe(self._feed, self._clock())
            self._nudge()

    @property
    def position(self) -> Position | None:
        """Where the reader stands: `subscribe(channel, since=position)` goes on from here, also in another process."""
        return None if self._feed is None else self._feed.taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item[T] | Gap:
        feed = self._feed
        if feed is None:
            raise RuntimeError("enter the subscription first: async with client.subscribe(...) as items")
        await checkpoint()  # before anything is taken, so that a cancelled reader has lost nothing
        while not feed.has_values:
            if feed.error is not None:
                raise feed.error.with_traceback(None)
            await self._wait()
        try:
            value: Item[T] | Gap = self._protocol.take(feed, self._clock())
        finally:
            if self._protocol.has_output:
                self._nudge()
        return value

    def _notify(self) -> None:
        self._news.set()

    async def _wait(self) -> None:
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

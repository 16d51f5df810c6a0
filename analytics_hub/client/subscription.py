"""The subscription as an application holds it: the items of one channel, and the gaps between them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..protocol import Position
from .protocol import ClientProtocol
from .subscription_state import SubscriptionState
from .values import Gap, Item

T = TypeVar("T")


class Subscription(Generic[T]):
    """One channel as an async context manager and iterator, created by `HubClient.subscribe`.

    Entering it waits for the answer of the server and raises `UnknownChannel`, `PermissionDenied` or `InvalidChannel`
    if the server refuses. Iterating raises `InvalidItem` for an item that does not fit `type`, and continues with the
    next one; after the items that were received, it raises why the subscription or the client has ended. Leaving the
    context unsubscribes without waiting.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        subscribe: Callable[[], SubscriptionState],
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._subscribe = subscribe
        self._clock = clock
        self._wake = wake
        self._state: SubscriptionState | None = None
        self._has_changed = anyio.Event()

    async def __aenter__(self) -> Self:
        await checkpoint()
        state = self._state = self._subscribe()
        state.on_change = self._on_change
        self._wake()
        try:
            while not state.was_accepted and state.error is None:
                await self._wait()
            if not state.was_accepted and state.error is not None:
                await checkpoint_if_cancelled()
                raise state.error.with_traceback(None)
        except BaseException:
            self._unsubscribe()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._state is not None:
            self._protocol.unsubscribe(self._state, self._clock())
            self._wake()

    @property
    def position(self) -> Position | None:
        """The position of the reader: `subscribe(channel, since=position)` continues here, also in another process."""
        return None if self._state is None else self._state.read_position

    @property
    def notice(self) -> str | None:
        """What the server has said with its last acceptance: that nothing was published yet to a member of a pattern,
        which any name creates, a misspelt one too."""
        return None if self._state is None else self._state.notice

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item[T] | Gap:
        state = self._state
        if state is None:
            raise RuntimeError("enter the subscription first: async with client.subscribe(...) as items")
        await checkpoint()  # before a value is removed, so that a cancelled reader loses nothing
        while not state.has_values:
            if state.error is not None:
                await checkpoint_if_cancelled()  # a cancellation may have ended the client first
                raise state.error.with_traceback(None)
            await self._wait()
        try:
            value: Item[T] | Gap = self._protocol.next_value(state, self._clock())
        finally:
            if self._protocol.has_output:
                self._wake()
        return value

    def _on_change(self) -> None:
        self._has_changed.set()

    async def _wait(self) -> None:
        if self._has_changed.is_set():
            self._has_changed = anyio.Event()
        await self._has_changed.wait()

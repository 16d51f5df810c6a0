"""Calls functions of the application: `authenticate`, `authorize`, and what an authenticator runs in the background.

They are the code of others, and may block, raise anything, or never return. So each is called in a way that concerns
one client alone: a coroutine function in the event loop, any other function in a worker thread, unless it is marked as
`cheap`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar, overload

import anyio
import anyio.to_thread

from .event_loop import native_loop, threadsafe

T = TypeVar("T")

MAX_THREADS: Final = 40
"""Worker threads of one hub, those included that run on for a client that has left; further calls wait."""

_current: ContextVar[HookThreads | None] = ContextVar("hook_threads", default=None)


@overload
async def call_hook(function: Callable[..., Awaitable[T]], *args: object) -> T: ...
@overload
async def call_hook(function: Callable[..., T | Awaitable[T]], *args: object) -> T: ...
async def call_hook(function: Callable[..., Any], *args: object) -> Any:
    """The result of `function`, called in the event loop and awaited if it is awaitable. Raises what it raises.

    A cancellation that was not requested for the running task, such as that of a task which the function waits for,
    becomes `RuntimeError`: in a task group it would end everything that runs beside it.
    """
    return await _without_foreign_cancellation(function, _call(function, args))


async def call_nested_hook(function: Callable[..., T | Awaitable[T]], *args: object) -> T:
    """As `HookThreads.call` of the hub that is calling the hook in which this is called."""
    return await (_current.get() or _STANDALONE).call(function, *args)


async def _call(function: Callable[..., Any], args: Sequence[object]) -> Any:
    found = function(*args)
    return await found if inspect.isawaitable(found) else found


async def _without_foreign_cancellation(function: Callable[..., Any], call: Awaitable[T]) -> T:
    try:
        return await call
    except (anyio.get_cancelled_exc_class(), asyncio.CancelledError):  # the second can reach Trio from a thread
        if _is_cancelled():
            raise
    raise RuntimeError(f"{function!r} was cancelled, but not by its caller")


def _is_cancelled() -> bool:
    """Whether the running task is being cancelled."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class HookThreads:
    """Calls the hooks of one hub; those that may block in at most `limit` worker threads.

    A thread cannot be cancelled. A call that is cancelled is over for its client at once, but its thread counts until
    the function returns: otherwise clients that leave would begin ever more of them.
    """

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._loop: object = None
        self._limiter: anyio.CapacityLimiter

    @overload
    async def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T: ...
    @overload
    async def call(self, function: Callable[..., T | Awaitable[T]], *args: object) -> T: ...
    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        """As `call_hook`, in a worker thread and in a copy of this context unless `function` is cheap."""
        before = _current.get()
        _current.set(self)
        try:
            if is_cheap(function):
                return await call_hook(function, *args)
            return await _without_foreign_cancellation(function, self._call_in_thread(function, args))
        finally:
            _current.set(before)

    async def _call_in_thread(self, function: Callable[..., Any], args: Sequence[object]) -> Any:
        if self._loop is not (loop := native_loop()):  # hubs are made before there is one, and may serve again
            self._loop, self._limiter = loop, anyio.CapacityLimiter(self._limit)
        call = _ThreadCall(self._limiter, function, args)
        await self._limiter.acquire_on_behalf_of(call)
        try:
            # The limiter of anyio itself is free again as soon as the call is cancelled.
            await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        except BaseException:
            call.abandon()
            raise
        return await call.result if inspect.isawaitable(call.result) else call.result


class _ThreadCall:
    """One call in a worker thread, and its place in the limiter."""

    def __init__(self, limiter: anyio.CapacityLimiter, function: Callable[..., Any], args: Sequence[object]) -> None:
        self.result: Any = None
        self._limiter = limiter
        self._function = function
        self._args = args
        self._has_begun = Lock()
        """Acquired by the thread, or by `abandon` if that is first."""
        self._is_abandoned = False
        self._end_soon = partial(threadsafe(), self._end)

    def run(self) -> None:
        """In the thread."""
        if not self._has_begun.acquire(blocking=False):
            return
        try:
            self.result = self._function(*self._args)
        finally:
            self._end_soon()

    def _end(self) -> None:
        self._limiter.release_on_behalf_of(self)
        if self._is_abandoned:
            self._discard_result()

    def abandon(self) -> None:
        """The call has raised or was cancelled, and its result is not wanted."""
        self._is_abandoned = True
        if self._has_begun.acquire(blocking=False):
            self._end()
        else:
            self._discard_result()

    def _discard_result(self) -> None:
        if inspect.iscoroutine(self.result):
            self.result.close()  # otherwise Python warns that it was never awaited


def is_cheap(function: Callable[..., object]) -> bool:
    """Whether `function` may be called in the event loop: a coroutine function, or one marked by `contracts.cheap`."""
    while isinstance(function, partial) and not _is_marked(function):
        function = function.func
    call = getattr(function, "__call__", None)  # noqa: B004 - an object of a class of the application's
    return any(_is_marked(each) or inspect.iscoroutinefunction(each) for each in (function, call))


def _is_marked(function: object) -> bool:
    return getattr(function, "is_cheap", False) is True


_STANDALONE: Final = HookThreads()
"""For authenticators that are called without a hub."""

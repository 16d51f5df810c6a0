"""Continues a call of a server's `send` that has to wait, where the flush has begun it (asyncio only).

A coroutine that enters a timeout, a lock or a cancel scope remembers the task that it runs in. So that must be one task
from its first step to its last, never that of the flush, and one that can be cancelled: a borrowed one. The task itself
sleeps. The steps of the call are run in its name, by the functions that asyncio has for other kinds of tasks
("Extending" in its documentation), from the flush and from the futures that are waited for; it wakes only to be
cancelled.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, NamedTuple, Protocol


class Caller(Protocol):
    """Is notified of the end of its call."""

    def call_done(self, error: BaseException | None) -> None: ...


class Call(NamedTuple):
    """A call of `send` and the context that it runs in."""

    caller: Caller
    context: Context
    coroutine: Coroutine[Any, Any, None]


def run_as(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)`, with `task` as the current task."""
    running = asyncio.current_task(loop)
    if running is not None:
        _leave_task(loop, running)
    _enter_task(loop, task)
    try:
        return call(*arguments)
    finally:
        _leave_task(loop, task)
        if running is not None:
            _enter_task(loop, running)


class BorrowedTask:
    """A task that one call at a time runs as."""

    __slots__ = ("_call", "_future", "_idle", "_loop", "_spare", "task")

    def __init__(self, spare: list[BorrowedTask]) -> None:
        self._spare = spare
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        self._future: Any = None
        self._idle: asyncio.Future[None] = self._loop.create_future()
        """Waited for by the task until it is cancelled."""
        sleeping = self._sleep()
        sleeping.send(None)  # into its `try`: a task that is cancelled before its first step throws there
        self.task = self._loop.create_task(sleeping)

    def continue_call(self, call: Call, future: Any) -> None:
        """Run the rest of `call`, which waits for `future`."""
        self._call = call
        self._wait_for(future)

    def _wait_for(self, future: Any) -> None:
        self._future = future
        if future is None:  # a bare turn of the event loop
            self._loop.call_soon(self._future_done, None)
        elif getattr(future, "_asyncio_future_blocking", False):
            future._asyncio_future_blocking = False  # as a task acknowledges it
            future.add_done_callback(self._future_done)
        else:
            self._finish(RuntimeError(f"send awaits {type(future).__name__}; it must be a future of asyncio"))

    def _future_done(self, future: Any) -> None:
        if self._call is not None and future is self._future:  # else it was cancelled meanwhile
            self._step(self._call.coroutine.send, None)

    def _step(self, resume: Callable[[Any], Any], value: object) -> None:
        assert self._call is not None
        try:
            future = run_as(self.task, self._loop, self._call.context.run, resume, value)
        except StopIteration:
            self._finish(None)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the server or a middleware
            self._finish(error)
        else:
            self._wait_for(future)

    def _finish(self, error: BaseException | None) -> None:
        assert self._call is not None
        caller, self._call, self._future = self._call.caller, None, None
        # The cancellation may have been taken back since; the task wakes up all the same, and ends.
        if not self.task.cancelling() and not self._idle.cancelled():
            self._spare.append(self)
        caller.call_done(error)

    async def _sleep(self) -> None:
        idle: Awaitable[None] = asyncio.sleep(0)  # until the task's first step
        while True:
            try:
                await idle
            except asyncio.CancelledError as cancelled:
                if self._call is None:
                    raise
                future, self._future = self._future, cancelled
                if future is not None:
                    future.cancel()
                self._step(self._call.coroutine.throw, cancelled)
                if self._call is None:
                    return
                self._idle = self._loop.create_future()
            idle = self._idle


class BorrowedTasks:
    """The spare tasks: as many as were needed at the same time, and no more than there are clients."""

    __slots__ = ("spare",)

    def __init__(self) -> None:
        self.spare: list[BorrowedTask] = []

    def shrink(self, max_spare: int) -> None:
        """End the spare tasks beyond `max_spare`."""
        while len(self.spare) > max_spare:
            self.spare.pop().task.cancel()

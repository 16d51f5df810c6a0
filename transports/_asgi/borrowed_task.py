"""What goes on with a call of a server's `send` that has to wait, where the flush has begun it (asyncio alone).

A coroutine that enters a timeout, a lock or a cancel scope remembers the task that it runs in. So that must be one task
from its first step to its last, never that of the flush, and one that can be cancelled: a courier's. The task itself
sleeps. Its steps are taken as if it did, by the calls that asyncio has for other kinds of tasks ("Extending" in its
documentation), in the flush and by the futures that are waited for; it wakes only to be cancelled.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, NamedTuple, Protocol


class Sender(Protocol):
    """Who hears how it ended."""

    def ended(self, error: BaseException | None) -> None: ...


class Call(NamedTuple):
    """A call of `send` and the context that it runs in."""

    sender: Sender
    context: Context
    coroutine: Coroutine[Any, Any, None]


def run_as(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)` as if `task` did it."""
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
    """The task of one call at a time."""

    __slots__ = ("_call", "_future", "_loop", "_rest", "_spare", "task")

    def __init__(self, spare: list[BorrowedTask]) -> None:
        self._spare = spare
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        self._future: Any = None
        self._rest: asyncio.Future[None] = self._loop.create_future()
        """What the task waits for while nobody cancels it."""
        sleeping = self._sleep()
        sleeping.send(None)  # into its `try`: a task that is cancelled before its first step throws there
        self.task = self._loop.create_task(sleeping)

    def carry(self, call: Call, future: Any) -> None:
        """Go on with `call`, which waits for `future`."""
        self._call = call
        self._go_on_after(future)

    def _go_on_after(self, future: Any) -> None:
        self._future = future
        if future is None:  # a bare turn of the event loop
            self._loop.call_soon(self._go_on, None)
        elif getattr(future, "_asyncio_future_blocking", False):
            future._asyncio_future_blocking = False  # as a task answers: it has been taken note of
            future.add_done_callback(self._go_on)
        else:
            self._finish(RuntimeError(f"send awaits {type(future).__name__}, which is no future of asyncio"))

    def _go_on(self, future: Any) -> None:
        if self._call is not None and future is self._future:  # else it was cancelled meanwhile
            self._step(self._call.coroutine.send, None)

    def _step(self, resume: Callable[[Any], Any], value: object) -> None:
        assert self._call is not None
        try:
            future = run_as(self.task, self._loop, self._call.context.run, resume, value)
        except StopIteration:
            self._finish(None)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever is around the server's `send`
            self._finish(error)
        else:
            self._go_on_after(future)

    def _finish(self, error: BaseException | None) -> None:
        assert self._call is not None
        sender, self._call, self._future = self._call.sender, None, None
        # Whoever has cancelled it may have taken that back since; its task wakes up all the same, and ends.
        if not self.task.cancelling() and not self._rest.cancelled():
            self._spare.append(self)
        sender.ended(error)

    async def _sleep(self) -> None:
        rest: Awaitable[None] = asyncio.sleep(0)  # until the task's first step
        while True:
            try:
                await rest
            except asyncio.CancelledError as cancelled:
                if self._call is None:
                    raise
                future, self._future = self._future, cancelled
                if future is not None:
                    future.cancel()
                self._step(self._call.coroutine.throw, cancelled)
                if self._call is None:
                    return
                self._rest = self._loop.create_future()
            rest = self._rest


class BorrowedTasks:
    """Those that wait to be needed: as many as were needed at the same time, and no more than there are clients."""

    __slots__ = ("spare",)

    def __init__(self) -> None:
        self.spare: list[BorrowedTask] = []

    def dismiss(self, most: int) -> None:
        """Keep at most so many."""
        while len(self.spare) > most:
            self.spare.pop().task.cancel()

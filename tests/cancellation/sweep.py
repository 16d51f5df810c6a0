"""Cancels an operation at its first wait, then at its second, and so on until it completes.

A wait is any moment at which a task of the operation yields to the event loop: the task that runs it, and every task
that it starts.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import coroutine
from typing import Any, Final, TypeVar

import anyio
import trio

T = TypeVar("T")

Work = Callable[[], Coroutine[Any, Any, object]]
Check = Callable[[], Awaitable[None]]

MAX_WAITS: Final = 2000
"""Waits after which an operation counts as endless."""

_on_wait: ContextVar[Callable[[], None] | None] = ContextVar("on_wait", default=None)
"""Called at each wait of the tasks in this context, which tasks inherit."""


async def cancelled_at(number: int, work: Work, *, once: bool = False) -> bool:
    """Run `work` and cancel it at its wait of this number; False if it had fewer.

    `once`: like `Task.cancel` of asyncio, which throws one exception; otherwise like anyio and Trio, where every later
    await raises again.
    """
    seen = 0
    scope = anyio.CancelScope()
    cancel: Callable[[], object] = scope.cancel

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            cancel()

    with on_each_wait(count):
        if once:
            task = asyncio.get_running_loop().create_task(work())
            cancel = task.cancel
            with suppress(asyncio.CancelledError):
                await task
        else:
            with scope:
                await _reporting_task(work())
    return seen >= number


@contextmanager
def on_each_wait(call: Callable[[], None]) -> Iterator[None]:
    """Call `call` at each wait of the tasks that begin in here, and on Trio of the running one."""
    token = _on_wait.set(call)
    try:
        with _all_waits_reported():
            yield
    finally:
        _on_wait.reset(token)


async def cancel_everywhere(work: Work, check: Check) -> int:
    """Cancel `work` at each of its waits in turn, and `check` after each run and the last; the number of waits."""
    waits = 0
    for once in ways():
        waits = await _cancel_everywhere(work, check, once=once)
    return waits


def ways() -> Sequence[bool]:
    """The values of `once` that this event loop has."""
    return (False,) if _is_trio() else (False, True)


async def _cancel_everywhere(work: Work, check: Check, *, once: bool) -> int:
    for number in range(1, MAX_WAITS):
        was_reached = await cancelled_at(number, work, once=once)
        try:
            await check()
        except Exception as error:
            error.add_note(f"after a cancellation at wait {number}, {'once' if once else 'persistent'}")
            raise
        if not was_reached:
            return number - 1
    raise AssertionError(f"not complete after {MAX_WAITS} waits")


# --- asyncio: tasks report their waits


@coroutine
def _reporting(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run `work` unchanged, and report whenever it yields to the event loop."""
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    while True:
        try:
            trap = step()
        except StopIteration as done:
            result: T = done.value
            return result
        if (on_wait := _on_wait.get()) is not None:
            on_wait()
        try:
            value = yield trap
        except BaseException as error:  # noqa: BLE001 - the event loop throws it into `work`
            thrown = error
            step = lambda: work.throw(thrown)  # noqa: B023, E731
        else:
            step = lambda: work.send(value)  # noqa: B023, E731


async def _reporting_coroutine(work: Coroutine[Any, Any, T]) -> T:
    return await _reporting(work)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    # A coroutine that was started before it had a task must stay unwrapped.
    if _on_wait.get() is not None and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        work = _reporting_coroutine(work)
    return asyncio.Task(work, loop=loop, **options)


# --- Trio: the scheduler reports waits


class _Instrument(trio.abc.Instrument):
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        on_wait = task.context.get(_on_wait)
        if on_wait is not None and inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED:
            on_wait()


def _is_trio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _reporting_task(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """`work` for the running task, which no task factory wraps."""
    return work if _is_trio() else _reporting_coroutine(work)


@contextmanager
def _all_waits_reported() -> Iterator[None]:
    if _is_trio():
        instrument = _Instrument()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)
    else:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(_make_task)
        try:
            yield
        finally:
            loop.set_task_factory(before)

"""A task that may be started by one task and stopped by another.

A task group must be left by the task that entered it. Test frameworks for asyncio set up and tear down in different
tasks, and so do some servers; so what outlives a call (the driver of a hub) runs in a task of its own, which owns the
task groups. Trio's own frameworks use one task, and Trio lets no other end what a running task has begun.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, Protocol

import anyio
from anyio.lowlevel import current_token

Main = Callable[[], Coroutine[Any, Any, None]]


class BackgroundTask:
    """Runs `main` until `stop` is called. Made and started by the task that is interrupted if `main` ends before.

    `ended` is called then, in the background task: `main` has failed, or the event loop has cancelled it.
    """

    def __init__(self, main: Main, ended: Callable[[], None]) -> None:
        self._main = main
        self._notify = ended
        self._scope = anyio.CancelScope()
        self._has_ended = anyio.Event()
        self._is_stopping = False
        self._error: BaseException | None = None
        native = current_token().native_token
        self._starter: Final[_Starter] = _OnAsyncio() if hasattr(native, "call_soon_threadsafe") else _OnTrio()

    def start(self) -> None:
        self._starter.spawn(self._run)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._main()
        except anyio.get_cancelled_exc_class():
            raise  # the event loop ends
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self._error = error
        finally:
            self._has_ended.set()
            if not self._is_stopping:
                self._notify()
                if self._error is not None:
                    self._starter.interrupt()

    async def stop(self) -> None:
        """Cancel `main`, wait until it has ended, whatever happens, and raise what it has raised."""
        self._is_stopping = True
        self._scope.cancel()
        cancelled: BaseException | None = None
        while not self._has_ended.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await self._has_ended.wait()
            except anyio.get_cancelled_exc_class() as error:  # `Task.cancel` of asyncio, which knows no shield
                cancelled = error
        await self._starter.release()
        if self._error is not None:
            raise self._error
        if cancelled is not None:
            raise cancelled


class _Starter(Protocol):
    """The task that has started the background task, on one of the event loops."""

    def spawn(self, main: Main) -> None: ...

    def interrupt(self) -> None:
        """Cancel what the starting task does now, if it has not ended."""

    async def release(self) -> None:
        """Take the interruption back. Called by the starting task or another one, once, when the task has ended."""


class _OnAsyncio:
    """As `asyncio.TaskGroup` cancels the task that is inside it."""

    def __init__(self) -> None:
        self._starter = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        self._has_cancelled = False

    def spawn(self, main: Main) -> None:
        self._task = asyncio.get_running_loop().create_task(main(), name="analytics-hub")

    def interrupt(self) -> None:
        if self._starter is not None:
            self._has_cancelled = self._starter.cancel()

    async def release(self) -> None:
        if not self._has_cancelled or self._starter is None or self._starter is not asyncio.current_task():
            return
        self._starter.uncancel()
        try:
            await asyncio.sleep(0)  # where the cancellation arrives if it was on its way still
        except asyncio.CancelledError:
            return


class _OnTrio:
    """A cancel scope around what the starting task does. It stays open if that task has ended without leaving it."""

    def __init__(self) -> None:
        from trio import lowlevel  # Trio need not be installed where it does not run

        self._lowlevel = lowlevel
        self._starter = lowlevel.current_task()
        self._scope = anyio.CancelScope()
        self._scope.__enter__()

    def spawn(self, main: Main) -> None:
        self._lowlevel.spawn_system_task(main, name="analytics-hub", context=copy_context())

    def interrupt(self) -> None:
        self._scope.cancel()

    async def release(self) -> None:
        if self._lowlevel.current_task() is self._starter:
            self._scope.__exit__(None, None, None)
        elif inspect.getcoroutinestate(self._starter.coro) != inspect.CORO_CLOSED:
            raise RuntimeError("on Trio, `async with` must be left by the task that entered it while that task runs")

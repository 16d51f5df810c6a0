"""What asyncio and Trio have in common and anyio does not offer: calls into the running event loop, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import anyio.lowlevel


def threadsafe() -> Callable[[Callable[[], None]], None]:
    """A function that makes the running event loop call another one soon, and may itself be called from any thread.

    anyio's own `from_thread.run_sync` waits for the result, but a publisher must never wait.
    """
    loop = native_loop()
    schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def call_soon(call: Callable[[], None]) -> None:
        try:
            schedule(call)
        except RuntimeError:  # the event loop has ended, and with it the hub: asyncio and Trio both raise this
            return

    return call_soon


def task_finder() -> Callable[[], bool]:
    """A function that returns whether a task of this event loop is running at the moment.

    If none is, a signal handler may have interrupted the event loop itself: its sleep, or its queue of callbacks.
    """
    if hasattr(native_loop(), "call_soon_threadsafe"):
        current_task: Callable[[], object] = asyncio.current_task
    else:
        from trio.lowlevel import current_task  # Trio need not be installed where it does not run

    def is_in_task() -> bool:
        try:
            return current_task() is not None
        except RuntimeError:
            return False

    return is_in_task


@contextmanager
def move_on_after(seconds: float) -> Iterator[anyio.CancelScope]:
    """As anyio's, but its timer keeps no context variables alive.

    asyncio keeps a cancelled timer until its time has come, and with it the context that it was started in: the
    variables of a request would outlive it by `seconds`.
    """
    with anyio.CancelScope() as scope:
        Context().run(setattr, scope, "deadline", anyio.current_time() + seconds)
        yield scope


def native_loop() -> Any:
    """asyncio's loop or Trio's token."""
    return anyio.lowlevel.current_token().native_token

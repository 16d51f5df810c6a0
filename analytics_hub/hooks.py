"""Calls functions of the application: `authenticate`, `authorize`, and what an authenticator runs in the background."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import anyio

T = TypeVar("T")


@overload
async def ask(function: Callable[..., Awaitable[T]], *args: object) -> T: ...
@overload
async def ask(function: Callable[..., T | Awaitable[T]], *args: object) -> T: ...
async def ask(function: Callable[..., Any], *args: object) -> Any:
    """What `function` returns, awaited if it can be.

    Raises what it raises. But a cancellation that nobody asked for, such as that of a task which the function waits
    for, becomes `RuntimeError`: in a task group it would end everything that runs beside it.
    """
    try:
        found = function(*args)
        return await found if inspect.isawaitable(found) else found
    except (anyio.get_cancelled_exc_class(), asyncio.CancelledError):  # the second may come to Trio from a thread
        if _is_cancelled():
            raise
    raise RuntimeError("cancelled, by nobody here")


def _is_cancelled() -> bool:
    """Whether somebody wants the running task to end."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

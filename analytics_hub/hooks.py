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
async def call_hook(function: Callable[..., Awaitable[T]], *args: object) -> T: ...
@overload
async def call_hook(function: Callable[..., T | Awaitable[T]], *args: object) -> T: ...
async def call_hook(function: Callable[..., Any], *args: object) -> Any:
    """The result of `function`, awaited if it is awaitable. Raises what it raises.

    A cancellation that was not requested for the running task, such as that of a task which the function waits for,
    becomes `RuntimeError`: in a task group it would end everything that runs beside it.
    """
    try:
        found = function(*args)
        return await found if inspect.isawaitable(found) else found
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

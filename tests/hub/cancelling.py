"""Cancels a piece of work at its first await, then at its second, and so on until it gets through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Final, TypeVar

import anyio

T = TypeVar("T")

PATIENCE: Final = 1000
"""Awaits after which work is taken to go on for ever."""


@coroutine
def _watched(work: Coroutine[Any, Any, T], suspended: Callable[[], None]) -> Generator[Any, Any, T]:
    """Run `work` as it is, and call `suspended` whenever it hands control to the event loop."""
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    while True:
        try:
            trap = step()
        except StopIteration as done:
            result: T = done.value
            return result
        suspended()
        try:
            value = yield trap
        except BaseException as error:  # noqa: BLE001 - whatever the event loop throws is for `work`
            thrown = error
            step = lambda: work.throw(thrown)  # noqa: B023, E731
        else:
            step = lambda: work.send(value)  # noqa: B023, E731


async def cancelled_at(number: int, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Run `work` and cancel it at its await of this number; False if it had fewer."""
    seen = 0

    with anyio.CancelScope() as scope:

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == number:
                scope.cancel()

        await _watched(work(), count)
    return seen >= number


async def cancel_everywhere(
    work: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], Awaitable[None]]
) -> int:
    """Cancel `work` at each of its awaits in turn; after each run, the last one included, `check`. How many it has."""
    for number in range(1, PATIENCE):
        was_reached = await cancelled_at(number, work)
        await check()
        if not was_reached:
            return number - 1
    raise AssertionError(f"still not through after {PATIENCE} awaits")

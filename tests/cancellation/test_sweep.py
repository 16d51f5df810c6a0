"""The sweep itself: it cancels at each wait of every task of the operation."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from .leftovers import Process, Sweeper
from .sweep import cancel_everywhere, cancelled_at, ways

pytestmark = pytest.mark.anyio


async def test_a_sweep_cancels_at_the_given_wait() -> None:
    reached: list[int] = []

    async def work() -> None:
        for number in range(3):
            reached.append(number)
            await checkpoint()
        reached.append(3)

    outcomes = []
    for number in (1, 2, 3, 99):
        reached.clear()
        outcomes.append((await cancelled_at(number, work), list(reached)))

    # Trio and asyncio count the waits within `checkpoint` differently; the first and the last run are the same.
    assert outcomes[0] == (True, [0])
    assert outcomes[-1] == (False, [0, 1, 2, 3])


async def test_a_sweep_cancels_at_the_waits_of_every_task() -> None:
    """Also while the task that started them waits for them."""
    ends: list[str] = []

    async def child(name: str) -> None:
        try:
            await checkpoint()
            await checkpoint()
        except anyio.get_cancelled_exc_class():
            ends.append(f"{name} was cancelled")
            raise
        ends.append(name)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "first")
            group.start_soon(child, "second")

    async def check() -> None:
        runs.append(sorted(ends))
        ends.clear()

    runs: list[list[str]] = []
    waits = await cancel_everywhere(work, check)

    assert waits >= 5
    assert runs[-1] == ["first", "second"]
    assert ["first was cancelled", "second was cancelled"] in runs
    assert len(runs) == len(ways()) * (waits + 1)


async def test_leftovers_are_found() -> None:
    sweeper = Sweeper()
    async with anyio.create_task_group() as group:
        assert sweeper.found() == []
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        group.start_soon(anyio.sleep_forever)
        await checkpoint()

        found = sweeper.found()
        assert sum(each.startswith("task ") for each in found) == 1
        assert sum(each.startswith("descriptor ") for each in found) in (0, 1)

        await listener.aclose()
        group.cancel_scope.cancel()
    await sweeper.sweep()
    assert Process.now().more_than(Process.now()) == []

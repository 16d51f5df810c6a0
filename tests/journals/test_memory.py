"""The journal in memory: the contract of a journal, and its bounds."""

from __future__ import annotations

import anyio
import pytest

from analytics_hub.contracts import JournalState
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.testing import ManualClock

from ..cancellation.sweep import cancelled_at

pytestmark = pytest.mark.anyio


def items(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def filled(count: int, **bounds: int) -> MemoryJournal:
    journal = MemoryJournal(**bounds)  # type: ignore[arg-type]
    await journal.open("c", "e1")
    for number in range(1, count + 1):
        await journal.append("c", number, items(number))
    return journal


async def test_a_channel_keeps_the_epoch_of_the_first_open() -> None:
    journal = MemoryJournal()

    assert await journal.open("c", "e1") == JournalState("e1", oldest=1, head=0)
    assert await journal.append("c", 1, items(1, 2, 3)) == 1
    assert await journal.open("c", "e2") == JournalState("e1", oldest=1, head=3)
    assert await journal.open("other", "e3") == JournalState("e3", oldest=1, head=0)


async def test_read_returns_the_items_above_a_position() -> None:
    journal = await filled(10)

    assert await journal.read("c", 0, 3) == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert await journal.read("c", 7, 100) == [(8, b"8"), (9, b"9"), (10, b"10")]
    assert await journal.read("c", 10, 100) == []
    assert await journal.read("c", 0, 0) == []


async def test_the_number_of_items_is_bounded() -> None:
    journal = await filled(10, max_items=4)

    assert await journal.open("c", "") == JournalState("e1", oldest=7, head=10)
    assert await journal.read("c", 0, 2) == [(7, b"7"), (8, b"8")]
    assert await journal.append("c", 11, items(11, 12, 13, 14, 15)) == 12
    assert [seq for seq, _ in await journal.read("c", 0, 100)] == [12, 13, 14, 15]


async def test_the_number_of_bytes_is_bounded() -> None:
    journal = await filled(9, max_bytes=5)
    assert await journal.append("c", 10, items(10)) == 7

    assert [seq for seq, _ in await journal.read("c", 0, 100)] == [7, 8, 9, 10]


async def test_the_age_of_items_is_bounded() -> None:
    clock = ManualClock()
    journal = MemoryJournal(max_age=60.0, clock=clock)
    await journal.open("c", "e1")
    for number in range(1, 5):
        await journal.append("c", number, items(number))
        clock.advance(25.0)

    assert await journal.append("c", 5, items(5)) == 3
    clock.advance(1000.0)
    assert await journal.append("c", 6, items(6)) == 6


async def test_numbers_continue_if_no_item_is_kept() -> None:
    journal = await filled(5, max_bytes=0)

    assert await journal.open("c", "") == JournalState("e1", oldest=6, head=5)
    assert await journal.read("c", 0, 10) == []


async def test_an_append_out_of_order_fails() -> None:
    journal = await filled(3)
    with pytest.raises(AssertionError, match="item 5 after 3"):
        await journal.append("c", 5, items(5))


async def test_a_cancelled_append_keeps_nothing() -> None:
    journal = await filled(3)
    number = 1
    while await cancelled_at(number, lambda: journal.append("c", 4, items(4))):
        assert (await journal.open("c", "")).head == 3
        number += 1

    assert (await journal.open("c", "")).head == 4


async def test_channels_are_independent() -> None:
    journal = MemoryJournal()

    async def fill(channel: str) -> None:
        await journal.open(channel, channel)
        for number in range(1, 50):
            await journal.append(channel, number, items(number))

    async with anyio.create_task_group() as tasks:
        for channel in "abc":
            tasks.start_soon(fill, channel)

    for channel in "abc":
        assert (await journal.open(channel, "")).head == 49

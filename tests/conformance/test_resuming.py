"""Reconnect with the last position, and learn whether anything is missing."""

from __future__ import annotations

from typing import Any

import pytest

from analytics_hub import Channel
from analytics_hub.core.statistics import Ledger

from .client import TransportUnderTest
from .harness import ServedHub, serving

pytestmark = pytest.mark.anyio


def since(channel: str, epoch: str, seq: int) -> dict[str, Any]:
    return {"channel": channel, "since": {"epoch": epoch, "seq": seq}}


async def watch(served: ServedHub, channel: str, up_to: int) -> str:
    """Subscribe, read up to a number, vanish; returns the epoch."""
    async with served.reader() as reader:
        (answer,) = await reader.subscribe({"channel": channel, "last": up_to})
        if up_to:
            await reader.reach(channel, up_to)
        await reader.client.vanish()
    await served.all_disconnected()
    epoch: str = answer["epoch"]
    return epoch


async def test_everything_that_was_missed_follows(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(5):
            served.hub.publish("routing", number)
        epoch = await watch(served, "routing", 5)
        for number in range(5, 10):
            served.hub.publish("routing", number)
        async with served.reader() as reader:
            (answer,) = await reader.subscribe(since("routing", epoch, 5))
            served.hub.publish("routing", 10)
            await reader.reach("routing", 11)

            assert (answer["ok"], answer["recovered"], answer["seq"]) == (True, True, 5)
            assert answer["epoch"] == epoch
            assert reader.data("routing") == [5, 6, 7, 8, 9, 10]
            assert reader.ledger(served.hub, "routing") == Ledger(published=6, delivered=6)


async def test_another_epoch_is_never_a_recovery(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        for number in range(3):
            served.hub.publish("routing", number)
        async with served.reader() as reader:
            (answer,) = await reader.subscribe(since("routing", "another life", 2))
            await reader.reach("routing", 3)

            (gap,) = reader.gaps("routing")
            assert answer["recovered"] is False
            assert (gap["from"], gap["to"], gap["count"]) == (None, None, None)
            assert gap["epoch"] == {"old": "another life", "new": answer["epoch"]}
            assert reader.data("routing") == [0, 1, 2]


async def test_a_durable_resume_reads_the_journal(transport: TransportUnderTest) -> None:
    """Older than memory, and more than one chunk."""
    async with serving(transport, channels=[Channel("alerts", mode="durable", keep_items=10)]) as served:
        await served.hub.publish_confirmed("alerts", 0)
        epoch = await watch(served, "alerts", 1)
        for number in range(1, 700):
            served.hub.publish("alerts", number)
        await served.hub.publish_confirmed("alerts", 700)
        async with served.reader() as reader:
            (answer,) = await reader.subscribe(since("alerts", epoch, 1))
            await reader.reach("alerts", 300)
            served.hub.publish("alerts", 701)
            await reader.reach("alerts", 702)

            assert answer["recovered"] is True
            assert reader.data("alerts") == list(range(1, 702))
            assert reader.ledger(served.hub, "alerts") == Ledger(published=701, delivered=701)


async def test_publishing_during_a_resume_loses_and_repeats_nothing(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=[Channel("alerts", mode="durable", keep_items=10)]) as served:
        await served.hub.publish_confirmed("alerts", 0)
        epoch = await watch(served, "alerts", 1)
        for number in range(1, 500):
            served.hub.publish("alerts", number)
        await served.hub.publish_confirmed("alerts", 500)
        async with served.reader() as reader:
            await reader.client.send({"action": "subscribe", "channels": [since("alerts", epoch, 1)]})
            for number in range(501, 1001):
                await served.hub.publish_confirmed("alerts", number)
            await reader.reach("alerts", 1001)

            assert reader.data("alerts") == list(range(1, 1001))


async def test_repeated_reconnects_miss_nothing(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        seen: list[int] = []
        epoch, position = await watch(served, "routing", 0), 0
        for round_ in range(10):
            for number in range(7):
                served.hub.publish("routing", number)
            async with served.reader() as reader:
                await reader.subscribe(since("routing", epoch, position))
                await reader.reach("routing", 7 * round_ + 7)
                seen += reader.seqs("routing")
                position = seen[-1]
                await reader.client.vanish()

        assert seen == list(range(1, 71))

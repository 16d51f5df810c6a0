"""What a client that does not read loses and what it keeps, exactly as in its ledger."""

from __future__ import annotations

from itertools import count

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Channel, Tuning
from analytics_hub.core.statistics import Ledger

from .client import TransportUnderTest, missing
from .harness import ServedHub, serving

pytestmark = pytest.mark.anyio

PADDING = "x" * 1000
"""Makes an item so large that a client that does not read is noticed after some dozens of them."""
NARROW = Tuning(interval=0.001, rate=None, buffer_items=8, burst_items=64)

CHANNELS = (
    Channel("events"),
    Channel("table", mode="table", key="lp"),
    Channel("latest", mode="latest"),
    Channel("durable", mode="durable", keep_items=16),
)


async def publish_until_stalled(served: ServedHub, channel: str, more: int) -> int:
    """Publish until a client is stalled, and `more` items after that; returns the last number."""
    numbers = count(1)
    while not (statistics := served.hub.statistics()).stalled:
        # Not faster than flushes, or items would be lost for another reason.
        if not statistics.channels[channel].ledger.pending:
            served.hub.publish(channel, {"lp": f"LP{next(numbers) % 50}", "padding": PADDING, "n": 0})
        await checkpoint()
    for number in range(more):
        served.hub.publish(channel, {"lp": f"LP{number % 50}", "padding": PADDING, "n": number})
    await wait_committed(served, channel)
    return served.hub.statistics().channels[channel].head


async def wait_committed(served: ServedHub, channel: str) -> None:
    if channel == "durable":
        await served.hub.publish_confirmed(channel, {"padding": PADDING, "n": -1})


async def test_a_gap_names_exactly_the_missing_items(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("events") as reader:
        head = await publish_until_stalled(served, "events", more=200)
        await reader.reach("events", head)

        gaps = reader.gaps("events")
        assert gaps
        assert all(gap["count"] == gap["to"] - gap["from"] + 1 for gap in gaps)
        assert {gap["reason"] for gap in gaps} == {"buffer"}
        # In the order of the wire: a gap is where the items that it covers are missing.
        story: list[int] = []
        for item in reader.items:
            story += missing([item]) if item["type"] == "$gap" else [item["seq"]] if "seq" in item else []
        assert story == list(range(1, head + 1))


async def test_the_ledger_matches_what_the_client_received(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("events") as reader:
        head = await publish_until_stalled(served, "events", more=200)
        while_stalled = reader.ledger(served.hub, "events")
        await reader.reach("events", head)
        at_the_end = reader.ledger(served.hub, "events")

        lost = sum(gap["count"] for gap in reader.gaps("events"))
        assert while_stalled.is_balanced
        assert while_stalled.pending > 0
        assert at_the_end == Ledger(published=head, delivered=len(reader.of("events")), dropped=lost)
        assert served.hub.statistics().channels["events"].ledger == at_the_end


async def test_a_table_skips_superseded_items_and_never_the_newest(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("table") as reader:
        head = await publish_until_stalled(served, "table", more=2000)
        await reader.reach("table", head)

        newest = {item["key"]: item["data"]["n"] for item in reader.of("table")}
        assert newest == {f"LP{number % 50}": number for number in range(1950, 2000)}
        assert reader.gaps("table") == []
        assert reader.seqs("table") == sorted(set(reader.seqs("table")))
        seen = len(reader.of("table"))
        assert seen < head
        assert reader.ledger(served.hub, "table") == Ledger(published=head, delivered=seen, conflated=head - seen)


async def test_a_latest_channel_ends_with_the_last_item(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("latest") as reader:
        head = await publish_until_stalled(served, "latest", more=100)
        await reader.reach("latest", head)

        seen = len(reader.of("latest"))
        assert reader.of("latest")[-1]["data"]["n"] == 99
        assert reader.ledger(served.hub, "latest") == Ledger(published=head, delivered=seen, conflated=head - seen)


async def test_a_durable_channel_loses_nothing(transport: TransportUnderTest) -> None:
    """Memory holds the last 16 items; what the client missed before comes from the journal, on the same connection."""
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("durable") as reader:
        head = await publish_until_stalled(served, "durable", more=600)
        await reader.reach("durable", head)

        assert reader.seqs("durable") == list(range(1, head + 1))
        assert reader.gaps("durable") == []
        assert reader.ledger(served.hub, "durable") == Ledger(published=head, delivered=head)


async def test_a_burst_on_one_channel_evicts_nothing_of_another(transport: TransportUnderTest) -> None:
    async with (
        serving(transport, channels=CHANNELS, tuning=NARROW) as served,
        served.reader("events", "table", "latest", "durable") as reader,
    ):
        await publish_until_stalled(served, "events", more=0)
        served.hub.publish("table", {"lp": "ONE"})
        served.hub.publish("latest", "the only one")
        await served.hub.publish_confirmed("durable", "safe")
        for number in range(500):
            served.hub.publish("events", {"padding": PADDING, "n": number})
        head = served.hub.statistics().channels["events"].head
        await reader.reach("events", head)
        for channel in ("table", "latest", "durable"):
            await reader.reach(channel, 1)

        assert reader.gaps("events")
        assert [reader.seqs(channel) for channel in ("table", "latest", "durable")] == [[1], [1], [1]]


async def test_a_slow_client_costs_a_fast_one_nothing(transport: TransportUnderTest) -> None:
    async with (
        serving(transport, channels=CHANNELS, tuning=NARROW) as served,
        served.reader("events") as slow,
        served.reader("events") as fast,
    ):
        published = 0
        while not served.hub.statistics().stalled:
            for _ in range(8):
                served.hub.publish("events", {"padding": PADDING})
            published += 8
            await fast.reach("events", published)
        for _ in range(50):
            for _ in range(8):
                served.hub.publish("events", {"padding": PADDING})
            published += 8
            await fast.reach("events", published)
        assert served.hub.statistics().stalled == 1
        await slow.reach("events", published)

        assert fast.seqs("events") == list(range(1, published + 1))
        assert fast.gaps("events") == []
        assert slow.gaps("events")
        assert len(slow.of("events")) + len(missing(slow.gaps("events"))) == published


async def test_a_client_that_has_caught_up_shares_a_cohort_again(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("events") as reader:
        head = await publish_until_stalled(served, "events", more=200)
        await reader.reach("events", head)
        gaps = len(reader.gaps("events"))
        for number in range(50):
            served.hub.publish("events", number)
            await reader.reach("events", head + number + 1)

        assert served.hub.statistics().stalled == 0
        assert served.hub.statistics().cohorts == 1
        assert len(reader.gaps("events")) == gaps


async def test_control_items_do_not_wait_behind_data(transport: TransportUnderTest) -> None:
    async with serving(transport, channels=CHANNELS, tuning=NARROW) as served, served.reader("events") as reader:
        head = await publish_until_stalled(served, "events", more=200)
        await reader.client.send({"action": "ping", "id": "urgent"})
        while served.hub.statistics().channels["events"].ledger.delivered == len(reader.of("events")):
            await reader.until(lambda item: True)
        await reader.next("$pong")

        assert reader.seqs("events")[-1] < head


async def test_a_client_that_never_reads_is_closed(transport: TransportUnderTest) -> None:
    tuning = Tuning(interval=0.001, rate=None, buffer_items=8)
    async with (
        serving(transport, channels=CHANNELS, tuning=tuning, manual=True) as served,
        served.reader("events") as deaf,
        served.reader("latest") as witness,
    ):
        while not served.hub.statistics().stalled:
            served.hub.publish("events", {"padding": PADDING})
            served.clock.advance(0.001)
            await checkpoint()
        for _ in range(3):
            served.hub.publish("events", "never read")
        served.clock.advance(59.0)
        served.hub.publish("latest", 1)
        await witness.reach("latest", 1)
        before = served.hub.statistics()
        served.clock.advance(2.0)
        served.hub.publish("latest", 2)
        await witness.reach("latest", 2)
        after = served.hub.statistics()
        code = await deaf.closed()

        assert (before.sessions, after.sessions) == (2, 1)
        assert after.counters["closed-4503"] == 1
        assert code == 4503
        seen = len(deaf.of("events"))
        assert after.channels["events"].ledger == Ledger(published=seen + 3, delivered=seen, abandoned=3)


async def test_a_durable_subscriber_is_closed_earlier(transport: TransportUnderTest) -> None:
    """The journal keeps what it has not read, so that it had better reconnect."""
    tuning = Tuning(interval=0.001, rate=None)
    async with serving(transport, channels=CHANNELS, tuning=tuning, manual=True) as served, served.reader("durable"):
        while not served.hub.statistics().stalled:
            await served.hub.publish_confirmed("durable", {"padding": PADDING})
            served.clock.advance(0.001)
            await checkpoint()
        served.clock.advance(11.0)
        await served.all_disconnected()

        assert served.hub.statistics().counters["closed-4503"] == 1
